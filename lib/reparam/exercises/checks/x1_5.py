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
            "this holds for steps of h/2 to either side; here one loss is at μ itself: expand (μ + h)²": 0.0,
            "the second term of the expansion is f''·h/2, and f'' is 2 here": 0.05,
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
            "this is for steps of h/2 to either side; here one loss is at μ itself":
                math.sqrt((var_square(1.05) + var_square(0.95)) / 64) / 0.1,
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
    fresh = math.sqrt((var_square(1.1) + var_square(1.0)) / 64) / 0.1
    for name, deviation in (("fresh", fresh), ("frozen", 0.25)):
        found = expect.tensor(
            getattr(answer, name)(1.0, 0.1, 64, n), (n,), f"The {name} estimates"
        )
        expect.mean(
            found, 2.1, f"The mean of the {name} estimates", deviation=deviation
        )
        expect.that(
            name == "frozen" or bool(found.std() > 2),
            "The fresh estimates scatter too little: the two losses share their noise.",
        )

TITLE = 'The best step'
GIVEN = {'K': 64}
