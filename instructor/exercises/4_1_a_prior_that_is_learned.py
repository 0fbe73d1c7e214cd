# %% about
"""
title = "A prior that is learned"
kind = "derivation"
difficulty = 2
minutes = 20
points = 6
objective = "Derive the KL between two Gaussians in log-variances and the prior that makes its average smallest"
after = "The KL, without cancellation"
"""

# %% imports
import torch
from torch import Tensor

# %% text
r"""
In a hierarchy of latents the prior is not $N(0, 1)$: it is learned, with a mean and a log-variance of its own.

**1.** Follow (4.3) for $q = N(\mu_q, \sigma_q^2)$ and $p = N(\mu_p, \sigma_p^2)$, and bring the result into a form in which the two log-variances occur only through their difference and through the distance of the means in units of $\sigma_p$. Then no variance is ever computed alone, so nothing overflows: write `kl_between` such that it is right in float32 for log-variances of 100 and of -100, too.

**2.** *Predict first*: a batch has posteriors $N(\mu_n, \sigma_n^2)$. Is the best prior as wide as the average posterior? Set the derivatives of $\frac1N\sum_n\mathrm{KL}\big(N(\mu_n,\sigma_n^2)\,\Vert\,N(m, s^2)\big)$ by $m$ and by $\log s^2$ to zero and write `best_prior`.
"""


# %% answer
def kl_between(
    mu_q: Tensor, log_var_q: Tensor, mu_p: Tensor, log_var_p: Tensor
) -> Tensor:
    """KL(q ‖ p) of diagonal Gaussians, summed over the last dimension.

    All four tensors have one shape [..., D]; the result has shape [...].
    """
    ### BEGIN SOLUTION
    ratio = log_var_q - log_var_p
    distance = (mu_q - mu_p) * torch.exp(-log_var_p / 2)
    return (distance**2 + torch.expm1(ratio) - ratio).sum(-1) / 2
    ### END SOLUTION


def best_prior(mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """(m, log s²), each [D], of the prior with the smallest average KL.

    mu and log_var, [N, D], are means and log-variances of N posteriors.
    """
    ### BEGIN SOLUTION
    m = mu.mean(0)
    return m, (log_var.exp() + (mu - m) ** 2).mean(0).log()
    ### END SOLUTION


# %% hint
r"""
$\mathbb E_q[(z-\mu_p)^2] = \sigma_q^2 + (\mu_q-\mu_p)^2$, and the logarithms of $2\pi$ cancel as before.
"""

# %% hint
r"""
A ratio of variances is the exponential of a difference of logarithms. Divide the distance of the means by $\sigma_p$ *before* you square it: the square of a large distance is infinite in float32.
"""

# %% hint
r"""
As a function of $\log s^2$ the average KL is $\frac12\big(\log s^2 + A\,e^{-\log s^2}\big)$ plus a constant. What is $A$, and where is the derivative zero? Two things make the whole batch wide: each posterior's own width, and something else.
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def test_one(answer, rng):
    """Two Gaussians that differ in both parameters."""
    q = torch.tensor([4.0]), torch.tensor([4.0]).log()
    p = torch.tensor([-2.0]), torch.tensor([9.0]).log()
    # From N(4, 2²) to N(-2, 3²): E_q of (z - 4)²/4 is 1, and E_q of (z + 2)²/9 is (4 + 6²)/9.
    right = math.log(3 / 2) + ((4 + 36) / 9 - 1) / 2
    mistakes = {
        "that is KL(p ‖ q): the expectation is over q, and the distance is measured in "
        "widths of p": math.log(2 / 3) + ((9 + 36) / 4 - 1) / 2,
        "the distance of the means is divided by σ_q; it comes from log p, so it is "
        "measured in widths of p": right + (36 / 4 - 36 / 9) / 2,
        "the distance is divided by σ_p² and then squared":
            right + (36 / 81 - 36 / 9) / 2,
        "the distance is divided by σ_p alone; its square has the variance below it":
            right + (36 / 3 - 36 / 9) / 2,
        "the -1 is missing, which is E_q of -(z - μ_q)²/σ_q²": right + 0.5,
        "the ½ is missing": 2 * right,
        "the sign of the difference of log-variances is wrong":
            right - 2 * math.log(3 / 2),
    }  # fmt: skip
    expect.close(
        answer.kl_between(*q, *p), torch.tensor(right), "KL(q ‖ p)",
        mistakes={s: torch.tensor(value) for s, value in mistakes.items()},
    )  # fmt: skip


def test_directions(answer, rng):
    """Gaussians that differ in one direction are as far apart as without the others."""
    q = (
        torch.tensor([[0.5, 4.0], [4.0, 4.0]]),
        torch.tensor([4.0, 4.0]).log().expand(2, 2),
    )
    p = (
        torch.tensor([[0.5, -2.0], [-2.0, -2.0]]),
        torch.tensor([[4.0, 9.0], [9.0, 9.0]]).log(),
    )
    one = answer.kl_between(*(t[:1, 1:] for t in (*q, *p)))
    both = answer.kl_between(*q, *p)
    expect.close(
        both, torch.cat([one, 2 * one]), "KL(q ‖ p) in two dimensions",
        mistakes={
            "it is the mean over dimensions, not the sum": torch.cat([one / 2, one]),
        },
    )  # fmt: skip


def test_far(answer, rng):
    """Two wide laws, their means one standard deviation of p apart."""
    scale = torch.tensor([50.0]).exp()
    law = torch.zeros(1), torch.tensor([100.0])
    for mu, right in ((torch.zeros(1), 0.0), (scale, 0.5)):
        found = answer.kl_between(mu, law[1], *law)
        expect.that(
            isinstance(found, torch.Tensor) and bool(found.isfinite().all()),
            "With log-variances of 100 the KL is not finite: something on the way is "
            "computed in absolute terms, a variance or the square of a distance.",
        )
        expect.close(
            found, right, "The KL with log-variances of 100", rtol=1e-3, atol=1e-5
        )


def test_two_posteriors(answer, rng):
    """The best prior of two narrow posteriors far apart."""
    mu = torch.tensor([[-3.0], [3.0]])
    log_var = torch.tensor([[0.0], [-2.0]])
    m, log_s2 = answer.best_prior(mu, log_var)
    expect.close(m, torch.zeros(1), "The best prior's mean", atol=1e-5)
    own = (1 + torch.tensor([-2.0]).exp()) / 2
    expect.close(
        log_s2, (own + 9).log(), "The best prior's log-variance",
        mistakes={
            "that is the average width of a posterior. The prior has to cover all of "
            "them, and they lie apart": own.log(),
            "log-variances were averaged; set the derivative of the average KL to zero":
                torch.tensor([-1.0]),
            "that is the spread of the means alone; each posterior has a width, too":
                torch.tensor([9.0]).log(),
            "N - 1 was divided by; the average KL has 1/N": (own + 18).log(),
            "that is s² itself": own + 9,
        },
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


def by_quadrature(mu_q, log_var_q, mu_p, log_var_p):
    """E_q[log q - log p], the expectation by Gauss and Hermite: exact for squares."""
    mu_q, log_var_q, mu_p, log_var_p = (
        t.double() for t in (mu_q, log_var_q, mu_p, log_var_p)
    )
    root = 3**0.5  # nodes -√3, 0, √3 with weights 1/6, 2/3, 1/6
    nodes = ((-root, 1 / 6), (0.0, 2 / 3), (root, 1 / 6))
    total = 0.0
    for node, weight in nodes:
        z = mu_q + (log_var_q / 2).exp() * node
        log_q = -(node**2) / 2 - log_var_q / 2
        log_p = -((z - mu_p) ** 2) * (-log_var_p).exp() / 2 - log_var_p / 2
        total = total + weight * (log_q - log_p)
    return total.sum(-1)


def laws(rng, *shape):
    """Means and log-variances of q and of p."""
    draws = torch.randn(4, *shape, generator=rng)
    return draws * torch.tensor([1.5, 0.8, 1.5, 0.8]).view(4, *([1] * len(shape)))


@points(2)
def test_random(answer, rng):
    """The KL of many pairs, in several shapes."""
    for shape in ((6,), (5, 3), (2, 3, 4)):
        four = laws(rng, *shape)
        expect.close(
            answer.kl_between(*four), by_quadrature(*four).float(),
            "KL(q ‖ p)", atol=1e-4,
        )  # fmt: skip


@points(2)
def test_scaled(answer, rng):
    """Both laws scaled by the same huge or tiny factor: the KL does not change."""
    mu_q, log_var_q, mu_p, log_var_p = laws(rng, 5, 3)
    right = by_quadrature(mu_q, log_var_q, mu_p, log_var_p).float()
    for shift in (100.0, -100.0):
        scale = torch.tensor(shift / 2).exp()
        found = answer.kl_between(
            scale * mu_q, shift + log_var_q, scale * mu_p, shift + log_var_p
        )
        expect.close(
            found,
            right,
            "KL(q ‖ p) for extreme log-variances",
            rtol=1e-3,
            atol=1e-3,
        )


@points(2)
def test_stationary(answer, rng):
    """At the best prior the average KL has slope zero, and the prior is a minimum."""
    for rows, columns in ((7, 3), (40, 2)):
        mu, log_var, offset, _ = laws(rng, rows, columns)
        mu = mu + offset[:1]
        found = answer.best_prior(mu, log_var)
        m, log_s2 = (
            expect.tensor(t, (columns,), "A parameter of the best prior")
            .detach()
            .double()
            .requires_grad_()
            for t in found
        )
        prior = m.expand(rows, -1), log_s2.expand(rows, -1)
        average = by_quadrature(mu, log_var, *prior).mean()
        slopes = torch.autograd.grad(average, (m, log_s2))
        for slope, name in zip(slopes, ("mean", "log-variance"), strict=True):
            expect.close(
                slope.float(), torch.zeros(columns),
                f"The average KL's slope by the prior's {name}", atol=1e-4,
            )  # fmt: skip


# %% right: by a difference of exponents, and by moments
def kl_between(mu_q, log_var_q, mu_p, log_var_p):
    sigma_p = torch.exp(log_var_p / 2)
    mean_part = ((mu_q - mu_p) / sigma_p).square()
    width_part = torch.exp(log_var_q - log_var_p) - 1 + (log_var_p - log_var_q)
    return 0.5 * mean_part.sum(dim=-1) + 0.5 * width_part.sum(dim=-1)


def best_prior(mu, log_var):
    second = (log_var.double().exp() + mu.double().square()).mean(0)
    variance = second - mu.double().mean(0).square()
    return mu.mean(0), variance.log().float()


# %% right: leave it to torch.distributions
def kl_between(mu_q, log_var_q, mu_p, log_var_p):
    q = torch.distributions.Normal(mu_q, (log_var_q / 2).exp())
    p = torch.distributions.Normal(mu_p, (log_var_p / 2).exp())
    return torch.distributions.kl_divergence(q, p).sum(-1)


# %% wrong: the other direction
def kl_between(mu_q, log_var_q, mu_p, log_var_p):
    ratio = log_var_p - log_var_q
    distance = (mu_q - mu_p) * torch.exp(-log_var_q / 2)
    return (distance**2 + torch.expm1(ratio) - ratio).sum(-1) / 2


# %% wrong: distance in widths of q
def kl_between(mu_q, log_var_q, mu_p, log_var_p):
    ratio = log_var_q - log_var_p
    distance = (mu_q - mu_p) * torch.exp(-log_var_q / 2)
    return (distance**2 + torch.expm1(ratio) - ratio).sum(-1) / 2


# %% wrong: variances computed alone
def kl_between(mu_q, log_var_q, mu_p, log_var_p):
    var_q, var_p = log_var_q.exp(), log_var_p.exp()
    inside = (mu_q - mu_p) ** 2 / var_p + var_q / var_p - 1
    return (inside + log_var_p - log_var_q).sum(-1) / 2


# %% wrong: squares before it scales
def kl_between(mu_q, log_var_q, mu_p, log_var_p):
    ratio = log_var_q - log_var_p
    distance = (mu_q - mu_p) ** 2 * torch.exp(-log_var_p)
    return (distance + torch.expm1(ratio) - ratio).sum(-1) / 2


# %% wrong: a prior as wide as the average posterior
def best_prior(mu, log_var):
    return mu.mean(0), log_var.exp().mean(0).log()


# %% wrong: averages log-variances
def best_prior(mu, log_var):
    return mu.mean(0), log_var.mean(0)


# %% solution
r"""
$$\mathrm{KL} = \tfrac12\Big(\frac{(\mu_q-\mu_p)^2}{\sigma_p^2} + e^{\delta} - 1 - \delta\Big),\qquad \delta = \log\sigma_q^2-\log\sigma_p^2.$$

The KL does not change when both laws are scaled alike, so it can depend on nothing else than these two, and a program that computes $\sigma^2$ alone makes an overflow that the problem does not have. (Near $\delta = 0$ the width part cancels as in (4.4); the series cures it here, too.)

The average KL is $\frac12\big(\log s^2 + A/s^2\big)$ plus a constant, with $A = \frac1N\sum_n\big(\sigma_n^2+(\mu_n-m)^2\big)$, smallest at $m = \bar\mu$ and $s^2 = A$: the variance of the mixture of all posteriors. It has two parts, the average width and the spread of the means. With a fixed prior $N(0, 1)$ the same sum, $A$ at $m = 0$, is pulled toward 1.
"""

# %% rubric
r"""
Two points for the KL, two for extreme log-variances (a right formula in variances gets the first two only), two for the best prior. A derivation on paper with the right form and a slip in the code: one point of the two.
"""
