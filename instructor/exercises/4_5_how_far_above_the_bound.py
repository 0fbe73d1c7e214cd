# %% about
"""
title = "How far above the bound?"
kind = "harder"
difficulty = 5
minutes = 45
points = 10
objective = "Derive by how much a reconstruction at the mean overstates a linear model's log-likelihood, and compute it without cancellation"
after = "Training and evaluation"
"""

# %% imports
import torch
from torch import Tensor

# %% text
r"""
For the chapter's linear model the "ELBO" with $z = \mu$ lies above $\log p(x)$. How far can it get? Let $z\sim N(0, I_D)$ and $x\mid z\sim N(Wz, s^2I_P)$, with $W$ of shape `[P, D]`. For a Gaussian $q = N(m, C)$ write

$$J(m, C) = \log p(x\mid m) - \mathrm{KL}\big(q\,\Vert\,N(0, I)\big), \qquad \text{excess} = J - \log p(x).$$

**1.** `excess_at_posterior`: the excess where $q$ is the exact posterior.

**2.** `largest_excess`: the largest that any $m$ and any $C$ reach.

**3.** *Predict first*: nothing but the KL looks at $C$. Which covariance does an encoder trained on $J$ learn? `learned` is `"zero"`, `"posterior"` or `"prior"`.

That neither function has an argument $x$ is a part of the answer. Both results shall keep a relative error below $10^{-4}$ in float32, also for a $W$ with entries of $10^{-4}$ and $s = 1$.
"""


# %% answer
def excess_at_posterior(W: Tensor, s: float) -> Tensor:
    """J - log p(x) for q = p(z | x), a tensor without dimensions; W is [P, D]."""
    ### BEGIN SOLUTION
    snr = (torch.linalg.svdvals(W) / s) ** 2
    return (snr / (1 + snr)).sum() / 2
    ### END SOLUTION


def largest_excess(W: Tensor, s: float) -> Tensor:
    """The maximum of J - log p(x) over m and C, a tensor without dimensions."""
    ### BEGIN SOLUTION
    return torch.log1p((torch.linalg.svdvals(W) / s) ** 2).sum() / 2
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
learned = "prior"
### END SOLUTION

# %% hint
r"""
With $A = I + W^\top W/s^2$ the posterior has covariance $A^{-1}$ and, since $p(x\mid z)\,p(z)$ is Gaussian in $z$, its mean is also its mode.
"""

# %% hint
r"""
For 1 compare $J$ with the ELBO, which *is* $\log p(x)$ at the posterior. They differ only in the reconstruction: $\log p(x\mid m)$ against $\mathbb E_q[\log p(x\mid z)]$. A quadratic's mean differs from its value at the mean by half a trace.
"""

# %% hint
r"""
For 2 the best $C$ makes the KL $\frac12\lVert m\rVert^2$, and what is left is $\log p(x, z{=}m)$ up to a constant. Its maximum and its integral over $z$, which is $p(x)$, are related by a Gaussian integral (Laplace's method, exact here).
"""

# %% hint
r"""
A determinant and a trace are a product and a sum over eigenvalues. `slogdet(I + small)` adds small numbers to 1 and then takes a logarithm: the chapter has a rule for that. The eigenvalues of $W^\top W$ are squares of the singular values of $W$.
"""

# %% visible
import math

import torch

from reparam.exercises import expect

COVARIANCES = ("zero", "posterior", "prior")


def test_chapter(answer, rng):
    """The chapter's model, W = 1 and s = 1, where the excess was a quarter."""
    W = torch.ones(1, 1)
    expect.close(
        answer.excess_at_posterior(W, 1.0), 0.25, "The excess at the posterior",
        mistakes={
            "that is the largest excess": math.log(2) / 2,
            "it is twice what it should be: a factor ½ is missing, or the trace is taken "
            "with the prior's covariance": 0.5,
        },
    )  # fmt: skip
    found = expect.number(answer.largest_excess(W, 1.0), "The largest excess")
    expect.that(
        found > 0.26,
        "The largest excess is not above that of the posterior, which is one of the q's.",
    )


def test_example(answer, rng):
    """A model with three pixels and two latents, whose columns are not orthogonal."""
    # z along (1, 1) is seen three times as large, along (1, -1) as it is. Each of the
    # two is a model with one latent, and with s = 1/2 its signals are 36 and 4 times
    # its noise, in variances.
    W, s = torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.0, 0.0]]), 0.5
    at_posterior = (36 / 37 + 4 / 5) / 2
    expect.close(
        answer.excess_at_posterior(W, s), at_posterior,
        "The excess at the posterior", rtol=1e-3,
        mistakes={
            "a factor ½ is missing": 2 * at_posterior,
            "the trace is taken with the prior's covariance; q is the posterior":
                (36 + 4) / 2,
            "it is as if the columns of W were orthogonal": 20 / 21,
            "s stands where s² should": (18 / 19 + 2 / 3) / 2,
        },
    )  # fmt: skip
    largest = math.log(37 * 5) / 2
    expect.close(
        answer.largest_excess(W, s), largest, "The largest excess", rtol=1e-3,
        mistakes={
            "a factor ½ is missing": 2 * largest,
            "that is the excess at the posterior; other q's reach more. Maximize over C "
            "first, then over m": at_posterior,
            "it is as if the columns of W were orthogonal": math.log(21),
            "s stands where s² should": math.log(19 * 3) / 2,
        },
    )  # fmt: skip


def test_small(answer, rng):
    """A weak decoder: W = 1e-4."""
    W = torch.full((1, 1), 1e-4)
    for name in ("excess_at_posterior", "largest_excess"):
        expect.close(
            getattr(answer, name)(W, 1.0), 5e-9, f"{name} for W = 1e-4",
            rtol=1e-4, atol=0.0,
            mistakes={"it is lost in rounding: 1 + 1e-8 is 1 in float32": 0.0},
        )  # fmt: skip


def test_learned(answer, rng):
    """What the encoder learns is one of the three."""
    expect.that(
        answer.learned in COVARIANCES,
        f"learned should be one of {', '.join(map(repr, COVARIANCES))}.",
    )


# %% hidden
from torch.distributions import MultivariateNormal, kl_divergence

from reparam.exercises import points


def parts(W, s, x):
    """In float64: log p(x), and J as a function of m and C."""
    W, x = W.double(), x.double()
    P, D = W.shape
    noise = s**2 * torch.eye(P).double()
    prior = MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
    marginal = MultivariateNormal(torch.zeros(P).double(), W @ W.T + noise)

    def J(m, C):
        reconstruction = MultivariateNormal(W @ m, noise).log_prob(x)
        return reconstruction - kl_divergence(MultivariateNormal(m, C), prior)

    return marginal.log_prob(x), J


def posterior(W, s, x):
    """Mean and covariance of p(z | x), by conditioning (z, x) on x."""
    W, x = W.double(), x.double()
    gain = torch.linalg.solve(W @ W.T + s**2 * torch.eye(len(W)).double(), W).T
    return gain @ x, torch.eye(W.shape[1]).double() - gain @ W


def at_posterior(W, s, x):
    log_px, J = parts(W, s, x)
    return float(J(*posterior(W, s, x)) - log_px)


def at_best(W, s, x):
    """With the prior's covariance and the mean from a least-squares problem."""
    log_px, J = parts(W, s, x)
    D = W.shape[1]
    stacked = torch.cat([W.double() / s, torch.eye(D).double()])
    target = torch.cat([x.double() / s, torch.zeros(D).double()])
    m = torch.linalg.lstsq(stacked, target[:, None]).solution[:, 0]
    return float(J(m, torch.eye(D).double()) - log_px)


def models(rng):
    """W, s and x of several sizes."""
    for P, D, s in ((4, 2, 0.5), (3, 3, 1.5), (2, 5, 0.8), (6, 1, 2.0)):
        W = torch.randn(P, D, generator=rng)
        yield W, s, 2 * torch.randn(P, generator=rng)


@points(3)
def test_posterior(answer, rng):
    """The excess at the posterior, also with more latents than pixels."""
    for W, s, x in models(rng):
        expect.close(
            answer.excess_at_posterior(W, s), at_posterior(W, s, x),
            "The excess at the posterior", rtol=1e-3,
        )  # fmt: skip


@points(3)
def test_best(answer, rng):
    """The largest excess, also with more latents than pixels."""
    for W, s, x in models(rng):
        expect.close(
            answer.largest_excess(W, s), at_best(W, s, x), "The largest excess",
            rtol=1e-3,
        )  # fmt: skip


@points(2)
def test_weak(answer, rng):
    """Weak decoders, in float32."""
    for size in (1e-4, 3e-4):
        W = size * torch.randn(4, 3, generator=rng)
        A = W.double().T @ W.double()
        first, second = torch.trace(A), torch.trace(A @ A)
        truths = {
            "excess_at_posterior": (first - second) / 2,
            "largest_excess": (first - second / 2) / 2,
        }
        for name, truth in truths.items():
            expect.close(
                getattr(answer, name)(W, 1.0), float(truth),
                f"{name} for a weak decoder", rtol=1e-4, atol=0.0,
            )  # fmt: skip


@points(2)
def test_covariance(answer, rng):
    """What the encoder learns."""
    W, s, x = next(models(rng))
    _, J = parts(W, s, x)
    mean, C = posterior(W, s, x)
    eye = torch.eye(len(C)).double()
    values = {
        "zero": J(mean, 1e-6 * eye), "posterior": J(mean, C), "prior": J(mean, eye),
    }  # fmt: skip
    best = max(values, key=values.get)
    expect.equal(
        answer.learned, best, "The learned covariance", options=COVARIANCES,
        mistakes={
            "an autoencoder without a KL would not care; with it, a small C costs "
            "-½ log det C": "zero",
            "that is the ELBO's optimum. In J nothing says that a wide q reconstructs "
            "badly": "posterior",
        },
    )  # fmt: skip


# %% right: from the Gram matrix's eigenvalues, in float64
def _eigenvalues(W, s):
    gram = W.double() @ W.double().T if W.shape[0] < W.shape[1] else (
        W.double().T @ W.double()
    )  # fmt: skip
    return torch.linalg.eigvalsh(gram / s**2).clamp(min=0)


def excess_at_posterior(W, s):
    values = _eigenvalues(W, s)
    return (values / (values + 1)).sum().div(2).float()


def largest_excess(W, s):
    return torch.log1p(_eigenvalues(W, s)).sum().div(2).float()


# %% wrong: determinant of one plus something small
def largest_excess(W, s):
    return torch.logdet(torch.eye(W.shape[1]) + W.T @ W / s**2) / 2


# %% wrong: the posterior is taken for the best
def largest_excess(W, s):
    return excess_at_posterior(W, s)


# %% wrong: no half
def excess_at_posterior(W, s):
    snr = (torch.linalg.svdvals(W) / s) ** 2
    return (snr / (1 + snr)).sum()


# %% wrong: s for s squared
def largest_excess(W, s):
    return torch.log1p(torch.linalg.svdvals(W) ** 2 / s).sum() / 2


# %% wrong: columns as if orthogonal
def largest_excess(W, s):
    return torch.log1p(W.square().sum(0) / s**2).sum() / 2


# %% wrong: the trace with the prior's covariance
def excess_at_posterior(W, s):
    return W.square().sum() / s**2 / 2


# %% wrong: the encoder becomes deterministic
learned = "zero"

# %% wrong: the encoder learns the posterior
learned = "posterior"

# %% solution
r"""
Let $A = I + W^\top W/s^2$ and $\lambda_i$ the eigenvalues of $W^\top W$.

**At the posterior** the ELBO is $\log p(x)$, so the excess is $\log p(x\mid m)-\mathbb E_q[\log p(x\mid z)] = \frac1{2s^2}\mathrm{tr}(W^\top WA^{-1}) = \frac12\sum_i\frac{\lambda_i}{\lambda_i+s^2}$. It is half the number of latents that are in use, at most $D/2$.

**At best**: $C$ occurs in the KL alone, whose minimum is at $C = I$, *the prior's covariance*. Then $J = \log p(x\mid m)-\frac12\lVert m\rVert^2 = \log p(x, m)+\frac D2\log2\pi$, largest at the mode. The joint density is a Gaussian in $z$ with precision $A$, so $p(x) = p(x, m^*)\,(2\pi)^{D/2}\det A^{-1/2}$, and

$$\text{largest excess} = \tfrac12\log\det A = \tfrac12\sum_i\log\Big(1+\frac{\lambda_i}{s^2}\Big),$$

which depends on no $x$ and has no upper end. It is the mutual information of $x$ and $z$: $J$ charges nothing for what the code says. A decoder with a large $W$ lets codes shrink, so that their KL goes to that of the prior while they say as much as before. The number looks like an ELBO with hardly any KL, and $q$ looks like the prior.

Numerically: $\log(1+\lambda/s^2)$ is a `log1p`, and the determinant of a matrix near $I$ does what $\log(1+e^r)$ did.
"""

# %% rubric
r"""
Three points for each excess, two for accuracy with a weak decoder, two for the covariance. A right derivation in one dimension only is worth half of each. If `largest_excess` is maximized numerically in the code and right, it keeps its points.
"""
