"""Self-checks of exercise 7.1. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def two_values(p, f0, f1, c):
    """The variance by summing over the two outcomes."""
    one, zero = (f1 - c) * (1 - p), -(f0 - c) * p
    mean = p * one + (1 - p) * zero
    return p * (one - mean) ** 2 + (1 - p) * (zero - mean) ** 2


def test_variance(answer, rng):
    """The variance without a baseline."""
    p, f0, f1 = 0.9, 1.0, 3.0
    expect.close(
        answer.variance(p, f0, f1, 0.0),
        two_values(p, f0, f1, 0.0),
        "The variance at p = 0.9, f0 = 1, f1 = 3, c = 0",
        mistakes={
            "this is the second moment: the square of the mean is still in it":
                p * (f1 * (1 - p)) ** 2 + (1 - p) * (f0 * p) ** 2,
            "this is the variance of f, and the estimate is f times the score":
                p * (1 - p) * (f1 - f0) ** 2,
        },
    )  # fmt: skip


def test_best(answer, rng):
    """The best constant for a likely 1."""
    p, f0, f1 = 0.9, 1.0, 3.0
    expect.close(
        answer.best_constant(p, f0, f1),
        1.2,
        "The best constant at p = 0.9, f0 = 1, f1 = 3",
        mistakes={
            "this is E[f]. It weighs f by how often a value comes; the variance weighs it by the "
            "square of the score, too, which is small for the likely value": p * f1 + (1 - p) * f0,
            "this is halfway between the two values, which is best for p = 1/2 only": 2.0,
        },
    )  # fmt: skip

TITLE = 'The best constant'
GIVEN = {}
