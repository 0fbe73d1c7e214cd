"""Self-checks of exercise 1.2. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def test_score(answer, rng):
    """The score at one point."""
    found = answer.score(torch.tensor(0.5), torch.tensor(0.3))
    rate = math.exp(0.3)
    expect.close(
        found, torch.tensor(1 - 0.5 * rate), "The score at z = 0.5, η = 0.3",
        mistakes={
            "this is the derivative by λ; by η there is a factor λ more": torch.tensor(1 / rate - 0.5),
            "the normalization η of log q also depends on η": torch.tensor(-0.5 * rate),
            "this is the derivative by z": torch.tensor(-rate),
        },
    )  # fmt: skip


def test_terms(answer, rng):
    """The two terms at η = 0."""
    eta = torch.tensor(0.0)
    law = expect.number(answer.term_of_the_law(eta), "The term of the law")
    other = expect.number(
        answer.term_of_the_integrand(eta), "The term of the integrand"
    )
    expect.that(
        not (abs(law - 1) < 1e-3 and abs(other + 4) < 1e-3),
        "The two terms have changed places: what the law contributes goes through the score.",
    )
    expect.close(
        law, -4.0, "The term of the law",
        mistakes={
            "this is the whole derivative; leave out what f contributes": -3.0,
            "the factor η of f is missing: at η = 0 only z² is left": -5.0,
        },
    )  # fmt: skip
    expect.close(other, 1.0, "The term of the integrand")

TITLE = 'The score of a waiting time'
GIVEN = {}
