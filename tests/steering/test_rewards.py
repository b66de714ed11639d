import pytest
import torch
from torch.nn import functional as F

from flowmaps.samplers import Renoise
from flowmaps.steering import (
    BestOf,
    FeynmanKac,
    Hard,
    RewardError,
    Soft,
    Tilted,
    class_probability,
    each,
    ink,
    keyword,
    matches,
    of_text,
    word_length,
)
from steering.laws import generator, small_law

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
        method(law.map(), Soft(reward), (3,), 100, generator(), population=10)


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
