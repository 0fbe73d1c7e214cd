# %% about
"""
title = "Pairs that cancel"
kind = "implementation"
difficulty = 3
minutes = 25
points = 6
objective = "Implement antithetic pathwise gradients, and say for which f they help"
after = "What each one pays for"
"""

# %% imports
import torch

# %% text
r"""
$-\varepsilon$ has the same law as $\varepsilon$. So each noise gives two samples, $\mu+\sigma\varepsilon$ and $\mu-\sigma\varepsilon$, and the mean of their two pathwise gradients is an unbiased estimate. It is quieter than two independent samples if the two gradients are negatively correlated, and louder if positively.

1. `paired_gradients(f, mu, sigma, eps)`: for each noise in `eps` (shape `[n]`) the mean of the two gradients, as two tensors `[n]`: by $\mu$ and by $\sigma$. `f` takes and returns tensors of one shape and is differentiable; `mu` and `sigma` are numbers. Call `f` at most twice.
2. `verdict`: for the gradient by $\mu$ at $\mu = 0$, a list with one word for each of $f(z) = z^2$, $f(z) = z^3$, $f(z) = e^z$, in this order: `"exact"` if the pair has no variance at all, `"helps"` if its variance is below that of two independent samples, `"hurts"` if above.

> **Predict first.** Give the three words before you write any code.
"""


# %% answer
def paired_gradients(f, mu, sigma, eps):
    """([n], [n]): means of the gradients at +eps and -eps, by mu and by sigma."""
    ### BEGIN SOLUTION
    both = torch.cat([eps, -eps])
    z = (mu + sigma * both).requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    by_mu, by_sigma = slope.reshape(2, -1), (slope * both).reshape(2, -1)
    return by_mu.mean(0), by_sigma.mean(0)
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
verdict = ["exact", "hurts", "helps"]
### END SOLUTION

# %% hint
r"""
By $\sigma$ the gradient at $-\varepsilon$ is $f'(\mu-\sigma\varepsilon)\,(-\varepsilon)$: the noise turns its sign, too.
"""

# %% hint
r"""
What counts is $f'$, not $f$. If $f'$ is odd around $\mu$, apart from a constant, the pair is exact; if it is even, both samples say the same, and one of them was for nothing.
"""

# %% visible
import torch

from reparam.exercises import expect


def test_square(answer, rng):
    """z² at μ = 1, σ = 2: by μ without noise."""
    eps = torch.tensor([0.5, -1.0, 2.0])
    by_mu, by_sigma = answer.paired_gradients(torch.square, 1.0, 2.0, eps)
    expect.close(
        by_mu, torch.full((3,), 2.0), "Your gradient by μ",
        mistakes={
            "only one of the two samples is in it": 2 * (1 + 2 * eps),
            "the two are added; their mean is asked for": torch.full((3,), 4.0),
        },
    )  # fmt: skip
    expect.close(
        by_sigma, 4 * eps**2, "Your gradient by σ",
        mistakes={
            "at -ε the slope by σ is -ε f'; the sign was not turned": 2 * eps,
            "only one of the two samples is in it": 2 * (1 + 2 * eps) * eps,
        },
    )  # fmt: skip


def test_words(answer, rng):
    """Three words."""
    words = answer.verdict
    right = isinstance(words, (list, tuple)) and len(words) == 3
    expect.that(right, "verdict should hold three words.")
    for word in words:
        expect.that(
            word in ("exact", "helps", "hurts"),
            "The words are exact, helps and hurts.",
        )
    expect.that(
        list(words) != ["hurts", "exact", "helps"],
        "verdict: this would be right for the mean of f itself over a pair. Here the slopes of f "
        "are averaged.",
    )
    expect.that(
        list(words) != ["helps", "helps", "helps"],
        "verdict: pairs do not always help. Look for an f whose slope is the same at z and at -z.",
    )


# %% hidden
from reparam.exercises import points


def exact(slope, mu, sigma, eps):
    up, down = slope(mu + sigma * eps), slope(mu - sigma * eps)
    return (up + down) / 2, (up * eps - down * eps) / 2


@points(2)
def test_by_mu(answer, rng):
    """By μ, draw by draw."""
    a, mu, sigma = (torch.rand(3, generator=rng) + 0.3).tolist()
    eps = torch.randn(40, generator=rng)
    found, _ = answer.paired_gradients(
        lambda z: torch.sin(a * z) + z**2, mu, sigma, eps
    )
    wanted, _ = exact(lambda z: a * torch.cos(a * z) + 2 * z, mu, sigma, eps)
    expect.close(found, wanted, "Your gradient by μ", rtol=1e-3, atol=1e-4)


@points(2)
def test_by_sigma(answer, rng):
    """By σ, draw by draw."""
    a, mu, sigma = (torch.rand(3, generator=rng) + 0.3).tolist()
    eps = torch.randn(40, generator=rng)
    _, found = answer.paired_gradients(
        lambda z: torch.exp(a * z) - z**2, mu, sigma, eps
    )
    _, wanted = exact(lambda z: a * torch.exp(a * z) - 2 * z, mu, sigma, eps)
    expect.close(found, wanted, "Your gradient by σ", rtol=1e-3, atol=1e-4)


@points(1)
def test_verdict(answer, rng):
    """When it helps."""
    expect.that(
        list(answer.verdict) == ["exact", "hurts", "helps"],
        "At least one of the three is another. Measure: the variance of the pair against half the "
        "variance of one sample.",
    )


@points(1)
def test_price(answer, rng):
    """The number of calls."""
    calls, eps = [], torch.randn(30, generator=rng)
    a, mu, sigma = (torch.rand(3, generator=rng) + 0.3).tolist()

    def f(z):
        calls.append(z.numel())
        return a * z**3 + z**2

    found, _ = answer.paired_gradients(f, mu, sigma, eps)
    wanted, _ = exact(lambda z: 3 * a * z**2 + 2 * z, mu, sigma, eps)
    expect.close(found, wanted, "Your gradient by μ", rtol=1e-3, atol=1e-4)
    expect.that(
        len(calls) <= 2 and sum(calls) <= 60,
        "f is evaluated more often than needed.",
    )


# %% right: leaves for mu and sigma
def paired_gradients(f, mu, sigma, eps):
    mus = torch.full_like(eps, mu).requires_grad_()
    sigmas = torch.full_like(eps, sigma).requires_grad_()
    loss = (f(mus + sigmas * eps) + f(mus - sigmas * eps)).sum() / 2
    return torch.autograd.grad(loss, [mus, sigmas])


verdict = ("exact", "hurts", "helps")


# %% idle: twice the mean, and ones
def paired_gradients(f, mu, sigma, eps):
    f(mu + sigma * eps)
    return torch.full_like(eps, 2 * mu), torch.ones_like(eps)


verdict = ["exact", "helps", "hurts"]


# %% idle: the slope at the mean, without noise
def paired_gradients(f, mu, sigma, eps):
    z = torch.full_like(eps, mu).requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    return slope, 0 * slope


verdict = ["exact", "exact", "exact"]


# %% wrong: the noise keeps its sign in the slope by σ
def paired_gradients(f, mu, sigma, eps):
    both = torch.cat([eps, -eps])
    z = (mu + sigma * both).requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    by_mu = slope.reshape(2, -1).mean(0)
    return by_mu, by_mu * eps


# %% wrong: one sample of each pair
def paired_gradients(f, mu, sigma, eps):
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    return slope, slope * eps


# %% wrong: the sum in place of the mean
def paired_gradients(f, mu, sigma, eps):
    both = torch.cat([eps, -eps])
    z = (mu + sigma * both).requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    return slope.reshape(2, -1).sum(0), (slope * both).reshape(2, -1).sum(0)


# %% wrong: looks at f and not at its slope
verdict = ["hurts", "exact", "helps"]

# %% wrong: thinks that a pair always helps
verdict = ["helps", "helps", "helps"]

# %% solution
r"""
By $\mu$ the pair gives $\frac12\big(f'(\mu+\sigma\varepsilon)+f'(\mu-\sigma\varepsilon)\big)$: for $z^2$ the slope is linear, the noise cancels, and the estimate is exact. For $z^3$ at $\mu=0$ the slope $3z^2$ is even, both samples agree, and the pair is one sample at twice the price. For $e^z$ the slope is monotone, so large and small values pair up, and it helps: variance 1.48 against 2.34 for two independent samples at $\sigma=1$.
"""

# %% rubric
r"""
Two points for each parameter, one for the three words together, one for the number of calls.
"""
