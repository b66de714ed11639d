"""DNA: promoters or sequences of one's own, designed freely, around a motif, or towards one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..data import Dataset
from ..data.base import CategoricalData
from ..data.dna import BASES, UNKNOWN, Align, Bases, Sequences, both_strands, decode, from_path, promoters
from ..data.text_known import PartlyKnown
from ..fields import FREE, Condition, one_field
from ..files import cache_folder, write_text
from ..maps import EndpointMap, FlowMap
from ..metrics.dna import TATA, DNAClassifier, DNAQuality, cached_classifier, pattern
from ..metrics.two_sample import frechet
from ..networks import Convolutions, Network
from ..paths import GeodesicPath, Source
from ..pictures import heading
from ..reading import Document
from ..samplers import Argmax, Decoder, Sampler, generate
from ..seeds import check_seed
from ..spaces import Categorical, OneHot
from ..steering import Reward
from .aims import Aim, against
from .base import Kind, Problem, Study, Task, fitted, in_batches
from .dna_pictures import profiles, sequence_strips
from .dna_rewards import rewards
from .text_prompts import Template, template

GOLDEN = (5**0.5 - 1) / 2


class DNA(Task[Sequences, Tensor]):
    """Sequences of DNA, by default modelled by dilated convolutions.

    Arguments:
        source: ``promoters`` (human, mouse, Arabidopsis), or the path of a file (FASTA, or one sequence a line, plain
            or packed) or of a folder in which each file is a class.
        path: Folder of the promoters; see also the environment variable ``FLOWMAPS_DATA``.
        letters: ``ACGT``, where N is a position without a base, or ``ACGTN``, where it is a fifth letter.
        length: Positions; those of the longest sequence by default, 251 for promoters.
        align: Which end shorter and longer sequences of one's own have in common.
        both_strands: Train on the reverse complements, too; for sequences that have no direction.
        given: Give parts of training sequences clean, so that motifs and gaps are conditions.
        conditional: Condition on the class; the label is dropped from ``drop_label`` of the training examples.
        drop_label: Share of examples trained without their label.
        network: What makes the network, called as ``network(d, K=K, out=K, shape=(length,), classes=classes)``.
        width, rounds, kernel: Settings of the network, where they are to differ from its own.
        geometry: The space of the states, made of the number of letters: one-hot vectors, or ``FisherSphere``.
        prior: Distribution of the noise, if it is not that of the space.
        flow_map: What the network predicts: an endpoint, or with ``VelocityMap`` a velocity.
        motif: In letters of IUPAC, whose places the metrics compare.
        decoder: From scores to letters.
        n: How many samples a metric is taken over; by default as many as there are held-out sequences.
        seed: Of the split of the data.
    """

    kinds = (".fa", ".png")
    files = ("samples.*", "profiles.png")
    teaching = {"letters": str, "length": range(1, 2**20), "classes": [str], "counts": [int], "given": bool}

    def __init__(
        self,
        source: str = "promoters",
        path: str | None = None,
        letters: str = BASES,
        length: int | None = None,
        align: Align = "start",
        both_strands: bool = False,
        given: bool = True,
        conditional: bool = False,
        drop_label: float = 0.1,
        network: Callable[[int], Network] | None = None,
        width: int | None = None,
        rounds: int | None = None,
        kernel: int | None = None,
        geometry: Callable[[int], Categorical] | None = None,
        prior: Source | None = None,
        flow_map: Kind = EndpointMap,
        motif: str = TATA,
        decoder: Decoder | None = None,
        n: int | None = None,
        seed: int = 0,
    ):
        if not 0 <= drop_label <= 1:
            raise ValueError(f"drop_label is {drop_label}, expected a share in [0, 1]")
        if letters not in (BASES, BASES + UNKNOWN):
            raise ValueError(f"letters are {letters!r}, expected 'ACGT' or 'ACGTN'")
        pattern(motif)
        self.source, self.path, self.letters, self.length = source, path, letters, length
        self.align: Align = align
        self.strands, self.given, self.conditional, self.drop_label = both_strands, given, conditional, drop_label
        self.network: Callable[..., Network] = network or Convolutions
        self.sizes = {"width": width, "rounds": rounds, "kernel": kernel}
        self.geometry: Callable[[int], Categorical] = geometry or OneHot
        self.prior, self.flow_map, self.motif = prior, flow_map, motif
        self.decoder, self.n, self.seed = decoder or Argmax(), n, check_seed(seed, bits=32)

    # -- data ----------------------------------------------------------------------------------------------------

    def load(self) -> Sequences:
        if self.source == "promoters":
            return promoters(self.path, self.letters, self.length, self.seed)
        return from_path(self.source, self.letters, self.length, self.align, self.seed)

    @cached_property
    def train_data(self) -> Dataset:
        data = both_strands(self.splits.train) if self.strands else self.splits.train
        labelled = self._labelled(data, self.drop_label)
        return PartlyKnown(labelled) if self.given else labelled

    @cached_property
    def valid_data(self) -> CategoricalData:
        return self._labelled(self.splits.valid)

    @cached_property
    def test_data(self) -> CategoricalData:
        return self._labelled(self.splits.test)

    def _labelled(self, data: CategoricalData, drop: float = 0.0) -> CategoricalData:
        label = data.condition.label
        if not self.conditional:
            return CategoricalData(data.x_1, mask=data.condition.mask)
        if label is None:
            raise ValueError(
                f"conditional is True but {self.source!r} has no classes; give a folder with a file for each"
            )
        lost = torch.rand(len(label), generator=torch.Generator().manual_seed(self.seed)) < drop
        label = torch.where(lost, len(self.splits.classes), label)
        return CategoricalData(data.x_1, label, data.condition.mask)

    def learned(self, splits: Sequences) -> Document:
        label = splits.train.condition.label
        counts = [] if label is None else label.bincount(minlength=len(splits.classes)).tolist()
        return {"letters": splits.letters, "length": splits.length, "classes": splits.classes, "counts": counts,
                "given": self.given}  # fmt: skip

    # -- model ---------------------------------------------------------------------------------------------------

    def build_map(self) -> FlowMap:
        state = self.state()
        K, classes = len(state["letters"]), len(state["classes"]) if self.conditional else None
        if classes == 0:
            raise ValueError(
                f"conditional is True but {self.source!r} has no classes; give a folder with a file for each"
            )
        path = GeodesicPath(self.geometry(K), self.prior)
        scale = K if path.space.flat and self.prior is None else 1  # of squared norms at the source
        network = fitted(self.network, K, K=scale, out=K, shape=(state["length"],), classes=classes,
                         settings=self.sizes)  # fmt: skip
        return self.flow_map(path, network, None, None)

    # -- samples -------------------------------------------------------------------------------------------------

    def sample(
        self,
        flow_map: FlowMap,
        n: int,
        sampler: Sampler,
        generator: torch.Generator,
        label: str | None = None,
        infill: str | None = None,
        decoder: Decoder | None = None,
        batch: int = 256,
    ) -> Tensor:
        """``n`` sequences, int64 ``(n, length)``; of one class, or of all as in the data where the map is conditional.

        Arguments:
            label: The class of all sequences, by its name or number.
            infill: What is given, from the first position on: letters, with ``_`` or N for each free position, or
                ``{170}`` for so many; what follows is free.
            decoder: From scores to letters, instead of the task's own.
            batch: Sequences at a time.
        Raises: ValueError if there is no such class, or something is given to a map that was trained without.
        """
        numbers = in_batches(n, batch)
        wanted, labels, parts = self._template(infill), self._labels(n, label, generator.device), []
        for rows in numbers:
            condition, given = self._condition(labels, rows, wanted, generator.device)
            parts.append(
                generate(flow_map, sampler, (len(rows), self.state()["length"]), generator, condition=condition,
                         given=given, decoder=decoder or self.decoder)
            )  # fmt: skip
        return torch.cat(parts)

    def _template(self, infill: str | None) -> Template | None:
        if infill is None:
            return None
        if not self.state()["given"]:
            raise ValueError("infill needs a model trained with given positions; train it with given: true")
        text, length = infill.upper(), self.state()["length"]
        text = text if UNKNOWN in self.state()["letters"] else text.replace(UNKNOWN, "_")
        wanted = template(Bases(self.state()["letters"]), length, infill=text + "_")
        if wanted.length > length + 1:
            raise ValueError(f"infill has {wanted.length - 1} positions, the sequences {length}; leave some out")
        free = torch.zeros(max(length - wanted.length, 0), dtype=torch.int64)
        return Template(*(torch.cat([part, free.to(part)])[:length] for part in wanted))

    def _condition(
        self, labels: Tensor | None, rows: Tensor, wanted: Template | None, device: torch.device
    ) -> tuple[Condition, Tensor | None]:
        condition = FREE if labels is None else Condition(label=labels[rows.to(device)])
        if wanted is None:
            return condition, None
        tokens, known = (part.to(device).expand(len(rows), -1) for part in wanted)
        return condition._replace(known=known), tokens

    def _labels(self, n: int, label: str | None, device: torch.device) -> Tensor | None:
        if label is not None and not self.conditional:
            raise ValueError(f"label is {label!r}, but the model is unconditional; leave it out")
        return self.labels(n, label).to(device) if self.conditional else None

    def labels(self, n: int, label: str | None = None) -> Tensor:
        """The classes that ``n`` samples are asked for: one, or all with the shares of the data, evenly in any row."""
        classes = self.state()["classes"]
        if label is not None:
            return torch.full((n,), self._class(label))
        edges = torch.tensor(self.state()["counts"], dtype=torch.float64).cumsum(0)
        u = (torch.arange(n, dtype=torch.float64) + 0.5) * GOLDEN % 1
        return torch.searchsorted(edges / edges[-1], u, right=True).clamp(max=len(classes) - 1)

    def _class(self, label: str) -> int:
        classes = self.state()["classes"]
        lower = [name.lower() for name in classes]
        if label.lower() in lower:
            return lower.index(label.lower())
        if label.isdecimal() and int(label) < len(classes):
            return int(label)
        raise ValueError(f"no class {label!r}; there are {', '.join(classes) or 'none'}")

    def write(self, rows: Mapping[str, Tensor], directory: Path, **options: object) -> list[Path]:
        """``samples.fa`` with the sequences of each row, and ``samples.png`` with a strip for each of the first."""
        fasta, picture = directory / "samples.fa", directory / "samples.png"
        label, letters = options.get("label"), self.state()["letters"]
        lines = []
        for name, x in rows.items():
            kinds = self.labels(len(x), label if isinstance(label, str) else None).tolist() if self.conditional else []
            steps = heading(name).replace(" ", "-")
            for i, text in enumerate(decode(x, letters)):
                lines += [f">{steps}-{i + 1}" + (f" {self.state()['classes'][kinds[i]]}" if kinds else ""), text]
        write_text(fasta, "\n".join(lines) + "\n")
        sequence_strips(picture, rows, letters)
        return [fasta, picture]

    # -- steering ------------------------------------------------------------------------------------------------

    def problem(
        self, particles: int, generator: torch.Generator, label: str | None = None, infill: str | None = None
    ) -> Problem:
        """What is to be steered.

        Arguments:
            label: The class of all sequences, by its name or number; by default all, as in the data.
            infill: What is given, as for samples.
        """
        labels, wanted = self._labels(particles, label, generator.device), self._template(infill)
        condition, given = self._condition(labels, torch.arange(particles), wanted, generator.device)
        return Problem((self.state()["length"],), condition, given, self.decoder)

    def rewards(self, device: torch.device) -> dict[str, Callable[[str], Reward]]:
        """``motif:TATAWAW`` or ``motif:TATAWAW@170`` (letters of IUPAC) and ``pwm:FILE`` or ``pwm:FILE@170``: the best
        log-odds anywhere or at a place; ``matches:REGEX``; ``gc`` or ``gc:0.5``; ``class:NAME``, ``log-class:NAME``."""
        return rewards(self.state()["letters"], self._class, lambda: self.classifier, device)

    # -- quality -------------------------------------------------------------------------------------------------

    @cached_property
    def classifier(self) -> DNAClassifier:
        """The reference network of the metrics, trained on the training part alone."""
        splits = self.splits
        with torch.enable_grad():
            return cached_classifier(
                cache_folder() / "classifiers", splits.train, len(splits.letters), len(splits.classes)
            )

    @cached_property
    def judge(self) -> DNAQuality:
        """The metrics, against held-out sequences."""
        return DNAQuality(self.classifier, self.splits.train, self.splits.test, self.splits.letters, self.motif)

    def quality(self, samples: Tensor) -> dict[str, float]:
        """The metrics of :class:`~flowmaps.metrics.dna.DNAQuality`.

        Samples of a conditional map are of all classes as in the data; ``accuracy`` is how many are in the class asked
        for.
        """
        x = samples.cpu()
        values = self.judge(x)
        return values | self.judge.accuracy(x, self.labels(len(x))) if self.conditional else values

    def aim(self) -> Aim:
        """Fréchet distance to the validation sequences in the classifier's features."""
        train, valid = self.splits.train, self.splits.valid
        features = lambda x, mask=None: self.classifier.inspect(x, one_field(mask))[0].double()  # noqa: E731
        scale = features(one_field(train.x_1), train.condition.mask).var(0).mean().rsqrt()
        real = features(one_field(valid.x_1), valid.condition.mask) * scale
        return against("frechet", frechet, lambda x: features(x) * scale, real)

    def of_data(self, n: int | None = None) -> dict[str, float]:
        return self.judge.of_data(n or self.samples, labelled=self.conditional)

    @property
    def samples(self) -> int:
        return self.n or len(self.splits.test)

    def studies(self, profiles: bool = False) -> dict[str, Study]:
        """What else is measured.

        Arguments:
            profiles: Also draw composition, motif and words along the sequence, beside those of held-out sequences.
        """
        return {"profiles": self._profiles} if profiles else {}

    def _profiles(
        self,
        flow_map: FlowMap,
        rows: Mapping[str, Sampler],
        n: int,
        seed: int,
        data: Mapping[str, float],
        directory: Path,
    ) -> tuple[object, list[Path]]:
        device = flow_map.device
        few = {name: sampler for name, sampler in rows.items() if not name.startswith("ode")}
        samples = {
            name: self.sample(flow_map, n, sampler, torch.Generator(device).manual_seed(seed)).cpu()
            for name, sampler in few.items()
        }
        path = directory / "profiles.png"
        return profiles(path, samples, self.judge), [path]
