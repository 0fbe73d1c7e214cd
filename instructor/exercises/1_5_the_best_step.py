# %% about
"""
title = "The best step"
kind = "harder"
difficulty = 4
minutes = 35
points = 8
objective = "Predict the error of finite differences with fresh and with frozen noise, and use it"
after = "Fresh noise or frozen noise"
"""

# %% imports
import math
import torch

# %% given
K = 64  # or 16, 256

# %% text
r"""
The figure of this chapter takes a slope from two losses, half a step to either side of $\mu$. Here one of the two is at $\mu$ itself: $\hat g = \frac{\hat L(\mu+h)-\hat L(\mu)}{h}$ with $\hat L(\mu) = \frac1K\sum_k f(\mu+\varepsilon_k)$, $\varepsilon_k\sim N(0,1)$ and $f(z) = z^2$. The two losses have new noise each, or the same noise. Here $K = «K»$.

> **Predict first.** Halve $h$. What happens to the standard deviation of $\hat g$ with fresh noise? With frozen noise? And to the bias?

1. `fresh(mu, h, K, n)` and `frozen(mu, h, K, n)`: `n` independent estimates each, as tensors `[n]`.
2. `deviation_fresh(mu, h, K)` and `deviation_frozen(mu, h, K)`: their exact standard deviations, and `bias(h)`, their common bias against $2\mu$.
3. `best_h`: the step with the least mean squared error of the *fresh* estimate at $\mu = 1$ and the given $K$, to 5 %.
"""


# %% answer
def fresh(mu, h, K, n):
    """[n] estimates with new noise for each loss."""
    ### BEGIN SOLUTION
    first, second = torch.randn(2, n, K)
    return (((mu + h + first) ** 2).mean(1) - ((mu + second) ** 2).mean(1)) / h
    ### END SOLUTION


def frozen(mu, h, K, n):
    """[n] estimates with the same noise in both losses."""
    ### BEGIN SOLUTION
    eps = torch.randn(n, K)
    return (((mu + h + eps) ** 2) - (mu + eps) ** 2).mean(1) / h
    ### END SOLUTION


def deviation_fresh(mu, h, K):
    """The standard deviation of one fresh estimate."""
    ### BEGIN SOLUTION
    return math.sqrt((4 * (mu + h) ** 2 + 2 + 4 * mu**2 + 2) / K) / h
    ### END SOLUTION


def deviation_frozen(mu, h, K):
    """The standard deviation of one frozen estimate."""
    ### BEGIN SOLUTION
    return 2 / math.sqrt(K)
    ### END SOLUTION


def bias(h):
    """E[estimate] - 2 mu."""
    ### BEGIN SOLUTION
    return h
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
best_h = min(
    (i / 1000 for i in range(50, 5000)),
    key=lambda h: bias(h) ** 2 + deviation_fresh(1.0, h, K) ** 2,
)
### END SOLUTION

# %% hint
r"""
$\mathrm{Var}[(\mu+\varepsilon)^2] = 4\mu^2+2$. Independent losses: the variances add, and the step divides.
"""

# %% hint
r"""
With the same noise the squares cancel: $\frac{(\mu+h+\varepsilon)^2-(\mu+\varepsilon)^2}{h} = 2\mu + 2\varepsilon + h$.
"""

# %% hint
r"""
The mean squared error is bias² plus variance. No formula is needed for its minimum: try a grid.
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def var_square(mu):
    return 4 * mu**2 + 2


def test_bias(answer, rng):
    """The bias for a square."""
    expect.close(
        answer.bias(0.1), 0.1, "The bias at h = 0.1",
        mistakes={
            "this holds for steps of h/2 to either side; here one loss is at μ itself: expand (μ + h)²": 0.0,
            "the second term of the expansion is f''·h/2, and f'' is 2 here": 0.05,
        },
    )  # fmt: skip


def test_deviations(answer, rng):
    """The two standard deviations at μ = 1, h = 0.1, K = 64."""
    right = math.sqrt((var_square(1.1) + var_square(1.0)) / 64) / 0.1
    expect.close(
        answer.deviation_fresh(1.0, 0.1, 64), right, "The deviation with fresh noise",
        rtol=1e-3,
        mistakes={
            "the step divides the difference, and so the deviation": right * 0.1,
            "K samples are averaged: divide by √K": right * 8,
            "this is the variance": right**2,
            "this is for steps of h/2 to either side; here one loss is at μ itself":
                math.sqrt((var_square(1.05) + var_square(0.95)) / 64) / 0.1,
        },
    )  # fmt: skip
    expect.close(
        answer.deviation_frozen(1.0, 0.1, 64), 0.25, "The deviation with frozen noise",
        rtol=1e-3,
        mistakes={"this is one sample's; K are averaged": 2.0, "this is the variance": 0.0625},
    )  # fmt: skip


def test_estimates(answer, rng):
    """Estimates with fresh and with frozen noise."""
    n = 4000
    fresh = math.sqrt((var_square(1.1) + var_square(1.0)) / 64) / 0.1
    for name, deviation in (("fresh", fresh), ("frozen", 0.25)):
        found = expect.tensor(
            getattr(answer, name)(1.0, 0.1, 64, n), (n,), f"The {name} estimates"
        )
        expect.mean(
            found, 2.1, f"The mean of the {name} estimates", deviation=deviation
        )
        expect.that(
            name == "frozen" or bool(found.std() > 2),
            "The fresh estimates scatter too little: the two losses share their noise.",
        )


# %% hidden
from reparam.exercises import points


def draw(rng):
    mu, h = torch.rand(2, generator=rng).tolist()
    return (
        mu,
        0.05 + 0.5 * h,
        [4, 9, 25][int(torch.randint(3, (), generator=rng))],
    )


@points(2)
def test_fresh_estimates(answer, rng):
    """Mean and variance with fresh noise."""
    mu, h, K = draw(rng)
    variance = (var_square(mu + h) + var_square(mu)) / K / h**2
    found = expect.tensor(
        answer.fresh(mu, h, K, 8000), (8000,), "The fresh estimates"
    )
    expect.mean(
        found,
        2 * mu + h,
        "The mean of the fresh estimates",
        deviation=variance**0.5,
    )
    expect.variance(
        found, variance, "The variance of the fresh estimates", within=0.3
    )


@points(2)
def test_frozen_estimates(answer, rng):
    """Mean and variance with frozen noise."""
    mu, h, K = draw(rng)
    found = expect.tensor(
        answer.frozen(mu, h, K, 8000), (8000,), "The frozen estimates"
    )
    expect.mean(
        found,
        2 * mu + h,
        "The mean of the frozen estimates",
        deviation=2 / K**0.5,
    )
    expect.variance(
        found, 4 / K, "The variance of the frozen estimates", within=0.3
    )


@points(2)
def test_formulas(answer, rng):
    """Bias and deviations, anywhere."""
    for _ in range(4):
        mu, h, K = draw(rng)
        expect.close(answer.bias(h), h, "The bias")
        wanted = math.sqrt((var_square(mu + h) + var_square(mu)) / K) / h
        expect.close(
            answer.deviation_fresh(mu, h, K),
            wanted,
            "The fresh deviation",
            rtol=1e-3,
        )
        wanted = 2 / math.sqrt(K)
        expect.close(
            answer.deviation_frozen(mu, h, K),
            wanted,
            "The frozen deviation",
            rtol=1e-3,
        )


@points(2)
def test_best(answer, rng):
    """The best step."""
    K = answer.given["K"]
    steps = torch.linspace(0.02, 8, 40_000, dtype=torch.float64)
    error = steps**2 + (var_square(1 + steps) + var_square(1.0)) / K / steps**2
    best = float(steps[error.argmin()])
    found = expect.number(answer.best_h, "best_h")
    expect.that(
        abs(found / best - 1) < 0.06,
        "Another step has a smaller mean squared error.",
    )


# %% right: losses first, a finer grid by bisection
def _loss(mu, eps):
    return torch.square(mu + eps).mean(-1)


def fresh(mu, h, K, n):
    up = _loss(mu + h, torch.randn(n, K))
    return (up - _loss(mu, torch.randn(n, K))) / h


def frozen(mu, h, K, n):
    return 2 * mu + h + 2 * torch.randn(n, K).mean(1)


def deviation_fresh(mu, h, K):
    return (8 * mu**2 + 8 * mu * h + 4 * h**2 + 4) ** 0.5 / (h * K**0.5)


def deviation_frozen(mu, h, K):
    return (4 / K) ** 0.5


_low, _high = 0.01, 10.0
while _high - _low > 1e-4:
    _a, _b = _low + (_high - _low) / 3, _high - (_high - _low) / 3
    _worse = [bias(h) ** 2 + deviation_fresh(1.0, h, K) ** 2 for h in (_a, _b)]
    _low, _high = (_low, _b) if _worse[0] < _worse[1] else (_a, _high)
best_h = _low


# %% wrong: the same noise in both
def fresh(mu, h, K, n):
    eps = torch.randn(n, K)
    return (((mu + h + eps) ** 2) - (mu + eps) ** 2).mean(1) / h


# %% wrong: new noise where it should be frozen
def frozen(mu, h, K, n):
    first, second = torch.randn(2, n, K)
    return (((mu + h + first) ** 2).mean(1) - ((mu + second) ** 2).mean(1)) / h


# %% wrong: the step does not divide the deviation
def deviation_fresh(mu, h, K):
    return math.sqrt((8 * mu**2 + 8 * mu * h + 4 * h**2 + 4) / K)


# %% wrong: no bias
def bias(h):
    return 0.0


# %% wrong: the smallest step
best_h = 0.001

# %% solution
r"""
Fresh: the two losses are independent, so the deviation is $\sqrt{(4(\mu+h)^2+2+4\mu^2+2)/K}\,/h$ and grows without bound as $h\to0$: 4.5, 43, 433 for $h$ = 0.1, 0.01, 0.001 at $\mu = 1$ and $K = 64$. Frozen: $\hat g = 2\mu+h+2\bar\varepsilon$, whose deviation $2/\sqrt K$ does not depend on $h$, so $h$ may go to 0 and takes the bias along; at $h = 0$ it is the pathwise estimator. With fresh noise the best step balances $h^2$ against variance; at $K = 64$ it is near 0.7, with a root mean squared error of 1.06. Frozen noise has 0.74 at that step, and 0.25 as $h\to0$.
"""

# %% rubric
r"""
Two points for each pair of estimates, two for the formulas, two for the step. The step is only right for the cohort's own $K$.
"""
