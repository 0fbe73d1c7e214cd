"""Self-checks of exercise 2.5. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def test_step(answer, rng):
    """A plain step at 0 under N(0.5, 2²)."""
    eps = torch.randn(1000, generator=rng)
    found = answer.mended_gradients(
        lambda z: 0 * z, lambda z: 0 * z + 1, 0.0, 0.5, 2.0, eps
    )
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "Two tensors are expected, one by μ and one by σ.",
    )
    by_mu = expect.tensor(found[0], (1000,), "The derivative by μ")
    by_sigma = expect.tensor(found[1], (1000,), "The derivative by σ")
    expect.that(
        bool(torch.maximum(by_mu.std(), by_sigma.std()) < 1e-3),
        "The estimates for a step scatter, and its slope is 0 wherever a sample "
        "lands: what is missing is a number that needs no sample.",
    )
    one = torch.ones(1000)
    density = math.exp(-(0.25**2) / 2) / math.sqrt(math.tau) / 2
    expect.close(
        by_mu, density * one, "The derivative by μ of a step", rtol=1e-3,
        mistakes={
            "this is the pathwise gradient; the samples that cross the edge are not "
            "counted": 0 * one,
            "the sign: samples that cross upwards gain h(c) - g(c)": -density * one,
            "this is the density of ε. How many samples are there per unit of z?":
                2 * density * one,
        },
    )  # fmt: skip
    expect.close(
        by_sigma, -0.25 * density * one, "The derivative by σ of a step", rtol=1e-3,
        mistakes={
            "this is the term of μ. A sample at the edge moves with μ by 1, and with "
            "σ by its ε": density * one,
            "the sign: raising σ takes samples near an edge below μ further down":
                0.25 * density * one,
        },
    )  # fmt: skip


def test_no_jump(answer, rng):
    """Where the pieces meet, nothing is added."""
    eps = torch.randn(500, generator=rng)
    by_mu, _ = answer.mended_gradients(torch.abs, torch.abs, 0.0, 0.3, 1.0, eps)
    z = 0.3 + eps
    expect.close(by_mu, torch.sign(z), "The derivative by μ of |z|", atol=1e-3)

TITLE = 'Paying for the jump'
GIVEN = {}
