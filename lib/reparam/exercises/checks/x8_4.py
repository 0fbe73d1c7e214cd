"""Self-checks of exercise 8.4. Derived from the exercise's source; do not edit."""

import math

import torch
from torch.distributions import Normal

from reparam.exercises import expect

OPTIONS = ("the sum", "the difference", "both", "neither")


def gap_of(x, s, mean, deviation, K, rng, draws=40_000):
    """log p(x) - E[L_K], estimated, for a diagonal posterior."""
    noise = torch.randn(K, draws, 2, generator=rng)
    z = mean + deviation * noise
    log_p = -(z**2).sum(-1) / 2 - ((x - z.sum(-1)) / s) ** 2 / 2 - math.log(s)
    log_q = -(noise**2).sum(-1) / 2 - 2 * math.log(deviation)
    bound = (log_p - log_q).logsumexp(0) - math.log(K) - math.log(2 * math.pi) / 2
    exact = -(x**2) / (2 + s**2) / 2 - math.log(2 * math.pi * (2 + s**2)) / 2
    return exact - float(bound.mean())


def pair(found):
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "`best_diagonal` should return a tuple of two, (mean, standard deviation).",
    )
    return [
        expect.number(value, "A number of `best_diagonal`") for value in found
    ]


def test_diagonal(answer, rng):
    """The best diagonal posterior at x = 4.5, s = 1/2."""
    mean, deviation = pair(answer.best_diagonal(4.5, 0.5))
    expect.close(
        mean, 2.0, "The mean at x = 4.5, s = 1/2",
        mistakes={
            "this is what one number alone would have to be; two of them share x": 3.6,
            "the variance of x given z is s², not s": 1.8,
        },
    )  # fmt: skip
    expect.close(
        deviation, math.sqrt(0.2), "The standard deviation at x = 4.5, s = 1/2",
        mistakes={
            "this is the variance": 0.2,
            "this is the true posterior's own deviation; the best independent one is narrower":
                math.sqrt(1.25 / 2.25),
            "this is the precision's root: take its inverse": math.sqrt(5.0),
        },
    )  # fmt: skip


def test_numbers(answer, rng):
    """The gaps are possible."""
    one = expect.number(answer.gap_1, "gap_1")
    many = expect.number(answer.gap_16, "gap_16")
    expect.that(
        one > 0 and many > 0,
        "A bound lies below log p(x), so that a gap is positive.",
    )
    expect.that(many < one, "With more samples the gap is smaller.")


def test_gaps(answer, rng):
    """Both gaps, compared with a measurement with your own posterior."""
    s = answer.given["S"]
    mean, deviation = pair(answer.best_diagonal(1.5, s))
    expect.that(deviation > 0, "A standard deviation is positive.")
    for K, name in ((1, "gap_1"), (16, "gap_16")):
        apart = getattr(answer, name) - gap_of(1.5, s, mean, deviation, K, rng)
        expect.that(
            abs(expect.number(apart, f"`{name}`")) < 0.035,
            f"`{name}` is not the gap that your own posterior has at K = {K}.",
        )


def test_choice(answer, rng):
    """The direction is one of four."""
    expect.that(
        answer.heavy in OPTIONS,
        f"`heavy` should be one of {', '.join(map(repr, OPTIONS))}.",
    )

TITLE = 'What a diagonal hides'
GIVEN = {'S': 0.5}
