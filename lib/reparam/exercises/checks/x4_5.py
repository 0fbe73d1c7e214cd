"""Self-checks of exercise 4.5. Derived from the exercise's source; do not edit."""

import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

from reparam.exercises import expect

COVARIANCES = ("zero", "posterior", "prior")


def parts(W, s, x):
    """In float64: log p(x), and J as a function of m and C."""
    W, x = W.double(), x.double()
    P, D = W.shape
    noise = s**2 * torch.eye(P).double()
    prior = MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
    marginal = MultivariateNormal(torch.zeros(P).double(), W @ W.T + noise)

    def J(m, C):
        reconstruction = MultivariateNormal(W @ m, noise).log_prob(x)
        return reconstruction - kl_divergence(MultivariateNormal(m, C), prior)

    return marginal.log_prob(x), J


def posterior(W, s, x):
    """Mean and covariance of p(z | x), by conditioning (z, x) on x."""
    W, x = W.double(), x.double()
    gain = torch.linalg.solve(W @ W.T + s**2 * torch.eye(len(W)).double(), W).T
    return gain @ x, torch.eye(W.shape[1]).double() - gain @ W


def at_posterior(W, s, x):
    log_px, J = parts(W, s, x)
    return float(J(*posterior(W, s, x)) - log_px)


def at_best(W, s, x):
    """With the prior's covariance and the mean from a least-squares problem."""
    log_px, J = parts(W, s, x)
    D = W.shape[1]
    stacked = torch.cat([W.double() / s, torch.eye(D).double()])
    target = torch.cat([x.double() / s, torch.zeros(D).double()])
    m = torch.linalg.lstsq(stacked, target[:, None]).solution[:, 0]
    return float(J(m, torch.eye(D).double()) - log_px)


EXAMPLE = torch.tensor([[1.0, 0.8], [0.3, 1.1], [-0.5, 0.7]]), 0.6


def test_chapter(answer, rng):
    """The chapter's model, W = 1 and s = 1, where the excess was a quarter."""
    W = torch.ones(1, 1)
    expect.close(
        answer.excess_at_posterior(W, 1.0), 0.25, "The excess at the posterior",
        mistakes={
            "that is the largest excess": math.log(2) / 2,
            "it is twice what it should be: a factor ½ is missing, or the trace is taken "
            "with the prior's covariance": 0.5,
        },
    )  # fmt: skip
    found = expect.number(answer.largest_excess(W, 1.0), "The largest excess")
    expect.that(
        found > 0.26,
        "The largest excess is not above that of the posterior, which is one of the q's.",
    )


def test_example(answer, rng):
    """A model with three pixels and two latents."""
    W, s = EXAMPLE
    x = torch.tensor([0.4, -1.0, 0.9])
    A = W.T @ W / s**2
    eye = torch.eye(2)
    expect.close(
        answer.excess_at_posterior(W, s), at_posterior(W, s, x),
        "The excess at the posterior", rtol=1e-3,
        mistakes={
            "a factor ½ is missing": 2 * at_posterior(W, s, x),
            "the trace is taken with the prior's covariance; q is the posterior":
                A.trace() / 2,
            "it is as if the columns of W were orthogonal":
                (A.diagonal() / (1 + A.diagonal())).sum() / 2,
            "s stands where s² should":
                torch.trace(torch.linalg.solve(eye + A * s, A * s)) / 2,
        },
    )  # fmt: skip
    right = at_best(W, s, x)
    expect.close(
        answer.largest_excess(W, s), right, "The largest excess", rtol=1e-3,
        mistakes={
            "a factor ½ is missing": 2 * right,
            "that is the excess at the posterior; other q's reach more. Maximize over C "
            "first, then over m": at_posterior(W, s, x),
            "it is as if the columns of W were orthogonal":
                torch.log1p(A.diagonal()).sum() / 2,
            "s stands where s² should": torch.logdet(eye + A * s) / 2,
        },
    )  # fmt: skip


def test_small(answer, rng):
    """A weak decoder: W = 1e-4."""
    W = torch.full((1, 1), 1e-4)
    for name in ("excess_at_posterior", "largest_excess"):
        expect.close(
            getattr(answer, name)(W, 1.0), 5e-9, f"{name} for W = 1e-4",
            rtol=1e-4, atol=0.0,
            mistakes={"it is lost in rounding: 1 + 1e-8 is 1 in float32": 0.0},
        )  # fmt: skip


def test_learned(answer, rng):
    """What the encoder learns is one of the three."""
    expect.that(
        answer.learned in COVARIANCES,
        f"learned should be one of {', '.join(map(repr, COVARIANCES))}.",
    )

TITLE = 'How far above the bound?'
GIVEN = {}
