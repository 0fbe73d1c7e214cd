# %% about
"""
title = "How much of the score?"
kind = "harder"
difficulty = 4
minutes = 35
points = 8
objective = "Derive and use the best mixture of the two pathwise gradients of an ELBO"
after = "Sticking the landing"
"""

# %% imports
import math
import torch

# %% text
r"""
Let $q = N(\mu,\sigma^2)$, $z = \mu+\sigma\varepsilon$, and $\mathrm{ELBO} = \mathbb E[\log p(z) - \log q(z)]$. The pathwise gradient of the integrand by $\mu$ holds a score term of mean 0; *sticking the landing* drops it. We may as well take a part of it: weight $a$ on the gradient without the score term and $1-a$ on the full one.

> **Predict first.** For $p = N(0,1)$ and $\sigma = 1$ the gradient without the score term has no variance if ... For which $\sigma$ is it *louder* than the full one?

1. `gradients(log_p, mu, sigma, eps, a)`: for each noise in `eps` (shape `[n]`) the estimate by $\mu$ with weight `a`, as `[n]`. `log_p` takes and returns `[n]` and is differentiable; the rest are numbers.
2. For $p = N(0, 1)$: `best_a(sigma)`, the weight with the least variance, and `quieter_from`, the σ above which dropping the term ($a=1$) beats keeping it ($a=0$).
3. `estimated_a(full, dropped)`: the best weight from samples of the two estimates for the same noise, `[n]` each, for a $p$ that nobody knows in closed form.
"""


# %% answer
def gradients(log_p, mu, sigma, eps, a):
    """[n] estimates of d ELBO / d mu, with weight a on the one without the score term."""
    ### BEGIN SOLUTION
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(log_p(z).sum(), z)
    return slope + a * eps / sigma
    ### END SOLUTION


def best_a(sigma):
    """The weight with the least variance for p = N(0, 1)."""
    ### BEGIN SOLUTION
    return sigma**2
    ### END SOLUTION


def estimated_a(full, dropped):
    """The weight with the least variance, from samples of both estimates."""
    ### BEGIN SOLUTION
    term = full - dropped
    centered = term - term.mean()
    return ((full - full.mean()) * centered).sum() / (centered**2).sum()
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
quieter_from = math.sqrt(0.5)
### END SOLUTION

# %% hint
r"""
$\log q(z) = -\varepsilon^2/2 - \log\sigma + \text{const}$: along the path it does not depend on $\mu$. So the full gradient is $\frac{d}{dz}\log p(z)$ alone, and the one without the score term has $-\frac{\partial}{\partial z}\log q(z) = \varepsilon/\sigma$ on top.
"""

# %% hint
r"""
For $p = N(0,1)$ the estimate is $-\mu - \sigma\varepsilon + a\varepsilon/\sigma$. Its variance is a square.
"""

# %% hint
r"""
Mixture: $\text{full} - a\,(\text{full}-\text{dropped})$. That is a control variate with a coefficient; the best one is a regression slope.
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def test_ends(answer, rng):
    """The two ends, at μ = 1, σ = 2."""
    eps = torch.tensor([0.5, -1.0])
    log_p = lambda z: -(z**2) / 2
    full = -(1 + 2 * eps)
    found = answer.gradients(log_p, 1.0, 2.0, eps, 0.0)
    expect.close(
        found, full, "The estimates at a = 0",
        mistakes={
            "this is the one without the score term: the weights are the other way round":
                full + eps / 2,
            "the score term is counted twice; along the path log q does not move": full - eps / 2,
        },
    )  # fmt: skip
    found = answer.gradients(log_p, 1.0, 2.0, eps, 1.0)
    expect.close(
        found, full + eps / 2, "The estimates at a = 1",
        mistakes={
            "the sign of the path through log q: minus log q is in the ELBO": full - eps / 2,
            "the score is (z - μ)/σ² = ε/σ; a factor σ is off": full + eps,
            "nothing has changed against a = 0": full,
        },
    )  # fmt: skip


def test_landing(answer, rng):
    """Where q is the posterior, no variance is left."""
    expect.close(
        answer.best_a(1.0), 1.0, "The best weight at σ = 1",
        mistakes={"this keeps the whole score term": 0.0},
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


@points(3)
def test_gradients(answer, rng):
    """Other posteriors and weights, draw by draw."""
    for _ in range(2):
        b, mu, sigma, a = (torch.rand(4, generator=rng) + 0.2).tolist()
        eps = torch.randn(30, generator=rng)
        found = answer.gradients(
            lambda z, b=b: torch.sin(b * z) - z**4 / 4, mu, sigma, eps, a
        )
        z = mu + sigma * eps
        wanted = b * torch.cos(b * z) - z**3 + a * eps / sigma
        expect.close(found, wanted, "The estimates", rtol=1e-3, atol=1e-3)


@points(2)
def test_best(answer, rng):
    """The best weight, for a normal posterior."""
    for sigma in (0.3 + 1.5 * torch.rand(4, generator=rng)).tolist():
        found = expect.number(answer.best_a(sigma), "The best weight")
        left = (found / sigma - sigma) ** 2
        expect.that(left < 1e-6, "Another weight gives less variance.")


@points(1)
def test_from(answer, rng):
    """From where dropping it is quieter."""
    found = expect.number(answer.quieter_from, "quieter_from")
    expect.that(
        abs(found - math.sqrt(0.5)) < 0.005,
        "The two variances are equal elsewhere.",
    )


@points(2)
def test_estimated(answer, rng):
    """The weight from samples."""
    n = 400
    eps = torch.randn(n, generator=rng, dtype=torch.float64)
    other = torch.randn(n, generator=rng, dtype=torch.float64)
    slope = 0.5 + torch.rand((), generator=rng, dtype=torch.float64)
    full = 1.3 - slope * eps + 0.3 * other
    dropped = full + 0.8 * eps
    found = expect.number(answer.estimated_a(full, dropped), "The weight")
    grid = torch.linspace(-1, 4, 5001, dtype=torch.float64)
    mixtures = full[:, None] + grid * (dropped - full)[:, None]
    best = float(grid[mixtures.var(0).argmin()])
    expect.close(found, best, "The weight", atol=0.006, rtol=0)


# %% right: autograd with log q, and covariances
def gradients(log_p, mu, sigma, eps, a):
    m = torch.full_like(eps, mu).requires_grad_()
    z = m + sigma * eps
    fixed = torch.full_like(eps, mu)
    log_q = -(((z - fixed) / sigma) ** 2) / 2
    (found,) = torch.autograd.grad((log_p(z) - a * log_q).sum(), m)
    return found


def best_a(sigma):
    return torch.tensor(float(sigma)).square()


def estimated_a(full, dropped):
    both = torch.cov(torch.stack([full, full - dropped]))
    return both[0, 1] / both[1, 1]


quieter_from = 1 / 2**0.5


# %% wrong: the weights the other way round
def gradients(log_p, mu, sigma, eps, a):
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(log_p(z).sum(), z)
    return slope + (1 - a) * eps / sigma


# %% wrong: the sign of the path through log q
def gradients(log_p, mu, sigma, eps, a):
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(log_p(z).sum(), z)
    return slope - a * eps / sigma


# %% wrong: always drops the term
def best_a(sigma):
    return 1.0


# %% wrong: the regression without centering
def estimated_a(full, dropped):
    term = full - dropped
    return (full * term).mean() / (term**2).mean() + 0.05


# %% wrong: equal at σ = 1
quieter_from = 1.0

# %% solution
r"""
Along the path $\log q(z)$ does not depend on $\mu$: the full gradient is $\frac{d}{dz}\log p$, and dropping the score leaves $\varepsilon/\sigma$ in it. For $p=N(0,1)$ the mixture is $-\mu+(a/\sigma-\sigma)\varepsilon$, so $a=\sigma^2$ leaves no variance at any σ, $a=1$ only at $\sigma=1$, where $q$ is the posterior's width. $|1/\sigma-\sigma|<\sigma$ gives $\sigma>1/\sqrt2$: a narrow $q$ is better off with the score term. In general the score term is a control variate, and its best coefficient the slope of a regression.
"""

# %% rubric
r"""
Three points for the estimates, two for the weight, one for the border, two for the regression.
"""
