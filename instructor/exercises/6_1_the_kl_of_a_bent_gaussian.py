# %% about
"""
title = "The KL of a bent Gaussian"
kind = "derivation"
difficulty = 2
minutes = 15
points = 5
objective = "Derive the KL of a one-layer flow to the prior, and its best parameter"
after = "Push a density through a map"
"""

# %% imports
import torch

# %% text
r"""
The chapter estimates the KL of a flow from samples. One flow has it in closed form. In one dimension let

$$z = \ell_a(\sigma\varepsilon),\qquad \varepsilon\sim N(0, 1),\qquad \ell_a(x) = \begin{cases} x & x\ge 0\\ a\,x & x<0\end{cases}$$

with $\sigma>0$ and $a>0$: a Gaussian whose left half is stretched or squeezed by $a$.

> **Predict first.** Let $\sigma = \frac12$. Which slope $a$ brings the law of $z$ closest to $N(0, 1)$: smaller than 1, 1, or larger?

On paper, write down $\log q(z)$ by (6.1), take its mean and that of $\log p(z)$ with $p$ the density of $N(0, 1)$, and find $\mathrm{KL}(q\,\|\,p)$ in nats. Then find the $a$ that makes it smallest. Both arguments are tensors of one shape, and so are the results.
"""


# %% answer
def bent_kl(sigma, a):
    """KL(q ‖ N(0, 1)) of z = leaky(sigma · ε) with slope a on the left."""
    ### BEGIN SOLUTION
    second_moment = sigma**2 * (1 + a**2) / 2
    return 0.5 * (second_moment - 1 - torch.log(sigma**2 * a))
    ### END SOLUTION


def best_slope(sigma):
    """The a > 0 with the least KL, entry by entry."""
    ### BEGIN SOLUTION
    return 1 / sigma
    ### END SOLUTION


# %% hint
r"""
$\log q(z) = \log q_0(x) - \log|\ell_a'(x)|$ with $x = \sigma\varepsilon$. The second term is $\log a$ for some of the $x$ and 0 for the others. How often is it which?
"""

# %% hint
r"""
$\mathbb E[\log q_0(x)]$ is minus the entropy of a Gaussian, $-\frac12\log(2\pi e\,\sigma^2)$. For $\mathbb E[\log p(z)]$ you need $\mathbb E[z^2]$, half of which comes from either side.
"""

# %% hint
r"""
At $a = 1$ your formula must be the KL of two Gaussians, $\frac12(\sigma^2-1-\log\sigma^2)$. For the best slope, set its derivative by $a$ to 0.
"""

# %% visible
import torch

from reparam.exercises import expect


def test_plain(answer, rng):
    """With slope 1 it is the Gaussian's KL."""
    sigma = torch.tensor([0.5, 1.0, 3.0])
    found = answer.bent_kl(sigma, torch.ones(3))
    wanted = 0.5 * (sigma**2 - 1 - 2 * torch.log(sigma))
    expect.close(found, wanted, "The KL at a = 1")


def test_bent(answer, rng):
    """With other slopes, at σ = 1, where the right half is the prior's."""
    a = torch.tensor([3.0, 0.2])
    log_a = torch.log(a)
    expect.close(
        answer.bent_kl(torch.ones(2), a), (a**2 - 1) / 4 - log_a / 2,
        "The KL of two bent Gaussians with σ = 1",
        mistakes={
            "the log-determinant is counted for every sample. On which side is the slope a?":
                (a**2 - 1) / 4 - log_a,
            "the log-determinant has the other sign. Where space is stretched, density is "
            "thinned": (a**2 - 1) / 4 + log_a / 2,
            "the log-determinant is missing, so that q is no density": (a**2 - 1) / 4,
            "the prior is taken at σε, before the bend. With large a this 'KL' is negative":
                -log_a / 2,
            "this is the KL without the bend": torch.zeros(2),
        },
    )  # fmt: skip


def test_mirror(answer, rng):
    """A law and its mirror image are equally far from the prior."""
    sigma, a = torch.tensor([0.5, 1.5]), torch.tensor([3.0, 1.8])
    found = answer.bent_kl(sigma, a)
    expect.close(
        answer.bent_kl(a * sigma, 1 / a), found,
        "The KL of the mirror image, whose right half has the scale aσ and whose left half σ,",
    )  # fmt: skip


def test_best(answer, rng):
    """The best slope at σ = 1/2 beats its neighbors, by the answer's own KL."""
    sigma = torch.tensor([0.5], dtype=torch.float64)
    found = expect.tensor(answer.best_slope(sigma), (1,), "The best slope")
    expect.that(bool((found > 0).all()), "The best slope should be positive.")
    here, left, right = (
        expect.number(answer.bent_kl(sigma, found * c), "The KL")
        for c in (1.0, 0.97, 1.03)
    )
    sentence = "By your bent_kl a slightly {} slope is closer than the one you call best."
    expect.that(here < left, sentence.format("smaller"))
    expect.that(here < right, sentence.format("larger"))


# %% hidden
import math

from reparam.exercises import points


def kl_by_sum(sigma, a, points=4001):
    """The KL by summing over z on a fine grid, each half on its own; [n] for [n]."""
    sigma, a = sigma.double()[:, None], a.double()[:, None]
    total = 0
    for scale, side in ((sigma, 1), (a * sigma, -1)):
        z = side * scale * torch.linspace(0, 12, points, dtype=torch.float64)
        log_q = (
            -0.5 * (z / scale) ** 2 - torch.log(scale) - 0.5 * math.log(math.tau)
        )
        log_p = -0.5 * z**2 - 0.5 * math.log(math.tau)
        inside = log_q.exp() * (log_q - log_p)
        total = total + torch.trapezoid(inside, z.abs(), dim=-1)
    return total


def mistaken(sigma, a):
    """What known mistakes lead to."""
    bent = sigma**2 * (1 + a**2) / 2 - 1 - torch.log(sigma**2)
    straight = sigma**2 - 1 - torch.log(sigma**2)
    return {
        "the log-determinant is counted for every sample. On which side is the slope a?":
            0.5 * bent - torch.log(a),
        "the log-determinant has the other sign. Where space is stretched, density is "
        "thinned": 0.5 * (bent + torch.log(a)),
        "the log-determinant is missing, so that q is no density": 0.5 * bent,
        "the prior is taken at σε, before the bend. With large a this 'KL' is negative":
            0.5 * (straight - torch.log(a)),
        "this is the KL without the bend": 0.5 * straight,
    }  # fmt: skip


@points(2)
def test_values(answer, rng):
    """The KL for many scales and slopes."""
    sigma = 0.3 + 2 * torch.rand(12, generator=rng)
    a = torch.exp(torch.linspace(-1.5, 1.5, 12))
    expect.close(
        answer.bent_kl(sigma, a), kl_by_sum(sigma, a), "The KL",
        atol=1e-4, mistakes=mistaken(sigma, a),
    )  # fmt: skip


@points(1)
def test_extreme(answer, rng):
    """Steep and flat slopes, where a wrong KL is negative."""
    sigma, a = torch.tensor([1.0, 1.0, 0.1]), torch.tensor([20.0, 0.02, 30.0])
    found = expect.tensor(answer.bent_kl(sigma, a), (3,), "The KL")
    expect.that(
        bool((found > 0).all()), "A KL is never negative, and this one is."
    )
    expect.close(
        found, kl_by_sum(sigma, a), "The KL of a steep bend", atol=1e-3,
        mistakes=mistaken(sigma, a),
    )  # fmt: skip


@points(2)
def test_best_slope(answer, rng):
    """The best slope for many scales."""
    sigma = 0.3 + 2.5 * torch.rand(8, generator=rng)
    found = expect.tensor(answer.best_slope(sigma), (8,), "The best slope")
    expect.that(bool((found > 0).all()), "The best slope should be positive.")
    here, left, right = (kl_by_sum(sigma, found * c) for c in (1.0, 0.99, 1.01))
    expect.that(
        bool(((here < left) & (here < right)).all()),
        "A slope close by has a smaller KL than the one you call best.",
    )


# %% right: two half Gaussians
def bent_kl(sigma, a):
    from torch.distributions import Normal, kl_divergence

    prior = Normal(0.0, 1.0)
    right = kl_divergence(Normal(0.0, sigma), prior)
    left = kl_divergence(Normal(0.0, a * sigma), prior)
    return (left + right) / 2


def best_slope(sigma):
    return torch.exp(-torch.log(sigma))


# %% wrong: log-determinant for every sample
def bent_kl(sigma, a):
    second_moment = sigma**2 * (1 + a**2) / 2
    return 0.5 * (second_moment - 1 - torch.log(sigma**2)) - torch.log(a)


def best_slope(sigma):
    return 2**0.5 / sigma


# %% wrong: sign of the log-determinant
def bent_kl(sigma, a):
    second_moment = sigma**2 * (1 + a**2) / 2
    return 0.5 * (second_moment - 1 - torch.log(sigma**2) + torch.log(a))


# %% wrong: the prior at the base sample
def bent_kl(sigma, a):
    return 0.5 * (sigma**2 - 1 - torch.log(sigma**2 * a))


# %% wrong: no log-determinant
def bent_kl(sigma, a):
    second_moment = sigma**2 * (1 + a**2) / 2
    return 0.5 * (second_moment - 1 - torch.log(sigma**2))


# %% wrong: calls no bend the best
def best_slope(sigma):
    return torch.ones_like(sigma)


# %% wrong: matches the second moment instead
def best_slope(sigma):
    return torch.sqrt((2 / sigma**2 - 1).clamp(min=1e-3))


# %% solution
r"""
Half of the samples have slope $a$, so $\mathbb E[\log|\ell_a'|] = \frac12\log a$, and $\mathbb E[z^2] = \frac12\sigma^2(1+a^2)$. Together

$$\mathrm{KL} = \tfrac12\Big(\tfrac12\sigma^2(1+a^2) - 1 - \log(a\sigma^2)\Big).$$

A shorter way: $q$ is made of two half Gaussians with scales $\sigma$ and $a\sigma$, each of mass $\frac12$, and the KL is the mean of theirs. So the best slope brings the left half to scale 1, $a = 1/\sigma$, whatever the right half does: for $\sigma = \frac12$ it is 2. Matching the second moment of $z$ to 1 is another thing and gives a larger slope for $\sigma<1$.

With the prior at $\sigma\varepsilon$ the result is $\frac12(\sigma^2-1-\log(a\sigma^2))$, which falls without bound as $a$ grows: the wrong objective of the chapter, in one line.
"""

# %% rubric
r"""
Three points for the KL, of which one is for steep and flat slopes, and two for the best slope. On paper: one point for the factor $\frac12$ of $\log a$, one for $\mathbb E[z^2]$, one for putting them together.
"""
