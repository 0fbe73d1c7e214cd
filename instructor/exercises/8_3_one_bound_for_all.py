# %% about
"""
title = "One bound for all"
kind = "bug"
difficulty = 3
minutes = 20
points = 6
objective = "Find an importance-weighted bound that is too loose although it is a bound, and say what its looseness costs in samples"
after = "What an ELBO mixes"
"""

# %% imports
import math

import torch

# %% text
r"""
A colleague evaluates a model on $N$ held-out images with $K$ samples of each. In the mean the result is not above the log-likelihood, for $K=1$ it is the ELBO, it rises with $K$, and it is the same in any order of the images. Everything that (8.2) promises holds. Yet the paper that the model is from reports more, and a hundred times the samples hardly help.

Arguments: `log_joint`, the $\log p(x_n, z_{kn})$, and `log_q`, the $\log q(z_{kn}\mid x_n)$, both of shape `[K, N]`. Expected is the mean of the images' bounds, in nats per image: one number, in the precision of the arguments.
"""


# %% code
def bound(log_joint, log_q):
    """The importance-weighted bound, in nats per image."""
    log_p, log_q = log_joint.sum(1), log_q.sum(1)
    log_w = log_p - log_q
    return (log_w.logsumexp(0) - math.log(len(log_w))) / log_joint.shape[1]


# %% text
r"""
> **Predict first.** It is a bound of the right number. So what is it that is averaged $K$ times, and how often is a draw of it good?

1. `mended(log_joint, log_q)`: the bound as it should be.
2. `needed(s, N)`: how many samples each of the two wants, `(mended, given)`. Take the logarithms of all weights to be independent and normal, $\log w_{kn}\sim N(-s^2/2, s^2)$, so that $\mathbb E[w] = 1$. Call $K$ enough when $\mathrm{Var}(\bar w)/\mathbb E[\bar w]^2 = 1$. Here $\bar w$ is the average of $K$ weights: those of one image for the mended bound, those that the given code averages for the other. Return a tuple of two numbers, not rounded to whole ones. `s` is a float, `N` a whole number.
"""


# %% answer
def mended(log_joint, log_q):
    """The importance-weighted bound, in nats per image."""
    ### BEGIN SOLUTION
    log_w = log_joint - log_q
    return (log_w.logsumexp(0) - math.log(len(log_w))).mean()
    ### END SOLUTION


def needed(s, N):
    """Samples at which the relative variance is 1: (mended, given)."""
    ### BEGIN SOLUTION
    return math.expm1(s**2), math.expm1(N * s**2)
    ### END SOLUTION


# %% hint
r"""
Exchange two samples of *one* image, and leave the other images alone. Is there a reason for the result to change? Does it?
"""

# %% hint
r"""
The given code takes the data set for one observation, and its $N$ codes for one code: a weight is the product of $N$ weights. It is large only if one sample is good for all images at once, and there are only $K$ tries.
"""

# %% hint
r"""
For $\log w\sim N(m, v)$, $\mathbb E[w] = e^{m+v/2}$ and $\mathbb E[w^2] = e^{2m+2v}$. A sum of $N$ independent normal variables has $N$ times the mean and $N$ times the variance. The average of $K$ weights has a $K$-th of the variance of one.
"""

# %% visible
import math

import torch

from reparam.exercises import expect

LOG_W = torch.tensor([[0.0, 2.0, -1.0], [1.0, -2.0, 0.5]])
LOG_Q = torch.tensor([[-3.0, -2.5, -4.0], [-2.0, -3.5, -1.0]])


def test_mended(answer, rng):
    """Two samples of three images."""
    joint = LOG_W + LOG_Q
    w = LOG_W.exp()
    whole = LOG_W.sum(1)
    expect.close(
        answer.mended(joint, LOG_Q), w.mean(0).log().mean(), "The bound",
        mistakes={
            "this is what the given function returns":
                (whole.logsumexp(0) - math.log(2)) / 3,
            "this is the ELBO: average the weights of an image before the logarithm":
                LOG_W.mean(),
            "the weights of different images are averaged; an image's logarithm comes first":
                w.mean().log(),
            "it is the sum over the images, not their mean": w.mean(0).log().sum(),
            "log K is missing": w.sum(0).log().mean(),
            "the weights are averaged over the images, and the logarithms over samples":
                w.mean(1).log().mean(),
        },
    )  # fmt: skip


def test_one_image(answer, rng):
    """One image: both functions agree."""
    joint = (LOG_W + LOG_Q)[:, :1]
    expect.close(
        answer.mended(joint, LOG_Q[:, :1]), LOG_W[:, 0].exp().mean().log(),
        "The bound of one image",
    )  # fmt: skip


def test_needed(answer, rng):
    """s = 1/2 and one image, or ten."""
    one = math.expm1(0.25)
    for N in (1, 10):
        found = answer.needed(0.5, N)
        expect.that(
            isinstance(found, (tuple, list)) and len(found) == 2,
            "`needed` should return a tuple of two numbers, (mended, given).",
        )
        expect.close(
            found[0], one, "The samples that the mended bound needs at s = 1/2",
            mistakes={
                "this is E[w²]; the variance has the squared mean taken away": one + 1,
                "this is Var(log w); the variance of w is asked for": 0.25,
                "s is the standard deviation of log w, its variance is s²": math.expm1(0.5),
            },
        )  # fmt: skip
    expect.close(
        found[1], math.expm1(2.5), "The samples that the given bound needs at s = 1/2, N = 10",
        mistakes={
            "this is ten times those of one image; a product's relative variance does not add up":
                10 * one,
            "this is the relative variance of one image, to the tenth power; take the 1 away last":
                one**10,
            "the variances of independent variables add up to N s², not (N s)²":
                math.expm1(25.0),
        },
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


def draw(rng, K, N, spread=2.0):
    log_q = 3 * torch.randn(K, N, generator=rng, dtype=torch.float64)
    log_w = spread * torch.randn(K, N, generator=rng, dtype=torch.float64)
    return log_w + log_q, log_q


@points(2)
def test_any_bound(answer, rng):
    """Any numbers of samples and images."""
    for K, N in ((2, 3), (7, 5), (40, 20)):
        joint, log_q = draw(rng, K, N)
        each = torch.stack([w.mean().log() for w in (joint - log_q).exp().T])
        expect.close(answer.mended(joint, log_q), each.mean(), "The bound")


@points(2)
def test_shuffled(answer, rng):
    """Samples of one image change places; large images."""
    joint, log_q = draw(rng, 30, 6)
    places = torch.stack([torch.randperm(30, generator=rng) for _ in range(6)], 1)
    each = (joint - log_q).exp().mean(0).log().mean()
    for scale in (0.0, -3000.0):
        again = answer.mended(
            (joint + scale).gather(0, places), log_q.gather(0, places)
        )
        expect.close(
            again,
            each + scale,
            "The bound of shuffled samples, in the precision of the arguments,",
            rtol=1e-9,
        )


@points(2)
def test_any_needed(answer, rng):
    """Any spread, any number of images."""
    for N in (1, 2, 6):
        s = 0.2 + float(torch.rand((), generator=rng))
        found = answer.needed(s, N)
        expect.that(
            isinstance(found, (tuple, list)) and len(found) == 2,
            "`needed` should return a tuple of two numbers, (mended, given).",
        )
        # Moments of a normal logarithm, by summing over a grid.
        z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
        weight = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
        for value, v in zip(found, (s**2, N * s**2), strict=True):
            w = torch.exp(math.sqrt(v) * z - v / 2)
            wanted = float((weight * w**2).sum()) - 1
            expect.close(value, wanted, "The number of samples", rtol=1e-3)


# %% right: image by image
def mended(log_joint, log_q):
    total = 0.0
    for p, q in zip(log_joint.T, log_q.T, strict=True):
        most = (p - q).max()
        total = total + most + (p - q - most).exp().mean().log()
    return total / log_joint.shape[1]


def needed(s, N):
    return math.exp(s * s) - 1, math.exp(s * s) ** N - 1


# %% wrong: as it was
def mended(log_joint, log_q):
    log_p, log_q = log_joint.sum(1), log_q.sum(1)
    return (
        (log_p - log_q).logsumexp(0) - math.log(len(log_p))
    ) / log_joint.shape[1]


# %% wrong: the ELBO
def mended(log_joint, log_q):
    return (log_joint - log_q).mean()


# %% wrong: one average over samples and images
def mended(log_joint, log_q):
    log_w = (log_joint - log_q).flatten()
    return log_w.logsumexp(0) - math.log(len(log_w))


# %% wrong: no log K
def mended(log_joint, log_q):
    return (log_joint - log_q).logsumexp(0).mean()


# %% wrong: forms the weights
def mended(log_joint, log_q):
    return (log_joint.exp() / log_q.exp()).mean(0).log().mean()


# %% wrong: as many for both, times N
def needed(s, N):
    return math.expm1(s**2), N * math.expm1(s**2)


# %% wrong: second moments
def needed(s, N):
    return math.exp(s**2), math.exp(N * s**2)


# %% idle: the given function, and one sample for all
def mended(log_joint, log_q):
    return bound(log_joint, log_q)


def needed(s, N):
    return 1.0, 1.0


# %% solution
r"""
`log_joint.sum(1)` is the logarithm of the probability of all images with all their codes: the data set becomes one observation with one long code. That has an importance-weighted bound, too, and everything of (8.2) holds for it. But its weights are products of $N$ weights, of which a sample has to be good in all images at once. The images' samples are independent, so that each image can have its own average: $K$ samples of each image are $K^N$ samples of the whole, and the sum over $n$ of the logarithms of averages uses all of them.

For normal logarithms one weight has the relative variance $e^{s^2}-1$, and the average of $K$ a $K$-th of it. The product has $e^{Ns^2}-1$: for $s=1$ two samples an image are enough by this measure, and for ten images taken together 22,025, for a hundred $10^{43}$. A bound that holds is no evidence that it is the one that was meant; a symmetry that it lacks is (here: the samples of an image have no order).
"""

# %% rubric
r"""
Two points for the bound, two for the bound on any scale and in any order of an image's samples, two for both numbers of samples.
"""
