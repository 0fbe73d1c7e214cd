# %% about
"""
title = "As cold as K allows"
kind = "measurement"
difficulty = 3
minutes = 25
points = 8
objective = "Measure bias and variance of a relaxed gradient, and choose the temperature of least mean squared error for a number of samples"
after = "The simplex as τ falls"
"""

# %% imports
import torch

# %% given
K = 100  # or 10, 1000

# %% text
r"""
A temperature trades bias for variance. What it should be depends on how many samples we average: with the bias $B(\tau)$ and the variance $V(\tau)$ of *one* soft estimate, the mean of $K$ has the mean squared error $B^2 + V/K$.

The bit has logit $\lambda$, the soft sample is $y = \mathrm{sigmoid}((\lambda+L)/\tau)$, and one estimate is the derivative of $f(y)$ by $\lambda$. The next cell has 65,536 values of $L$, the logistic law's quantiles in the middle of equal steps of $u$: a plain mean over them is an expectation, without sampling noise.

Write `moments(f, logit, tau)`, which returns $B$ and $V$ as two numbers. The truth that $B$ refers to is $\frac{d}{d\lambda}\mathbb E f(b)$ for the bit itself; `f` works on tensors, entry by entry, and is known at 0 and 1.

> **Predict first.** With a hundred times as many samples, is the best τ higher, lower or the same?

Then, for $f(b) = e^b$ and $\lambda = -1$:

- `best`: the τ of `TAUS` with the least error for K = «K»;
- `rule`: for large $K$ the best τ falls like `"K^-1"`, `"K^-1/2"` or `"K^-1/3"`.
"""

# %% code
TAUS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
u = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
L = u.log() - (-u).log1p()


# %% answer
def moments(f, logit: float, tau: float) -> tuple[float, float]:
    """Bias and variance of one soft estimate of the gradient by the logit."""
    ### BEGIN SOLUTION
    place = torch.full_like(L, logit).requires_grad_()
    y = torch.sigmoid((place + L) / tau)
    (estimate,) = torch.autograd.grad(f(y).sum(), place)
    theta = torch.sigmoid(torch.tensor(logit, dtype=torch.float64))
    at_0, at_1 = f(torch.tensor([0.0, 1.0], dtype=torch.float64))
    truth = (at_1 - at_0) * theta * (1 - theta)
    bias = estimate.mean() - truth
    return bias.item(), estimate.var(correction=0).item()
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
best = {10: 0.8, 100: 0.4, 1000: 0.2}[K]
rule = "K^-1/3"
### END SOLUTION

# %% hint
r"""
The bit's expectation is $\theta f(1) + (1-\theta)f(0)$ with $\theta = \mathrm{sigmoid}(\lambda)$, and $\theta$ has the derivative $\theta(1-\theta)$ by $\lambda$.
"""

# %% hint
r"""
To get an estimate for each entry of $L$ at once, let the logit be a tensor as long as `L`, all entries equal, and differentiate `f(y).sum()` by it.
"""

# %% hint
r"""
For `rule`, print $B/\tau$ and $\tau V$ for falling τ. If both settle, at $\beta$ and $v$ say, the error is $\beta^2\tau^2 + v/(\tau K)$. Set its derivative by τ to 0.
"""

# %% visible
import numpy as np
import torch

from reparam.exercises import expect

TAUS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
RULES = ("K^-1", "K^-1/2", "K^-1/3")


def exact_moments(slope, rise, logit, tau):
    """Bias, variance and more by the trapezoid rule in (λ + L)/τ, with f' by hand.

    slope is f', rise is f(1) - f(0).
    """
    s = np.linspace(-45.0, 45.0, 20001)
    L = np.abs(tau * s - logit)
    weight = tau * (s[1] - s[0]) * np.exp(-L - 2 * np.log1p(np.exp(-L)))
    y = 1 / (1 + np.exp(-s))
    g = slope(y) * y * (1 - y) / tau
    theta = 1 / (1 + np.exp(-logit))
    truth = rise * theta * (1 - theta)
    mean, square = (weight * g).sum(), (weight * g**2).sum()
    return {
        "bias": mean - truth,
        "variance": square - mean**2,
        "mean": mean,
        "square": square,
        "blunt bias": mean - rise,
        "by the sample's mean": mean - slope(theta) * theta * (1 - theta),
    }


def held(answer, f, slope, rise, logit, tau):
    """`moments` against the truth."""
    found = answer.moments(f, logit, tau)
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "`moments` should return two numbers, the bias and the variance.",
    )
    exact = exact_moments(slope, rise, logit, tau)
    expect.close(
        found[0], exact["bias"], "The bias", rtol=0.01, atol=2e-4,
        mistakes={
            "it is the mean of the estimate. A bias is that minus the truth":
                exact["mean"],
            "the sign is turned around. A bias is mean minus truth": -exact["bias"],
            "the truth is dE/dθ. By the logit it has the factor θ(1 - θ)":
                exact["blunt bias"],
            "the estimate has a factor τ too many: y depends on λ/τ":
                tau * exact["mean"] - (exact["mean"] - exact["bias"]),
            "the truth is taken as the slope of f at θ. f of the mean is not the "
            "mean of f; the bit is 0 or 1": exact["by the sample's mean"],
        },
    )  # fmt: skip
    expect.close(
        found[1], exact["variance"], "The variance", rtol=0.01, atol=2e-4,
        mistakes={
            "it is the second moment. The square of the mean comes off":
                exact["square"],
            "it is the standard deviation": exact["variance"] ** 0.5,
            "it is the variance of a mean already. That of one estimate is wanted":
                exact["variance"] / answer.given["K"],
        },
    )  # fmt: skip


def test_linear(answer, rng):
    """A linear f, at one temperature."""
    held(answer, lambda y: 2 * y, lambda y: 2 + 0 * y, 2.0, 0.5, 0.5)


def test_exponential(answer, rng):
    """The exercise's f, at two temperatures."""
    for tau in (0.3, 1.0):
        held(answer, torch.exp, np.exp, np.e - 1, -1.0, tau)


def test_best(answer, rng):
    """The best temperature is one of the six."""
    best = expect.number(answer.best, "`best`")
    expect.that(
        any(abs(best - tau) < 1e-9 for tau in TAUS), "`best` is not one of TAUS."
    )
    every = {tau: exact_moments(np.exp, np.e - 1, -1.0, tau) for tau in TAUS}
    for name, which in {
        "one sample, not the mean of K: the variance is divided by K": min(
            TAUS, key=lambda t: every[t]["bias"] ** 2 + every[t]["variance"]
        ),
        "the least bias alone": TAUS[0],
    }.items():
        expect.that(
            abs(best - which) > 1e-9,
            f"That would be the best temperature for {name}.",
        )


# %% hidden
from reparam.exercises import points


def uniform(rng, low, high):
    return low + (high - low) * torch.rand((), generator=rng).item()


def sine(a):
    """sin(ay) and its slope, functions of y alone."""
    return (lambda y: torch.sin(a * y)), (lambda y: a * np.cos(a * y))


def square(t, c):
    """(y - t)² + c and its slope, functions of y alone."""
    return (lambda y: (y - t) ** 2 + c), (lambda y: 2 * (y - t))


@points(2)
def test_sine(answer, rng):
    """Another f, other logits and temperatures."""
    for _ in range(3):
        a = uniform(rng, 1.0, 2.5)
        held(
            answer, *sine(a), np.sin(a), uniform(rng, -2, 2), uniform(rng, 0.15, 2)
        )  # fmt: skip


@points(2)
def test_offset(answer, rng):
    """A quadratic f with an offset."""
    for _ in range(3):
        t, c = uniform(rng, -1.0, 2.0), uniform(rng, -3, 3)
        held(
            answer, *square(t, c), 1 - 2 * t, uniform(rng, -2, 2),
            uniform(rng, 0.15, 2),
        )  # fmt: skip


@points(2)
def test_choice(answer, rng):
    """The best temperature for K."""
    best = expect.number(answer.best, "`best`")
    K = answer.given["K"]
    every = {tau: exact_moments(np.exp, np.e - 1, -1.0, tau) for tau in TAUS}

    def least(error):
        return min(
            TAUS, key=lambda tau: error(**{k: every[tau][k] for k in used})
        )

    used = ("bias", "variance")
    expect.close(
        best, least(lambda bias, variance: bias**2 + variance / K), "`best`",
        mistakes={
            "the bias was not squared": least(lambda bias, variance: abs(bias) + variance / K),
            "the variance of one sample was taken, not of a mean of K":
                least(lambda bias, variance: bias**2 + variance),
            "the variance was divided by K². The variance of a mean is V/K":
                least(lambda bias, variance: bias**2 + variance / K**2),
        },
    )  # fmt: skip


@points(2)
def test_rule(answer, rng):
    """How the best temperature falls."""
    expect.equal(
        answer.rule, "K^-1/3", "Your rule", options=RULES,
        mistakes={
            "then V/K does not fall at all, while B² falls like K^-2. At the best τ "
            "both fall alike": "K^-1",
            "then B² falls like 1/K and V/K only like K^-1/2, so that noise is what "
            "remains. At the best τ both fall alike": "K^-1/2",
        },
    )  # fmt: skip


# %% right: the slope of the sigmoid by hand
def moments(f, logit, tau):
    y = torch.sigmoid((logit + L) / tau).requires_grad_()
    (slope,) = torch.autograd.grad(f(y).sum(), y)
    g = slope * y.detach() * (1 - y.detach()) / tau
    ends = f(torch.tensor([1.0, 0.0], dtype=torch.float64))
    theta = 1 / (1 + torch.exp(torch.tensor(-logit)).item())
    truth = float(ends[0] - ends[1]) * theta * (1 - theta)
    return float(g.mean()) - truth, float((g**2).mean() - g.mean() ** 2)


# %% wrong: the mean for the bias
def moments(f, logit, tau):
    place = torch.full_like(L, logit).requires_grad_()
    y = torch.sigmoid((place + L) / tau)
    (g,) = torch.autograd.grad(f(y).sum(), place)
    return g.mean().item(), g.var().item()


# %% wrong: the truth by θ, not by the logit
def moments(f, logit, tau):
    place = torch.full_like(L, logit).requires_grad_()
    y = torch.sigmoid((place + L) / tau)
    (g,) = torch.autograd.grad(f(y).sum(), place)
    at_0, at_1 = f(torch.tensor([0.0, 1.0], dtype=torch.float64))
    return (g.mean() - (at_1 - at_0)).item(), g.var().item()


# %% wrong: the slope of f at θ for the truth
def moments(f, logit, tau):
    place = torch.full_like(L, logit).requires_grad_()
    y = torch.sigmoid((place + L) / tau)
    (g,) = torch.autograd.grad(f(y).sum(), place)
    at = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    (truth,) = torch.autograd.grad(f(torch.sigmoid(at)), at)
    return (g.mean() - truth).item(), g.var().item()


# %% wrong: the second moment for the variance
def moments(f, logit, tau):
    place = torch.full_like(L, logit).requires_grad_()
    y = torch.sigmoid((place + L) / tau)
    (g,) = torch.autograd.grad(f(y).sum(), place)
    theta = torch.sigmoid(torch.tensor(logit, dtype=torch.float64))
    at_0, at_1 = f(torch.tensor([0.0, 1.0], dtype=torch.float64))
    bias = g.mean() - (at_1 - at_0) * theta * (1 - theta)
    return bias.item(), (g**2).mean().item()


# %% wrong: the coldest is the best
best = 0.05


# %% wrong: the best for a single sample
best = 1.6


# %% wrong: a rule that keeps the noise constant
rule = "K^-1"


# %% solution
r"""
For $f(b) = e^b$ and $\lambda = -1$ the bias is -0.009 at τ = 0.1 and -0.156 at 1.6, the variance 0.85 and 0.005. The best of the six is 0.8 for K = 10, 0.4 for 100 and 0.2 for 1,000: about a factor of 2 for a factor of 10 in $K$.

The rule: with the grid $s = (\lambda+L)/\tau$ the bias of the mean of $f(y)$ is, to first order, τ times the density of $L$ at $-\lambda$ times $\int f(\mathrm{sigmoid}(s)) - f(1[s>0])\,ds$, and its derivative by $\lambda$ is of order τ as well. The variance is of order 1/τ. The derivative of $\beta^2\tau^2 + v/(\tau K)$ is 0 at $\tau^3 = v/(2\beta^2K)$. So eight times as many samples halve the temperature, and the error falls like $K^{-2/3}$, more slowly than an unbiased estimator's $K^{-1}$. It is the bandwidth of a kernel estimate in another coat.

Where the first-order bias vanishes (at $\lambda = 0$, where the density of $L$ is flat, or for linear $f$), the rule is another: with a bias of order τ² it is $K^{-1/5}$. There is no best temperature without an $f$, and none without a $K$.
"""

# %% rubric
r"""
Two points for each pair of integrands, two for the temperature, two for the rule. A learner who samples $L$ anew gets near, and may miss the tolerance of one percent: the quantiles are given so that no sampling noise covers the bias.
"""
