# %% about
"""
title = "A forecast that fails"
kind = "bug"
difficulty = 2
minutes = 20
points = 6
objective = "Show that the spread of f does not predict the score function's variance, and what does"
after = "A constant is not free"
"""

# %% imports
import torch

# %% text
r"""
A page about the two estimators says that the variance of the score function is "proportional to $\mathrm{Var}[f(z)]$". Somebody has made a forecast of it:
"""


# %% code
def forecast(values, scores):
    """The variance of values * scores, it says, from samples of both."""
    return values.var() * scores.var()


# %% text
r"""
> **Predict first.** Add 10 to $f$. What does the forecast do, and what does the variance do?

Take $f(z) = (z-1)^2 + c$ and $z\sim N(0.5, 1)$, gradient by the mean.

1. `score_variance(c)`: the exact variance of one score function estimate, as a function of $c$. It is a polynomial of degree two; find its three coefficients on paper (or from three exact values).
2. `best_c`: the $c$ with the least variance.
3. `mended(values, scores)`: a forecast from samples, of shape `[n]` each, that is right for every $f$.
"""


# %% answer
def score_variance(c):
    """Var[f(z) (z - 0.5)] with f = (z - 1)**2 + c, z ~ N(0.5, 1)."""
    ### BEGIN SOLUTION
    return 18.5625 + 6.5 * c + c**2
    ### END SOLUTION


def mended(values, scores):
    """The variance of one score function estimate, from samples."""
    ### BEGIN SOLUTION
    return (values * scores).var()
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
best_c = -3.25
### END SOLUTION

# %% hint
r"""
With $\varepsilon = z - 0.5$ and $f_0 = (\varepsilon-\tfrac12)^2$: $\mathrm{Var}[(f_0+c)\varepsilon] = \mathrm{Var}[f_0\varepsilon] + 2c\,\mathrm{Cov}[f_0\varepsilon, \varepsilon] + c^2\,\mathrm{Var}[\varepsilon]$.
"""

# %% hint
r"""
Odd moments of $\varepsilon$ are 0, and $\mathbb E[\varepsilon^2], \mathbb E[\varepsilon^4], \mathbb E[\varepsilon^6]$ are 1, 3, 15.
"""

# %% visible
import torch

from reparam.exercises import expect


def test_plain(answer, rng):
    """The variance at c = -1/4, where the estimate is ε³ - ε²."""
    # Even moments of ε are 1, 3, 15, so E[(ε³ - ε²)²] = 15 + 3. Its mean is -1.
    expect.close(
        answer.score_variance(-0.25), 15 + 3 - 1, "The variance at c = -1/4",
        mistakes={
            "this is Var[f] times the variance of the score: the forecast's own answer": 3.0,
            "this is the second moment: the mean of the estimate is -1": 18.0,
        },
    )  # fmt: skip


def test_raised(answer, rng):
    """The variance at c = 10, against that of 400,000 estimates."""
    eps = torch.randn(400_000, generator=rng)
    measured = float((((eps - 0.5) ** 2 + 10) * eps).var())
    plain = expect.number(answer.score_variance(0.0), "The variance at c = 0")
    expect.close(
        answer.score_variance(10.0), measured, "The variance at c = 10", rtol=0.05,
        mistakes={
            "nothing has changed; a constant does not move the mean, but it moves this": plain,
            "the cross term 2c Cov[f₀ε, ε] is missing": plain + 100,
        },
    )  # fmt: skip


def test_best_constant(answer, rng):
    """The best constant is looked for where it matters."""
    found = expect.number(answer.best_c, "best_c")
    expect.that(
        abs(found + 1.25) > 0.01,
        "best_c: this makes E[f] zero. What should be small is f times the score, so that f "
        "counts most where the score is large.",
    )


def test_forecast(answer, rng):
    """A coin with scores ±1 on which f is 11 and 13: the estimates are -11 and 13."""
    scores = torch.tensor([-1.0, 1.0]).repeat(1000)
    expect.close(
        answer.mended(scores + 12, scores), 144.0, "The forecast for the coin", rtol=0.003,
        mistakes={
            "these are the two variances multiplied; f and score come from one sample": 1.0,
            "this is the mean of the squares; the mean of the estimates is 1, not 0": 145.0,
        },
    )  # fmt: skip


# %% hidden
import numpy as np

from reparam.exercises import points


def exact(c):
    """By Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    g = ((nodes - 0.5) ** 2 + c) * nodes
    return float((weights * g**2).sum() - (weights * g).sum() ** 2)


@points(2)
def test_any_constant(answer, rng):
    """The variance for any constant."""
    for c in (20 * torch.rand(6, generator=rng) - 10).tolist():
        expect.close(
            answer.score_variance(c), exact(c), "The variance", rtol=1e-3
        )


@points(2)
def test_best(answer, rng):
    """The best constant."""
    found = expect.number(answer.best_c, "best_c")
    expect.that(
        exact(found) < exact(-3.25) + 0.01,
        "Another constant gives less variance.",
    )


@points(2)
def test_any_f(answer, rng):
    """The forecast for other functions and laws."""
    for a in (1 + torch.rand(3, generator=rng)).tolist():
        scores = torch.randn(5000, generator=rng) / a
        values = torch.sin(a * scores) + 3 * a * scores + 2
        g = (values * scores).double()
        right = float((g**2).mean() - g.mean() ** 2)
        expect.close(
            answer.mended(values, scores), right, "The forecast", rtol=0.01
        )


# %% right: by moments
def score_variance(c):
    return 8.0 + (c + 3.25) ** 2


def mended(values, scores):
    g = values * scores
    return (g**2).mean() - g.mean() ** 2


best_c = torch.tensor(-13 / 4)


# %% wrong: the forecast, left as it is
def mended(values, scores):
    return values.var() * scores.var()


# %% wrong: the constant is free
def score_variance(c):
    return 18.5625 + 0 * c


# %% wrong: no cross term
def score_variance(c):
    return 18.5625 + c**2


# %% wrong: takes the mean of f away
best_c = -1.25


# %% wrong: the second moment
def mended(values, scores):
    return ((values * scores) ** 2).mean()


# %% solution
r"""
$\mathrm{Var} = 18.5625 + 6.5c + c^2 = 8 + (c+3.25)^2$, while $\mathrm{Var}[f]$ does not know $c$. The best constant is $-\mathbb E[f_0\varepsilon^2]/\mathbb E[\varepsilon^2] = -3.25$, not $-\mathbb E[f_0] = -1.25$: the weights are the squares of the score. What predicts the variance of a product is the product.
"""

# %% rubric
r"""
Two points for the polynomial, two for the constant ($-\mathbb E[f_0]$ gets none), two for the forecast.
"""
