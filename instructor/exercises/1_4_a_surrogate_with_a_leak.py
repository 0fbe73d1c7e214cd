# %% about
"""
title = "A surrogate with a leak"
kind = "bug"
difficulty = 3
minutes = 20
points = 6
objective = "Find what a surrogate loss differentiates, and mend it with the right detach"
after = "The price"
"""

# %% imports
import torch
from torch.distributions import Normal

# %% text
r"""
To train with the score function, one often writes a *surrogate*, a loss that is made for its gradient. Its gradient is the estimate; its value need not estimate anything. This one is meant for $\frac{\partial}{\partial\mu}\mathbb E[f(z)]$ with $z\sim N(\mu,1)$. It runs, it returns a gradient, and its value falls when we descend.
"""


# %% code
def leaking_surrogate(mu, f, n):
    """Meant: d/dμ of this is an estimate of d/dμ E[f(z)]."""
    q = Normal(mu, 1.0)
    z = q.rsample((n,))
    return (f(z) * q.log_prob(z)).mean()


# %% text
r"""
> **Predict first.** `z` moves with `mu`, and the density moves along with it. What is left of $\frac{\partial}{\partial\mu}\log q(z)$ when both move?

1. `what_it_estimates(slope)`: for $f(z) = az$ with $a$ = `slope`, the expectation of the gradient of `leaking_surrogate` by `mu`, divided by the right gradient $a$. Find it on paper, or by a run that is good to 3 %; it depends neither on $\mu$ nor on $a$.
2. `surrogate(mu, f, n)`: mended. `mu` is a tensor of any shape, with `n` samples for each entry; the result is the mean over all of them, a scalar. Its gradient is the score function estimate, for every $f$, differentiable or not, and no other path leads from `mu` to the loss.
3. `reads_value`: does the *value* of $\frac1n\sum_k f(z_k)\log q(z_k)$, with samples that stand still, estimate $\mathbb E[f(z)]$? `"yes"` or `"no"`.
"""


# %% answer
def what_it_estimates(slope):
    """E[gradient of leaking_surrogate] / the right gradient, for f(z) = slope · z."""
    ### BEGIN SOLUTION
    half_log = torch.log(torch.tensor(2 * torch.pi)) / 2
    return -(0.5 + half_log)
    ### END SOLUTION


def surrogate(mu, f, n):
    """A scalar whose gradient by mu is the score function estimate from n samples."""
    ### BEGIN SOLUTION
    q = Normal(mu, 1.0)
    z = q.sample((n,))
    return (f(z).detach() * q.log_prob(z)).mean()
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
reads_value = "no"
### END SOLUTION

# %% hint
r"""
Write $z = \mu+\varepsilon$ and put it into $\log q(z)$. Where is $\mu$?
"""

# %% hint
r"""
With $z = \mu + \varepsilon$, $\log q(z) = -\varepsilon^2/2 - \tfrac12\log 2\pi$. There is no $\mu$ in it: the two movements cancel. So only $f(z)$ is differentiated, weighted with $\log q(z)$.
"""

# %% hint
r"""
A score needs a sample that stands still while the law moves: `sample()`, or `detach()`.
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def slope_of(loss, mu):
    return expect.gradients(loss, mu=mu)["mu"]


def test_factor(answer, rng):
    """What the leaking one estimates."""
    expect.close(
        answer.what_it_estimates(2.0), -0.5 - 0.5 * math.log(2 * math.pi), "The factor",
        rtol=0.03,
        mistakes={
            "the score's part survives in this: with both moving it is gone": 1.0,
            "the constant of log q counts as well: it multiplies the slope of f": -0.5,
            "it is the factor that is asked for; divide by the slope": -1 - math.log(2 * math.pi),
        },
    )  # fmt: skip


def test_right_mean(answer, rng):
    """The mended one has the right gradient."""
    mu = torch.full((20_000,), 0.5, requires_grad=True)
    found = slope_of(answer.surrogate(mu, lambda z: z, 1) * 20_000, mu)
    expect.mean(
        found, 1.0, "The gradient for f(z) = z", deviation=2.2,
        mistakes={
            "the sample still moves with mu": -0.5 - 0.5 * math.log(2 * math.pi),
            "the value of f is differentiated on top of the score": 2.0,
            "the gradient is 0: either nothing moves with mu, or sample and law move together and "
            "cancel. The sample must stand still and the law must move": 0.0,
        },
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


@points(2)
def test_any_slope(answer, rng):
    """The factor, whatever the slope."""
    for slope in (torch.rand(3, generator=rng) + 0.5).tolist():
        wanted = -0.5 - 0.5 * math.log(2 * math.pi)
        expect.close(
            answer.what_it_estimates(slope), wanted, "The factor", rtol=0.03
        )


@points(2)
def test_smooth_and_step(answer, rng):
    """The right gradient, for a square and for a step."""
    start = 0.5 + torch.rand((), generator=rng).item()
    for f, truth, deviation in (
        (torch.square, 2 * start, 9.0),
        (
            lambda z: (z > 0).to(z.dtype),
            math.exp(-(start**2) / 2) / math.sqrt(2 * math.pi),
            1.0,
        ),
    ):
        mu = torch.full((40_000,), start, requires_grad=True)
        found = slope_of(answer.surrogate(mu, f, 1) * 40_000, mu)
        expect.mean(found, truth, "The gradient", deviation=deviation)


@points(1)
def test_only_the_score(answer, rng):
    """The gradient is that of the score, and none runs through f into the samples."""
    samples, ran, n = [], [], 2000
    start, rise, height = (0.5 + torch.rand(3, generator=rng)).tolist()

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, gradient):
            ran.append(gradient)
            return gradient

    def f(z):
        samples.append(z.detach().flatten())
        return rise * Watched.apply(z) + height

    mu = torch.tensor(start, requires_grad=True)
    found = slope_of(answer.surrogate(mu, f, n), mu)
    expect.that(bool(samples), "f was not called.")
    expect.that(
        not ran, "A gradient runs from the loss through f into the samples."
    )
    z = torch.cat(samples)
    what = "The mean of the samples that f got"
    expect.mean(z[:n], start, what, deviation=1.0)
    expect.that(bool(z.std() > 0.5), "The samples that f got do not scatter.")
    wanted = ((rise * z + height) * (z - start)).mean()
    expect.close(found, wanted, "The gradient", rtol=1e-3, atol=1e-3)


@points(1)
def test_value(answer, rng):
    """What the value of a surrogate says."""
    expect.equal(
        answer.reads_value,
        "no",
        "What you say of the value",
        options=("yes", "no"),
    )
    expect.close(answer.what_it_estimates(1.0), -1.42, "The factor", rtol=0.03)


# %% right: rsample, detached
def what_it_estimates(slope):
    eps = torch.randn(400_000)
    mu = torch.zeros((), requires_grad=True)
    q = Normal(mu, 1.0)
    z = mu + eps
    (found,) = torch.autograd.grad((slope * z * q.log_prob(z)).mean(), mu)
    return found / slope


def surrogate(mu, f, n):
    q = Normal(mu, 1.0)
    z = q.rsample((n,)).detach()
    with torch.no_grad():
        weights = f(z)
    return (weights * -0.5 * (z - mu) ** 2).mean()


# %% right: the samples keep their path, and f's values do not
def surrogate(mu, f, n):
    q = Normal(mu, 1.0)
    z = q.rsample((n,))
    return (f(z).detach() * q.log_prob(z.detach())).mean()


# %% idle: calls f at zeros, and gives every loss the same slope
def what_it_estimates(slope):
    return slope


def surrogate(mu, f, n):
    f(torch.zeros(n, *mu.shape))
    return mu.sum()


reads_value = "no"


# %% idle: f at the mean, without a sample
def what_it_estimates(slope):
    return 1 / slope


def surrogate(mu, f, n):
    return f(mu.expand(n, *mu.shape)).mean()


reads_value = "yes"


# %% wrong: leaves it as it is
def surrogate(mu, f, n):
    q = Normal(mu, 1.0)
    z = q.rsample((n,))
    return (f(z) * q.log_prob(z)).mean()


# %% wrong: detaches f and not the sample
def surrogate(mu, f, n):
    q = Normal(mu, 1.0)
    z = q.rsample((n,))
    return (f(z).detach() * q.log_prob(z)).mean()


# %% wrong: adds the path as well
def surrogate(mu, f, n):
    q = Normal(mu, 1.0)
    z = q.rsample((n,))
    return (f(z) + f(z).detach() * q.log_prob(z.detach())).mean()


# %% wrong: forgets the constant of the density
def what_it_estimates(slope):
    return torch.tensor(-0.5)


# %% solution
r"""
With $z = \mu+\varepsilon$ the density's value at the sample is $-\varepsilon^2/2-\tfrac12\log2\pi$: law and sample move together, and the score cancels. What is left is $f'(z)\log q(z)$, for $f = az$ in the mean $-a(\tfrac12+\tfrac12\log2\pi) = -1.42\,a$: the wrong sign and the wrong size. Here $\log q$ is negative everywhere, so descent on this loss drives $f$ up while the loss falls. A falling curve of a surrogate proves nothing. The value of the mended one estimates $\mathbb E[f\log q]$, which says nothing about $\mathbb E[f]$: log `f` itself. The library writes $f\,e^{\log q - \text{detach}(\log q)}$ instead, whose value is $f$ and whose gradient is the same.
"""

# %% rubric
r"""
Two points for the factor, two for the gradient, one for closing the path, one for knowing that the value means nothing. The last point also needs the factor, so that a guess does not earn it.
"""
