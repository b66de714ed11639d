"""Scores of rows: bounds on a known distribution, whatever else is scored; alternatives share their noise."""

import math

import pytest
import torch

from flowmaps.fields import Batch
from flowmaps.likelihood import CrossEntropyOnly, CutOff, Grid, Proposal, Row, Scorer, Window, cut_off
from flowmaps.likelihood import score as whole
from flowmaps.likelihood.rows import proposal, spread
from flowmaps.oracles import FiniteLaw
from identities.cases import seeded


@pytest.fixture(scope="module")
def law():
    return FiniteLaw.dependent(3, 3, generator=seeded(), steps=1, coupling=1.0).float()


def rows_of(tokens, known=0, group=None):
    return [Row((Window(x, known),), group or f"row {i}") for i, x in enumerate(tokens)]


def bounds(**options):
    return [CutOff(**options), CrossEntropyOnly(**options), Grid(8)]


def test_every_bound_is_at_least_the_truth_and_b1_is_below_b3_in_every_row(law):
    """On a source of known entropy: B1 is tight, B3 and B4 are above."""
    scores = list(Scorer(law.flow_map(), bounds(), batch=4000)(rows_of(law.sample(6000, seeded(1)))))
    assert all(0 <= s.nats("B1") <= s.nats("B3") for s in scores)
    nats = {name: torch.tensor([s.nats(name) for s in scores]) for name in ("B1", "B3", "B4")}
    error = {name: float(x.std()) / len(x) ** 0.5 for name, x in nats.items()}
    entropy = float(law.entropy())
    assert abs(float(nats["B1"].mean()) - entropy) < 4 * error["B1"] < 0.15
    for name in ("B3", "B4"):
        assert float(nats[name].mean()) > entropy + 4 * error[name]


def test_a_score_does_not_depend_on_the_other_rows(law):
    rows = rows_of(law.sample(30, seeded(1)))
    rows += [Row((rows[0].windows[0], Window(rows[1].windows[0].tokens, 1)), "of two windows")]
    alone = [next(iter(Scorer(law.flow_map(), bounds(), batch=1)([row]))) for row in rows[-6:]]
    together = list(Scorer(law.flow_map(), bounds(), batch=100)(iter(rows)))
    assert [score.row for score in together] == rows
    for one, other in zip(alone, together[-6:], strict=True):
        for name in ("B1", "B3", "B4"):
            assert one.nats(name) == pytest.approx(other.nats(name), abs=1e-4)
    assert together[-1].row.tokens == 5
    other_seed = next(iter(Scorer(law.flow_map(), bounds(), seed=1)(rows)))
    assert other_seed.nats("B1") != together[0].nats("B1")


def test_conditional_scores_are_bounds_of_the_conditional(law):
    x = law.sample(4000, seeded(2))
    scores = list(Scorer(law.flow_map(), [CutOff()], batch=4000)(rows_of(x, known=1)))
    p = law.log_p.exp()
    first = torch.zeros(3).index_add_(0, law.atoms[:, 0], p)
    conditional = float(law.entropy()) + float((first * first.log()).sum())
    nats = torch.tensor([s.nats("B1") for s in scores])
    assert all(s.row.tokens == 2 for s in scores)
    assert abs(float(nats.mean()) - conditional) < 4 * float(nats.std()) / len(x) ** 0.5


def test_alternatives_share_their_noise(law):
    """What two answers have in common falls out of their difference; independent noise would leave it in."""
    scorer = Scorer(law.flow_map(), [CutOff(draws=16)], batch=6000)
    x = torch.tensor([[0, 1, 2], [0, 1, 1]])
    found = {}
    for name, groups in (("common", ("a", "a")), ("apart", ("a", "b"))):
        rows = [Row((Window(x[k]),), f"{i} {groups[k]}") for i in range(400) for k in (0, 1)]
        scores = list(scorer(rows))
        found[name] = [one.less(other, "B1") for one, other in zip(scores[::2], scores[1::2], strict=True)]
    common, apart = (torch.tensor(found[name]) for name in ("common", "apart"))
    gap = common[:, 0] - apart[:, 0]
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 20, "both have the same mean"
    assert common[:, 0].var() < 0.75 * apart[:, 0].var()
    for values, errors in (common.T, apart.T):
        assert 0.8 * values.var() < errors.square().mean() < 2 * values.var(), "the error of a row is about its spread"


def test_noise_of_a_longer_answer_begins_with_that_of_a_shorter(law):
    scorer = Scorer(law.flow_map(), [CutOff()])
    short, long = scorer._draw(3, 5), scorer._draw(40, 5)
    assert torch.equal(short.noise[:, :3], long.noise[:, :3]) and torch.equal(short.u, long.u)
    assert long.noise.shape[1] >= 40


def test_spread_of_neighbours():
    assert spread(torch.tensor([1.0, 4.0, 2.0, 2.0])) == 3
    assert spread(torch.tensor([1.0, 1.0, 3.0])) == pytest.approx(2**0.5)
    assert spread(torch.zeros(1)) == 0
    noise = torch.randn(4000, 10, generator=seeded(), dtype=torch.float64)
    assert torch.tensor([spread(x) for x in noise]).square().mean() == pytest.approx(10, rel=0.05)


def test_importance_sampled_points_are_unbiased_and_spread_less(law):
    tokens = law.sample(2000, seeded(3))
    U = 3 * cut_off(3)  # far more than is needed, as for a distribution that settles early
    fitted = proposal(law.flow_map(), law.sample(64, seeded(4)), U, seeded(5))
    assert len(fitted.cells) == 32 and float(fitted.cells.sum()) == pytest.approx(1)
    found = {}
    for name, density in (("uniform", Proposal()), ("fitted", fitted)):
        scores = Scorer(law.flow_map(), [CutOff(U, proposal=density)], batch=4000)(rows_of(tokens))
        found[name] = [(s.nats("B1"), s.error("B1")) for s in scores]
    uniform, better = (torch.tensor(found[name]) for name in ("uniform", "fitted"))
    both = (uniform[:, 0] - better[:, 0]).std() / len(tokens) ** 0.5
    assert abs(float((uniform[:, 0] - better[:, 0]).mean())) < 4 * float(both)
    assert better[:, 1].square().mean() < 0.6 * uniform[:, 1].square().mean()
    estimate = whole(law.flow_map(), [Batch(tokens)], CutOff(U, proposal=fitted), seeded(6))
    assert abs(estimate.nats - float(law.entropy())) < 4 * estimate.error, "bounds of whole batches take it, too"


def test_a_proposal_is_a_density():
    density = Proposal([3.0, 1.0])
    v = (torch.arange(4000) + 0.5) / 4000
    u, inverse = density(v, 2.0)
    assert float(u.min()) > 0 and float(u.max()) < 2 and bool((u.diff() > 0).all())
    assert float((u < 1).float().mean()) == pytest.approx(0.75, abs=1e-3)
    assert float((inverse * u.square()).mean()) == pytest.approx(8 / 3, rel=1e-3), "the integral of u^2"
    for shares in ([], [1.0, 0.0], [math.inf]):
        with pytest.raises(ValueError, match="positive number for each cell"):
            Proposal(shares)


def test_scorers_refuse_what_they_cannot_do(law):
    with pytest.raises(ValueError, match="each once"):
        Scorer(law.flow_map(), [CutOff(), CutOff()])
    with pytest.raises(ValueError, match="batch is 0"):
        Scorer(law.flow_map(), [CutOff()], batch=0)
    assert list(Scorer(law.flow_map(), [CutOff()])([])) == []
    nothing = next(iter(Scorer(law.flow_map(), [CutOff()])([Row((), "an empty text")])))
    assert nothing.nats("B1") == 0 == nothing.error("B1")
