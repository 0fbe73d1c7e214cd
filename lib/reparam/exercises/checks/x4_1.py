"""Self-checks of exercise 4.1. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def by_quadrature(mu_q, log_var_q, mu_p, log_var_p):
    """E_q[log q - log p], the expectation by Gauss and Hermite: exact for squares."""
    mu_q, log_var_q, mu_p, log_var_p = (
        t.double() for t in (mu_q, log_var_q, mu_p, log_var_p)
    )
    root = 3**0.5  # nodes -√3, 0, √3 with weights 1/6, 2/3, 1/6
    nodes = ((-root, 1 / 6), (0.0, 2 / 3), (root, 1 / 6))
    total = 0.0
    for node, weight in nodes:
        z = mu_q + (log_var_q / 2).exp() * node
        log_q = -(node**2) / 2 - log_var_q / 2
        log_p = -((z - mu_p) ** 2) * (-log_var_p).exp() / 2 - log_var_p / 2
        total = total + weight * (log_q - log_p)
    return total.sum(-1)


def test_one(answer, rng):
    """Two Gaussians that differ in both parameters."""
    q = torch.tensor([1.0]), torch.tensor([0.5])
    p = torch.tensor([-0.5]), torch.tensor([1.2])
    found = answer.kl_between(*q, *p)
    right = by_quadrature(*q, *p)
    square, ratio = 1.5**2, 0.5 - 1.2
    as_right = square * math.exp(-1.2)
    mistakes = {
        "that is KL(p ‖ q): the expectation is over q, and the distance is measured in "
        "widths of p": by_quadrature(*p, *q),
        "the distance of the means is divided by σ_q; it comes from log p, so it is "
        "measured in widths of p": right + (square * math.exp(-0.5) - as_right) / 2,
        "the distance is divided by σ_p² and then squared":
            right + (square * math.exp(-2.4) - as_right) / 2,
        "the distance is divided by σ_p alone; its square has the variance below it":
            right + (square * math.exp(-0.6) - as_right) / 2,
        "the -1 is missing, which is E_q of -(z - μ_q)²/σ_q²": right + 0.5,
        "the ½ is missing": 2 * right,
        "the sign of the difference of log-variances is wrong": right + ratio,
    }  # fmt: skip
    expect.close(
        found, right.float(), "KL(q ‖ p)",
        mistakes={sentence: value.float() for sentence, value in mistakes.items()},
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
