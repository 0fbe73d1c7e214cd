"""Self-checks of exercise 7.4. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def test_truth(answer, rng):
    """The exact derivative."""
    expect.close(
        answer.truth(0.25, 0.4), 0.2, "The truth at p = 0.25, t = 0.4",
        mistakes={
            "this is f at the mean of b; average f over the two values instead": 2 * (0.25 - 0.4),
            "the sign: f(1) - f(0), not f(0) - f(1)": -0.2,
        },
    )  # fmt: skip


def test_mean(answer, rng):
    """The mean of the straight-through gradients."""
    found = expect.tensor(
        answer.straight_through(0.25, 0.4, 20_000), (20_000,), "The gradients"
    )
    expect.mean(
        found, -0.3, "Your gradients at p = 0.25, t = 0.4", deviation=0.87,
        mistakes={
            "this is the exact gradient, and the straight-through one is asked for": 0.2,
            "this is by the logit; the chain rule has a factor p(1-p) too many":
                -0.3 * 0.25 * 0.75,
        },
    )  # fmt: skip
    expect.that(
        bool((found > 1).any()),
        "Every gradient is nearly the same: draw a hard bit for each.",
    )


def test_interval(answer, rng):
    """The ends of the interval are in order."""
    low = expect.number(answer.wrong_from, "wrong_from")
    high = expect.number(answer.wrong_to, "wrong_to")
    expect.that(
        0 <= low < high <= 1,
        "wrong_from should be below wrong_to, both in [0, 1].",
    )

TITLE = 'The wrong sign'
GIVEN = {'T': 0.35}
