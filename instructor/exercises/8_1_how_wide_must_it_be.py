# %% about
"""
title = "How wide must it be?"
kind = "derivation"
difficulty = 2
minutes = 20
points = 6
objective = "Derive what a wrong width costs the ELBO and the weights, which do not agree"
after = "What an ELBO mixes"
"""

# %% imports
import torch

# %% text
r"""
The code has $D$ variables, and the true posterior of an image is $N(m, s^2 I)$. Ours is $q = N(m, \sigma^2 I)$: right in the mean, wrong in the width by the ratio $r = \sigma/s$.

> **Predict first.** Which is worse, half the true width or twice? For the ELBO, and for the average weight of (8.2)?

Derive two numbers, which depend on $r$ and $D$ alone:

1. `gap(r, d)`: by how much the ELBO lies below $\log p(x)$.
2. `relative_variance(r, d)`: the variance of one weight over its squared mean, $\mathrm{Var}(w)/p(x)^2$. An entry is `torch.inf` where the variance is infinite.

`r` is a tensor of ratios, `d` the whole number $D$; both functions return a tensor of the shape of `r`.
"""


# %% answer
def gap(r, d):
    """log p(x) - ELBO, in nats."""
    ### BEGIN SOLUTION
    return d * (r**2 - 1 - 2 * torch.log(r)) / 2
    ### END SOLUTION


def relative_variance(r, d):
    """Var(w) / p(x)**2, and infinity where there is none."""
    ### BEGIN SOLUTION
    inside = (2 * r**2 - 1).clamp(min=0)
    return (r**2 / inside.sqrt()) ** d - 1
    ### END SOLUTION


# %% hint
r"""
By (8.1) the gap is $\mathrm{KL}(q\,\|\,p(z\mid x))$, one Gaussian's from another with the same mean. The $D$ variables are independent, so that their KLs add.
"""

# %% hint
r"""
$w = p(x)\,p(z\mid x)/q(z\mid x)$. So $\mathbb E_q[w^2]/p(x)^2 = \int p(z\mid x)^2/q(z\mid x)\,dz$: an integral of a Gaussian's exponential again. What must hold of its exponent?
"""

# %% hint
r"""
For one variable the exponent is $-z^2\big(\frac1{s^2} - \frac1{2\sigma^2}\big)$ around the mean. For $D$ variables the integral is a product, and the 1 is taken away at the end.
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def test_gap(answer, rng):
    """Half the width, and twice, in one dimension."""
    expect.close(
        answer.gap(torch.tensor([0.5, 2.0]), 1), torch.tensor([0.318147, 0.806853]),
        "The gap at r = 1/2 and r = 2, d = 1",
        mistakes={
            "this is KL(p, q); the gap is that of q from the true posterior":
                torch.tensor([0.806853, 0.318147]),
            "this is twice the gap: a Gaussian's KL has a factor 1/2":
                torch.tensor([0.636294, 1.613706]),
            "log σ² is 2 log σ": torch.tensor([-0.028426, 1.153426]),
            "the variances have the ratio r**2, not r": torch.tensor([0.096574, 0.153426]),
        },
    )  # fmt: skip


def test_variance(answer, rng):
    """A width that is right, one that is twice as wide, in one dimension."""
    expect.close(
        answer.relative_variance(torch.tensor([1.0, 2.0]), 1),
        torch.tensor([0.0, 4 / math.sqrt(7) - 1]),
        "The relative variance at r = 1 and r = 2, d = 1",
        mistakes={
            "this is the second moment; the variance has the squared mean taken away":
                torch.tensor([1.0, 4 / math.sqrt(7)]),
            "this is the standard deviation over the mean; the variance over the squared mean "
            "is asked for":
                torch.tensor([0.0, math.sqrt(4 / math.sqrt(7) - 1)]),
        },
    )  # fmt: skip


def test_three(answer, rng):
    """Three variables, half as wide again."""
    r, one = torch.tensor([1.5]), 1.2026756
    expect.close(
        answer.relative_variance(r, 3), torch.tensor([one**3 - 1]),
        "The relative variance at r = 1.5, d = 3",
        mistakes={
            "this is that of one variable": torch.tensor([one - 1]),
            "the variables' relative variances are added; a product's second moments multiply":
                torch.tensor([3 * (one - 1)]),
            "the 1 is taken away three times: take it away last":
                torch.tensor([(one - 1) ** 3]),
        },
    )  # fmt: skip
    expect.close(
        answer.gap(r, 3), torch.tensor([3 * 0.2195349]), "The gap at r = 1.5, d = 3",
        mistakes={"this is that of one variable; the gaps add": torch.tensor([0.2195349])},
    )  # fmt: skip


def test_narrow(answer, rng):
    """A width at which the integral has no value."""
    found = expect.tensor(
        answer.relative_variance(torch.tensor([0.6]), 1), (1,), "At r = 0.6"
    )
    expect.that(
        bool((found > 0).all()),
        "A variance is never negative: at r = 0.6, does the integral of p²/q converge?",
    )
    expect.that(
        bool(found.isinf().all()),
        "At r = 0.6 the integral of p²/q grows without bound, so that the variance is infinite.",
    )


# %% hidden
from reparam.exercises import points


def by_quadrature(r):
    """KL(q || p), E_q[(p/q)**2] at each r, for one variable with p = N(0, 1), q = N(0, r**2)."""
    z = torch.linspace(-60, 60, 12_001, dtype=torch.float64)[:, None]
    step = z[1] - z[0]
    log_p = -(z**2) / 2 - math.log(2 * math.pi) / 2
    log_q = -((z / r) ** 2) / 2 - math.log(2 * math.pi) / 2 - torch.log(r)
    kl = (log_q.exp() * (log_q - log_p)).sum(0) * step
    return kl, (2 * log_p - log_q).exp().sum(0) * step


def ratios(rng, low, high, n=6):
    return low + (high - low) * torch.rand(n, generator=rng, dtype=torch.float64)


@points(2)
def test_any_gap(answer, rng):
    """The gap, narrow and wide, in several dimensions."""
    for d in (1, 2, 8):
        r = torch.cat([ratios(rng, 0.2, 0.9), ratios(rng, 1.1, 4)])
        kl, _ = by_quadrature(r)
        expect.close(answer.gap(r, d), d * kl, "The gap")


@points(2)
def test_any_variance(answer, rng):
    """The relative variance where there is one, in several dimensions."""
    for d in (1, 3, 8):
        r = torch.cat([ratios(rng, 0.78, 0.95), ratios(rng, 1.05, 3)])
        _, square = by_quadrature(r)
        found = answer.relative_variance(r, d)
        expect.close(found, square**d - 1, "The relative variance")


@points(2)
def test_where_there_is_none(answer, rng):
    """Infinite at the edge and below it, finite just above."""
    low, high = ratios(rng, 0.05, 0.5, 3), ratios(rng, 0.5, 0.7, 3)
    r = torch.cat([low, high, ratios(rng, 0.71, 1.5)])
    for d in (1, 4):
        found = expect.tensor(
            answer.relative_variance(r, d), r.shape, "The relative variance"
        )
        expect.that(
            bool(found[:6].isinf().all()),
            "The relative variance is finite for a posterior that is too narrow for it.",
        )
        expect.that(
            bool(found[6:].isfinite().all()),
            "The relative variance is infinite where the integral converges.",
        )


# %% right: by logarithms, and the edge by comparison
def gap(r, d):
    return -d * torch.log(r) + d / 2 * (r - 1) * (r + 1)


def relative_variance(r, d):
    narrow = r <= 0.5**0.5
    safe = torch.where(narrow, 1.0, r)
    log = d * (2 * torch.log(safe) - torch.log(2 * safe**2 - 1) / 2)
    return torch.where(narrow, torch.inf, torch.expm1(log))


# %% wrong: the other KL
def gap(r, d):
    return d * (1 / r**2 - 1 + 2 * torch.log(r)) / 2


# %% wrong: the ratio of variances for r
def gap(r, d):
    return d * (r - 1 - torch.log(r)) / 2


# %% wrong: one variable for all of them
def relative_variance(r, d):
    return r**2 / (2 * r**2 - 1).clamp(min=0).sqrt() - 1


# %% wrong: variances that add
def relative_variance(r, d):
    return d * (r**2 / (2 * r**2 - 1).clamp(min=0).sqrt() - 1)


# %% wrong: the second moment
def relative_variance(r, d):
    return (r**2 / (2 * r**2 - 1).clamp(min=0).sqrt()) ** d


# %% wrong: no infinity
def relative_variance(r, d):
    return (r**2 / (2 * r**2 - 1).abs().sqrt()) ** d - 1


# %% wrong: infinite up to half the width
def relative_variance(r, d):
    finite = (r**2 / (2 * r**2 - 1).abs().sqrt()) ** d - 1
    return torch.where(r <= 0.5, torch.inf, finite)


# %% idle: infinite everywhere
def gap(r, d):
    return r * 0 + torch.inf


def relative_variance(r, d):
    return r * 0 + torch.inf


# %% solution
r"""
The gap is $\frac d2(r^2 - 1 - \log r^2)$. Half the width costs 0.32 nats for each variable, twice the width 0.81: $\mathrm{KL}(q\,\|\,p)$ forgives a posterior that is too narrow.

The weights do not. $\int p^2/q = r^2/\sqrt{2r^2-1}$ for one variable where $2r^2>1$, and $\infty$ elsewhere, so that the relative variance is $(r^2/\sqrt{2r^2-1})^d-1$. Twice the width gives 0.51 for one variable and 26 for eight; half the width gives a weight without a variance, since $q$ falls off faster than $p^2$ and the rare samples far out have huge weights. An ELBO trains posteriors to be rather too narrow, and the bound with many samples forgives those that are too wide. The rates in "The gradient that fades" need higher moments still, and so a wider posterior.
"""

# %% rubric
r"""
Two points for the gap, two for the variance where it is finite, two for the range in which it is not. A closed form that is right for $d = 1$ and not for others gets none of the middle two.
"""
