"""Self-checks of exercise 7.1. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def two_values(theta, f0, f1, beta):
    """The variance by summing over the two outcomes."""
    one, zero = (f1 - beta) * (1 - theta), -(f0 - beta) * theta
    mean = theta * one + (1 - theta) * zero
    return theta * (one - mean) ** 2 + (1 - theta) * (zero - mean) ** 2


def test_variance(answer, rng):
    """The variance without a baseline."""
    theta, f0, f1 = 0.9, 1.0, 3.0
    expect.close(
        answer.variance(theta, f0, f1, 0.0),
        two_values(theta, f0, f1, 0.0),
        "The variance at θ = 0.9, f0 = 1, f1 = 3, β = 0",
        mistakes={
            "this is the second moment: the square of the mean is still in it":
                theta * (f1 * (1 - theta)) ** 2 + (1 - theta) * (f0 * theta) ** 2,
            "this is the variance of f, and the estimate is f times the score":
                theta * (1 - theta) * (f1 - f0) ** 2,
        },
    )  # fmt: skip


def test_best(answer, rng):
    """The best constant for a likely 1."""
    theta, f0, f1 = 0.9, 1.0, 3.0
    expect.close(
        answer.best_constant(theta, f0, f1),
        1.2,
        "The best constant at θ = 0.9, f0 = 1, f1 = 3",
        mistakes={
            "this is E[f], which weighs each value by how often it comes. The best constant also "
            "weighs it by the squared score, which is small for the likely value": theta * f1 + (1 - theta) * f0,
            "this is halfway between the two values, which is best for θ = 1/2 only": 2.0,
        },
    )  # fmt: skip

TITLE = 'The best constant'
GIVEN = {}
