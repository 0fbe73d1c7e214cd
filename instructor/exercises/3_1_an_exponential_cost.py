# %% about
"""
title = "An exponential cost"
kind = "derivation"
difficulty = 2
minutes = 20
points = 5
objective = "Derive the variance of both estimators for an f that is no polynomial"
after = "How loud: the square, worked"
"""

# %% imports
import math
import torch

# %% text
r"""
The chapter derives both variances for $f(z) = z^2$. Do the same for $f(z) = e^z$ with $z\sim N(\mu,\sigma^2)$, for one sample and the gradient by $\mu$. All you need is one moment and its derivatives by $t$:

$$\mathbb E\!\left[e^{tz}\right] = e^{t\mu + t^2\sigma^2/2}.$$

> **Predict first.** Let $\sigma\to0$. One of the two variances goes to 0, the other to infinity. Which, and how fast?

Write `variance_pathwise(mu, sigma)` and `variance_score(mu, sigma)`; arguments are Python numbers, results numbers.
"""


# %% answer
def variance_pathwise(mu, sigma):
    """Var[f'(z)] for f = exp."""
    ### BEGIN SOLUTION
    return math.exp(2 * mu + 2 * sigma**2) - math.exp(2 * mu + sigma**2)
    ### END SOLUTION


def variance_score(mu, sigma):
    """Var[f(z) (z - mu) / sigma**2] for f = exp."""
    ### BEGIN SOLUTION
    second = math.exp(2 * mu + 2 * sigma**2) * (1 + 4 * sigma**2) / sigma**2
    return second - math.exp(2 * mu + sigma**2)
    ### END SOLUTION


# %% hint
r"""
Both estimates have the same mean, $e^{\mu+\sigma^2/2}$; take its square from the second moment.
"""

# %% hint
r"""
Under the weight $e^{2z}$ the normal law is again normal, with mean $\mu + 2\sigma^2$ and the old variance: $\mathbb E[e^{2z}(z-\mu)^2] = \mathbb E[e^{2z}]\,(\sigma^2 + 4\sigma^4)$.
"""

# %% visible
import math

from reparam.exercises import expect


def test_pathwise(answer, rng):
    """The pathwise variance at μ = 0, σ = 1/2."""
    # At t = 1 and at t = 2 the statement's moment is e^(1/8) and e^(1/2).
    mean, second = math.exp(1 / 8), math.exp(1 / 2)
    right = second - mean**2
    expect.close(
        answer.variance_pathwise(0.0, 0.5), right, "The pathwise variance",
        mistakes={
            "this is the second moment: take the square of the mean away": second,
            "σ² for σ, or the other way round": math.exp(1 / 8) - math.exp(1 / 16),
        },
    )  # fmt: skip


def test_score(answer, rng):
    """The score function's variance at μ = 0, σ = 1/2."""
    # Under the weight e^(2z) = e^ε noise of mean 0 gets the mean 1: the weight's mean is
    # e^(1/2), and E[e^ε ε²] = e^(1/2) (1 + 1²). The estimate is 2 e^z ε.
    mean, weight = math.exp(1 / 8), math.exp(1 / 2)
    second = 4 * 2 * weight
    right = second - mean**2
    expect.close(
        answer.variance_score(0.0, 0.5), right, "The score function's variance",
        mistakes={
            "this is the second moment: take the square of the mean away": second,
            "the score is (z - μ)/σ², whose second moment is 1/σ²; a factor σ² is lost":
                second / 4 - mean**2,
            "e^{2z} and (z - μ)² are not independent: the weight moves the mean by 2σ²":
                4 * weight - mean**2,
            "this is Var[f] times the variance of the score; f and score depend on one z, and "
            "the height of f counts, not its spread":
                4 * (weight - mean**2),
        },
    )  # fmt: skip


def test_place(answer, rng):
    """From μ = 0 to μ = 1 both variances grow alike."""
    for name in ("variance_pathwise", "variance_score"):
        function = getattr(answer, name)
        low = expect.number(function(0.0, 0.5), f"{name} at μ = 0")
        expect.that(low > 0, f"{name}: a variance is positive.")
        expect.close(
            function(1.0, 0.5) / low, math.exp(2), f"What μ does to {name}",
            mistakes={
                "nothing happens; e^z is taller and steeper to the right": 1.0,
                "the estimate grows like e^μ, and a variance is its square": math.e,
            },
        )  # fmt: skip


# %% hidden
import numpy as np
import torch

from reparam.exercises import points

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def moments(function, mu, sigma):
    """Mean and variance of function(z, ε), by Gauss-Hermite quadrature."""
    values = function(mu + sigma * NODES, NODES)
    mean = float((WEIGHTS * values).sum())
    return mean, float((WEIGHTS * (values - mean) ** 2).sum())


def cases(rng):
    for a, b in torch.rand(6, 2, generator=rng).tolist():
        yield 2 * a - 1, 0.1 + 0.8 * b


@points(2)
def test_pathwise_anywhere(answer, rng):
    """The pathwise variance, anywhere."""
    for mu, sigma in cases(rng):
        _, right = moments(lambda z, e: np.exp(z), mu, sigma)
        expect.close(
            answer.variance_pathwise(mu, sigma),
            right,
            "The pathwise variance",
            rtol=1e-3,
        )


@points(2)
def test_score_anywhere(answer, rng):
    """The score function's variance, anywhere."""
    for mu, sigma in cases(rng):
        _, right = moments(lambda z, e, s=sigma: np.exp(z) * e / s, mu, sigma)
        expect.close(
            answer.variance_score(mu, sigma), right, "The variance", rtol=1e-3
        )


@points(1)
def test_limit(answer, rng):
    """What is left as the law becomes narrow."""
    ratio = answer.variance_score(0.3, 0.01) / answer.variance_pathwise(0.3, 0.01)
    _, up = moments(lambda z, e: np.exp(z) * e / 0.01, 0.3, 0.01)
    _, down = moments(lambda z, e: np.exp(z), 0.3, 0.01)
    expect.close(ratio, up / down, "The ratio for a narrow law", rtol=1e-2)


# %% right: differentiated moments
def variance_pathwise(mu, sigma):
    return math.exp(2 * mu + sigma**2) * math.expm1(sigma**2)


def variance_score(mu, sigma):
    t = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    m = torch.exp(t * mu + t**2 * sigma**2 / 2)
    (first,) = torch.autograd.grad(m, t, create_graph=True)
    (second,) = torch.autograd.grad(first, t)
    m, first, second = m.item(), first.item(), second.item()
    centered = second - 2 * mu * first + mu**2 * m
    return centered / sigma**4 - math.exp(2 * mu + sigma**2)


# %% wrong: the second moment for the variance
def variance_pathwise(mu, sigma):
    return math.exp(2 * mu + 2 * sigma**2)


# %% wrong: treats weight and score as independent
def variance_score(mu, sigma):
    return math.exp(2 * mu + 2 * sigma**2) / sigma**2 - math.exp(
        2 * mu + sigma**2
    )


# %% wrong: loses the score's 1/σ²
def variance_score(mu, sigma):
    return math.exp(2 * mu + 2 * sigma**2) * (1 + 4 * sigma**2) - math.exp(
        2 * mu + sigma**2
    )


# %% wrong: multiplies the variances of f and of the score
def variance_score(mu, sigma):
    spread = math.exp(2 * mu + 2 * sigma**2) - math.exp(2 * mu + sigma**2)
    return spread / sigma**2


# %% solution
r"""
Pathwise: $e^{2\mu+2\sigma^2}-e^{2\mu+\sigma^2}$, about $\sigma^2e^{2\mu}$ for small $\sigma$. Score function: $e^{2\mu+2\sigma^2}(1+4\sigma^2)/\sigma^2-e^{2\mu+\sigma^2}$, about $e^{2\mu}/\sigma^2$. The ratio grows like $\sigma^{-4}$: for a narrow law $f$ is nearly linear, and the pathwise estimate nearly a constant, while the score function must find a slope from heights alone.
"""

# %% rubric
r"""
Two points for each variance, one for the limit (which only both together give).
"""
