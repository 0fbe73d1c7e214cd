"""Self-checks of exercise 2.2. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect

OPTIONS = ("right", "blocked", "scale", "shared")


def right(mu, log_var):
    return mu + torch.exp(log_var / 2) * torch.randn_like(mu)


def test_right(answer, rng):
    """A right sampler is let through."""
    expect.equal(
        answer.diagnose(right),
        "right",
        "What you say of a right one",
        options=OPTIONS,
    )


def test_scale(answer, rng):
    """exp(log σ²) for σ."""
    found = answer.diagnose(
        lambda mu, log_var: mu + torch.exp(log_var) * torch.randn_like(mu)
    )
    expect.equal(
        found, "scale", "What you say of exp(log σ²)", options=OPTIONS,
        mistakes={
            "at log σ² = 0 both scales are 1; test at another value": "right",
            "its noise is not shared": "shared",
        },
    )  # fmt: skip


def test_blocked(answer, rng):
    """torch.normal."""
    found = answer.diagnose(
        lambda mu, log_var: torch.normal(mu, torch.exp(log_var / 2))
    )
    expect.equal(
        found, "blocked", "What you say of torch.normal", options=OPTIONS,
        mistakes={"it has a graph and gradients, all of them 0: look at their values": "right"},
    )  # fmt: skip

TITLE = 'What is wrong with this sampler?'
GIVEN = {}
