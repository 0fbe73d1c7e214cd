"""Self-checks of exercise 2.3. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect

OPTIONS = ("right", "blocked", "scale", "shared")


def right(mu, log_var):
    return mu + torch.exp(log_var / 2) * torch.randn_like(mu)


def shared(mu, log_var):
    return mu + torch.exp(log_var / 2) * torch.randn(mu.shape[-1])


def verdict(answer, sampler, wanted, what, mistakes=None):
    """One diagnosis, with the calls counted."""
    sizes = []

    def counted(mu, log_var):
        sizes.append(mu.numel())
        return sampler(mu, log_var)

    found = answer.diagnose(counted)
    expect.that(bool(sizes), "The sampler is never called.")
    expect.that(len(sizes) <= 3, "The sampler is called more than three times.")
    expect.that(max(sizes) <= 100_000, "A call is larger than allowed.")
    expect.equal(found, wanted, what, options=OPTIONS, mistakes=mistakes)


def test_right(answer, rng):
    """A right sampler is let through."""
    mistakes = {
        "its draws scatter as they should: how many of them does your threshold "
        "need?": "scale"
    }
    verdict(answer, right, "right", "What you say of a right one", mistakes)


def test_scale(answer, rng):
    """Sampler A is found out."""
    mistakes = {
        "at log σ² = 0, where encoders start, exp(log σ²) and σ are both 1; look "
        "elsewhere": "right",
        "its noise is not shared": "shared",
    }
    verdict(
        answer,
        lambda mu, log_var: mu + log_var.exp() * torch.randn_like(mu),
        "scale",
        "What you say of A",
        mistakes,
    )


def test_blocked(answer, rng):
    """Sampler B is found out."""
    mistakes = {
        "both gradients are there, and all their entries are 0: `is not None` cannot "
        "see that": "right"
    }
    verdict(
        answer,
        lambda mu, log_var: torch.normal(mu, torch.exp(log_var / 2)),
        "blocked",
        "What you say of B",
        mistakes,
    )


def test_half_blocked(answer, rng):
    """A sampler that cuts log_var off is found out."""
    mistakes = {
        "mu gets its gradient and log_var gets none. Both must be asked": "right"
    }
    verdict(
        answer,
        lambda mu, log_var: right(mu, log_var.detach()),
        "blocked",
        "What you say of it",
        mistakes,
    )


def test_shared(answer, rng):
    """Sampler C is found out."""
    mistakes = {
        "each row by itself is a right draw; only two rows side by side show "
        "it": "right",
        "its scale is right. With shared noise all rows are one draw, so a column "
        "has no scatter to measure; which direction has?": "scale",
    }
    verdict(answer, shared, "shared", "What you say of C", mistakes)

TITLE = 'A test that passes too much'
GIVEN = {}
