"""Self-checks of exercise 7.1. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def test_variance(answer, rng):
    """The variance without a baseline."""
    # The estimate is 3 · 0.1 in nine cases of ten, and 1 · (-0.9) in the tenth.
    mean = 0.9 * 0.3 - 0.1 * 0.9
    second = 0.9 * 0.3**2 + 0.1 * 0.9**2
    expect.close(
        answer.variance(0.9, 1.0, 3.0, 0.0), second - mean**2,
        "The variance at θ = 0.9, f0 = 1, f1 = 3, β = 0",
        mistakes={
            "this is the second moment: the square of the mean is still in it": second,
            "this is the variance of f, and the estimate is f times the score":
                0.9 * 0.1 * 2**2,
        },
    )  # fmt: skip


def test_constants(answer, rng):
    """The variance when f and the baseline are raised alike, and when f is the baseline."""
    expect.close(
        answer.variance(0.9, 11.0, 13.0, 10.0), answer.variance(0.9, 1.0, 3.0, 0.0),
        "The variance with 10 more in f and in β",
    )  # fmt: skip
    expect.close(
        answer.variance(0.7, 2.0, 2.0, 2.0), 0.0, "The variance where f is β"
    )


def test_best(answer, rng):
    """The best constant for a likely 1."""
    expect.close(
        answer.best_constant(0.9, 1.0, 3.0), 1.2,  # (3 - β) · 0.1 = (1 - β) · (-0.9)
        "The best constant at θ = 0.9, f0 = 1, f1 = 3",
        mistakes={
            "this is E[f], which weighs each value by how often it comes. The best constant also "
            "weighs it by the squared score, which is small for the likely value":
                0.9 * 3 + 0.1 * 1,
            "this is halfway between the two values, which is best for θ = 1/2 only": 2.0,
        },
    )  # fmt: skip

TITLE = 'The best constant'
GIVEN = {}
