import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flowmaps.metrics.text_judges import NgramJudge
from flowmaps.samplers import Renoise
from flowmaps.steering import (
    BestOf,
    FeynmanKac,
    Hard,
    Led,
    LookAhead,
    RewardError,
    Soft,
    Tilted,
    class_probability,
    each,
    ink,
    keyword,
    likelihood,
    matches,
    of_text,
    word_length,
)
from steering.laws import assert_exact, generator, linear_reward, small_law, tilted

LETTERS = "abcdefghijklmnopqrstuvwxyz "


def decode(x_1):
    return "".join(LETTERS[k] for k in x_1.tolist())


def encode(*texts):
    return torch.tensor([[LETTERS.index(c) for c in text] for text in texts])


def at_seven(value):
    """A reward that is fine but for one particle, found again by its content."""

    def reward(x_1):
        r = torch.zeros(len(x_1))
        r[(x_1 == 2).all(1)] = value
        return r

    return reward


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_value_names_its_particle(value):
    x_1 = torch.zeros(10, 3, dtype=torch.int64)
    x_1[7] = 2
    with pytest.raises(RewardError, match=rf"'odd' of particle 107 is {value}") as error:
        Hard(at_seven(value), "odd").of_sample(x_1, 3, first=100)
    assert "\n" not in str(error.value)


def test_an_exception_names_its_particle_and_its_cause():
    def reward(x_1):
        if (x_1 == 2).all(1).any():
            raise KeyError("no such molecule")
        return torch.zeros(len(x_1))

    x_1 = torch.zeros(10, 3, dtype=torch.int64)
    x_1[4] = 2
    with pytest.raises(RewardError, match="raised KeyError at particle 4: 'no such molecule'") as error:
        Hard(reward).of_sample(x_1, 3)
    assert isinstance(error.value.__cause__, KeyError) and "\n" not in str(error.value)


@pytest.mark.parametrize("values", [torch.zeros(5, 1), torch.zeros(()), torch.zeros(4), [0.0] * 6, None, "high"])
def test_a_wrong_shape_or_type_names_the_particles(values):
    with pytest.raises(RewardError, match="particles 0 to 4"):
        Hard(lambda x_1: values, "flat").of_sample(torch.zeros(5, 3, dtype=torch.int64), 3)


@pytest.mark.parametrize("method", [BestOf(2), FeynmanKac(), Tilted(Renoise(4)), Tilted(Renoise(4, 0.0))])
def test_methods_pass_complaints_on_with_the_number_among_all_particles(method):
    law = small_law()

    def reward(pi):
        reward.calls += len(pi)
        return (
            torch.where(torch.arange(len(pi)) == 3, torch.nan, pi.flatten(1).sum(1))
            if reward.calls > 50
            else (pi.flatten(1).sum(1))
        )

    reward.calls = 0
    with pytest.raises(RewardError, match="particle (3|13|23|33|43|53|63|73|83|93) is nan"):
        method(law.flow_map(), Soft(reward), (3,), 100, generator(), population=10)


def test_rewards_must_be_callable():
    with pytest.raises(ValueError, match="not a float"):
        Soft(1.0)  # type: ignore[arg-type]


def test_whole_numbers_and_lists_are_rewards():
    x_1 = torch.tensor([[0, 1], [2, 2]])
    assert Hard(lambda x: x.sum(1)).of_sample(x_1, 3).tolist() == [1.0, 4.0]
    assert Hard(each(lambda x: int(x[0]))).of_sample(x_1, 3).tolist() == [0.0, 2.0]
    by_field = {"a": x_1, "b": x_1 + 1}
    assert Hard(each(lambda x: int(x["a"][0] + x["b"][1]))).of_sample(by_field, 4).tolist() == [2.0, 5.0]


def test_soft_and_hard_agree_at_vertices():
    x_1 = torch.tensor([[0, 1], [2, 2]])
    pi = F.one_hot(x_1, 3).float()
    reward = ink()
    assert torch.equal(reward.of_sample(x_1, 3), reward.of_endpoint(pi))
    hard = Hard(lambda x: x.float().mean(1) / 2)
    assert torch.equal(hard.of_endpoint(pi), reward.of_endpoint(pi))


def test_ink():
    pi = F.one_hot(torch.tensor([[0, 0], [3, 3], [0, 3]]), 4).float()
    assert ink().of_endpoint(pi).tolist() == [0.0, 1.0, 0.5]
    assert ink(target=0.5).of_endpoint(pi).tolist() == [-0.5, -0.5, 0.0]


def test_class_probability_is_differentiable_and_refuses_an_unknown_class():
    weight = torch.randn(4, 3, generator=generator())
    pi = torch.randn(5, 4, 6, generator=generator()).softmax(-1).requires_grad_()
    r = class_probability(lambda x: x @ weight, 1).of_endpoint(pi)
    expected = ((pi @ torch.arange(6.0)) @ weight).softmax(-1)[:, 1]
    assert torch.allclose(r, expected)
    assert torch.autograd.grad(r.sum(), pi)[0].abs().max() > 0
    log = class_probability(lambda x: x @ weight, 1, log=True).of_endpoint(pi)
    assert torch.allclose(log.exp(), r)
    with pytest.raises(RewardError, match=r"label is 3, expected a class in 0\.\.2"):
        class_probability(lambda x: x @ weight, 3).of_endpoint(pi)


def test_keyword_counts_whole_words():
    x_1 = encode("the cat the", "catalogues ", "no cats here"[:11])
    assert keyword("the", decode).of_sample(x_1, 27).tolist() == [2.0, 0.0, 0.0]
    assert keyword("CAT", decode).of_sample(x_1, 27).tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="empty"):
        keyword("", decode)


def test_regular_expressions():
    assert matches(r"c.t\b", decode).of_sample(encode("a cat", "carts"), 27).tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        matches("(", decode)


def test_word_length():
    x_1 = encode("ab abcd", "       ")
    assert word_length(decode).of_sample(x_1, 27).tolist() == [3.0, 0.0]
    assert word_length(decode, target=2.0).of_sample(x_1, 27).tolist() == [-1.0, -2.0]


def test_a_reward_of_text_that_raises_names_the_particle():
    reward = of_text(lambda text: 1 / text.count("a"), decode, "per a")
    with pytest.raises(RewardError, match="'per a' raised ZeroDivisionError at particle 1"):
        reward.of_sample(encode("a", "b"), 27)


def test_likelihood_is_the_mean_over_the_tokens_of_each_sample():
    judge = NgramJudge(encode("the cat sat on the mat and the rat sat on the cat " * 4)[0].numpy(), 27, order=4)
    x_1 = encode("the cat sat", "the mat sat", "xyz zyx qqq")
    reward = likelihood(judge.nats)
    one_by_one = [-float(judge.nats([row])[0].mean()) for row in x_1.numpy()]
    values = reward.of_sample(x_1, 27)
    assert values.tolist() == pytest.approx(one_by_one) and values[0] > values[1] > values[2]
    assert torch.equal(reward.of_endpoint(F.one_hot(x_1, 27).float()), values)


def test_likelihood_under_a_judge_of_strings():
    judge = NgramJudge(encode("the cat sat on the mat")[0].numpy(), 27, order=3)

    def nats(texts):  # a judge with an alphabet of its own, which sees nothing in blanks
        return [judge.nats(encode(text.strip()).numpy())[0] if text.strip() else np.zeros(0) for text in texts]

    x_1 = encode("the cat   ", "          ")
    values = likelihood(nats, decode, least=-9.0).of_sample(x_1, 27)
    assert float(values[0]) == pytest.approx(-float(judge.nats(encode("the cat").numpy())[0].mean()), rel=1e-6)
    assert float(values[1]) == -9.0


@pytest.mark.parametrize("method", [FeynmanKac(Renoise(4)), Tilted(Renoise(4))], ids=["gradient-free", "tilted"])
def test_weights_follow_the_black_box_whatever_leads_to_it(method):
    law = small_law()
    truth, wrong = linear_reward(law), linear_reward(law, seed=5)
    led = Led(Hard(lambda x_1: truth.of_sample(x_1, 4), "truth"), by=Soft(lambda pi: 0.3 * wrong.function(pi)))
    result = method(law.flow_map(), led, (3,), 4000, generator(), strength=0.7)
    assert torch.equal(result.rewards, truth.of_sample(result.samples, 4))
    assert_exact(result, *tilted(law, truth, 0.7))


def test_a_stand_in_leads_to_its_black_box():
    law = small_law()
    truth = linear_reward(law)
    led = Led(Hard(lambda x_1: truth.of_sample(x_1, 4), "truth"), by=truth, about={"surrogate_r2": 1.0})
    assert led.name == "truth" and led.about["surrogate_r2"] == 1.0 and led.differentiable
    with pytest.raises(ValueError, match="black box"):
        LookAhead(4)(law.flow_map(), led.reward, (3,), 10, generator())
    found, same = (LookAhead(4)(law.flow_map(), r, (3,), 200, generator(), strength=2.0) for r in (led, truth))
    assert torch.equal(found.samples, same.samples)
