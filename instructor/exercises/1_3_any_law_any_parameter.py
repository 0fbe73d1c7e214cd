# %% about
"""
title = "Any law, any parameter"
kind = "implementation"
difficulty = 3
minutes = 20
points = 6
objective = "Implement the score function estimator, one estimate a sample, for any torch distribution"
after = "The score function"
"""

# %% imports
import torch
from torch.distributions import Bernoulli, Exponential, Normal

# %% text
r"""
Write the score function estimator once, for every law of PyTorch that has `sample` and `log_prob`.

`score_gradients(f, make, theta, n)`: `theta` is a number. `make(t)` takes a number or a tensor `t` and returns a `torch.distributions` object of one real variable for each entry of `t`. `f` takes a tensor of samples `[n]` and returns `[n]` values. Return a tensor `[n]`: one estimate of $\frac{d}{d\theta}\,\mathbb E[f(z)]$ for each of `n` independent samples. Call `f` once. Do not use `rsample`: many laws have none.

The cell below shows three problems with known answers to try it on.
"""

# %% code
problems = {
    "exponential, E[z] = 1/θ": (
        lambda z: z,
        lambda t: Exponential(t),
        2.0,
        -0.25,
    ),
    "normal, E[z²] = θ² + 1": (torch.square, lambda t: Normal(t, 1.0), 0.5, 1.0),
    "a bit, E[b] = θ": (lambda b: b, lambda t: Bernoulli(t), 0.3, 1.0),
}


# %% answer
def score_gradients(f, make, theta, n):
    """[n] score function estimates of d/dθ E[f(z)], z ~ make(θ)."""
    ### BEGIN SOLUTION
    thetas = torch.full((n,), float(theta), requires_grad=True)
    law = make(thetas)
    z = law.sample()
    (scores,) = torch.autograd.grad(law.log_prob(z).sum(), thetas)
    with torch.no_grad():
        return f(z) * scores
    ### END SOLUTION


# %% hint
r"""
One backward pass gives one gradient for each *parameter*. So give every sample its own copy of $\theta$: a tensor with `n` equal entries.
"""

# %% hint
r"""
The sum over the samples of `log_prob` has, by the $i$-th copy of $\theta$, the derivative of the $i$-th term alone: that is the $i$-th score.
"""

# %% visible
import torch
from torch.distributions import Exponential, Normal

from reparam.exercises import expect


def test_shape(answer, rng):
    """One estimate for each sample."""
    found = answer.score_gradients(lambda z: z, lambda t: Exponential(t), 2.0, 7)
    expect.tensor(found, (7,), "The estimates")


def test_exponential(answer, rng):
    """The mean of an exponential."""
    n = 40_000
    found = answer.score_gradients(lambda z: z, lambda t: Exponential(t), 2.0, n)
    expect.mean(
        expect.tensor(found, (n,), "The estimates"), -0.25, "The mean of your estimates",
        deviation=1.2,
        mistakes={
            "the mean is 0: either the scores are not weighted with f, or the density is "
            "differentiated and not its logarithm": 0.0,
            "the sign is turned": 0.25,
        },
    )  # fmt: skip


def test_it_is_the_score_function(answer, rng):
    """A constant f has gradient 0 in the mean, and estimates that scatter."""
    found = answer.score_gradients(
        lambda z: z * 0 + 3, lambda t: Normal(t, 1.0), 0.0, 1000
    )
    found = expect.tensor(found, (1000,), "The estimates")
    expect.that(
        bool(found.std() > 1),
        "For a constant f every one of your estimates is nearly the same: this is not f times the "
        "score, sample by sample.",
    )


# %% hidden
import math

from torch.distributions import Bernoulli, Gamma, Poisson

from reparam.exercises import points


def own_scatter(f, make, theta, n):
    """The standard deviation of n estimates of our own."""
    thetas = torch.full((n,), theta, requires_grad=True)
    law = make(thetas)
    z = law.sample()
    (scores,) = torch.autograd.grad(law.log_prob(z).sum(), thetas)
    return (f(z) * scores).std()


def right_mean(answer, f, make, theta, truth, deviation, n=60_000):
    """The estimates have the right mean and the scatter of f times the score."""
    found = answer.score_gradients(f, make, theta, n)
    found = expect.tensor(found, (n,), "The estimates")
    what = "The mean of your estimates"
    expect.mean(found, truth, what, deviation=deviation)
    expect.that(
        bool(found.std() > 0.7 * own_scatter(f, make, theta, n)),
        "Your estimates scatter less than f times the score does.",
    )


@points(2)
def test_continuous(answer, rng):
    """Laws with a density."""
    a = 1 + torch.rand((), generator=rng).item()
    right_mean(
        answer, torch.square, lambda t: Normal(t, 0.7), a, 2 * a,
        deviation=(a**2 + 3) * 3.5,
    )  # fmt: skip
    right_mean(
        answer, lambda z: z, lambda t: Gamma(t, 2.0), a, 0.5, deviation=4.0
    )


@points(2)
def test_discrete(answer, rng):
    """Laws without one."""
    p = 0.3 + 0.4 * torch.rand((), generator=rng).item()
    height = 1 + torch.rand((), generator=rng).item()
    right_mean(
        answer, lambda b: height * b + 1, lambda t: Bernoulli(t), p, height,
        deviation=8.0,
    )  # fmt: skip
    rate = 3 * p
    slope = (math.exp(-rate) * (1 + rate) - 1) / rate**2
    right_mean(
        answer, lambda k: 1 / (1 + k), lambda t: Poisson(t), rate, slope,
        deviation=1.0,
    )  # fmt: skip


@points(1)
def test_sample_by_sample(answer, rng):
    """Every estimate is f times the score of its own sample."""
    n, theta = 40_000, torch.randn((), generator=rng).item()
    seen = []

    def f(z):
        seen.append(z.detach().clone())
        return z**3 + 1

    found = answer.score_gradients(f, lambda t: Normal(t, 2.0), theta, n)
    expect.that(bool(seen), "f was never called.")
    z = expect.tensor(seen[0], (n,), "What f got")
    expect.mean(z, theta, "The mean of what f got", deviation=2.0)
    expect.variance(z, 4.0, "The variance of what f got", within=0.2)
    wanted = (z**3 + 1) * (z - theta) / 4
    expect.close(
        found, wanted, "The estimates, sample by sample", rtol=1e-3, atol=1e-3
    )


@points(1)
def test_black_box(answer, rng):
    """f is called once, and its slope is not asked for."""
    calls, n = [], 40_000
    theta, below = torch.rand(2, generator=rng).tolist()
    edge = theta - below

    def f(z):
        calls.append(z.requires_grad)
        return (z > edge).to(z.dtype)

    found = answer.score_gradients(f, lambda t: Normal(t, 1.0), theta, n)
    expect.that(len(calls) == 1, "f was not called once.")
    expect.that(
        not calls[0], "f got samples that carry a graph: rsample was used."
    )
    truth = float(Normal(theta, 1.0).log_prob(torch.tensor(edge)).exp())
    expect.mean(
        expect.tensor(found, (n,), "The estimates"), truth, "The mean for a step",
        deviation=1.0,
    )  # fmt: skip


# %% right: a loop over the samples' graph by vmap
def score_gradients(f, make, theta, n):
    theta = torch.tensor(float(theta))
    z = make(theta).sample((n,))
    scores = torch.func.vmap(
        torch.func.grad(lambda t, x: make(t).log_prob(x)), in_dims=(None, 0)
    )
    try:
        found = scores(theta, z)
    except Exception:  # a law whose checks vmap cannot pass
        copies = theta.expand(n).clone().requires_grad_()
        (found,) = torch.autograd.grad(make(copies).log_prob(z).sum(), copies)
    return f(z) * found


# %% idle: calls f once, at θ, and returns zeros
def score_gradients(f, make, theta, n):
    f(torch.full((n,), float(theta)))
    return torch.zeros(n)


# %% idle: calls f once, with samples, and returns its values
def score_gradients(f, make, theta, n):
    return f(make(torch.full((n,), float(theta))).sample())


# %% idle: how much f rises from 0 to 1
def score_gradients(f, make, theta, n):
    low, high = f(torch.tensor([0.0, 1.0]))
    return (high - low).expand(n)


# %% wrong: one gradient for the whole batch
def score_gradients(f, make, theta, n):
    theta = torch.tensor(float(theta), requires_grad=True)
    law = make(theta)
    z = law.sample((n,))
    (found,) = torch.autograd.grad((f(z) * law.log_prob(z)).mean(), theta)
    return found.expand(n)


# %% wrong: the density in place of its logarithm
def score_gradients(f, make, theta, n):
    thetas = torch.full((n,), float(theta), requires_grad=True)
    law = make(thetas)
    z = law.sample()
    (found,) = torch.autograd.grad(law.log_prob(z).exp().sum(), thetas)
    return f(z) * found


# %% wrong: the sign turned, as in a loss
def score_gradients(f, make, theta, n):
    thetas = torch.full((n,), float(theta), requires_grad=True)
    law = make(thetas)
    z = law.sample()
    (found,) = torch.autograd.grad(-law.log_prob(z).sum(), thetas)
    return f(z) * found


# %% wrong: the score alone
def score_gradients(f, make, theta, n):
    thetas = torch.full((n,), float(theta), requires_grad=True)
    law = make(thetas)
    (found,) = torch.autograd.grad(law.log_prob(law.sample()).sum(), thetas)
    return found


# %% solution
r"""
With a copy of $\theta$ for every sample, one backward pass through the summed `log_prob` gives all scores at once. Nothing is asked of $f$ but its values, so a step, a simulator or a person will do, and nothing of the law but `sample` and `log_prob`, so bits and counts will do.
"""

# %% rubric
r"""
Two points for densities, two for discrete laws, one for the estimates sample by sample, one for treating $f$ as a black box.
"""
