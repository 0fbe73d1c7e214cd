# %% about
"""
title = "Slopes without the noise"
kind = "derivation"
difficulty = 2
minutes = 15
points = 5
objective = "Derive a sample's slopes by its parameters from the sample itself, for three maps"
after = "Jacobians, by value"
"""

# %% imports
import torch
import torch.nn.functional as F

# %% text
r"""
A map that can be undone gives its noise back: from $z = \mu + \sigma\varepsilon$ follows $\varepsilon = (z-\mu)/\sigma$. So a slope at fixed noise can be written without the noise, which is how one checks a sampler whose draws come from elsewhere.

Derive three slopes of $z$, and write each as a function of what its signature names and nothing else. All arguments are tensors of one shape.

1. $z = \mu + \sigma\varepsilon$ with $\tau = \log(1/\sigma^2)$, the logarithm of the precision: $\partial z/\partial\tau$.
2. $z = \mu + \sigma\varepsilon$ with $\sigma = \mathrm{softplus}(\rho) = \log(1+e^{\rho})$: $\partial z/\partial\rho$.
3. A log-normal, $z = e^{\mu+\sigma\varepsilon}$ with $\ell = \log\sigma^2$: $\partial z/\partial\ell$.

> **Predict first.** In one of the three, raising the parameter pulls a draw above the center down. In which? And why can two do without the value of $\sigma$?
"""


# %% answer
def by_log_precision(z, mu):
    """∂z/∂τ for z = μ + σε, τ = log(1/σ²)."""
    ### BEGIN SOLUTION
    return (mu - z) / 2
    ### END SOLUTION


def by_rho(z, mu, rho):
    """∂z/∂ρ for z = μ + σε, σ = softplus(ρ)."""
    ### BEGIN SOLUTION
    return (z - mu) * torch.sigmoid(rho) / F.softplus(rho)
    ### END SOLUTION


def log_normal_by_log_var(z, mu):
    """∂z/∂ℓ for z = exp(μ + σε), ℓ = log σ²."""
    ### BEGIN SOLUTION
    return z * (torch.log(z) - mu) / 2
    ### END SOLUTION


# %% hint
r"""
One chain rule for the first two: $\frac{\partial z}{\partial\theta} = \varepsilon\,\frac{\partial\sigma}{\partial\theta} = (z-\mu)\cdot\frac{1}{\sigma}\frac{\partial\sigma}{\partial\theta}$.
"""

# %% hint
r"""
$\frac1\sigma\frac{\partial\sigma}{\partial\theta}$ is the derivative of $\log\sigma$. For $\tau$ and $\ell$ it is a number.
"""

# %% hint
r"""
In the third, $\log z$ is a Gaussian sample, and $\partial z = z\,\partial\log z$.
"""

# %% visible
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


# %% hidden
from reparam.exercises import points


def inputs(rng):
    return torch.randn(3, 40, generator=rng, dtype=torch.float64)


@points(1)
def test_any_precision(answer, rng):
    """The slope by the log precision, anywhere."""
    mu, tau, eps = inputs(rng)
    z, slope = slope_by(lambda tau: mu + torch.exp(-tau / 2) * eps, tau)
    expect.close(
        answer.by_log_precision(z, mu), slope, "The slope by log precision",
        mistakes={"the sign": -slope},
    )  # fmt: skip


@points(2)
def test_any_rho(answer, rng):
    """The slope by ρ, anywhere."""
    mu, rho, eps = inputs(rng)
    z, slope = slope_by(lambda rho: mu + F.softplus(2 * rho) * eps, rho)
    expect.close(answer.by_rho(z, mu, 2 * rho), slope / 2, "The slope by ρ")


@points(2)
def test_any_log_normal(answer, rng):
    """The slope of the log-normal, anywhere and in any shape."""
    mu, log_var, eps = inputs(rng).reshape(3, 8, 5)
    z, slope = slope_by(lambda t: torch.exp(mu + torch.exp(t / 2) * eps), log_var)
    expect.close(
        answer.log_normal_by_log_var(z, mu), slope, "The slope of the log-normal"
    )


# %% right: back to the noise and forward again
def by_log_precision(z, mu):
    return 0.5 * mu - 0.5 * z


def by_rho(z, mu, rho):
    sigma = torch.log1p(torch.exp(rho))
    eps = (z - mu) / sigma
    return eps * (1 - torch.exp(-sigma))


def log_normal_by_log_var(z, mu):
    return z * torch.log(z / torch.exp(mu)) * 0.5


# %% wrong: the sign of the precision
def by_log_precision(z, mu):
    return (z - mu) / 2


# %% wrong: log σ for log σ²
def log_normal_by_log_var(z, mu):
    return z * (torch.log(z) - mu)


# %% wrong: forgets the 1/σ
def by_rho(z, mu, rho):
    return (z - mu) * torch.sigmoid(rho)


# %% wrong: takes softplus for exp
def by_rho(z, mu, rho):
    return z - mu


# %% wrong: the slope of log z for that of z
def log_normal_by_log_var(z, mu):
    return (torch.log(z) - mu) / 2


# %% solution
r"""
A scale moves a Gaussian draw by $(z-\mu)$ times the derivative of $\log\sigma$: $-\tfrac12$ by $\tau$ (the one with the minus sign) and $\mathrm{sigmoid}(\rho)/\mathrm{softplus}(\rho)$ by $\rho$. The latter goes to 1 for very negative $\rho$, where softplus is an exponential, and to $1/\rho$ for large $\rho$. For the log-normal, $\log z$ moves by $(\log z-\mu)/2$ and $z$ by $z$ times that. Two can do without $\sigma$ because $\log\sigma$ is linear in the parameter. Writing a slope by sample and parameters alone is the idea of implicit reparameterization, chapter 5.
"""

# %% rubric
r"""
One point for the precision, two for softplus, two for the log-normal. A slope that is right up to a constant factor shows the chain rule: one of two.
"""
