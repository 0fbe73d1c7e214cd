# %% about
"""
title = "Kept, and biased"
kind = "bug"
difficulty = 4
minutes = 30
points = 9
objective = "Show that the graph of a rejection sampler gives a biased gradient, and add the term that it lacks"
after = "Without the inverse: implicit reparameterization"
"""

# %% imports
import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

# %% given
STEEP = 3.0  # or 1.0, 6.0

# %% text
r"""
`draw` makes samples of a skewed law, $q(z)\propto N(z;\mu,\sigma^2)\,a(z)$: it proposes Gaussians and keeps each with probability $a(z)$, a smooth gate this time. `average` takes the mean of $f$ over the last dimension. Samples and averages are right. The gradients are not.

**Show it.** For $f(z) = z$, $\mu = 0.5$, $\sigma = 1$ and the gate below with `STEEP` = «STEEP», the graph says 1. What is $\frac{d}{d\mu}\mathbb E_q[z]$? Put the number into `true_slope`, to a percent (quadrature does it).

**Mend it.** Write `mended(f, z, log_gate)`, which returns the same values as `average`, and gradients that are unbiased. `z` has shape `[R, K]` with $K\ge2$: rows of $K$ independent kept samples $\mu+\sigma\varepsilon$ with their graph to the parameters (which the function does not get). The result has shape `[R]`. "Unbiased" means for $K = 2$, too.

A nudge: kept noise is not Gaussian. What is its density, and does that depend on $\mu$?
"""


# %% code
def log_gate(z):
    """Logarithm of the chance that a candidate is kept."""
    return logsigmoid(STEEP * z)


def draw(mu, sigma, shape):
    """Samples of the law, with a graph to mu and sigma."""
    wanted, kept = math.prod(shape), torch.empty(0)
    while len(kept) < wanted:
        z = mu + sigma * torch.randn(4 * wanted)
        kept = torch.cat([kept, z[torch.rand(4 * wanted) < log_gate(z).exp()]])
    return kept[:wanted].reshape(shape)


def average(f, z):
    """The mean of f over the last dimension."""
    return f(z).mean(-1)


torch.manual_seed(0)
mu = torch.tensor(0.5, requires_grad=True)
average(lambda z: z, draw(mu, 1.0, (1000, 8))).mean().backward()
print(f"the graph's slope of the mean of z by μ: {mu.grad:.3f}")

# %% answer
### BEGIN SOLUTION
_at = torch.linspace(-9, 10, 4001, dtype=torch.float64)
_low, _high = (
    (_at * torch.softmax(log_gate(_at) - (_at - center) ** 2 / 2, 0)).sum()
    for center in (0.499, 0.501)
)
true_slope = ((_high - _low) / 0.002).item()
### END SOLUTION


# %% answer
def mended(f, z: Tensor, log_gate) -> Tensor:
    """The means of f over each row of z [R, K], with unbiased gradients, [R]."""
    ### BEGIN SOLUTION
    values, logs = f(z), log_gate(z)
    centered = (values - values.mean(-1, keepdim=True)).detach()
    lacking = (centered * (logs - logs.detach())).sum(-1) / (z.shape[-1] - 1)
    return values.mean(-1) + lacking
    ### END SOLUTION


# %% hint
r"""
The kept noise has density $\pi_\phi(\varepsilon) = \varphi(\varepsilon)\,a(\mu+\sigma\varepsilon)/Z_\phi$ with $Z_\phi = \mathbb E\,a(\mu+\sigma\varepsilon)$, the share that is kept. So in $\int\pi_\phi(\varepsilon)\,f(g_\phi(\varepsilon))\,d\varepsilon$ the parameters occur twice, and the product rule gives two terms. The graph has one of them.
"""

# %% hint
r"""
The other term is a score function, with $\partial_\phi\log\pi_\phi(\varepsilon) = \partial_\phi\log a(g_\phi(\varepsilon)) - \partial_\phi\log Z_\phi$. A score has mean 0, which says what $\partial_\phi\log Z_\phi$ is: the term becomes the covariance of $f(z)$ with $\partial_\phi\log a(z)$.
"""

# %% hint
r"""
A covariance from $K$ samples: center one of the two by its row's mean, and divide by the number that makes it unbiased.
"""

# %% hint
r"""
`logs - logs.detach()` is 0 in value and has a gradient. Multiplied with plain numbers it hangs a term on a result that does not change its value.
"""

# %% visible
import torch
from torch.nn.functional import logsigmoid

from reparam.exercises import expect

SENTENCES = {
    "path": "it is the path alone. Whether a sample is kept depends on the parameters, "
    "too: a kept sample with a graph is not yet a path",
    "no center": "the share that is kept, Z, depends on the parameters, and its term is "
    "missing: add 10 to f, and the gradient changes",
    "own mean": "it is short by a factor (K - 1)/K in the new term. A sample has a part "
    "in the mean that is taken off it",
    "sign": "the new term has the wrong sign",
    "gate": "the gate was differentiated, where its logarithm should be",
    "no path": "the new term is there, and the path is gone",
}


def gate(z):
    return logsigmoid(3.0 * z - 3)


def test_true_slope(answer, rng):
    """The true slope of the mean of z is not 1."""
    found = expect.number(answer.true_slope, "`true_slope`")
    expect.that(
        abs(found - 1) > 0.01,
        "1 is what the graph says: it moves the samples that were kept, and keeps "
        "them. Move μ, and others are kept.",
    )
    expect.that(
        0 < found < 1,
        "Kept samples avoid the left. With μ their mean rises, and more slowly.",
    )


def test_values(answer, rng):
    """The values are the row means of f."""
    z = torch.randn(6, 4, generator=rng).requires_grad_()
    found = answer.mended(torch.sin, z, gate)
    values = z.detach().sin()
    centered = values - values.mean(-1, keepdim=True)
    hung = (centered * gate(z.detach())).sum(-1)
    sentence = (
        "a term that is there for its gradient changes the value, too. Take its "
        "own value off it"
    )
    expect.close(
        found, values.mean(-1), "The values of `mended`", rtol=1e-3, atol=1e-5,
        mistakes={sentence: values.mean(-1) + hung / 3, f"{sentence}.":
                  values.mean(-1) + hung / 4},
    )  # fmt: skip


def hill(z):
    """The logarithm of a gate behind which N(μ, σ²) stays normal."""
    return -((z - 1) ** 2) / 2


def behind_the_hill(mu, sigma):
    """Mean and variance of the kept samples: the exponent's square completed."""
    variance = 1 / (1 / sigma**2 + 1)
    return variance * (mu / sigma**2 + 1), variance


def slips(z, mu, sigma):
    """{sentence: slopes of E[z² + 3] by (μ, σ) under this mistake}, from many kept z."""
    by = torch.stack([torch.ones_like(z), (z - mu) / sigma], -1)  # of z
    f, by_f, by_log = (
        (z**2 + 3)[:, None],
        2 * z[:, None] * by,
        (1 - z)[:, None] * by,
    )
    path, centered = by_f.mean(0), f - f.mean()
    lacking = (centered * by_log).mean(0)
    means = {
        "path": path,
        "no center": path + (f * by_log).mean(0),
        "own mean": path + lacking / 2,
        "sign": path - lacking,
        "gate": path + (centered * hill(z).exp()[:, None] * by_log).mean(0),
        "no path": lacking,
    }
    return {SENTENCES[name]: mean for name, mean in means.items()}


def test_pairs(answer, rng):
    """The mean gradient of f(z) = z² + 3, by μ and σ, with rows of two."""
    n, mu, sigma = 4000, torch.tensor(0.5), torch.tensor(0.8)
    center, variance = behind_the_hill(mu, sigma)
    kept = center + variance.sqrt() * torch.randn(n, 2, generator=rng)
    leaves = [x.expand(n, 1).clone().requires_grad_() for x in (mu, sigma)]
    z = leaves[0] + leaves[1] * (kept - mu) / sigma
    result = answer.mended(lambda z: z**2 + 3, z, hill)
    result = expect.tensor(result, (n,), "What `mended` returns")
    found = expect.gradients(result, mu=leaves[0], sigma=leaves[1])

    at = mu.clone().requires_grad_(), sigma.clone().requires_grad_()
    center, variance = behind_the_hill(*at)
    truth = torch.autograd.grad(center**2 + variance + 3, at)  # of E[z² + 3]
    many = center + variance.sqrt() * torch.randn(400_000, generator=rng)
    expect.mean(
        torch.cat(list(found.values()), -1), torch.stack(truth),
        "The mean gradient for K = 2", deviation=5.0,
        mistakes=slips(many.detach(), mu, sigma),
    )  # fmt: skip


# %% hidden
import numpy as np

from reparam.exercises import points

E = np.linspace(-9.0, 9.0, 3001)  # noise, for quadrature


def as_numpy(function):
    return lambda z: function(torch.from_numpy(z)).numpy()


def models(f, log_gate, mu, sigma, K):
    """Gradients by (μ, σ): the truth by differences of quadratures, and mistakes'."""
    f, log_gate = as_numpy(f), as_numpy(log_gate)

    def parts(mu, sigma):
        z = mu + sigma * E
        mass = np.exp(-(E**2) / 2 + log_gate(z))
        return f(z), log_gate(z), mass / mass.sum()

    def mean(mu, sigma):
        values, _, share = parts(mu, sigma)
        return (values * share).sum()

    values, _, share = parts(mu, sigma)
    h, rows = 1e-4, []
    for d_mu, d_sigma in ((h, 0), (0, h)):
        up, down = (mu + d_mu, sigma + d_sigma), (mu - d_mu, sigma - d_sigma)
        (f_up, a_up, _), (f_down, a_down, _) = parts(*up), parts(*down)
        by_f, by_a = (f_up - f_down) / (2 * h), (a_up - a_down) / (2 * h)
        by_gate = (np.exp(a_up) - np.exp(a_down)) / (2 * h)
        path, product = (share * by_f).sum(), (share * values * by_a).sum()
        covariance = product - (share * values).sum() * (share * by_a).sum()
        gate = ((values - (share * values).sum()) * share * by_gate).sum()
        truth = (mean(*up) - mean(*down)) / (2 * h)
        rows.append(
            [truth, path, path + product, path + covariance * (K - 1) / K,
             path - covariance, path + gate, covariance]
        )  # fmt: skip
    names = ("truth", *SENTENCES.values())
    return dict(zip(names, torch.tensor(rows).T, strict=True))


def kept_noise(rng, shape, log_gate, mu, sigma):
    """Kept noise, by the inverse of its CDF, tabulated."""
    mass = np.exp(-(E**2) / 2 + as_numpy(log_gate)(mu + sigma * E))
    limits = np.concatenate([[0.0], np.cumsum(mass / mass.sum())])
    edges = np.append(E, 2 * E[-1] - E[-2]) - (E[1] - E[0]) / 2
    u = torch.rand(shape, generator=rng).double().numpy()
    return torch.from_numpy(np.interp(u, limits, edges)).float()


def deviations(f, log_gate, mu, sigma, K):
    """Bound on the standard deviations of one row's gradient, generously."""
    f, log_gate = as_numpy(f), as_numpy(log_gate)
    z = mu + sigma * E
    share = np.exp(-(E**2) / 2 + log_gate(z))
    share = share / share.sum()
    by_f, by_a = np.gradient(f(z), z), np.gradient(log_gate(z), z)
    found = []
    for by in (1.0, E):
        centered = f(z) - (share * f(z)).sum()
        slope = by_a * by - (share * by_a * by).sum()
        covariance = (share * centered * slope).sum()
        path = (share * (by_f * by) ** 2).sum()
        square = (share * (centered * slope) ** 2).sum()
        both = (share * centered**2).sum() * (share * slope**2).sum()
        total = path + 2 * square + 2 * both + covariance**2
        found.append(2 * np.sqrt(total / K))
    return torch.tensor(found)


def held(answer, rng, f, log_gate, mu, sigma, R, K, what):
    """Gradients of `mended` in R independent rows, against the truth."""
    z, leaves = rows(rng, log_gate, mu, sigma, R, K)
    result = answer.mended(f, z, log_gate)
    result = expect.tensor(result, (R,), "What `mended` returns")
    slopes = expect.gradients(result, mu=leaves[0], sigma=leaves[1])
    named = models(f, log_gate, mu, sigma, K)
    expect.mean(
        torch.cat(list(slopes.values()), -1), named.pop("truth"), what,
        deviation=deviations(f, log_gate, mu, sigma, K), mistakes=named,
    )  # fmt: skip


def rows(rng, log_gate, mu, sigma, R, K):
    """Kept samples [R, K], each row with parameters of its own, and these."""
    leaves = [torch.full((R, 1), x).requires_grad_() for x in (mu, sigma)]
    noise = kept_noise(rng, (R, K), log_gate, mu, sigma)
    return leaves[0] + leaves[1] * noise, leaves


@points(2)
def test_number(answer, rng):
    """The true slope of the mean of z."""
    steep = answer.given["STEEP"]
    exact = models(lambda z: z, lambda z: logsigmoid(steep * z), 0.5, 1.0, 2)
    by_mu = {name: float(pair[0]) for name, pair in exact.items()}
    truth = by_mu.pop("truth")
    expect.close(
        answer.true_slope, truth, "`true_slope`", rtol=0.015, mistakes=by_mu
    )


@points(1)
def test_same_values(answer, rng):
    """Values for other f and K."""
    for K in (2, 5):
        z = rows(rng, gate, -0.3, 1.4, 20, K)[0].detach().requires_grad_()
        f = lambda z: torch.exp(-z) + 4
        found, plain = answer.mended(f, z, gate), f(z).mean(-1)
        expect.close(found, plain, "The values of `mended`", rtol=1e-3, atol=1e-5)
        slopes = [expect.gradients(v, z=z)["z"] for v in (found, plain)]
        expect.that(
            not torch.allclose(*slopes, rtol=1e-3),
            "`mended` sends back what `average` does: the lacking term is missing.",
        )


@points(3)
def test_two(answer, rng):
    """Unbiased gradients with two samples a row."""
    bump = lambda z: -0.8 * (z - 1) ** 2
    f = lambda z: z**2 / 2 + z
    held(answer, rng, f, bump, 0.2, 1.0, 5000, 2, "The mean gradient for K = 2")


@points(2)
def test_more(answer, rng):
    """Unbiased gradients with more samples, another gate and a wavy f."""
    wavy = lambda z: torch.log(0.55 + 0.45 * torch.cos(1.5 * z))
    f = lambda z: torch.cos(2 * z) + 2
    held(answer, rng, f, wavy, 0.6, 0.7, 3000, 5, "The mean gradient for K = 5")


@points(1)
def test_constant(answer, rng):
    """Large constants in f do not matter."""
    f = lambda z: z + 50
    held(answer, rng, f, gate, 0.0, 1.2, 3000, 3, "The mean gradient of z + 50")


# %% right: leave-one-out baselines
def mended(f, z, log_gate):
    K = z.shape[1]
    values = f(z)
    fixed = values.detach()
    others = (fixed.sum(1, keepdim=True) - fixed) / (K - 1)
    logs = log_gate(z)
    lacking = (fixed - others) * logs
    lacking = (lacking - lacking.detach()).mean(1)
    return values.mean(1) + lacking


# %% right: all pairs, and the slope of the mean by its variance
at = torch.linspace(-8, 9, 3001, dtype=torch.float64)
share = torch.softmax(-((at - 0.5) ** 2) / 2 + log_gate(at), 0)
true_slope = float((share * at**2).sum() - (share * at).sum() ** 2)


def mended(f, z, log_gate):
    K = z.shape[-1]
    values, logs = f(z), log_gate(z)
    logs = logs - logs.detach()
    gap_f = (values.unsqueeze(-1) - values.unsqueeze(-2)).detach()
    gap_a = logs.unsqueeze(-1) - logs.unsqueeze(-2)
    return values.mean(-1) + (gap_f * gap_a).sum((-1, -2)) / (2 * K * (K - 1))


# %% wrong: the graph is believed
true_slope = 1.0


# %% wrong: the path alone
def mended(f, z, log_gate):
    return f(z).mean(-1)


# %% wrong: no center, so the kept share is forgotten
def mended(f, z, log_gate):
    values, logs = f(z), log_gate(z)
    return (values + values.detach() * (logs - logs.detach())).mean(-1)


# %% wrong: centered by a mean that knows the sample
def mended(f, z, log_gate):
    values, logs = f(z), log_gate(z)
    centered = (values - values.mean(-1, keepdim=True)).detach()
    return (values + centered * (logs - logs.detach())).mean(-1)


# %% wrong: the sign
def mended(f, z, log_gate):
    values, logs = f(z), log_gate(z)
    centered = (values - values.mean(-1, keepdim=True)).detach()
    lacking = (centered * (logs - logs.detach())).sum(-1) / (z.shape[-1] - 1)
    return values.mean(-1) - lacking


# %% wrong: the gate for its logarithm
def mended(f, z, log_gate):
    values, chance = f(z), log_gate(z).exp()
    centered = (values - values.mean(-1, keepdim=True)).detach()
    lacking = (centered * (chance - chance.detach())).sum(-1) / (z.shape[-1] - 1)
    return values.mean(-1) + lacking


# %% wrong: right gradients and another value
def mended(f, z, log_gate):
    values, logs = f(z), log_gate(z)
    centered = (values - values.mean(-1, keepdim=True)).detach()
    return values.mean(-1) + (centered * logs).sum(-1) / (z.shape[-1] - 1)


# %% wrong: the path is cut
def mended(f, z, log_gate):
    values, logs = f(z).detach(), log_gate(z)
    centered = values - values.mean(-1, keepdim=True)
    lacking = (centered * (logs - logs.detach())).sum(-1) / (z.shape[-1] - 1)
    return values.mean(-1) + lacking


# %% idle: the given function and a guess
true_slope = 1.0
mended = average


# %% solution
r"""
The kept noise has density $\pi_\phi(\varepsilon) = \varphi(\varepsilon)\,a(g_\phi(\varepsilon))/Z_\phi$, and so

$$\nabla_\phi\mathbb E_q[f(z)] = \underbrace{\mathbb E\big[f'(z)\,\partial_\phi g_\phi(\varepsilon)\big]}_{\text{the graph}} + \underbrace{\mathrm{Cov}\big(f(z),\ \partial_\phi\log a(g_\phi(\varepsilon))\big)}_{\text{what it lacks}},$$

since the score of $\pi_\phi$ is $\partial_\phi\log a - \partial_\phi\log Z$ and $\partial_\phi\log Z = \mathbb E_\pi[\partial_\phi\log a]$. This is the idea of Naesseth et al. (2017), who make the second term small by a sampler that keeps nearly everything. With $K$ samples the covariance needs the division by $K-1$; dividing by $K$ uses a baseline that has seen its own sample.

By $\mu$ and with $f(z) = z$ the truth is also $\mathrm{Var}_q(z)/\sigma^2$, since $\mu$ tilts $q$ exponentially: 0.84 for `STEEP` = 1, 0.60 for 3 and 0.52 for 6, where the graph says 1. In the limit of a hard gate, as in the chapter, $\log a$ jumps from $-\infty$ to 0; its gradient is 0 where it exists, and the term cannot be had in this way. There (5.3) helps.
"""

# %% rubric
r"""
Two points for the number, one for unchanged values, three for rows of two (where the division by $K$ shows), two for another gate, one for large constants. The path alone keeps the point of the values.
"""
