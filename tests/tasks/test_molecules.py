"""From a file of SMILES through training to samples, scaffolds and files."""

from collections import Counter
from itertools import combinations

import pytest
import torch

pytest.importorskip("rdkit")

from rdkit import Chem

from flowmaps.data.molecules_graph import build, sanitised
from flowmaps.maps import VelocityMap
from flowmaps.objectives import SelfDistillation
from flowmaps.samplers import Categorical, Jumps
from flowmaps.tasks.molecules import Molecules, histograms
from flowmaps.tasks.molecules_scaffold import places, scaffold
from flowmaps.train import AdamW, Cosine, Trainer, load_map, read_config

pytestmark = pytest.mark.filterwarnings("ignore:.*(rows are left out|rows stay)")
SMALL = {"width": 16, "edge": 8, "depth": 2, "heads": 2, "paths": 4, "held_out": 16}
ONE = Jumps(1)


@pytest.fixture(scope="module")
def build_task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("molecules")
    rows = ["C" * (k % 5 + 1) + "O" * (k // 25 % 2) + "C" * (k // 5 % 5) + "N" * (k // 50) for k in range(100)]
    (folder / "my.smi").write_text("\n".join([*rows, "C1CC1", "C1CC1C", "C1CC1O", "nonsense"]))
    return lambda **options: Molecules(str(folder / "my.smi"), **{"cache": str(folder), **SMALL, **options})


@pytest.fixture(scope="module")
def task(build_task):
    return build_task()


@pytest.fixture(scope="module")
def flow_map(task):
    torch.manual_seed(0)
    flow_map = task.build_map().eval()
    for p in flow_map.parameters():  # heads are zero at first: every sample would be the same
        torch.nn.init.normal_(p, std=0.3)
    return flow_map


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_user_trains_on_smiles_and_a_checkpoint_samples_without_data(build_task, tmp_path):
    torch.manual_seed(0)
    task = build_task(known_share=0.3)
    task.judge.chemnet = None
    trainer = Trainer(
        SelfDistillation(task.build_map()), task.train_data, task.valid_data, tmp_path / "run", accelerator="cpu",
        evaluate=lambda flow_map, step: task.quality(task.sample(flow_map, 16, ONE, generator())),
        config={"state": task.state()}, max_steps=30, batch_size=32, validate_every=30,
        optimizer=AdamW(lr=5e-3), schedule=Cosine(warmup=10), ema=None, tensorboard=False, progress=False,
    )  # fmt: skip
    report = trainer.fit()
    assert report.metrics["valid/diagonal"] < 1.9  # uniform guesses cost ln 3 + ln 4 = 2.5
    assert 0 <= report.metrics["quality/valid_connected"] <= 1
    assert report.checkpoint is not None
    alone = Molecules("gone.csv", **SMALL)
    alone.restore(read_config(report.checkpoint)["state"])
    fresh = alone.build_map().eval()
    load_map(report.checkpoint, fresh)
    one, two = task.sample(report.flow_map, 8, ONE, generator()), alone.sample(fresh, 8, ONE, generator())
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_samples_have_the_sizes_of_the_data_and_symmetric_bonds(task, flow_map):
    x = task.sample(flow_map, 40, Jumps(2), generator(), decoder=Categorical(), batch=16)
    assert torch.equal(x["bonds"], x["bonds"].mT) and not x["bonds"].diagonal(dim1=1, dim2=2).any()
    exists = x["atoms"] >= 0
    assert not x["bonds"][~(exists.unsqueeze(1) & exists.unsqueeze(2))].any()
    weights = torch.tensor(task.state()["size_weights"])
    drawn = torch.bincount(exists.sum(1), minlength=len(weights))
    assert not drawn[weights == 0].any() and (drawn > 0).sum() > 2
    assert ((task.sample(flow_map, 3, ONE, generator(), atoms=4)["atoms"] >= 0).sum(1) == 4).all()
    same = [task.sample(flow_map, 5, ONE, generator(3)) for _ in range(2)]
    assert torch.equal(same[0]["bonds"], same[1]["bonds"])


def test_a_scaffold_stays_atom_for_atom(task, flow_map):
    x = task.sample(flow_map, 30, Jumps(2), generator(), fixed="C1CC1")
    assert ((x["atoms"] >= 0).sum(1) >= 3).all()
    bonds = [(i, j, int(x["bonds"][0, i, j])) for i in range(3) for j in range(i + 1, 3)]
    assert sanitised(build(["C"] * 3, bonds)) == "C1CC1"
    assert (x["atoms"][:, :3] == x["atoms"][0, :3]).all() and (x["bonds"][:, :3, :3] == x["bonds"][0, :3, :3]).all()
    assert (x["bonds"][:, :3, 3:] != x["bonds"][:1, :3, 3:]).any()  # the rest is free


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atoms": 99}, "atoms is 99, expected 1 to"), ({"atoms": 2, "fixed": "C1CC1"}, "expected 3 to"),
        ({"fixed": "C("}, "cannot be used: not a SMILES"), ({"fixed": "CF"}, "has .'F'."),
        ({"fixed": "C" * 30}, "30 atoms, more than"), ({"n": 0}, "n is 0"), ({"target": {"qed": 1}}, "not conditioned"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_said(task, flow_map, options, message):
    with pytest.raises(ValueError, match=message):
        task.sample(flow_map, **{"n": 2, "sampler": ONE, "generator": generator(), **options})


def test_properties_condition_the_map(build_task):
    task = build_task(conditions=("logp", "weight"), drop_label=0.3)
    label = task.train_data.label
    assert label.shape == (len(task.train_data), 2)
    assert torch.allclose(label.mean(0), torch.zeros(2), atol=1e-4)
    torch.manual_seed(0)
    flow_map = task.build_map()
    for p in flow_map.parameters():  # gates and heads that are zero would hide the label
        torch.nn.init.normal_(p, std=0.2)
    light, heavy, any_ = (
        task.sample(flow_map, 20, ONE, generator(), target=target)
        for target in ({"logp": 0, "weight": 20}, {"logp": 0, "weight": 200}, None)
    )
    assert not torch.equal(light["bonds"], heavy["bonds"]) and not torch.equal(light["bonds"], any_["bonds"])
    with pytest.raises(ValueError, match="expected all of"):
        task.sample(flow_map, 2, ONE, generator(), target={"logp": 1})
    for value in (-1e6, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"target weight is .*, expected -.* to .* training has seen nothing"):
            task.sample(flow_map, 2, ONE, generator(), target={"logp": 1, "weight": value})
    with pytest.raises(ValueError, match="expected some of logp, qed, rings, weight"):
        build_task(conditions=("colour",))
    with pytest.raises(ValueError, match="held_out is 1, expected at least 2"):
        build_task(held_out=1)
    with pytest.raises(ValueError, match="fragments is 'small', expected refuse or largest"):
        _ = build_task(fragments="small").splits


def test_a_property_without_variation_is_refused(tmp_path):
    rows = dict.fromkeys("C" * i + x + "C" * j for i in range(1, 9) for j in range(9) for x in "ON")
    (tmp_path / "chains.smi").write_text("\n".join(rows))
    task = Molecules(str(tmp_path / "chains.smi"), cache=str(tmp_path), conditions=("rings", "logp"), **SMALL)
    with pytest.raises(ValueError, match=r"rings is 0 for all \d+ training molecules; leave it out"):
        task.state()


def test_the_network_sees_few_graphs_at_a_time_and_samples_stay_the_same(task, flow_map, monkeypatch):
    from flowmaps.tasks import molecules_slices

    seen = []
    hook = flow_map.network.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[1])))
    options = {"n": 70, "sampler": Jumps(2), "decoder": Categorical(), "fixed": "CC"}
    some = task.sample(flow_map, generator=generator(), **options)
    monkeypatch.setattr(molecules_slices, "CACHE", 10**12)
    assert molecules_slices.graphs_at_a_time(9, 32) > 70
    whole = task.sample(flow_map, generator=generator(), **options)
    monkeypatch.setattr(molecules_slices, "CACHE", 0)
    few = task.sample(flow_map, generator=generator(), **options)
    hook.remove()
    assert max(seen[-36:]) == 4 and seen.count(70) >= 2
    assert all(torch.equal(some[name], whole[name]) and torch.equal(few[name], whole[name]) for name in whole)


@pytest.mark.parametrize("labelled", [False, True])
def test_graphs_of_one_size_go_together_without_padding(labelled):
    """Logits are those of the padded batch, whatever the mask, what is known and the label."""
    from flowmaps.data.molecules import graph_masks
    from flowmaps.fields import Condition
    from flowmaps.networks.graph import GraphTransformer
    from flowmaps.tasks.molecules_slices import Sliced

    torch.manual_seed(0)
    network = GraphTransformer(4, 3, width=16, edge=8, depth=2, heads=2, paths=4, properties=2 if labelled else None)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    network, B, N = network.double(), 30, 11
    sizes = torch.randint(1, N, (B,))  # no graph fills the padded one
    x = {"atoms": torch.randn(B, N, 4).double(), "bonds": torch.randn(B, N, N, 3).double()}
    x["bonds"] = x["bonds"] + x["bonds"].transpose(1, 2)
    s, t = torch.rand(2, B).double().sort(0).values
    mask = graph_masks(sizes, N)
    known = {"atoms": mask["atoms"] & (torch.rand(B, N) < 0.3)}
    known["bonds"] = known["atoms"].unsqueeze(1) & known["atoms"].unsqueeze(2)
    label = torch.randn(B, 2).double() if labelled else None
    seen = []
    network.register_forward_pre_hook(lambda _, arguments: seen.append(tuple(arguments[0]["bonds"].shape[:2])))
    sliced = Sliced(network, lambda n: max(1, 60 // n**2))
    for condition in (Condition(mask, known, label), Condition(mask, None, label), Condition(None, None, label)):
        whole, few = network(x, s, t, condition), sliced(x, s, t, condition)
        assert all((whole[name] - few[name]).abs().max() < 1e-12 for name in whole)
    assert {n for _, n in seen} <= {*sizes.tolist(), N} and min(n for _, n in seen) < 5
    assert all(rows <= max(1, 60 // n**2) for rows, n in seen if rows < B)


def test_a_guided_map_of_molecules_is_sampled(task, flow_map):
    """A guided map asks its network for the scale, behind whatever evaluates that network on few graphs at a time."""
    from flowmaps.samplers import Euler
    from flowmaps.steering import LogitGuidance

    torch.manual_seed(1)
    weak = task.build_map().eval()
    for p in weak.parameters():
        torch.nn.init.normal_(p, std=0.3)
    alone, same, pushed = (
        task.sample(one, 16, Euler(2), generator())
        for one in (flow_map, LogitGuidance(flow_map, 1.0, weak), LogitGuidance(flow_map, 3.0, weak))
    )
    assert all(torch.equal(alone[name], same[name]) for name in ("atoms", "bonds"))
    assert not torch.equal(alone["bonds"], pushed["bonds"])


def test_files_hold_what_is_valid(task, tmp_path):
    train = task.splits.train
    batch = train.batch(torch.arange(6))
    x = {"atoms": torch.where(batch.condition.mask["atoms"], batch.x_1["atoms"], -1), "bonds": batch.x_1["bonds"]}
    row = int(train.sizes[:6].argmax())
    x["bonds"][row] = 3 * (1 - torch.eye(train.n, dtype=torch.long))  # triple bonds everywhere
    task.write({"1": x, "4": x}, tmp_path)
    assert task.remark(x) == "5 of 6 valid, the others not in the files"
    lines = [line.split("\t") for line in (tmp_path / "molecules-1.smi").read_text().splitlines()]
    assert [int(k) for _, k in lines] == [k for k in range(6) if k != row]
    assert [smiles for smiles, _ in lines] == [train.smiles[int(k)] for _, k in lines]
    read = [mol for mol in Chem.SDMolSupplier(str(tmp_path / "molecules-4.sdf")) if mol is not None]
    assert [Chem.MolToSmiles(mol) for mol in read] == [smiles for smiles, _ in lines]
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_training_molecules_are_valid_and_not_novel(task):
    task.judge.chemnet = None
    result = task.of_data()
    assert next(iter(result)) == "valid_connected" and result["valid_connected"] == 1 and result["novel"] == 0


def test_histograms_and_bad_names(task):
    train = task.splits.train
    counts = histograms(train, task.alphabet)
    assert counts["atoms"].sum() == train.sizes.sum()
    assert counts["bonds"].sum() == (train.sizes * (train.sizes - 1) // 2).sum()
    with pytest.raises(ValueError, match="neither one of qm9, zinc250k nor"):
        _ = Molecules("nowhere.csv").splits


def test_a_file_is_also_found_in_the_folder_of_data(tmp_path, monkeypatch):
    """A model that names its data by a file name is evaluated from any folder."""
    (tmp_path / "molecules").mkdir()
    (tmp_path / "molecules" / "mine.smi").write_text("\n".join("C" * (k + 1) for k in range(20)))
    options = {"cache": str(tmp_path), "held_out": 2}
    with pytest.raises(ValueError, match="nor an existing file, here or in "):
        _ = Molecules("mine.smi", **options).splits
    assert len(Molecules("mine.smi", path=str(tmp_path / "molecules"), **options).splits.train) > 0
    monkeypatch.setenv("FLOWMAPS_DATA", str(tmp_path))
    assert len(Molecules("mine.smi", **options).splits.train) > 0
    with pytest.raises(ValueError, match="data 'theirs.smi': not an existing file, here or in "):
        _ = Molecules("mine.smi", test="theirs.smi", **options).splits
    for part, size, end in (("held", 3, "O"), ("last", 4, "N")):
        (tmp_path / "molecules" / f"{part}.smi").write_text("\n".join("C" * (k + 1) + end for k in range(size)))
    parts = Molecules("mine.smi", valid="held.smi", test="last.smi", **options).splits
    assert [len(part) for part in (parts.train, parts.valid, parts.test)] == [20, 3, 4]


def test_parts_are_those_of_a_file(tmp_path):
    with pytest.raises(ValueError, match="qm9 has parts of its own; leave out valid"):
        _ = Molecules("qm9", valid="mine.smi").splits


def test_the_user_is_told_what_is_left_out(build_task):
    with pytest.warns(UserWarning, match=r"1 of 104 rows are left out; .*rejected.csv lists them"):
        _ = build_task().splits


def test_the_naive_baseline_is_a_velocity_map(build_task):
    task = build_task(flow_map=VelocityMap)
    flow_map = task.build_map()
    assert isinstance(flow_map, VelocityMap)
    assert torch.equal((x := task.sample(flow_map, 4, ONE, generator()))["bonds"], x["bonds"].mT)


def test_where_the_order_matters_a_scaffold_lies_anywhere_and_stays(build_task):
    task = build_task(order="canonical", repeat={"O": 2})
    assert len(task.train_data) > len(task.splits.train)
    torch.manual_seed(0)
    flow_map = task.build_map().eval()
    assert flow_map.network.places is not None
    x = task.sample(flow_map, 40, ONE, generator(), fixed="C1CC1", atoms=6)
    for atoms, bonds in zip(x["atoms"], x["bonds"], strict=True):
        carbons = (atoms == task.alphabet.atoms.index("C")).nonzero()[:, 0].tolist()
        assert any(bonds[i, j] == bonds[j, k] == bonds[i, k] == 1 for i, j, k in combinations(carbons, 3))


def test_a_scaffold_takes_its_places_as_often_as_it_should(build_task):
    """Three of six places, in order: half of the time one of four blocks, else one of all twenty choices."""
    task = build_task(order="canonical")
    part = scaffold("C1CO1", task.alphabet, "canonical")
    N, n = task.alphabet.size, 4000
    rows = places(torch.full((n,), 6), part, "canonical", generator())
    assert torch.equal(rows.sort(1).values, torch.arange(N).expand(n, N))
    where = [tuple(row.nonzero()[:, 0].tolist()) for row in rows < part.size]
    assert all(row[list(at)].tolist() == [0, 1, 2] for row, at in zip(rows, where, strict=True))
    counts = Counter(where)
    for at in combinations(range(6), 3):
        expected = n * (0.5 / 20 + 0.5 / 4 * (at[2] - at[0] == 2))
        assert abs(counts[at] - expected) < 5 * expected**0.5
    assert torch.equal(places(torch.full((2,), 6), part, "file", generator())[1], torch.arange(N))
