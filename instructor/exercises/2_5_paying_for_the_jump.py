# %% about
"""
title = "Paying for the jump"
kind = "harder"
difficulty = 4
minutes = 35
points = 8
objective = "Mend the pathwise gradient of a function with a jump by its boundary term"
after = "Where it breaks: a step"
"""

# %% imports
import math
import torch
from torch.distributions import Normal

# %% text
r"""
The pathwise gradient sees the slope of $f$ and never its jumps. Let

$$f(z) = g(z)\ \text{for } z<c, \qquad f(z) = h(z)\ \text{for } z\ge c,$$

with smooth $g$ and $h$ that need not meet at $c$, and $z = \mu+\sigma\varepsilon$.

> **Predict first.** Move $\mu$ up a little. Some samples cross $c$ and their $f$ jumps by $h(c)-g(c)$. How many cross, per unit of $\mu$? And per unit of $\sigma$, if $c$ lies below $\mu$: does raising $\sigma$ push samples over $c$ upwards or downwards?

Derive the missing term for both parameters, then write `mended_gradients(g, h, c, mu, sigma, eps)`: two tensors `[n]`, for each noise in `eps` (shape `[n]`) one unbiased estimate of the derivative by $\mu$ and one by $\sigma$. `g` and `h` take and return tensors of one shape and are differentiable by PyTorch; `c`, `mu`, `sigma` are Python numbers. The estimates must scatter no more than the pathwise ones.
"""


# %% answer
def mended_gradients(g, h, c, mu, sigma, eps):
    """([n], [n]): unbiased estimates of d/dμ and d/dσ of E[f(z)]."""
    ### BEGIN SOLUTION
    z = (mu + sigma * eps).requires_grad_()
    values = torch.where(z < c, g(z), h(z))
    (slope,) = torch.autograd.grad(values.sum(), z)
    edge = torch.tensor([float(c)])
    jump = (h(edge) - g(edge)).detach()
    u = (c - mu) / sigma
    density = math.exp(-u * u / 2) / math.sqrt(2 * math.pi) / sigma
    return slope + jump * density, slope * eps + jump * density * u
    ### END SOLUTION


# %% hint
r"""
Write $\mathbb E[f] = \int_{-\infty}^{u} g(\mu+\sigma\varepsilon)\varphi(\varepsilon)\,d\varepsilon + \int_{u}^{\infty} h(\mu+\sigma\varepsilon)\varphi(\varepsilon)\,d\varepsilon$ with $u = (c-\mu)/\sigma$, and differentiate: the limits of the integrals move, too.
"""

# %% hint
r"""
The moving limit contributes $-(h(c)-g(c))\,\varphi(u)\,\frac{\partial u}{\partial\theta}$, and $\frac{\partial u}{\partial\mu} = -\frac1\sigma$.
"""

# %% hint
r"""
The term does not depend on the sample: it is a number, added to each estimate. It adds no noise.
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def test_step(answer, rng):
    """A plain step at 0 under N(0.5, 2²)."""
    eps = torch.randn(1000, generator=rng)
    found = answer.mended_gradients(
        lambda z: 0 * z, lambda z: 0 * z + 1, 0.0, 0.5, 2.0, eps
    )
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "Two tensors are expected, one by μ and one by σ.",
    )
    by_mu = expect.tensor(found[0], (1000,), "The derivative by μ")
    by_sigma = expect.tensor(found[1], (1000,), "The derivative by σ")
    expect.that(
        bool(torch.maximum(by_mu.std(), by_sigma.std()) < 1e-3),
        "The estimates for a step scatter, and its slope is 0 wherever a sample "
        "lands: what is missing is a number that needs no sample.",
    )
    one = torch.ones(1000)
    density = math.exp(-(0.25**2) / 2) / math.sqrt(math.tau) / 2
    expect.close(
        by_mu, density * one, "The derivative by μ of a step", rtol=1e-3,
        mistakes={
            "this is the pathwise gradient; the samples that cross the edge are not "
            "counted": 0 * one,
            "the sign: samples that cross upwards gain h(c) - g(c)": -density * one,
            "this is the density of ε. How many samples are there per unit of z?":
                2 * density * one,
        },
    )  # fmt: skip
    expect.close(
        by_sigma, -0.25 * density * one, "The derivative by σ of a step", rtol=1e-3,
        mistakes={
            "this is the term of μ. A sample at the edge moves with μ by 1, and with "
            "σ by its ε": density * one,
            "the sign: raising σ takes samples near an edge below μ further down":
                0.25 * density * one,
        },
    )  # fmt: skip


def test_no_jump(answer, rng):
    """Where the pieces meet, nothing is added."""
    eps = torch.randn(500, generator=rng)
    by_mu, _ = answer.mended_gradients(torch.abs, torch.abs, 0.0, 0.3, 1.0, eps)
    z = 0.3 + eps
    expect.close(by_mu, torch.sign(z), "The derivative by μ of |z|", atol=1e-3)


# %% hidden
from reparam.exercises import points


def exact(g, h, c, mu, sigma):
    """The two derivatives, by sums of f times those of the density, on either side."""
    by_mu = by_sigma = 0.0
    for f, low, high in ((g, mu - 9 * sigma, c), (h, c, mu + 9 * sigma)):
        z = torch.linspace(low, high, 3001, dtype=torch.float64)
        u = (z - mu) / sigma
        weight = f(z) * torch.exp(-u * u / 2) / math.sqrt(math.tau) / sigma**2
        by_mu += float(torch.trapezoid(weight * u, z))
        by_sigma += float(torch.trapezoid(weight * (u * u - 1), z))
    return by_mu, by_sigma


def pieces(rng):
    a, b, d, e = torch.randn(4, generator=rng).tolist()
    return lambda z: torch.sin(a * z) + b, lambda z: 0.5 * d * z**2 + e


def pathwise_deviation(g, h, c, mu, sigma):
    eps = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(torch.where(z < c, g(z), h(z)).sum(), z)
    return float(slope.std()), float((slope * eps).std())


def run_case(answer, rng, which):
    for _ in range(2):
        g, h = pieces(rng)
        c, mu = torch.randn(2, generator=rng).tolist()
        sigma = 0.5 + torch.rand((), generator=rng).item()
        truth = exact(g, h, c, mu, sigma)[which]
        pathwise = pathwise_deviation(g, h, c, mu, sigma)[which]
        eps = torch.randn(40_000, generator=rng)
        found = answer.mended_gradients(g, h, c, mu, sigma, eps)[which]
        name = "The derivative by " + "μσ"[which]
        found = expect.tensor(found, (40_000,), name)
        most = (1.1, 1.15)[which] * pathwise + 0.05
        expect.mean(found, truth, name, deviation=most)
        expect.that(
            bool(found.std() > 0.1 * pathwise),
            f"{name}: it hardly depends on the noise, as if it were no estimate.",
        )


@points(3)
def test_by_mu(answer, rng):
    """By μ, for pieces that do not meet."""
    run_case(answer, rng, 0)


@points(3)
def test_by_sigma(answer, rng):
    """By σ, for pieces that do not meet."""
    run_case(answer, rng, 1)


@points(2)
def test_far_edge_and_scale(answer, rng):
    """A step elsewhere and of another height."""
    height = 1 + torch.rand((), generator=rng).item()
    mu, sigma, c = 1.0, 0.6, 1.9
    density = math.exp(-0.5 * 1.5**2) / math.sqrt(2 * math.pi) / sigma
    eps = torch.randn(100, generator=rng)
    by_mu, by_sigma = answer.mended_gradients(
        lambda z: 0 * z - height, lambda z: 0 * z + height, c, mu, sigma, eps
    )
    wanted = torch.full((100,), 2 * height * density)
    expect.close(by_mu, wanted, "The derivative by μ of a step", rtol=1e-3)
    expect.close(
        by_sigma, 1.5 * wanted, "The derivative by σ of a step", rtol=1e-3
    )


# %% right: the step taken out, its mean differentiated in closed form
def mended_gradients(g, h, c, mu, sigma, eps):
    m = torch.tensor(float(mu), requires_grad=True)
    s = torch.tensor(float(sigma), requires_grad=True)
    edge = torch.tensor(float(c))
    above = 1 - Normal(m, s).cdf(edge)
    by_mu, by_sigma = torch.autograd.grad(above, [m, s])
    jump = float(h(edge.reshape(1)) - g(edge.reshape(1)))
    z = (mu + sigma * eps).requires_grad_()
    mask = (z.detach() >= c).to(z.dtype)
    (slope,) = torch.autograd.grad((mask * h(z) + (1 - mask) * g(z)).sum(), z)
    return slope + jump * by_mu, eps * slope + jump * by_sigma


# %% wrong: the exact derivative for each noise
def mended_gradients(g, h, c, mu, sigma, eps):
    z = torch.linspace(mu - 9 * sigma, mu + 9 * sigma, 20_001).double()
    u = (z - mu) / sigma
    weight = torch.exp(-u * u / 2) / math.sqrt(2 * math.pi) / sigma**2
    f = torch.where(z < c, g(z), h(z)) * weight
    by_mu, by_sigma = (
        torch.trapezoid(f * u, z),
        torch.trapezoid(f * (u * u - 1), z),
    )
    return by_mu.float().expand(len(eps)), by_sigma.float().expand(len(eps))


# %% wrong: pathwise alone
def mended_gradients(g, h, c, mu, sigma, eps):
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(torch.where(z < c, g(z), h(z)).sum(), z)
    return slope, slope * eps


# %% wrong: the term of μ for σ as well
def mended_gradients(g, h, c, mu, sigma, eps):
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(torch.where(z < c, g(z), h(z)).sum(), z)
    edge = torch.tensor([float(c)])
    term = (h(edge) - g(edge)).detach() * Normal(mu, sigma).log_prob(edge).exp()
    return slope + term, slope * eps + term


# %% wrong: the density of the noise, not of z
def mended_gradients(g, h, c, mu, sigma, eps):
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(torch.where(z < c, g(z), h(z)).sum(), z)
    edge = torch.tensor([float(c)])
    u = (c - mu) / sigma
    term = (
        (h(edge) - g(edge)).detach()
        * math.exp(-u * u / 2)
        / math.sqrt(2 * math.pi)
    )
    return slope + term, slope * eps + term * u


# %% wrong: the jump taken downwards
def mended_gradients(g, h, c, mu, sigma, eps):
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(torch.where(z < c, g(z), h(z)).sum(), z)
    edge = torch.tensor([float(c)])
    u = (c - mu) / sigma
    term = (g(edge) - h(edge)).detach() * Normal(mu, sigma).log_prob(edge).exp()
    return slope + term, slope * eps + term * u


# %% wrong: the score function, unbiased and loud
def mended_gradients(g, h, c, mu, sigma, eps):
    z = mu + sigma * eps
    f = torch.where(z < c, g(z), h(z)) + 0.0
    return f * eps / sigma, f * (eps**2 - 1) / sigma


# %% solution
r"""
With $u = (c-\mu)/\sigma$ the limits of the two integrals move, and Leibniz' rule adds $-(h(c)-g(c))\,\varphi(u)\,\partial u/\partial\theta$: $(h(c)-g(c))\,q(c)$ by $\mu$ and $(h(c)-g(c))\,q(c)\,u$ by $\sigma$, with $q(c) = \varphi(u)/\sigma$ the density at the edge. The density counts how many samples cross per unit; $u$ says in which direction raising $\sigma$ moves the edge. The term is a number, so the variance is that of the pathwise estimate; what it costs is to know where the jump is.
"""

# %% rubric
r"""
Three points for each parameter, two for steps of other heights and scales. The score function is unbiased and too loud; it gets nothing but the discussion.
"""
