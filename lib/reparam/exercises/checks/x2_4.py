"""Self-checks of exercise 2.4. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def root_of(function, rho):
    """The matrix that a linear sampler multiplies the noise with."""
    rows = function(torch.full((2,), rho), torch.eye(2))
    return expect.tensor(rows, (2, 2), "The samples").detach().mT


def covariance(rho):
    return torch.tensor([[1.0, rho], [rho, 1.0]])


def test_law(answer, rng):
    """Both roots give the law."""
    for name in ("cholesky", "symmetric"):
        L = root_of(getattr(answer, name), 0.3)
        what = f"L Lᵀ of {name}, at ρ = 0.3"
        expect.close(
            L @ L.mT, covariance(0.3), what,
            mistakes={"this multiplies the noise with Σ itself, not with a root of it":
                      covariance(0.3) @ covariance(0.3)},
        )  # fmt: skip


def test_form(answer, rng):
    """One is triangular, the other symmetric."""
    L, S = root_of(answer.cholesky, 0.3), root_of(answer.symmetric, 0.3)
    expect.that(
        abs(float(L[0, 1])) < 1e-6,
        "The Cholesky root is lower triangular; yours is not.",
    )
    expect.that(
        bool((S - S.mT).abs().max() < 1e-6),
        "The symmetric root is not symmetric.",
    )


def test_answers(answer, rng):
    """Three words and a number."""
    words = answer.quieter
    expect.that(
        isinstance(words, (list, tuple)) and len(words) == 3,
        "quieter has three words.",
    )
    for word in words:
        expect.that(
            word in ("cholesky", "symmetric"), "quieter holds other words."
        )
    expect.number(answer.ratio, "ratio")

TITLE = 'Which root?'
GIVEN = {'RHO': 0.5}
