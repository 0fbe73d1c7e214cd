# %% about
"""
title = "A bound that is none"
kind = "measurement"
difficulty = 3
minutes = 25
points = 7
objective = "Measure what a folded layer does to an evidence estimate, and decide on abs"
after = "Planar layers"
"""

# %% imports
import math

import torch
from torch.distributions import Normal

# %% given
U = -3.0  # or -2.5, -2.0

# %% text
r"""
Someone leaves out the constraint: a planar layer in one dimension, $z = z_0+u\tanh z_0$ with base $z_0\sim N(0, 2^2)$ and $u$ = `U`, below $-1$. The code takes $\log|1+u\,\mathrm{sech}^2z_0|$, so every sample gets a finite $\log q(z)$ by (6.1), and nobody complains.

Importance sampling would notice. If $q$ is the density of $z$ and positive everywhere, then for every density $p$

$$\mathbb E\Big[\frac{p(z)}{q(z)}\Big] = 1.$$

In a VAE this mean is the evidence, and the ELBO is a lower bound *because* it is right. Take $p = N(0,1)$.

> **Predict first.** With the folded layer, is the mean below 1, above 1, or 1 with more noise?

1. Write `weights(u, z_0)`: $p(z)/q(z)$ for each entry of `z_0`, as the code with the absolute value has it.
2. Draw at least 300,000 $z_0$. `folded` is the share of them at which the determinant is negative, `evidence` the mean weight, both for `U`. (Tolerance 0.06.)
3. `choice`: what does an unconstrained layer with `abs` make of the ELBO? `"as before"`, `"a looser bound"` or `"no bound"`.
"""


# %% answer
def weights(u, z_0):
    """p(z) / q(z) at z = z_0 + u tanh(z_0), q by (6.1) with |det|."""
    ### BEGIN SOLUTION
    z = z_0 + u * torch.tanh(z_0)
    log_det = torch.log(torch.abs(1 + u / torch.cosh(z_0) ** 2))
    log_q = Normal(0.0, 2.0).log_prob(z_0) - log_det
    return torch.exp(Normal(0.0, 1.0).log_prob(z) - log_q)
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
folded = (
    (1 + U / torch.cosh(2 * torch.randn(400_000)) ** 2 < 0).float().mean().item()
)
evidence = weights(U, 2 * torch.randn(400_000)).mean().item()
choice = "no bound"
### END SOLUTION

# %% hint
r"""
$\log q(z) = \log q_0(z_0) - \log|f'(z_0)|$ with $f'(z_0) = 1+u\,\mathrm{sech}^2z_0$. The base density belongs at $z_0$, $p$ at $z$.
"""

# %% hint
r"""
Try $u = \frac12$ first, a layer that does not fold. If the mean weight is not 1 there, the function is wrong; if it is, look at `U` again.
"""

# %% hint
r"""
For the choice: the ELBO is the mean of the logarithm of a weight, and it lies below the logarithm of the mean weight. Of what is that a bound, if the mean is not 1?
"""

# %% visible
import math

import torch
from torch.distributions import Normal

from reparam.exercises import expect

OPTIONS = ("as before", "a looser bound", "no bound")
WIDE, STEP = 14.0, 0.004


def grid():
    """Points of z_0 and the base's probability at each."""
    z_0 = torch.arange(-WIDE, WIDE, STEP, dtype=torch.float64)
    return z_0, Normal(0.0, 2.0).log_prob(z_0).exp() * STEP


def by_mistake(u):
    """{sentence: mean weight} of known mistakes."""
    z_0, chance = grid()
    z = z_0 + u * torch.tanh(z_0)
    slope = 1 + u / torch.cosh(z_0) ** 2
    p, q_0 = (Normal(0.0, s).log_prob(x).exp() for s, x in ((1.0, z), (2.0, z_0)))
    unit = Normal(0.0, 1.0).log_prob(z_0).exp()
    found = {
        "the determinant multiplies q; where space is stretched, density is thinned":
            p / (q_0 * slope.abs()).clamp(min=1e-12),
        "p is taken at z_0, and belongs at z": unit * slope.abs() / q_0,
        "the determinant is missing": p / q_0,
        "the base has standard deviation 2": p * slope.abs() / unit,
        "the base density is taken at z, and belongs at z_0":
            p * slope.abs() / Normal(0.0, 2.0).log_prob(z).exp(),
        "this is log p - log q: the weight is its exponential":
            torch.log((p * slope.abs() / q_0).clamp(min=1e-300)),
        "samples at which the determinant is negative are dropped or counted as 0; the "
        "code with abs counts them": p * slope.clamp(min=0) / q_0,
        "negative determinants are counted as negative; take |det|": p * slope / q_0,
    }  # fmt: skip
    return {sentence: float((w * chance).sum()) for sentence, w in found.items()}


def mean_weight(answer, u):
    z_0, chance = grid()
    found = expect.tensor(answer.weights(u, z_0), z_0.shape, "weights(u, z_0)")
    return float((found.detach() * chance).sum())


def test_unfolded(answer, rng):
    """A layer that does not fold: the mean weight is 1."""
    expect.close(
        mean_weight(answer, 0.5), 1.0, "The mean weight at u = 0.5", atol=1e-3,
        mistakes=by_mistake(0.5),
    )  # fmt: skip


def test_point(answer, rng):
    """One point of a folded layer."""
    found = answer.weights(-3.0, torch.tensor([0.0]))
    right = 4.0  # z is 0 again, |det| = 2, and p(0) / q_0(0) = 2
    expect.close(
        found, torch.tensor([right]), "The weight at z_0 = 0 for u = -3",
        mistakes={
            "the determinant is -2 there; its absolute value counts": torch.tensor([-4.0]),
            "the sample was dropped, and the code with abs counts it": torch.tensor([0.0]),
            "the determinant multiplies q; it should divide": torch.tensor([1.0]),
            "the base has standard deviation 2": torch.tensor([2.0]),
        },
    )  # fmt: skip


def test_numbers(answer, rng):
    """The numbers are possible."""
    share = expect.number(answer.folded, "folded")
    expect.that(
        0 <= share <= 1, "`folded` is a share of the samples, between 0 and 1."
    )
    turn = math.acosh(math.sqrt(-answer.given["U"]))
    expect.that(
        abs(share - math.erf(turn / math.sqrt(2))) > 0.01,
        "`folded` is the share for a base of standard deviation 1; here it is 2.",
    )
    expect.number(answer.evidence, "evidence")
    z_0, chance = grid()
    logs = torch.log(
        answer.weights(answer.given["U"], z_0).detach().clamp(min=1e-300)
    )
    expect.close(
        answer.evidence, mean_weight(answer, answer.given["U"]),
        "`evidence` (compared with your own weights, summed over a grid)", atol=0.06, rtol=0,
        mistakes={
            "this is the mean of the logarithms, an ELBO. The evidence is the mean of the "
            "weights themselves": float((logs * chance).sum()),
        },
    )  # fmt: skip
    expect.that(
        answer.choice in OPTIONS, f"choice should be one of {', '.join(OPTIONS)}."
    )


# %% hidden
from reparam.exercises import points


def sheets(u):
    """The mean over p of the number of z_0 that are mapped to z: 3 between the folds."""
    if u >= -1:
        return 1.0
    turn = math.acosh(math.sqrt(-u))
    edge = abs(turn + u * math.tanh(turn))
    return 1 + 2 * math.erf(edge / math.sqrt(2))


@points(2)
def test_mean(answer, rng):
    """The mean weight of layers that fold and of layers that do not."""
    for u in (-4.0, -2.2, -1.2, -0.8, 0.0, 2.0):
        u = u + 0.1 * float(torch.rand((), generator=rng))
        found, wanted = mean_weight(answer, u), sheets(u)
        mistakes = by_mistake(u) if abs(found - wanted) > 1e-3 else None
        expect.close(
            found, wanted, "The mean weight", atol=2e-3, mistakes=mistakes
        )


@points(1)
def test_each(answer, rng):
    """The weight of each sample."""
    u = -1.5 - float(torch.rand((), generator=rng))
    z_0 = torch.randn(50, generator=rng)
    z, h = z_0 + u * torch.tanh(z_0), 1e-6
    wide = z_0.double()
    slope = (
        (wide + h + u * torch.tanh(wide + h))
        - (wide - h + u * torch.tanh(wide - h))
    ) / (2 * h)
    wanted = (
        2 * torch.exp(z_0.double() ** 2 / 8 - z.double() ** 2 / 2) * slope.abs()
    )
    expect.close(
        answer.weights(u, z_0),
        wanted,
        "The weight of a sample",
        rtol=1e-3,
        atol=1e-4,
    )


@points(2)
def test_measured(answer, rng):
    """The share of folded samples and the evidence."""
    turn = math.acosh(math.sqrt(-answer.given["U"]))
    expect.close(
        answer.folded, math.erf(turn / 2 / math.sqrt(2)), "folded", atol=0.02, rtol=0,
        mistakes={
            "this is the share for a base of standard deviation 1":
                math.erf(turn / math.sqrt(2)),
            "this is the share of samples that do not fold":
                1 - math.erf(turn / 2 / math.sqrt(2)),
        },
    )  # fmt: skip
    expect.close(
        answer.evidence, sheets(answer.given["U"]), "evidence", atol=0.06, rtol=0
    )


@points(2)
def test_choice(answer, rng):
    """The decision."""
    expect.equal(
        answer.choice, "no bound", "choice", options=OPTIONS,
        mistakes={
            "the mean weight is not what it should be, and the ELBO lies below the logarithm "
            "of that mean, not of 1": "as before",
            "a looser bound would need a mean weight of at most 1. Compare yours":
                "a looser bound",
        },
    )  # fmt: skip


# %% right: without logarithms, and by a sum over a grid
def weights(u, z_0):
    t = torch.tanh(z_0)
    z = z_0 + u * t
    ratio = 2 * torch.exp(z_0**2 / 8 - z**2 / 2)
    return ratio * (1 + u * (1 - t) * (1 + t)).abs()


points_of_z_0 = torch.linspace(-12, 12, 100_001)
chance = Normal(0.0, 2.0).log_prob(points_of_z_0).exp() * 24 / 100_000
folded = 2 * Normal(0.0, 2.0).cdf(torch.tensor(math.acosh(math.sqrt(-U)))) - 1
evidence = (weights(U, points_of_z_0) * chance).sum()


# %% wrong: folded samples are dropped
def weights(u, z_0):
    z = z_0 + u * torch.tanh(z_0)
    slope = 1 + u / torch.cosh(z_0) ** 2
    log_q = Normal(0.0, 2.0).log_prob(z_0) - torch.log(slope)
    return torch.nan_to_num(
        torch.exp(Normal(0.0, 1.0).log_prob(z) - log_q), nan=0.0
    )


evidence = weights(U, 2 * torch.randn(400_000)).mean().item()
choice = "a looser bound"


# %% wrong: the sign of the log-determinant
def weights(u, z_0):
    z = z_0 + u * torch.tanh(z_0)
    log_det = torch.log(torch.abs(1 + u / torch.cosh(z_0) ** 2))
    log_q = Normal(0.0, 2.0).log_prob(z_0) + log_det
    return torch.exp(Normal(0.0, 1.0).log_prob(z) - log_q)


# %% wrong: p at the base sample
def weights(u, z_0):
    log_det = torch.log(torch.abs(1 + u / torch.cosh(z_0) ** 2))
    log_q = Normal(0.0, 2.0).log_prob(z_0) - log_det
    return torch.exp(Normal(0.0, 1.0).log_prob(z_0) - log_q)


evidence = weights(U, 2 * torch.randn(400_000)).mean().item()


# %% wrong: negative determinants count as negative
def weights(u, z_0):
    z = z_0 + u * torch.tanh(z_0)
    slope = 1 + u / torch.cosh(z_0) ** 2
    ratio = Normal(0.0, 1.0).log_prob(z) - Normal(0.0, 2.0).log_prob(z_0)
    return torch.exp(ratio) * slope


evidence = weights(U, 2 * torch.randn(400_000)).mean().item()
choice = "as before"

# %% wrong: the share under a standard Gaussian
folded = (
    ((1 + U / torch.cosh(torch.randn(400_000)) ** 2) < 0).float().mean().item()
)

# %% wrong: the mean of the logarithms
evidence = weights(U, 2 * torch.randn(400_000)).log().mean().item()

# %% wrong: right numbers, and calls abs harmless
choice = "as before"

# %% solution
r"""
$\mathbb E[p(z)/q(z)] = \int p(f(z_0))\,|f'(z_0)|\,dz_0$, which is the integral of $p(z)$ times the number of $z_0$ that land on $z$. Between the two folds there are three. For $u=-3$, with 43 % of the samples folded, that makes 2.61, so the "ELBO" may lie up to $\log 2.61 = 0.96$ nats *above* the true evidence: it is no bound. (6.1) at a sample knows one of the three sheets, so it reports a density that is too low, and a density that is too low looks like entropy. An optimizer is paid for folding.

Negative determinants counted as negative would give 1 again (the degree of the map), which is no help: single weights are negative. The remedy is the constraint. And the mean weight is a test that needs no inverse: for any sampler that claims a density, it must be 1.
"""

# %% rubric
r"""
Three points for the weights, two for the two numbers, two for the decision. Give one of the last two for an argument that the reported density is too low.
"""
