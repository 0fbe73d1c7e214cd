# %% about
"""
title = "A baseline that knows too much"
kind = "bug"
difficulty = 2
minutes = 15
points = 5
objective = "Find the bias of a baseline that contains its own sample, and mend it"
after = "A baseline from the other samples"
"""

# %% imports
import torch

# %% text
r"""
With $K$ samples at hand, this function takes their mean as the baseline. It trains well, so nobody looks at it again.

Arguments: `values`, the $f(z_k)$, and `scores`, the $\partial\log q(z_k)/\partial\phi$ for one parameter, both of shape `[K]`. It returns one estimate of $\partial\,\mathbb E[f]/\partial\phi$.
"""


# %% code
def with_mean_baseline(values, scores):
    """One estimate of the gradient from K samples."""
    return ((values - values.mean()) * scores).mean()


# %% text
r"""
> **Predict first.** Each sample's own value is part of the baseline that is taken from it. Does that shrink the estimate, enlarge it, or only make it noisier?

First, `bias_factor(K)`: the expectation of `with_mean_baseline` divided by the true gradient, for $K$ independent samples. Then `mended`: the same idea without the bias, with one return value as above. It must work for every $K\ge2$, and a constant added to all `values` must change neither its mean nor its variance.
"""


# %% answer
def bias_factor(K):
    """E[with_mean_baseline] / true gradient."""
    ### BEGIN SOLUTION
    return (K - 1) / K
    ### END SOLUTION


def mended(values, scores):
    """One unbiased estimate from K samples, with a baseline made of them."""
    ### BEGIN SOLUTION
    K = len(values)
    others = (values.sum() - values) / (K - 1)
    return ((values - others) * scores).mean()
    ### END SOLUTION


# %% hint
r"""
Expand the product. $\mathbb E[f(z_j)\,s(z_k)]$ is the gradient for $j = k$. For $j\ne k$ the two are independent, and the score has mean 0.
"""

# %% hint
r"""
Of the $K$ terms in the baseline of sample $k$, one is harmful. Leave it out, and divide by the number of those that stay.
"""

# %% visible
import itertools

import torch

from reparam.exercises import expect


def exact_moments(estimate, p, f, K):
    """Mean and variance of an estimate for one bit by its logit: every outcome of K bits, summed."""
    mean = second = 0.0
    for bits in itertools.product((0, 1), repeat=K):
        b = torch.tensor(bits, dtype=torch.float64)
        weight = float((p**b * (1 - p) ** (1 - b)).prod())
        found = expect.number(estimate(f(b), b - p), "The estimate")
        mean, second = mean + weight * found, second + weight * found**2
    return mean, second - mean**2


def test_factor(answer, rng):
    """The factor for two samples."""
    expect.close(
        answer.bias_factor(2), 0.5, "The factor for K = 2",
        mistakes={
            "this says that there is no bias; expand the product for K = 2": 1.0,
            "this is the factor that mends it, and its inverse is asked for": 2.0,
        },
    )  # fmt: skip


def test_mended(answer, rng):
    """Three samples of one bit, every outcome summed."""
    f = lambda b: 2 * b + 1
    truth = 0.3 * 0.7 * 2.0
    mean, _ = exact_moments(answer.mended, 0.3, f, 3)
    expect.close(
        mean, truth, "The mean of your estimate",
        mistakes={
            "the sample's own value is still in its baseline": truth * 2 / 3,
            "it is the sum over the samples, not their mean": truth * 3,
        },
    )  # fmt: skip


def test_constant(answer, rng):
    """A constant added to f makes the estimate no louder."""
    raised = lambda b: 2 * b + 11
    _, low = exact_moments(answer.mended, 0.3, lambda b: 2 * b + 1, 3)
    _, high = exact_moments(answer.mended, 0.3, raised, 3)
    bare = lambda values, scores: (values * scores).mean()
    expect.close(
        high, low, "The variance for a raised f",
        mistakes={
            "nothing is taken from the values, so that the constant is noise times ten":
                exact_moments(bare, 0.3, raised, 3)[1],
        },
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


@points(1)
def test_any_factor(answer, rng):
    """The factor for any number of samples."""
    for K in (2, 3, 5, 64):
        expect.close(answer.bias_factor(K), (K - 1) / K, "The factor")


@points(2)
def test_unbiased(answer, rng):
    """The mended estimate has the right mean for every number of samples."""
    for K in (2, 3, 4):
        p, height, slope = (
            torch.rand(3, generator=rng, dtype=torch.float64) + 0.1
        ).tolist()
        p = min(p, 0.9)
        f = lambda b: 5 * height + slope * b
        mean, _ = exact_moments(answer.mended, p, f, K)
        expect.close(
            mean, p * (1 - p) * slope, "The mean of your estimate", atol=1e-5
        )


@points(2)
def test_quiet(answer, rng):
    """A constant added to f changes nothing, and the mean is right with and without it."""
    p, slope = (0.2 + 0.6 * torch.rand(2, generator=rng)).tolist()
    found = [
        exact_moments(answer.mended, p, f, 4)
        for f in (lambda b: slope * b, lambda b: slope * b + 100)
    ]
    for mean, _ in found:
        expect.close(
            mean, p * (1 - p) * slope, "The mean of your estimate", atol=1e-5
        )
    (_, low), (_, high) = found
    expect.close(
        high, low, "The variance of your estimate for a raised f", atol=1e-6
    )


# %% right: the biased one, scaled
def bias_factor(K):
    return 1 - 1 / K


def mended(values, scores):
    K = len(values)
    return K / (K - 1) * ((values - values.mean()) * scores).mean()


# %% wrong: leaves the bias in
def mended(values, scores):
    return ((values - values.mean()) * scores).mean()


# %% wrong: no baseline at all
def mended(values, scores):
    return (values * scores).mean()


# %% wrong: sums in place of averaging
def mended(values, scores):
    K = len(values)
    others = (values.sum() - values) / (K - 1)
    return ((values - others) * scores).sum()


# %% wrong: divides the others by K
def mended(values, scores):
    others = (values.sum() - values) / len(values)
    return ((values - others) * scores).mean()


# %% wrong: takes the inverse for the factor
def bias_factor(K):
    return K / (K - 1)


# %% idle: the given function, and no bias seen in it
def bias_factor(K):
    return 1.0


mended = with_mean_baseline


# %% idle: takes the mean of the scores
def bias_factor(K):
    return 1 / K


def mended(values, scores):
    return scores.mean()


# %% solution
r"""
$\mathbb E[\bar f\,s_k] = \frac1K\mathbb E[f(z_k)\,s_k]$, since for the other samples the score averages to 0. So the estimate is short by a factor $(K-1)/K$: half the gradient for two samples. With a fixed step size that looks like a smaller learning rate, which is why it trains well and nobody notices; next to a term with an unbiased gradient (a KL, a decoder) it is a different objective. Dividing by $K-1$ in the baseline and leaving out the own sample, or multiplying the whole by $K/(K-1)$, are the same estimator.
"""

# %% rubric
r"""
One point for the factor, two for the mean, two for keeping the baseline without the bias (no baseline is unbiased, too, and loses these; the function as it was given gets neither).
"""
