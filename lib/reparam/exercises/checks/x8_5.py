"""Self-checks of exercise 8.5. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect

OPTIONS = ("a lower bound", "an upper bound", "no bound")


def mean_over_outcomes(estimate, K, p, low, high):
    """E[estimate] for K weights that are `high` with probability p and else `low`, summed."""
    count = torch.arange(K + 1, dtype=torch.float64)
    is_high = torch.arange(K)[:, None] < count
    log_w = torch.where(is_high, math.log(high), math.log(low)).double()
    binomial = torch.distributions.Binomial(
        K, torch.tensor(p, dtype=torch.float64)
    )
    chance = binomial.log_prob(count).exp()
    found = expect.tensor(estimate(log_w), (K + 1,), "The estimates")
    return float((chance * found.detach()).sum())


def plain(log_w):
    """L_K of weights that a float can hold."""
    return log_w.exp().mean(0).log()


def test_leading(answer, rng):
    """The leading bias for ρ = 3 and ten samples."""
    expect.close(
        answer.leading(3.0, 10), -0.15, "The leading bias at ρ = 3, K = 10",
        mistakes={
            "the logarithm's second derivative brings a factor 1/2": -0.3,
            "the sign: a logarithm bends down, so that its mean is too small": 0.15,
            "the average of K weights has a K-th of the variance, not K times": -15.0,
        },
    )  # fmt: skip


def test_two(answer, rng):
    """Two samples, written out."""
    log_w = torch.tensor([[1.0], [3.0]])
    whole = log_w.logsumexp(0) - math.log(2)
    expect.close(
        answer.jackknife(log_w), 2 * whole - 2, "The estimate of two weights, e and e³",
        mistakes={
            "this is L_2 itself": whole,
            "this is the mean of L_1 over the ways of leaving one out": torch.tensor([2.0]),
            "the ways of leaving one out are summed; take their mean": 2 * whole - 4,
            "only the first sample was left out; average over both ways": 2 * whole - 3,
            "only the last sample was left out; average over both ways": 2 * whole - 1,
            "nothing of L_1 is taken away": 2 * whole,
        },
    )  # fmt: skip


def test_bias(answer, rng):
    """Eight weights of two values, every outcome summed."""
    truth = math.log(0.5 * 1 + 0.5 * 3)
    found = mean_over_outcomes(answer.jackknife, 8, 0.5, 1.0, 3.0) - truth
    bound = mean_over_outcomes(plain, 8, 0.5, 1.0, 3.0) - truth
    expect.that(
        abs(found) < abs(bound) / 3,
        "The bias of the estimate is more than a third of the bound's.",
        f"{found:.5f} beside {bound:.5f}",
    )


def test_one(answer, rng):
    """One sample is refused."""
    expect.close(
        answer.jackknife(torch.zeros(2, 1)), torch.zeros(1), "The estimate of two weights of 1"
    )  # fmt: skip
    expect.raises(
        ValueError,
        lambda: answer.jackknife(torch.zeros(1, 1)),
        "One sample alone",
    )


def test_word(answer, rng):
    """The word is one of three."""
    expect.that(
        answer.is_bound in OPTIONS,
        f"`is_bound` should be one of {', '.join(map(repr, OPTIONS))}.",
    )

TITLE = 'A bound without its bias'
GIVEN = {}
