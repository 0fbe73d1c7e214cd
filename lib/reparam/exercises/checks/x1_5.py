"""Self-checks of exercise 1.5. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def var_square(mu):
    return 4 * mu**2 + 2


def test_bias(answer, rng):
    """The bias for a square."""
    expect.close(
        answer.bias(0.1), 0.1, "The bias at h = 0.1",
        mistakes={
            "noise averages out, the curvature of f does not: expand (μ + h)²": 0.0,
            "this is the bias of a central difference's neighbor: here f'' is 2": 0.05,
        },
    )  # fmt: skip


def test_deviations(answer, rng):
    """The two standard deviations at μ = 1, h = 0.1, K = 64."""
    right = math.sqrt((var_square(1.1) + var_square(1.0)) / 64) / 0.1
    expect.close(
        answer.deviation_fresh(1.0, 0.1, 64), right, "The deviation with fresh noise",
        rtol=1e-3,
        mistakes={
            "the step divides the difference, and so the deviation": right * 0.1,
            "K samples are averaged: divide by √K": right * 8,
            "this is the variance": right**2,
        },
    )  # fmt: skip
    expect.close(
        answer.deviation_frozen(1.0, 0.1, 64), 0.25, "The deviation with frozen noise",
        rtol=1e-3,
        mistakes={"this is one sample's; K are averaged": 2.0, "this is the variance": 0.0625},
    )  # fmt: skip


def test_estimates(answer, rng):
    """Estimates with fresh and with frozen noise."""
    n = 4000
    for name, deviation in (("fresh", 43.4 / 10), ("frozen", 0.25)):
        found = expect.tensor(
            getattr(answer, name)(1.0, 0.1, 64, n), (n,), f"The {name} estimates"
        )
        expect.mean(
            found, 2.1, f"The mean of the {name} estimates", deviation=deviation
        )

TITLE = 'The best step'
GIVEN = {'K': 64}
