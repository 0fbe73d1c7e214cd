"""Self-checks of exercise 3.3. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def test_square(answer, rng):
    """z² at μ = 1, σ = 2: by μ without noise."""
    eps = torch.tensor([0.5, -1.0, 2.0])
    by_mu, by_sigma = answer.paired_gradients(torch.square, 1.0, 2.0, eps)
    expect.close(
        by_mu, torch.full((3,), 2.0), "Your gradient by μ",
        mistakes={
            "only one of the two samples is in it": 2 * (1 + 2 * eps),
            "the two are added; their mean is asked for": torch.full((3,), 4.0),
        },
    )  # fmt: skip
    expect.close(
        by_sigma, 4 * eps**2, "Your gradient by σ",
        mistakes={
            "at -ε the slope by σ is -ε f'; the sign was not turned": 2 * eps,
            "only one of the two samples is in it": 2 * (1 + 2 * eps) * eps,
        },
    )  # fmt: skip


def test_words(answer, rng):
    """Three words."""
    words = answer.verdict
    right = isinstance(words, (list, tuple)) and len(words) == 3
    expect.that(right, "verdict should hold three words.")
    for word in words:
        expect.that(
            word in ("exact", "helps", "hurts"),
            "The words are exact, helps and hurts.",
        )
    expect.that(
        list(words) != ["hurts", "exact", "helps"],
        "verdict: this would be right for the mean of f itself over a pair. Here the slopes of f "
        "are averaged.",
    )
    expect.that(
        list(words) != ["helps", "helps", "helps"],
        "verdict: pairs do not always help. Look for an f whose slope is the same at z and at -z.",
    )

TITLE = 'Pairs that cancel'
GIVEN = {}
