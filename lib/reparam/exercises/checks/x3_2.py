"""Self-checks of exercise 3.2. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def test_plain(answer, rng):
    """The variance at c = -1/4, where the estimate is ε³ - ε²."""
    # Even moments of ε are 1, 3, 15, so E[(ε³ - ε²)²] = 15 + 3. Its mean is -1.
    expect.close(
        answer.score_variance(-0.25), 15 + 3 - 1, "The variance at c = -1/4",
        mistakes={
            "this is Var[f] times the variance of the score: the forecast's own answer": 3.0,
            "this is the second moment: the mean of the estimate is -1": 18.0,
        },
    )  # fmt: skip


def test_raised(answer, rng):
    """The variance at c = 10, against that of 400,000 estimates."""
    eps = torch.randn(400_000, generator=rng)
    measured = float((((eps - 0.5) ** 2 + 10) * eps).var())
    plain = expect.number(answer.score_variance(0.0), "The variance at c = 0")
    expect.close(
        answer.score_variance(10.0), measured, "The variance at c = 10", rtol=0.05,
        mistakes={
            "nothing has changed; a constant does not move the mean, but it moves this": plain,
            "the cross term 2c Cov[f₀ε, ε] is missing": plain + 100,
        },
    )  # fmt: skip


def test_best_constant(answer, rng):
    """The best constant is looked for where it matters."""
    found = expect.number(answer.best_c, "best_c")
    expect.that(
        abs(found + 1.25) > 0.01,
        "best_c: this makes E[f] zero. What should be small is f times the score, so that f "
        "counts most where the score is large.",
    )


def test_forecast(answer, rng):
    """A coin with scores ±1 on which f is 11 and 13: the estimates are -11 and 13."""
    scores = torch.tensor([-1.0, 1.0]).repeat(1000)
    expect.close(
        answer.mended(scores + 12, scores), 144.0, "The forecast for the coin", rtol=0.003,
        mistakes={
            "these are the two variances multiplied; f and score come from one sample": 1.0,
            "this is the mean of the squares; the mean of the estimates is 1, not 0": 145.0,
        },
    )  # fmt: skip

TITLE = 'A forecast that fails'
GIVEN = {}
