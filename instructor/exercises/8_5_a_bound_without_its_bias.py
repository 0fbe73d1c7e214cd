# %% about
"""
title = "A bound without its bias"
kind = "harder"
difficulty = 4
minutes = 40
points = 9
objective = "Derive the leading bias of the importance-weighted bound, remove it with the samples at hand, and say what is lost"
after = "What an ELBO mixes"
"""

# %% imports
import math

import torch
from torch import Tensor

# %% text
r"""
$L_K$ of (8.2) is a biased estimate of $\log p(x)$. For weights with enough moments its bias falls like $1/K$, and what falls in a known way can be taken away.

> **Predict first.** $L_K$ has the bias $-c/K$. Leave one sample out, and $L_{K-1}$ has $-c/(K-1)$. Which combination of both has no such term? Is it still a bound?

1. `leading(rho, K)`: the leading term of $\mathbb E[L_K] - \log p(x)$, with $\rho = \mathrm{Var}(w)/p(x)^2$.
2. `jackknife(log_w)`: that combination, from logarithms of weights `[K, N]`, for each of $N$ images, `[N]`. For $L_{K-1}$ take the average over all ways of leaving one sample out, so that every sample counts alike. The bias must fall like $1/K^2$. For one sample there is nothing to leave out: raise a `ValueError`. Logarithms are finite and may lie anywhere, and one weight may outweigh the others by any factor.
3. `is_bound`: what is the mean of `jackknife`? `"a lower bound"` of $\log p(x)$ for all weights, `"an upper bound"`, or `"no bound"`.
"""


# %% answer
def leading(rho, K):
    """The leading term of E[L_K] - log p(x)."""
    ### BEGIN SOLUTION
    return -rho / (2 * K)
    ### END SOLUTION


def jackknife(log_w: Tensor) -> Tensor:
    """Estimates of log p(x), [N], from log-weights [K, N]."""
    ### BEGIN SOLUTION
    K = len(log_w)
    if K < 2:
        raise ValueError(f"jackknife needs two samples or more; got {K}")
    own = torch.eye(K, dtype=torch.bool).unsqueeze(-1)
    others = log_w.masked_fill(own, -torch.inf).logsumexp(1) - math.log(K - 1)
    whole = log_w.logsumexp(0) - math.log(K)
    return K * whole - (K - 1) * others.mean(0)
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
is_bound = "no bound"
### END SOLUTION

# %% hint
r"""
Write the average weight as $p(x)(1+\delta)$ with $\mathbb E[\delta] = 0$, and expand the logarithm to second order. What is the variance of $\delta$?
"""

# %% hint
r"""
With biases $-c/K$ and $-c/(K-1)$: choose $a$ and $b$ such that $aL_K+bL_{K-1}$ has $a+b = 1$ and $\frac aK+\frac b{K-1} = 0$.
"""

# %% hint
r"""
To take the own weight out of a sum by a difference, $\log(e^a-e^b)$, keeps no digits where that weight is nearly all there is. $K$ sums without it, of $K-1$ each, keep all of them; a mask of shape `[K, K, 1]` does it at once.
"""

# %% hint
r"""
For the last question: a weight is 1 with probability 0.9 and else 0.001. Sum over the four outcomes of two samples. Then exchange the two probabilities. (With equal ones the bias is 0 by accident.)
"""

# %% visible
import math

import torch

from reparam.exercises import expect

OPTIONS = ("a lower bound", "an upper bound", "no bound")


def mean_over_outcomes(estimate, K, p, low, high):
    """E[estimate] for K weights that are `high` with probability p and else `low`, summed."""
    count = torch.arange(K + 1, dtype=torch.float64)
    is_high = torch.arange(K)[:, None] < count
    log_w = torch.where(is_high, math.log(high), math.log(low)).double()
    binomial = torch.distributions.Binomial(
        K, torch.tensor(p, dtype=torch.float64)
    )
    chance = binomial.log_prob(count).exp()
    found = expect.tensor(estimate(log_w), (K + 1,), "The estimates")
    return float((chance * found.detach()).sum())


def plain(log_w):
    """L_K of weights that a float can hold."""
    return log_w.exp().mean(0).log()


def test_leading(answer, rng):
    """The leading bias for ρ = 3 and ten samples."""
    expect.close(
        answer.leading(3.0, 10), -0.15, "The leading bias at ρ = 3, K = 10",
        mistakes={
            "the logarithm's second derivative brings a factor 1/2": -0.3,
            "the sign: a logarithm bends down, so that its mean is too small": 0.15,
            "the average of K weights has a K-th of the variance, not K times": -15.0,
        },
    )  # fmt: skip


def test_two(answer, rng):
    """Two samples, written out."""
    log_w = torch.tensor([[1.0], [3.0]])
    whole = log_w.logsumexp(0) - math.log(2)
    expect.close(
        answer.jackknife(log_w), 2 * whole - 2, "The estimate of two weights, e and e³",
        mistakes={
            "this is L_2 itself": whole,
            "this is the mean of L_1 over the ways of leaving one out": torch.tensor([2.0]),
            "the ways of leaving one out are summed; take their mean": 2 * whole - 4,
            "only the first sample was left out; average over both ways": 2 * whole - 3,
            "only the last sample was left out; average over both ways": 2 * whole - 1,
            "nothing of L_1 is taken away": 2 * whole,
        },
    )  # fmt: skip


def test_bias(answer, rng):
    """Eight weights of two values, every outcome summed."""
    truth = math.log(0.5 * 1 + 0.5 * 3)
    found = mean_over_outcomes(answer.jackknife, 8, 0.5, 1.0, 3.0) - truth
    bound = mean_over_outcomes(plain, 8, 0.5, 1.0, 3.0) - truth
    expect.that(
        abs(found) < abs(bound) / 3,
        "The bias of the estimate is more than a third of the bound's.",
        f"{found:.5f} beside {bound:.5f}",
    )


def test_one(answer, rng):
    """One sample is refused."""
    expect.close(
        answer.jackknife(torch.zeros(2, 1)), torch.zeros(1), "The estimate of two weights of 1"
    )  # fmt: skip
    expect.raises(
        ValueError,
        lambda: answer.jackknife(torch.zeros(1, 1)),
        "One sample alone",
    )


def test_word(answer, rng):
    """The word is one of three."""
    expect.that(
        answer.is_bound in OPTIONS,
        f"`is_bound` should be one of {', '.join(map(repr, OPTIONS))}.",
    )


# %% hidden
from reparam.exercises import points


def one_by_one(log_w):
    """The same in double precision, by leaving out row after row."""
    log_w, K = log_w.double(), len(log_w)
    others = [
        torch.cat([log_w[:k], log_w[k + 1 :]]).logsumexp(0) - math.log(K - 1)
        for k in range(K)
    ]
    whole = log_w.logsumexp(0) - math.log(K)
    return K * whole - (K - 1) * sum(others) / K


@points(2)
def test_any_leading(answer, rng):
    """The leading bias is that of weights of two values, as samples are added."""
    for _ in range(3):
        p, high = (
            0.3 + torch.rand(2, generator=rng) * torch.tensor([0.4, 2])
        ).tolist()
        high, mean = 1.2 + high, 1 - p + p * (1.2 + high)
        rho = p * (1 - p) * (high - 1) ** 2 / mean**2
        for K in (200, 400):
            bias = mean_over_outcomes(plain, K, p, 1.0, high) - math.log(mean)
            expect.close(
                answer.leading(rho, K), bias, "The leading bias", rtol=0.03
            )


@points(3)
def test_any_weights(answer, rng):
    """Any weights, any scale, and one that outweighs the others."""
    for K in (2, 3, 12):
        log_w = 2 * torch.randn(K, 4, generator=rng)
        expect.close(
            answer.jackknife(log_w), one_by_one(log_w), "The estimate", atol=1e-3
        )
        shifted = log_w + torch.tensor([-2000.0, 0.0, 700.0, 2000.0])
        expect.close(
            answer.jackknife(shifted), one_by_one(shifted), "The estimate on another scale",
            rtol=1e-4, atol=1e-2,
        )  # fmt: skip
        shifted = log_w.clone()
        shifted[0] += 60.0
        expect.close(
            answer.jackknife(shifted), one_by_one(shifted), "The estimate with one heavy weight",
            rtol=1e-3,
        )  # fmt: skip


@points(2)
def test_quadratic(answer, rng):
    """Twice the samples, a quarter of the bias."""
    p, high = (0.35 + 0.3 * torch.rand(2, generator=rng)).tolist()
    high = 3 + high
    truth = math.log(1 - p + p * high)
    biases = [
        mean_over_outcomes(answer.jackknife, K, p, 1.0, high) - truth
        for K in (20, 40)
    ]
    ratio = biases[0] / biases[1] if biases[1] else math.nan
    expect.that(
        3.2 < ratio < 4.8,
        "With twice the samples the bias does not fall to a quarter.",
        f"{biases[0]:.2e} and {biases[1]:.2e}",
    )
    log_w = torch.randn(6, 3, generator=rng)
    again = answer.jackknife(log_w[torch.randperm(6, generator=rng)])
    expect.close(
        again,
        one_by_one(log_w),
        "The estimate, with the average over all ways of leaving one out,",
        atol=1e-3,
    )


@points(1)
def test_one_sample(answer, rng):
    """One sample is refused, two are not."""
    log_w = torch.randn(2, 3, generator=rng)
    expect.close(
        answer.jackknife(log_w), one_by_one(log_w), "Two samples", atol=1e-4
    )
    expect.raises(ValueError, lambda: answer.jackknife(log_w[:1]), "One sample")


@points(1)
def test_no_bound(answer, rng):
    """The word, with an estimate that shows it."""
    log_w = torch.randn(5, 2, generator=rng)
    expect.close(
        answer.jackknife(log_w), one_by_one(log_w), "The estimate", atol=1e-3
    )
    sides = set()
    for p, low in ((0.5, 1.0), (0.02, 1.0), (0.98, 0.01)):
        mean = mean_over_outcomes(one_by_one, 6, p, low, 3.0)
        sides.add(mean > math.log(p * 3.0 + (1 - p) * low))
    expect.equal(
        answer.is_bound, "no bound" if len(sides) == 2 else "a bound", "`is_bound`",
        options=OPTIONS,
        mistakes={
            "for a weight that is rarely tiny the mean lies above log p(x)": "a lower bound",
            "for a weight that is rarely large the mean lies below log p(x)": "an upper bound",
        },
    )  # fmt: skip


# %% right: row by row
def jackknife(log_w):
    K = log_w.shape[0]
    if K == 1:
        raise ValueError("one sample")
    rows = [
        log_w[torch.arange(K) != k].logsumexp(0) - math.log(K - 1)
        for k in range(K)
    ]
    whole = log_w.logsumexp(0) - math.log(K)
    return whole + (K - 1) * (whole - torch.stack(rows).mean(0))


# %% wrong: the bound itself
def jackknife(log_w):
    if len(log_w) < 2:
        raise ValueError("one sample")
    return log_w.logsumexp(0) - math.log(len(log_w))


# %% wrong: one way of leaving one out
def jackknife(log_w):
    K = len(log_w)
    if K < 2:
        raise ValueError("one sample")
    whole = log_w.logsumexp(0) - math.log(K)
    return K * whole - (K - 1) * (log_w[1:].logsumexp(0) - math.log(K - 1))


# %% wrong: takes the own weight out by a difference
def jackknife(log_w):
    K = len(log_w)
    if K < 2:
        raise ValueError("one sample")
    total = log_w.logsumexp(0)
    rest = total + torch.log1p(-(log_w - total).exp())
    others = rest - math.log(K - 1)
    return K * (total - math.log(K)) - (K - 1) * others.mean(0)


# %% wrong: forms the weights
def jackknife(log_w):
    K, w = len(log_w), log_w.exp()
    if K < 2:
        raise ValueError("one sample")
    others = (w.sum(0) - w) / (K - 1)
    return K * w.mean(0).log() - (K - 1) * others.log().mean(0)


# %% wrong: adds the leading bias that it estimates
def jackknife(log_w):
    K = len(log_w)
    if K < 2:
        raise ValueError("one sample")
    w = (log_w - log_w.max(0).values).exp()
    rho = w.var(0) / w.mean(0) ** 2
    return log_w.logsumexp(0) - math.log(K) + rho / (2 * K)


# %% wrong: takes one sample for a bound
def jackknife(log_w):
    K = len(log_w)
    whole = log_w.logsumexp(0) - math.log(K)
    if K == 1:
        return whole
    own = torch.eye(K, dtype=torch.bool).unsqueeze(-1)
    others = log_w.masked_fill(own, -torch.inf).logsumexp(1) - math.log(K - 1)
    return K * whole - (K - 1) * others.mean(0)


# %% wrong: no half in the leading term
def leading(rho, K):
    return -rho / K


# %% wrong: still a lower bound
is_bound = "a lower bound"


# %% idle: the bound, and no bias seen
def leading(rho, K):
    return 0.0


def jackknife(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


is_bound = "no bound"

# %% solution
r"""
$\log(1+\delta) = \delta-\delta^2/2+\dots$ and $\mathrm{Var}(\delta) = \rho/K$: the leading bias is $-\rho/(2K)$. The combination without $1/K$ is $KL_K-(K-1)L_{K-1}$, with $L_{K-1}$ averaged over the $K$ ways of leaving one out: the jackknife (for this bound, Nowozin, 2018, *Debiasing Evidence Approximations*). It adds $K-1$ times the difference that one sample makes, which is small if weights are alike and huge if one of them is all there is.

That is the price: the estimate is noisier, and its mean is no bound. What is left of the bias, about $(\frac34\rho^2-\frac13\mu_3)/K^2$ with $\mu_3 = \mathbb E[(w/p(x)-1)^3]$, has either sign: positive for weights of a symmetric law, negative where a weight is rarely somewhat larger than the others. A model chosen by the highest estimate may be the one whose weights are worst. To *compare* models by a number that errs on one side only, keep the bound.

To add an estimate of the leading bias, $\hat\rho/(2K)$, removes the $1/K$ as well; it is another estimate than the one that is asked for.
"""

# %% rubric
r"""
Two points for the leading bias, three for any weights, two for the order of the bias, one for refusing one sample, one for the word; the last two only with a right estimate.
"""
