"""Self-checks of exercise 2.1. Derived from the exercise's source; do not edit."""

import torch
import torch.nn.functional as F

from reparam.exercises import expect


def slope_by(draw, theta):
    """A sample and its slope, by automatic differentiation with the noise held."""
    theta = theta.clone().requires_grad_()
    z = draw(theta)
    (slope,) = torch.autograd.grad(z.sum(), theta)
    return z.detach(), slope


def test_log_precision(answer, rng):
    """The slope by the log precision, at two points."""
    mu, tau = torch.tensor([0.5, 1.0]), torch.tensor([0.4, -1.5])
    eps = torch.tensor([1.0, -2.0])
    z, slope = slope_by(lambda tau: mu + torch.exp(-tau / 2) * eps, tau)
    expect.close(
        answer.by_log_precision(z, mu), slope, "The slope by log precision",
        mistakes={
            "the sign: a higher precision draws the sample towards μ": -slope,
            "the square in log(1/σ²) is lost; this is the slope by log(1/σ)": mu - z,
            "the noise moves z - μ, not z": -z / 2,
        },
    )  # fmt: skip


def test_rho(answer, rng):
    """The slope by ρ, at two points."""
    mu, rho = torch.tensor([0.3, 1.0]), torch.tensor([-1.0, 2.0])
    eps = torch.tensor([1.5, -0.5])
    z, slope = slope_by(lambda rho: mu + F.softplus(rho) * eps, rho)
    expect.close(
        answer.by_rho(z, mu, rho), slope, "The slope by ρ",
        mistakes={
            "z - μ is σε and not ε: a factor 1/σ is missing": (z - mu) * torch.sigmoid(rho),
            "this holds for σ = exp(ρ); the slope of softplus is another": z - mu,
            "this is ε, the slope by σ; that of σ by ρ is missing": eps,
        },
    )  # fmt: skip


def test_log_normal(answer, rng):
    """The slope of the log-normal, at two points."""
    mu, log_var = torch.tensor([0.5, -0.2]), torch.tensor([0.4, -1.0])
    eps = torch.tensor([1.0, -2.0])
    z, slope = slope_by(lambda t: torch.exp(mu + torch.exp(t / 2) * eps), log_var)
    expect.close(
        answer.log_normal_by_log_var(z, mu), slope, "The slope of the log-normal",
        mistakes={
            "this is the slope of log z; z itself moves by z times as much": slope / z,
            "this is the slope by log σ, and log σ² moves it half as much": 2 * slope,
            "μ is the center of log z, not of z": (z - mu) / 2,
        },
    )  # fmt: skip

TITLE = 'Slopes without the noise'
GIVEN = {}
