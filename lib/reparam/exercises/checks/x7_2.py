"""Self-checks of exercise 7.2. Derived from the exercise's source; do not edit."""

import itertools

import torch

from reparam.exercises import expect


def exact_moments(estimate, p, f, K):
    """Mean and variance of an estimate for one bit by its logit: every outcome of K bits, summed."""
    mean = second = 0.0
    for bits in itertools.product((0, 1), repeat=K):
        b = torch.tensor(bits, dtype=torch.float64)
        weight = float((p**b * (1 - p) ** (1 - b)).prod())
        found = expect.number(estimate(f(b), b - p), "The estimate")
        mean, second = mean + weight * found, second + weight * found**2
    return mean, second - mean**2


def test_factor(answer, rng):
    """The factor for two samples."""
    expect.close(
        answer.bias_factor(2), 0.5, "The factor for K = 2",
        mistakes={
            "this says that there is no bias; expand the product for K = 2": 1.0,
            "this is the factor that mends it, and its inverse is asked for": 2.0,
        },
    )  # fmt: skip


def test_mended(answer, rng):
    """Three samples of one bit, every outcome summed."""
    f = lambda b: 2 * b + 1
    truth = 0.3 * 0.7 * 2.0
    mean, _ = exact_moments(answer.mended, 0.3, f, 3)
    expect.close(
        mean, truth, "The mean of your estimate",
        mistakes={
            "the sample's own value is still in its baseline": truth * 2 / 3,
            "it is the sum over the samples, not their mean": truth * 3,
        },
    )  # fmt: skip


def test_constant(answer, rng):
    """A constant added to f makes the estimate no louder."""
    raised = lambda b: 2 * b + 11
    _, low = exact_moments(answer.mended, 0.3, lambda b: 2 * b + 1, 3)
    _, high = exact_moments(answer.mended, 0.3, raised, 3)
    bare = lambda values, scores: (values * scores).mean()
    expect.close(
        high, low, "The variance for a raised f",
        mistakes={
            "nothing is taken from the values, so that the constant is noise times ten":
                exact_moments(bare, 0.3, raised, 3)[1],
        },
    )  # fmt: skip

TITLE = 'A baseline that knows too much'
GIVEN = {}
