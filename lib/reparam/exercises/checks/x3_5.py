"""Self-checks of exercise 3.5. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def test_ends(answer, rng):
    """The two ends, at μ = 1, σ = 2."""
    eps = torch.tensor([0.5, -1.0])
    log_p = lambda z: -(z**2) / 2
    full = -(1 + 2 * eps)
    found = answer.gradients(log_p, 1.0, 2.0, eps, 0.0)
    expect.close(
        found, full, "The estimates at a = 0",
        mistakes={
            "this is the one without the score term: the weights are the other way round":
                full + eps / 2,
            "the score term is counted twice; along the path log q does not move": full - eps / 2,
        },
    )  # fmt: skip
    found = answer.gradients(log_p, 1.0, 2.0, eps, 1.0)
    expect.close(
        found, full + eps / 2, "The estimates at a = 1",
        mistakes={
            "the sign of the path through log q: minus log q is in the ELBO": full - eps / 2,
            "the score is (z - μ)/σ² = ε/σ; a factor σ is off": full + eps,
            "nothing has changed against a = 0": full,
        },
    )  # fmt: skip


def test_landing(answer, rng):
    """Where q is the posterior, no variance is left."""
    expect.close(
        answer.best_a(1.0), 1.0, "The best weight at σ = 1",
        mistakes={"this keeps the whole score term": 0.0},
    )  # fmt: skip

TITLE = 'How much of the score?'
GIVEN = {}
