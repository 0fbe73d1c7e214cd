"""Self-checks of exercise 1.1. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect

OPTIONS = ("nothing", "zero", "gradient")


def test_by_hand(answer, rng):
    """μ + σε by hand passes a gradient."""
    found = answer.reaches_mu(lambda mu, sigma: mu + sigma * torch.randn(()))
    expect.equal(found, "gradient", "What you say of μ + σε", options=OPTIONS)


def test_no_graph(answer, rng):
    """Without a graph nothing arrives."""
    found = answer.reaches_mu(lambda mu, sigma: torch.normal(mu, sigma).detach())
    expect.equal(
        found, "nothing", "What you say of a detached draw", options=OPTIONS,
        mistakes={"a missing gradient is not a zero: z has no graph, so nothing arrives": "zero"},
    )  # fmt: skip


def test_silent_zero(answer, rng):
    """torch.normal is found out."""
    found = answer.reaches_mu(lambda mu, sigma: torch.normal(mu, sigma))
    sentence = "its gradient is there, and it is 0. `is not None` cannot see that; its value can"
    expect.equal(
        found, "zero", "What you say of torch.normal", options=OPTIONS,
        mistakes={sentence: "gradient"},
    )  # fmt: skip

TITLE = 'What reaches μ?'
GIVEN = {}
