"""Self-checks of exercise 1.3. Derived from the exercise's source; do not edit."""

import torch
from torch.distributions import Exponential, Normal

from reparam.exercises import expect


def test_shape(answer, rng):
    """One estimate for each sample."""
    found = answer.score_gradients(lambda z: z, lambda t: Exponential(t), 2.0, 7)
    expect.tensor(found, (7,), "The estimates")


def test_exponential(answer, rng):
    """The mean of an exponential."""
    n = 40_000
    found = answer.score_gradients(lambda z: z, lambda t: Exponential(t), 2.0, n)
    expect.mean(
        expect.tensor(found, (n,), "The estimates"), -0.25, "The mean of your estimates",
        deviation=1.2,
        mistakes={
            "the mean is 0: either the scores are not weighted with f, or the density is "
            "differentiated and not its logarithm": 0.0,
            "the sign is turned": 0.25,
        },
    )  # fmt: skip


def test_it_is_the_score_function(answer, rng):
    """A constant f has gradient 0 in the mean, and estimates that scatter."""
    found = answer.score_gradients(
        lambda z: z * 0 + 3, lambda t: Normal(t, 1.0), 0.0, 1000
    )
    found = expect.tensor(found, (1000,), "The estimates")
    expect.that(
        bool(found.std() > 1),
        "For a constant f every one of your estimates is nearly the same: this is not f times the "
        "score, sample by sample.",
    )

TITLE = 'Any law, any parameter'
GIVEN = {}
