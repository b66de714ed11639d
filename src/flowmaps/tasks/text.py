"""Text: a corpus, a transformer over its tokens, samples in a few steps, gaps filled in, and their quality."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..data.text import TextSplits
from ..data.text_known import PartlyKnown, blank
from ..data.text_tokens import Tokeniser, from_description, size_of
from ..fields import Condition
from ..files import write_text
from ..likelihood import Proposal, Row, cut_off
from ..likelihood.rows import proposal
from ..maps import EndpointMap, FlowMap
from ..metrics.text_judges import HuggingFaceJudge
from ..networks import LinearHead, Network, TiedHead, TimeFeatures, Transformer
from ..paths import GeodesicPath
from ..reading import Document, check_size
from ..samplers import Categorical, Decoder, Euler, Jumps, Sampler, at_temperature
from ..spaces import Embedded, OneHot
from ..steering import Reward, keyword, likelihood, matches, word_length
from ..times import DecodeRateClock
from .base import Aim, Kind, Outline, Problem, Study, Task, fitted, in_batches
from .steering import number
from .text_data import load, mixed_with
from .text_prompts import Template, fill, given_text, template
from .text_quality import TextQuality, frontier
from .text_rows import TextRows

READER = partial(Transformer, reach=4)


def build_map(
    K: int,
    network: Callable[..., Network] | None = None,
    embedding: int | None = None,
    tied: bool = False,
    chunk: int | None = None,
    clock: bool = True,
    flow_map: Kind = EndpointMap,
    **sizes: int | None,
) -> FlowMap[Tensor]:
    """The untrained flow map of texts over ``K`` tokens.

    Arguments:
        network: What makes the network, called as ``network(d, K=K, times=times)`` with the width d of states; it
            gives features of its ``width``. A transformer by default.
        embedding: Width of embedded states; ``None`` for one-hot states, which suit alphabets up to a few hundred.
        tied: Read out with the matrix that reads in; needs ``embedding`` to be the network's width.
        chunk: Positions whose logits exist at one time.
        clock: Condition the network on the decode-rate clock instead of plain time.
        flow_map: What is predicted from the logits.
        sizes: Settings of the network, where they are to differ from its own.
    Raises: ValueError if a tied head meets states of another width, or the network has no width.
    """
    times = {"times": TimeFeatures(clock=DecodeRateClock(K))} if clock else {}
    space = OneHot(K) if embedding is None else Embedded(K, embedding)
    made = fitted(network or READER, space.dim, settings=sizes, K=K, **times)
    width = getattr(made, "width", None)
    if not isinstance(width, int):
        raise ValueError(f"{type(made).__name__} does not say its width; choose a network of features, a Transformer")
    if not tied:
        return flow_map(GeodesicPath(space), made, LinearHead(width, K), chunk)
    if not isinstance(space, Embedded) or embedding != width:
        raise ValueError(f"a tied head needs states as wide as the network: embedding is {embedding}, width {width}")
    return flow_map(GeodesicPath(space), made, TiedHead(space), chunk)


class Text(Task[TextSplits, Tensor]):
    """A corpus in windows of tokens, by default modelled by a transformer.

    Arguments:
        source: ``tiny_shakespeare``, ``text8``, ``novels``, ``lm1b``, ``openwebtext``, or the path or URL of a file, a
            folder, or a folder of prepared shards.
        path: Where the file of a named corpus lies; see also the environment variable ``FLOWMAPS_DATA``.
        tokeniser: ``letters``, ``bytes``, ``characters``, ``bpe``, ``wordpiece``, or a ``tokenizer.json``.
        vocabulary: Size of an alphabet of subwords that is learned.
        length: Tokens of a window.
        stride: Tokens between training windows; a quarter of the length by default.
        packed: Pack windows with whole documents instead, so that none is cut that fits.
        mixed: Further texts, or folders or URLs of prepared ones, with their shares of the training windows; ``source``
            has the rest, the alphabet and the held-out parts.
        given: Give parts of training windows clean, so that prompts and gaps are conditions.
        network, embedding, tied, chunk, clock, flow_map: Of the map, see :func:`build_map`.
        width, depth, heads, reach: Settings of the network, where they are to differ from its own.
        temperature: Of the draw from the last step's probabilities; 0 takes the most probable token.
        judge: A causal model of Hugging Face that judges samples besides the n-gram model.
        order: Longest n-gram of the judge.
        n: How many samples a metric is taken over.
        cache: Folder of the prepared tokens.
        processes: That tokenise subwords; all cores by default.
    """

    kinds = (".txt", ".jsonl")
    files = ("samples.*", "frontier.png")
    teaching = {"tokeniser": {"name": str}, "given": bool}

    def __init__(
        self,
        source: str = "tiny_shakespeare",
        path: str | None = None,
        tokeniser: str = "letters",
        vocabulary: int = 8192,
        length: int = 128,
        stride: int | None = None,
        packed: bool = False,
        mixed: dict[str, float] | None = None,
        given: bool = True,
        network: Callable[[int], Network] | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        embedding: int | None = None,
        tied: bool = False,
        chunk: int | None = None,
        clock: bool = True,
        reach: int | None = None,
        flow_map: Kind = EndpointMap,
        temperature: float = 1.0,
        judge: str | None = None,
        order: int | None = None,
        n: int = 256,
        cache: str | None = None,
        processes: int | None = None,
    ):
        if n < 2:
            raise ValueError(f"n is {n}, expected at least 2 samples to compare with each other")
        self.source, self.path, self.kind, self.length, self.vocabulary = source, path, tokeniser, length, vocabulary
        self.preparation = dict(size=vocabulary, stride=stride, packed=packed, cache=cache, processes=processes)
        self.given, self.judge, self.order, self.n, self.mixed = given, judge, order, n, mixed or {}
        self.decoder: Decoder = at_temperature(temperature)
        sizes = {"width": width, "depth": depth, "heads": heads, "reach": reach}
        self.build = partial(build_map, network=network, embedding=embedding, tied=tied, chunk=chunk, clock=clock,
                             flow_map=flow_map, **sizes)  # fmt: skip
        self._tokeniser: Tokeniser | None = None

    def load(self) -> TextSplits:
        # Subwords learned twice from one text may differ, as ties are broken by chance: those of a checkpoint stay.
        learned = self._state is not None and self.kind in ("bpe", "wordpiece")
        alphabet = self.tokeniser if learned else self.kind
        return load(self.source, self.path, alphabet, self.length, **self.preparation)

    @cached_property
    def train_data(self) -> Dataset:
        windows = mixed_with(self.splits, self.mixed, self.length, **self.preparation)
        return PartlyKnown(windows) if self.given else windows

    def learned(self, splits: TextSplits) -> Document:
        return {"tokeniser": splits.tokeniser.describe(), "given": self.given}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._tokeniser = None

    @property
    def tokeniser(self) -> Tokeniser:
        """The alphabet, from the data or from a checkpoint."""
        if self._tokeniser is None:
            self._tokeniser = from_description(self.state()["tokeniser"])
        return self._tokeniser

    def build_map(self) -> FlowMap:
        return self.build(self.tokeniser.size)

    def outline(self) -> Outline:
        K = size_of(self.kind, self.vocabulary)
        if self._state is not None or K is None:
            return super().outline()
        return Outline(partial(self.build, K), lambda n: blank(n, self.length, self.given))

    # -- samples -------------------------------------------------------------------------------------------------

    def sample(
        self,
        flow_map: FlowMap,
        n: int,
        sampler: Sampler,
        generator: torch.Generator,
        length: int | None = None,
        prompt: str | None = None,
        infill: str | None = None,
        suffix: str | None = None,
        decoder: Decoder | None = None,
        batch: int = 256,
    ) -> Tensor:
        """``n`` texts, int64 ``(n, tokens)``.

        Arguments:
            length: Tokens of a text, by default those of a training window; longer ones are made block by block.
            prompt: How the text begins.
            infill: The text with its gaps: ``_`` for each missing token, or ``{12}``; ``\\_`` is a plain one.
            suffix: How the text ends.
            decoder: From the last step's scores to tokens; by default at the task's temperature.
            batch: Texts at a time.
        Raises: ValueError if something is to be given to a map that was trained without.
        """
        numbers = in_batches(n, batch)
        wanted = template(self.tokeniser, self.length if length is None else length, prompt, infill, suffix)
        self.check_given(wanted)
        check_size(f"{n:,} texts of {wanted.length:,} tokens", 8 * n * wanted.length)
        parts = [
            fill(flow_map, sampler, wanted, len(rows), self.length, generator, decoder or self.decoder).cpu()
            for rows in numbers
        ]
        return torch.cat(parts)

    def check_given(self, wanted: Template) -> None:
        """Refuse to give something to a map that was trained without."""
        if self.state()["given"] or not (wanted.known.any() or wanted.length > self.length):
            return
        what = "a prompt or gap" if wanted.known.any() else f"{wanted.length} tokens, more than {self.length},"
        raise ValueError(f"{what} needs a model trained with given positions; train it with given: true")

    def decoded(self, tokens: Tensor) -> list[str]:
        """The texts of samples."""
        return [self.tokeniser.decode(row) for row in tokens.tolist()]

    def write(self, rows: Mapping[str, Tensor], directory: Path, **options: object) -> list[Path]:
        """``samples.txt`` for people, ``samples.jsonl`` with ``steps``, ``text`` and ``tokens`` for programs."""
        plain, lines = directory / "samples.txt", directory / "samples.jsonl"
        texts = {steps: self.decoded(tokens) for steps, tokens in rows.items()}
        write_text(plain, "\n\n".join(f"--- {steps}\n" + "\n\n".join(shown) for steps, shown in texts.items()) + "\n")
        records = (
            {"steps": steps, "text": text, "tokens": row}
            for steps, tokens in rows.items()
            for text, row in zip(texts[steps], tokens.tolist(), strict=True)
        )
        write_text(lines, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        return [plain, lines]

    # -- steering ------------------------------------------------------------------------------------------------

    def problem(self, particles: int, generator: torch.Generator, prompt: str | None = None) -> Problem:
        """What is to be steered.

        Arguments:
            prompt: How the text begins.
        """
        if prompt is None:
            return Problem((self.length,), decoder=self.decoder)
        wanted = template(self.tokeniser, self.length, prompt)
        self.check_given(wanted)
        known, given = wanted.known.unsqueeze(0), wanted.tokens.unsqueeze(0).to(generator.device)
        return Problem((self.length,), Condition(known=known.to(generator.device)), given, self.decoder)

    def rewards(self, device: torch.device) -> dict[str, Callable[[str], Reward]]:
        """``keyword:king``, ``matches:REGEX``, ``words`` or ``words:5`` (mean length), ``likelihood`` (nats per token
        under the n-gram judge of the training text) or ``likelihood:gpt2`` (under a model of Hugging Face)."""

        def decode(x_1: Tensor) -> str:
            return self.tokeniser.decode(x_1.tolist())

        def judged(name: str) -> Reward:
            if not name:
                return likelihood(self.measures.ngrams.nats)
            return likelihood(HuggingFaceJudge(name, str(device)).nats, decode, f"likelihood under {name}")

        def of_word(word: str) -> Reward:
            if word:
                given_text(self.tokeniser, word)  # a word that the alphabet cannot say would earn nothing, ever
            return keyword(word, decode)

        return {
            "keyword": of_word,
            "matches": lambda pattern: matches(pattern, decode),
            "words": lambda argument: word_length(decode, number(argument)),
            "likelihood": judged,
        }

    # -- quality -------------------------------------------------------------------------------------------------

    @cached_property
    def measures(self) -> TextQuality:
        """The metrics, with the training text as their judge, vocabulary and memory."""
        judge = None if self.judge is None else HuggingFaceJudge(self.judge)
        return TextQuality(self.splits, self.order, judge=judge)

    def quality(self, samples: Tensor) -> dict[str, float]:
        return self.measures(samples)

    def aim(self) -> Aim:
        return self.measures.aim(self.n)

    def of_data(self, n: int | None = None) -> dict[str, float]:
        return self.measures.data(self.splits.test, n or self.n)

    @property
    def samples(self) -> int:
        return self.n

    def rows(self, steps: Sequence[int], ode: int | None = 128) -> dict[str, Sampler]:
        """Jumps, and Euler steps of the diagonal at each of the step counts above 1: what the flow map must beat."""
        euler: dict[str, Sampler] = {f"euler{k}": Euler(k) for k in steps if k > 1}
        return {**super().rows(steps, ode), **euler}

    def scored(self, path: str | None, context: int = 0) -> Iterator[Row]:
        rows = TextRows(self.tokeniser, self.length, context, self.state()["given"])
        return rows.held_out(self.splits.test) if path is None else rows.of_file(path)

    def proposal(self, flow_map: EndpointMap, generator: torch.Generator) -> Proposal:
        tokens = self.sample(flow_map, 8, Jumps(8), generator).to(generator.device)
        return proposal(flow_map, tokens, cut_off(self.tokeniser.size), generator)

    def temperatures(
        self,
        flow_map: FlowMap,
        sampler: Sampler,
        generator: torch.Generator,
        values: Sequence[float] = (0.5, 0.7, 0.85, 1.0),
        n: int | None = None,
    ) -> list[dict[str, float]]:
        """The measures of one way of sampling at several temperatures: its line in :meth:`frontier`."""
        n = n or self.n
        tokens = ((value, self.sample(flow_map, n, sampler, generator, decoder=Categorical(value))) for value in values)
        return [{"temperature": value, **self.quality(row)} for value, row in tokens]

    def studies(self, temperatures: str | None = None) -> dict[str, Study]:
        """What else is measured.

        Arguments:
            temperatures: Also draw the frontier over these, such as 0.5,0.7,1.
        """
        if temperatures is None:
            return {}
        values = _temperatures(temperatures)

        def study(
            flow_map: FlowMap,
            rows: Mapping[str, Sampler],
            n: int,
            seed: int,
            data: Mapping[str, float],
            directory: Path,
        ) -> tuple[object, list[Path]]:
            few = {name: sampler for name, sampler in rows.items() if not name.startswith("ode")}
            path = directory / "frontier.png"
            return self.frontier(flow_map, few, values, n, seed, path, data), [path]

        return {"frontier": study}

    def frontier(
        self,
        flow_map: FlowMap,
        rows: Mapping[str, Sampler],
        values: Sequence[float],
        n: int,
        seed: int,
        path: Path,
        data: Mapping[str, float],
    ) -> dict[str, list[dict[str, float]]]:
        """Judge perplexity against entropy over temperatures, a line for each way of sampling, drawn to ``path``.

        Arguments:
            data: What ``of_data`` says of as many windows: the star.
        """
        device = flow_map.device
        points = {
            name: self.temperatures(flow_map, sampler, torch.Generator(device).manual_seed(seed), values, n)
            for name, sampler in rows.items()
        }
        frontier(path, {**points, "data": [data]})
        return points


def _temperatures(text: str) -> list[float]:
    """Temperatures above 0, from ``0.5,0.7,1``."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [0.0]
    if any(not 0 < value < float("inf") for value in values):
        raise ValueError(f"temperatures are {text!r}, expected numbers above 0 such as 0.5,0.7,1")
    return values
