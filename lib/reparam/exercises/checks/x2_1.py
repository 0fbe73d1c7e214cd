"""Self-checks of exercise 2.1. Derived from the exercise's source; do not edit."""

import torch
import torch.nn.functional as F

from reparam.exercises import expect


def exact(scale_of, mu, theta, eps):
    """Sample and slope, by automatic differentiation with the noise held fixed."""
    theta = theta.clone().requires_grad_()
    z = mu + scale_of(theta) * eps
    (slope,) = torch.autograd.grad(z.sum(), theta)
    return z.detach(), slope


SCALES = {
    "by_log_var": lambda t: torch.exp(t / 2),
    "by_rho": F.softplus,
    "by_log_precision": lambda t: torch.exp(-t / 2),
}


def test_log_var(answer, rng):
    """The slope by log σ²."""
    mu, theta, eps = (
        torch.tensor([0.5, 0.5]),
        torch.tensor([0.4, 1.5]),
        torch.tensor([1.0, -2.0]),
    )
    z, slope = exact(SCALES["by_log_var"], mu, theta, eps)
    expect.close(
        answer.by_log_var(z, mu), slope, "The slope by log σ²",
        mistakes={
            "this is the slope by log σ: the 1/2 of log σ² = 2 log σ is missing": z - mu,
            "this is the slope by σ²": eps / (2 * torch.exp(theta / 2)),
            "μ must be taken away: the noise moves z - μ only": z / 2,
        },
    )  # fmt: skip


def test_rho(answer, rng):
    """The slope by ρ."""
    mu, rho, eps = (
        torch.tensor([0.0, 1.0]),
        torch.tensor([-1.0, 2.0]),
        torch.tensor([1.5, -0.5]),
    )
    z, slope = exact(F.softplus, mu, rho, eps)
    expect.close(
        answer.by_rho(z, mu, rho), slope, "The slope by ρ",
        mistakes={
            "z - μ is σε, and a factor 1/σ is missing": slope * F.softplus(rho),
            "softplus is treated like exp; its slope is the sigmoid": z - mu,
            "the slope of softplus is missing": eps,
        },
    )  # fmt: skip

TITLE = 'Slopes without the noise'
GIVEN = {}
