"""Self-checks of exercise 8.1. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def test_gap(answer, rng):
    """Half the width, and twice, in one dimension."""
    expect.close(
        answer.gap(torch.tensor([0.5, 2.0]), 1), torch.tensor([0.318147, 0.806853]),
        "The gap at r = 1/2 and r = 2, d = 1",
        mistakes={
            "this is KL(p, q); the gap is that of q from the true posterior":
                torch.tensor([0.806853, 0.318147]),
            "this is twice the gap: a Gaussian's KL has a factor 1/2":
                torch.tensor([0.636294, 1.613706]),
            "log σ² is 2 log σ": torch.tensor([-0.028426, 1.153426]),
            "the variances have the ratio r**2, not r": torch.tensor([0.096574, 0.153426]),
        },
    )  # fmt: skip


def test_variance(answer, rng):
    """A width that is right, one that is twice as wide, in one dimension."""
    expect.close(
        answer.relative_variance(torch.tensor([1.0, 2.0]), 1),
        torch.tensor([0.0, 4 / math.sqrt(7) - 1]),
        "The relative variance at r = 1 and r = 2, d = 1",
        mistakes={
            "this is the second moment; the variance has the squared mean taken away":
                torch.tensor([1.0, 4 / math.sqrt(7)]),
            "this is the standard deviation over the mean; the variance over the squared mean "
            "is asked for":
                torch.tensor([0.0, math.sqrt(4 / math.sqrt(7) - 1)]),
        },
    )  # fmt: skip


def test_three(answer, rng):
    """Three variables, half as wide again."""
    r, one = torch.tensor([1.5]), 1.2026756
    expect.close(
        answer.relative_variance(r, 3), torch.tensor([one**3 - 1]),
        "The relative variance at r = 1.5, d = 3",
        mistakes={
            "this is that of one variable": torch.tensor([one - 1]),
            "the variables' relative variances are added; a product's second moments multiply":
                torch.tensor([3 * (one - 1)]),
            "the 1 is taken away three times: take it away last":
                torch.tensor([(one - 1) ** 3]),
        },
    )  # fmt: skip
    expect.close(
        answer.gap(r, 3), torch.tensor([3 * 0.2195349]), "The gap at r = 1.5, d = 3",
        mistakes={"this is that of one variable; the gaps add": torch.tensor([0.2195349])},
    )  # fmt: skip


def test_narrow(answer, rng):
    """A width at which the integral has no value."""
    found = expect.tensor(
        answer.relative_variance(torch.tensor([0.6]), 1), (1,), "At r = 0.6"
    )
    expect.that(
        bool((found > 0).all()),
        "A variance is never negative: at r = 0.6, does the integral of p²/q converge?",
    )
    expect.that(
        bool(found.isinf().all()),
        "At r = 0.6 the integral of p²/q grows without bound, so that the variance is infinite.",
    )

TITLE = 'How wide must it be?'
GIVEN = {}
