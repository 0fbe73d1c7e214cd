# %% about
"""
title = "Counts, differentiated twice"
kind = "harder"
difficulty = 4
minutes = 35
points = 8
objective = "Derive and implement a gradient for Poisson counts that needs no score"
after = "Replace the derivative by a difference"
"""

# %% imports
import torch
from torch.distributions import Poisson

# %% text
r"""
Let $z\sim\mathrm{Poisson}(r)$ and $f$ any function of the count. There is no path from $r$ to $z$ to differentiate, and the score function is loud. The law has a property that helps: $\frac{\partial}{\partial r}\,q(k) = q(k-1) - q(k)$, with $q(-1) = 0$.

> **Predict first.** For $f(z) = z^2$ and $r = 4$ the score function's estimate $f(z)\,(z/r - 1)$ has the variance 608. By what factor is an estimate by a difference of $f$ quieter?

Derive the first and the second derivative of $\mathbb E[f(z)]$ by $r$ as expectations of differences of $f$, and write

`poisson_derivatives(f, rate, n)`: two tensors `[n]`, one estimate of the first and one of the second derivative for each of `n` independent draws. `f` takes a tensor of counts (floats) and returns a tensor of the same shape; call it at most three times. `rate` is a Python number. Both must be unbiased for every $f$, and quiet: for a polynomial of degree two the second must have no variance at all.
"""


# %% answer
def poisson_derivatives(f, rate, n):
    """([n], [n]): estimates of d/dr E[f(z)] and d²/dr² E[f(z)], z ~ Poisson(rate)."""
    ### BEGIN SOLUTION
    z = Poisson(torch.tensor(float(rate))).sample((n,))
    here, one, two = f(z), f(z + 1), f(z + 2)
    return one - here, two - 2 * one + here
    ### END SOLUTION


# %% hint
r"""
Write $\frac{\partial}{\partial r}\mathbb E[f(z)] = \sum_k f(k)\,(q(k-1) - q(k))$ and shift the index of the first sum.
"""

# %% hint
r"""
The result is again an expectation of a function of $z$ under the same law. Apply the rule to that function once more.
"""

# %% hint
r"""
Two differences of one draw cancel most of their noise; differences of two draws do not.
"""

# %% visible
import torch

from reparam.exercises import expect


def test_shapes(answer, rng):
    """Two tensors, one number for each draw."""
    found = answer.poisson_derivatives(lambda z: z, 2.0, 5)
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "Two tensors are expected.",
    )
    for part, name in zip(found, ("first", "second"), strict=True):
        expect.tensor(part, (5,), f"The estimate of the {name} derivative")


def test_square(answer, rng):
    """z² at r = 4: the first derivative is 2r + 1."""
    first, _ = answer.poisson_derivatives(torch.square, 4.0, 20_000)
    expect.mean(
        expect.tensor(first, (20_000,), "The first derivative"), 9.0,
        "The first derivative for z² at r = 4", deviation=4.1,
        mistakes={
            "this is f(z) - f(z-1): the index was shifted the other way": 7.0,
            "this is f'(z), the derivative of f, and f lives on whole numbers": 8.0,
        },
    )  # fmt: skip


def test_no_variance(answer, rng):
    """z²: the second derivative is 2, without noise."""
    _, second = answer.poisson_derivatives(torch.square, 4.0, 100)
    expect.close(
        second, torch.full((100,), 2.0), "The second derivative for z²",
        atol=1e-3,
    )  # fmt: skip


# %% hidden
import math

from reparam.exercises import points


def series(f, rate, order, top=200):
    """d^order/dr^order E[f] by summing differences of the probabilities; no sampling."""
    k = torch.arange(top, dtype=torch.float64)
    logp = k * math.log(rate) - rate - torch.lgamma(k + 1)
    weights = logp.exp()
    for _ in range(order):
        weights = (
            torch.cat([torch.zeros(1, dtype=torch.float64), weights[:-1]])
            - weights
        )
    return float((f(k) * weights).sum())


def wiggle(rng):
    a, b, c = torch.rand(3, generator=rng).tolist()
    return lambda z: torch.sin((0.5 + a) * z + b) + c * (z > 3) + 0.2 * z


def spread(f, rate, order):
    """The standard deviation of the difference of that order, summed."""
    k = torch.arange(200, dtype=torch.float64)
    p = (k * math.log(rate) - rate - torch.lgamma(k + 1)).exp()
    d = f(k + 1) - f(k) if order == 1 else f(k + 2) - 2 * f(k + 1) + f(k)
    return float(((p * d**2).sum() - (p * d).sum() ** 2).clamp(min=0).sqrt())


@points(3)
def test_first(answer, rng):
    """The first derivative: mean and noise."""
    for rate in (0.7, 3.0):
        f = wiggle(rng)
        first, _ = answer.poisson_derivatives(f, rate, 40_000)
        expect.mean(
            expect.tensor(first, (40_000,), "The first derivative"), series(f, rate, 1),
            "The first derivative", deviation=spread(f, rate, 1) + 0.02,
        )  # fmt: skip


@points(3)
def test_second(answer, rng):
    """The second derivative: mean and noise."""
    for rate in (0.7, 3.0):
        f = wiggle(rng)
        _, second = answer.poisson_derivatives(f, rate, 40_000)
        expect.mean(
            expect.tensor(second, (40_000,), "The second derivative"), series(f, rate, 2),
            "The second derivative", deviation=spread(f, rate, 2) + 0.02,
        )  # fmt: skip


@points(1)
def test_exact(answer, rng):
    """No noise where none is needed, and the noise of a draw where it is."""
    a, b, c = torch.randn(3, generator=rng).tolist()
    a = a + math.copysign(0.5, a)
    first, second = answer.poisson_derivatives(
        lambda z: a * z**2 + b * z + c, 2.5, 20_000
    )
    expect.close(
        second, torch.full((20_000,), 2 * a), "The second derivative",
        rtol=1e-3, atol=1e-2,
    )  # fmt: skip
    expect.mean(
        first, 6 * a + b, "The first derivative", deviation=2 * abs(a) * 2.5**0.5
    )
    expect.variance(
        first, 4 * a**2 * 2.5, "The variance of the first derivative", within=0.3
    )


@points(1)
def test_price(answer, rng):
    """The number of evaluations that unbiased estimates, quiet or loud, take."""
    calls, bent = [], wiggle(rng)

    def g(z):
        return 3 * z**2 + bent(z)

    def f(z):
        calls.append(len(z))
        return g(z)

    found = answer.poisson_derivatives(f, 1.5, 40_000)
    expect.that(len(calls) <= 3, "f is called more than three times.")
    expect.that(
        sum(calls) <= 120_000,
        "f is evaluated at more than three counts a draw.",
    )
    for order, loudest in ((1, 60.0), (2, 120.0)):  # the score function's
        estimates = expect.tensor(found[order - 1], (40_000,), "The estimates")
        expect.mean(
            estimates, series(g, 1.5, order), "A derivative", deviation=loudest
        )


# %% right: one call for all three counts, numpy's draws
def poisson_derivatives(f, rate, n):
    import numpy as np

    seed = int(torch.randint(2**31, ()))
    z = torch.from_numpy(np.random.default_rng(seed).poisson(rate, n)).float()
    here, one, two = f(torch.stack([z, z + 1, z + 2]).reshape(-1)).reshape(3, n)
    return one - here, (two - one) - (one - here)


# %% wrong: shifts the index the other way
def poisson_derivatives(f, rate, n):
    z = Poisson(torch.tensor(float(rate))).sample((n,))
    here, one, two = f(z), f((z - 1).clamp(min=0)), f((z - 2).clamp(min=0))
    return here - one, here - 2 * one + two


# %% wrong: the score function
def poisson_derivatives(f, rate, n):
    z = Poisson(torch.tensor(float(rate))).sample((n,))
    score = z / rate - 1
    return f(z) * score, f(z) * (score**2 - z / rate**2)


# %% wrong: a new draw for each term
def poisson_derivatives(f, rate, n):
    a, b, c = Poisson(torch.tensor(float(rate))).sample((3, n))
    return f(a + 1) - f(b), f(a + 2) - 2 * f(b + 1) + f(c)


# %% wrong: squares the first for the second
def poisson_derivatives(f, rate, n):
    z = Poisson(torch.tensor(float(rate))).sample((n,))
    first = f(z + 1) - f(z)
    return first, first**2


# %% idle: looks at fixed counts and draws none
def poisson_derivatives(f, rate, n):
    here, one, two = f(torch.full((3,), round(rate)) + torch.arange(3.0))
    return (one - here).expand(n), (two - 2 * one + here).expand(n)


# %% idle: the difference at the mean, which is no count
def poisson_derivatives(f, rate, n):
    z = torch.full((n,), float(rate))
    here, one, two = f(z), f(z + 1), f(z + 2)
    return one - here, two - 2 * one + here


# %% idle: noise without a mean
def poisson_derivatives(f, rate, n):
    return tuple(50 * torch.randn(2, n))


# %% solution
r"""
Shifting the index gives $\frac{\partial}{\partial r}\mathbb E[f(z)] = \mathbb E[f(z+1)-f(z)]$: the count's derivative is a forward difference, exactly, for any $f$. The difference is again a function of $z$, so the second derivative is $\mathbb E[f(z+2)-2f(z+1)+f(z)]$. It is the measure-valued derivative of the Poisson law, whose positive part is the law of $z+1$, coupled to the negative part by sharing the draw. For $z^2$ at $r=4$ the variance is $\mathrm{Var}[2z+1] = 16$ against 608, a factor of 38.
"""

# %% rubric
r"""
Three points for each derivative (mean and noise), one for the missing variance, one for the price. The score function is unbiased and gets the last point only.
"""
