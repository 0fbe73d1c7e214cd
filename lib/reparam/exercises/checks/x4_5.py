"""Self-checks of exercise 4.5. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect

COVARIANCES = ("zero", "posterior", "prior")


def test_chapter(answer, rng):
    """The chapter's model, W = 1 and s = 1, where the excess was a quarter."""
    W = torch.ones(1, 1)
    expect.close(
        answer.excess_at_posterior(W, 1.0), 0.25, "The excess at the posterior",
        mistakes={
            "that is the largest excess": math.log(2) / 2,
            "it is twice what it should be: a factor ½ is missing, or the trace is taken "
            "with the prior's covariance": 0.5,
        },
    )  # fmt: skip
    found = expect.number(answer.largest_excess(W, 1.0), "The largest excess")
    expect.that(
        found > 0.26,
        "The largest excess is not above that of the posterior, which is one of the q's.",
    )


def test_example(answer, rng):
    """A model with three pixels and two latents, whose columns are not orthogonal."""
    # z along (1, 1) is seen three times as large, along (1, -1) as it is. Each of the
    # two is a model with one latent, and with s = 1/2 its signals are 36 and 4 times
    # its noise, in variances.
    W, s = torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.0, 0.0]]), 0.5
    at_posterior = (36 / 37 + 4 / 5) / 2
    expect.close(
        answer.excess_at_posterior(W, s), at_posterior,
        "The excess at the posterior", rtol=1e-3,
        mistakes={
            "a factor ½ is missing": 2 * at_posterior,
            "the trace is taken with the prior's covariance; q is the posterior":
                (36 + 4) / 2,
            "it is as if the columns of W were orthogonal": 20 / 21,
            "s stands where s² should": (18 / 19 + 2 / 3) / 2,
        },
    )  # fmt: skip
    largest = math.log(37 * 5) / 2
    expect.close(
        answer.largest_excess(W, s), largest, "The largest excess", rtol=1e-3,
        mistakes={
            "a factor ½ is missing": 2 * largest,
            "that is the excess at the posterior; other q's reach more. Maximize over C "
            "first, then over m": at_posterior,
            "it is as if the columns of W were orthogonal": math.log(21),
            "s stands where s² should": math.log(19 * 3) / 2,
        },
    )  # fmt: skip


def test_small(answer, rng):
    """A weak decoder: W = 1e-4."""
    W = torch.full((1, 1), 1e-4)
    for name in ("excess_at_posterior", "largest_excess"):
        expect.close(
            getattr(answer, name)(W, 1.0), 5e-9, f"{name} for W = 1e-4",
            rtol=1e-4, atol=0.0,
            mistakes={"it is lost in rounding: 1 + 1e-8 is 1 in float32": 0.0},
        )  # fmt: skip


def test_learned(answer, rng):
    """What the encoder learns is one of the three."""
    expect.that(
        answer.learned in COVARIANCES,
        f"learned should be one of {', '.join(map(repr, COVARIANCES))}.",
    )

TITLE = 'How far above the bound?'
GIVEN = {}
