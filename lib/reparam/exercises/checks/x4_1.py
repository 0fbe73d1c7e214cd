"""Self-checks of exercise 4.1. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def test_one(answer, rng):
    """Two Gaussians that differ in both parameters."""
    q = torch.tensor([4.0]), torch.tensor([4.0]).log()
    p = torch.tensor([-2.0]), torch.tensor([9.0]).log()
    # From N(4, 2²) to N(-2, 3²): E_q of (z - 4)²/4 is 1, and E_q of (z + 2)²/9 is (4 + 6²)/9.
    right = math.log(3 / 2) + ((4 + 36) / 9 - 1) / 2
    mistakes = {
        "that is KL(p ‖ q): the expectation is over q, and the distance is measured in "
        "widths of p": math.log(2 / 3) + ((9 + 36) / 4 - 1) / 2,
        "the distance of the means is divided by σ_q; it comes from log p, so it is "
        "measured in widths of p": right + (36 / 4 - 36 / 9) / 2,
        "the distance is divided by σ_p² and then squared":
            right + (36 / 81 - 36 / 9) / 2,
        "the distance is divided by σ_p alone; its square has the variance below it":
            right + (36 / 3 - 36 / 9) / 2,
        "the -1 is missing, which is E_q of -(z - μ_q)²/σ_q²": right + 0.5,
        "the ½ is missing": 2 * right,
        "the sign of the difference of log-variances is wrong":
            right - 2 * math.log(3 / 2),
    }  # fmt: skip
    expect.close(
        answer.kl_between(*q, *p), torch.tensor(right), "KL(q ‖ p)",
        mistakes={s: torch.tensor(value) for s, value in mistakes.items()},
    )  # fmt: skip


def test_directions(answer, rng):
    """Gaussians that differ in one direction are as far apart as without the others."""
    q = (
        torch.tensor([[0.5, 4.0], [4.0, 4.0]]),
        torch.tensor([4.0, 4.0]).log().expand(2, 2),
    )
    p = (
        torch.tensor([[0.5, -2.0], [-2.0, -2.0]]),
        torch.tensor([[4.0, 9.0], [9.0, 9.0]]).log(),
    )
    one = answer.kl_between(*(t[:1, 1:] for t in (*q, *p)))
    both = answer.kl_between(*q, *p)
    expect.close(
        both, torch.cat([one, 2 * one]), "KL(q ‖ p) in two dimensions",
        mistakes={
            "it is the mean over dimensions, not the sum": torch.cat([one / 2, one]),
        },
    )  # fmt: skip


def test_far(answer, rng):
    """Two wide laws, their means one standard deviation of p apart."""
    scale = torch.tensor([50.0]).exp()
    law = torch.zeros(1), torch.tensor([100.0])
    for mu, right in ((torch.zeros(1), 0.0), (scale, 0.5)):
        found = answer.kl_between(mu, law[1], *law)
        expect.that(
            isinstance(found, torch.Tensor) and bool(found.isfinite().all()),
            "With log-variances of 100 the KL is not finite: something on the way is "
            "computed in absolute terms, a variance or the square of a distance.",
        )
        expect.close(
            found, right, "The KL with log-variances of 100", rtol=1e-3, atol=1e-5
        )


def test_two_posteriors(answer, rng):
    """The best prior of two narrow posteriors far apart."""
    mu = torch.tensor([[-3.0], [3.0]])
    log_var = torch.tensor([[0.0], [-2.0]])
    m, log_s2 = answer.best_prior(mu, log_var)
    expect.close(m, torch.zeros(1), "The best prior's mean", atol=1e-5)
    own = (1 + torch.tensor([-2.0]).exp()) / 2
    expect.close(
        log_s2, (own + 9).log(), "The best prior's log-variance",
        mistakes={
            "that is the average width of a posterior. The prior has to cover all of "
            "them, and they lie apart": own.log(),
            "log-variances were averaged; set the derivative of the average KL to zero":
                torch.tensor([-1.0]),
            "that is the spread of the means alone; each posterior has a width, too":
                torch.tensor([9.0]).log(),
            "N - 1 was divided by; the average KL has 1/N": (own + 18).log(),
            "that is s² itself": own + 9,
        },
    )  # fmt: skip

TITLE = 'A prior that is learned'
GIVEN = {}
