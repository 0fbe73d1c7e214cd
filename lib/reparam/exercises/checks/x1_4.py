"""Self-checks of exercise 1.4. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def slope_of(loss, mu):
    return expect.gradients(loss, mu=mu)["mu"]


def test_factor(answer, rng):
    """What the leaking one estimates."""
    expect.close(
        answer.what_it_estimates(2.0), -0.5 - 0.5 * math.log(2 * math.pi), "The factor",
        rtol=0.03,
        mistakes={
            "the score's part survives in this: with both moving it is gone": 1.0,
            "the constant of log q counts as well: it multiplies the slope of f": -0.5,
            "it is the factor that is asked for; divide by the slope": -1 - math.log(2 * math.pi),
        },
    )  # fmt: skip


def test_right_mean(answer, rng):
    """The mended one has the right gradient."""
    mu = torch.full((20_000,), 0.5, requires_grad=True)
    found = slope_of(answer.surrogate(mu, lambda z: z, 1) * 20_000, mu)
    expect.mean(
        found, 1.0, "The gradient for f(z) = z", deviation=2.2,
        mistakes={
            "the sample still moves with mu": -0.5 - 0.5 * math.log(2 * math.pi),
            "the value of f is differentiated on top of the score": 2.0,
            "the gradient is 0: either nothing moves with mu, or sample and law move together and "
            "cancel. The sample must stand still and the law must move": 0.0,
        },
    )  # fmt: skip

TITLE = 'A surrogate with a leak'
GIVEN = {}
