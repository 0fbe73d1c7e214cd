# %% about
"""
title = "Where the winner changes"
kind = "measurement"
difficulty = 3
minutes = 25
points = 6
objective = "Measure at which steepness the score function becomes the quieter estimator"
after = "Steep functions turn the tables"
"""

# %% imports
import math
import torch

# %% given
SIGMA = 0.5  # or 0.8, 2.0

# %% text
r"""
For $f(z) = \sin kz$ the pathwise estimator pays for the slope $k$, the score function for a height that never exceeds 1. Somewhere the winner changes. Take $z\sim N(0, \sigma^2)$ with $\sigma = «SIGMA»$ and the gradient by the mean.

1. `pathwise(k, sigma, n)` and `score(k, sigma, n)`: `n` independent one-sample estimates each, as tensors `[n]`.
2. `crossover`: the $k$ at which the two variances are equal for the given σ, to 5 %. One million samples are cheap, and a common noise for all $k$ makes the search smooth.
3. `use`: for $k = 0.5/\sigma$, $3/\sigma$ and $10/\sigma$, in this order, a list with `"pathwise"` or `"score"`, whichever is quieter.

> **Predict first.** If σ doubles, does the crossover move to a larger $k$, to a smaller one, or not at all?
"""


# %% answer
def pathwise(k, sigma, n):
    """[n] pathwise estimates of d/dμ E[sin(kz)] at μ = 0."""
    ### BEGIN SOLUTION
    return k * torch.cos(k * sigma * torch.randn(n))
    ### END SOLUTION


def score(k, sigma, n):
    """[n] score function estimates of d/dμ E[sin(kz)] at μ = 0."""
    ### BEGIN SOLUTION
    eps = torch.randn(n)
    return torch.sin(k * sigma * eps) * eps / sigma
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
def _louder(k):
    torch.manual_seed(0)
    path = pathwise(k, SIGMA, 400_000).var()
    return path > score(k, SIGMA, 400_000).var()


_low, _high = 0.1 / SIGMA, 10 / SIGMA
for _ in range(20):
    _middle = (_low + _high) / 2
    _low, _high = (_low, _middle) if _louder(_middle) else (_middle, _high)
crossover = _low
use = ["score" if _louder(k / SIGMA) else "pathwise" for k in (0.5, 3.0, 10.0)]
### END SOLUTION

# %% hint
r"""
Pathwise: $f'(z)$. Score function: $f(z)\,(z-\mu)/\sigma^2$, which is $f(z)\,\varepsilon/\sigma$.
"""

# %% hint
r"""
Both variances, times $\sigma^2$, depend on the product $k\sigma$ alone. So the search can begin anywhere near $k = 1/\sigma$.
"""

# %% hint
r"""
Bisection: start from a $k$ at which pathwise is quieter and one at which it is louder, and halve.
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def variances(k, sigma):
    """Both variances in closed form, at μ = 0."""
    s = (k * sigma) ** 2
    mean = k * math.exp(-s / 2)
    path = k**2 * (1 + math.exp(-2 * s)) / 2 - mean**2
    height = (1 - (1 - 4 * s) * math.exp(-2 * s)) / (2 * sigma**2) - mean**2
    return mean, path, height


def test_estimates(answer, rng):
    """Both have the right mean at k = 2, σ = 0.5."""
    n = 40_000
    mean, path, height = variances(2.0, 0.5)
    told = {
        "pathwise": {
            "the slope of sin kz has a factor k": mean / 2,
            "this averages the height of f; the pathwise estimate is its slope": 0.0,
            "this is the slope by ε, with a factor σ too much": 0.5 * mean,
        },
        "score": {
            "the score is ε/σ, with σ below": 0.5 * mean,
            "the score is (z - μ)/σ², which is ε/σ; a σ too many stands below": 2
            * mean,
            "f is not weighted with the score": 0.0,
        },
    }
    for name, variance in (("pathwise", path), ("score", height)):
        found = expect.tensor(
            getattr(answer, name)(2.0, 0.5, n), (n,), f"What {name} returns"
        )
        expect.mean(
            found, mean, f"The mean of the {name} estimates",
            deviation=max(4.0, 1.1 * variance**0.5), mistakes=told[name],
        )  # fmt: skip
        expect.variance(
            found, variance, f"The variance of the {name} estimates", within=0.35
        )


def test_crossing(answer, rng):
    """At the crossover neither variance is far above the other."""
    sigma = answer.given["SIGMA"]
    found = expect.number(answer.crossover, "crossover")
    expect.that(found > 0, "crossover should be positive.")
    _, path, height = variances(found, sigma)
    if abs(path / height - 1) < 0.3:
        return
    why = ""
    if abs(found * sigma - 1) < 0.01:
        why = " kσ = 1 is the right order, and no more: measure."
    elif 0.7 < variances(found, 1.0)[1] / variances(found, 1.0)[2] < 1.4:
        why = " It would be right for σ = 1; what counts is how many waves lie under the law."
    elif (
        0.7
        < variances(found / sigma, 1.0)[1] / variances(found / sigma, 1.0)[2]
        < 1.4
    ):
        why = " A wider law covers more waves at the same k: which way must k go?"
    louder = "pathwise" if path > height else "score function"
    expect.that(
        False,
        f"At your crossover the {louder} estimates are clearly louder.{why}",
    )


def test_form(answer, rng):
    """Three words."""
    words = answer.use
    right = isinstance(words, (list, tuple)) and len(words) == 3
    expect.that(right, "use should hold three words.")
    expect.that(
        all(w in ("pathwise", "score") for w in words), "use holds other words."
    )
    expect.that(
        len(set(words)) > 1,
        "use: one estimator for all three. Does its variance stay below the other's as k grows "
        "from less than one wave under the law to many?",
    )


# %% hidden
from reparam.exercises import points


def check_estimates(answer, rng, name, which):
    n = 40_000
    narrow, wide, *waves = torch.rand(4, generator=rng).tolist()
    for sigma, wave in zip(
        (0.4 + 0.2 * narrow, 1.6 + 0.6 * wide), waves, strict=True
    ):
        k = (0.7 + 0.6 * wave) / sigma
        mean, *both = variances(k, sigma)
        found = expect.tensor(
            getattr(answer, name)(k, sigma, n), (n,), f"What {name} returns"
        )
        expect.mean(
            found,
            mean,
            f"The mean of the {name} estimates",
            deviation=1.1 * both[which] ** 0.5,
        )
        expect.variance(
            found,
            both[which],
            f"The variance of the {name} estimates",
            within=0.35,
        )


@points(1)
def test_pathwise(answer, rng):
    """The pathwise estimates: mean and variance."""
    check_estimates(answer, rng, "pathwise", 0)


@points(1)
def test_score(answer, rng):
    """The score function estimates: mean and variance."""
    check_estimates(answer, rng, "score", 1)


@points(3)
def test_crossover(answer, rng):
    """Where the variances are equal."""
    sigma = answer.given["SIGMA"]
    low, high = 0.1 / sigma, 10 / sigma
    for _ in range(60):
        middle = (low + high) / 2
        _, path, height = variances(middle, sigma)
        low, high = (low, middle) if path > height else (middle, high)
    found = expect.number(answer.crossover, "crossover")
    expect.that(
        abs(found / low - 1) < 0.06,
        "The variances are not equal at your crossover.",
    )


@points(1)
def test_use(answer, rng):
    """Which one to use."""
    wanted = ["pathwise", "score", "score"]
    expect.that(
        list(answer.use) == wanted, "For at least one k the other is quieter."
    )


# %% right: through autograd, and the closed form
def pathwise(k, sigma, n):
    mu = torch.zeros(n, requires_grad=True)
    z = mu + sigma * torch.randn(n)
    return torch.autograd.grad(torch.sin(k * z).sum(), mu)[0]


def score(k, sigma, n):
    z = torch.distributions.Normal(0.0, sigma).sample((n,))
    return torch.sin(k * z) * z / sigma**2


def _difference(s):
    path = s * (1 - math.exp(-s)) ** 2
    return path - (1 - (1 - 4 * s) * math.exp(-2 * s) - 2 * s * math.exp(-s))


_a, _b = 0.1, 9.0
for _ in range(60):
    _a, _b = (
        (_a, (_a + _b) / 2)
        if _difference((_a + _b) / 2) > 0
        else ((_a + _b) / 2, _b)
    )
crossover = math.sqrt(_a) / SIGMA
use = ["pathwise", "score", "score"]


# %% wrong: forgets the factor k
def pathwise(k, sigma, n):
    return torch.cos(k * sigma * torch.randn(n))


# %% wrong: the score without 1/σ
def score(k, sigma, n):
    eps = torch.randn(n)
    return torch.sin(k * sigma * eps) * eps


# %% wrong: the crossover at kσ = 1
crossover = 1 / SIGMA

# %% wrong: the crossover for σ = 1
crossover = 1.109

# %% wrong: moves the crossover the other way
crossover = 1.109 * SIGMA


# %% wrong: the variances of means of ten
def pathwise(k, sigma, n):
    return (k * torch.cos(k * sigma * torch.randn(10, n))).mean(0)


# %% wrong: pathwise always
use = ["pathwise", "pathwise", "pathwise"]

# %% solution
r"""
With $s = k^2\sigma^2$ the variances, times $2\sigma^2$, are $s(1-e^{-s})^2$ and $1-(1-4s)e^{-2s}-2se^{-s}$: both depend on $k\sigma$ alone, so the crossover is a fixed number of wiggles under the law, and doubling σ halves the $k$. It lies at $k\sigma = 1.109$, well before the law covers a whole wave: beyond it, the sample cannot see which way $f$ goes from the slope where it happens to stand.
"""

# %% rubric
r"""
One point for each estimator, three for the crossover at the cohort's own σ, one for the three choices together.
"""
