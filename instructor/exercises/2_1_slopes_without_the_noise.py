# %% about
"""
title = "Slopes without the noise"
kind = "derivation"
difficulty = 2
minutes = 15
points = 5
objective = "Derive the slopes of a sample by other parameterizations of its scale"
after = "Jacobians, by value"
"""

# %% imports
import torch
import torch.nn.functional as F

# %% text
r"""
In $z = \mu + \sigma\varepsilon$ the noise can be read off the sample: $\varepsilon = (z-\mu)/\sigma$. So every slope can be written without $\varepsilon$, which is how one checks a sampler whose noise one does not see.

Derive the slope of $z$ by the parameter of its scale for three parameterizations, with the noise held fixed, and write each as a function of what is in its signature and nothing else:

- $\ell = \log\sigma^2$,
- $\rho$ with $\sigma = \mathrm{softplus}(\rho) = \log(1+e^{\rho})$,
- $\tau = \log(1/\sigma^2)$, the logarithm of the precision.

All arguments are tensors of one shape.

> **Predict first.** Two of the three need no value of $\sigma$ at all. Which?
"""


# %% answer
def by_log_var(z, mu):
    """∂z/∂ℓ, ℓ = log σ²."""
    ### BEGIN SOLUTION
    return (z - mu) / 2
    ### END SOLUTION


def by_rho(z, mu, rho):
    """∂z/∂ρ, σ = softplus(ρ)."""
    ### BEGIN SOLUTION
    return (z - mu) * torch.sigmoid(rho) / F.softplus(rho)
    ### END SOLUTION


def by_log_precision(z, mu):
    """∂z/∂τ, τ = log(1/σ²)."""
    ### BEGIN SOLUTION
    return (mu - z) / 2
    ### END SOLUTION


# %% hint
r"""
One chain rule for all: $\frac{\partial z}{\partial\theta} = \varepsilon\,\frac{\partial\sigma}{\partial\theta} = (z-\mu)\,\frac{1}{\sigma}\frac{\partial\sigma}{\partial\theta}$.
"""

# %% hint
r"""
$\frac1\sigma\frac{\partial\sigma}{\partial\theta}$ is the derivative of $\log\sigma$. For $\ell$ and $\tau$ that is a number.
"""

# %% visible
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


# %% hidden
from reparam.exercises import points


def draw(rng, n=20):
    return torch.randn(3, n, generator=rng, dtype=torch.float64)


@points(1)
def test_any_log_var(answer, rng):
    """The slope by log σ², anywhere."""
    mu, theta, eps = draw(rng)
    z, slope = exact(SCALES["by_log_var"], mu, theta, eps)
    expect.close(answer.by_log_var(z, mu), slope, "The slope by log σ²")


@points(2)
def test_any_rho(answer, rng):
    """The slope by ρ, anywhere."""
    mu, theta, eps = draw(rng)
    z, slope = exact(F.softplus, mu, 2 * theta, eps)
    expect.close(answer.by_rho(z, mu, 2 * theta), slope, "The slope by ρ")


@points(2)
def test_precision(answer, rng):
    """The slope by the log precision, anywhere."""
    mu, theta, eps = draw(rng)
    z, slope = exact(SCALES["by_log_precision"], mu, theta, eps)
    expect.close(
        answer.by_log_precision(z, mu), slope, "The slope by the log precision",
        mistakes={"the sign: a higher precision draws the sample in": -slope},
    )  # fmt: skip


# %% right: by the noise, and back
def by_log_var(z, mu):
    return 0.5 * z - 0.5 * mu


def by_rho(z, mu, rho):
    sigma = torch.log1p(torch.exp(rho))
    eps = (z - mu) / sigma
    return eps * (1 - torch.exp(-sigma))


def by_log_precision(z, mu):
    return -by_log_var(z, mu)


# %% wrong: log σ for log σ²
def by_log_var(z, mu):
    return z - mu


# %% wrong: the sign of the precision
def by_log_precision(z, mu):
    return (z - mu) / 2


# %% wrong: forgets the 1/σ
def by_rho(z, mu, rho):
    return (z - mu) * torch.sigmoid(rho)


# %% wrong: takes softplus for exp
def by_rho(z, mu, rho):
    return z - mu


# %% solution
r"""
The slope is $(z-\mu)$ times the derivative of $\log\sigma$: $\tfrac12$, $\mathrm{sigmoid}(\rho)/\mathrm{softplus}(\rho)$ and $-\tfrac12$. For very negative $\rho$ the middle one goes to 1, the value of $\sigma = e^\rho$; for large $\rho$ it goes to $1/\rho$.
"""

# %% rubric
r"""
One point for $\ell$, two for $\rho$, two for $\tau$ (the sign).
"""
