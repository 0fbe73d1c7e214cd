# %% about
"""
title = "The weight in disguise"
kind = "bug"
difficulty = 3
minutes = 25
points = 7
objective = "Find, by calling it, the weight that any loss gives to the KL, and mend a loss whose reductions hide one"
after = "Sum, mean, and the weight of the KL"
"""

# %% imports
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from reparam.gaussian import gaussian_kl

# %% text
r"""
`vae_loss` below runs, its loss falls, and yet all codes collapse to the prior.

> **Predict first.** What weight $w$ does it give the KL, for images of $P = 64$ pixels and $D = 8$ latents?

A learning rate absorbs a factor, and a constant has no gradient. So every such loss is $c\,(R + w\,\mathrm{KL}) + \text{constant}$, with $c > 0$, $R = -\log p(x\mid z)$ (Bernoulli, summed over pixels) and the KL (summed over latents), **both averaged over the batch**; and $w$ is the ELBO's weight if it is 1.

**1.** Write `effective_weight`, which finds $w$ of a given loss by calling it on inputs that you choose. It must not assume anything of $c$, nor of the constant.

**2.** Write `mended_loss`: the negative ELBO per image, averaged over the batch, a tensor without dimensions.
"""


# %% code
def vae_loss(logits, x, mu, log_var):
    """It runs, and is not right. logits, x are [N, P], mu, log_var [N, D]."""
    reconstruction = F.binary_cross_entropy_with_logits(logits, x)
    kl = gaussian_kl(mu, log_var, reduction="none").mean()
    return reconstruction + kl


# %% answer
def effective_weight(loss: Callable, pixels: int, latents: int) -> float:
    """w, for a loss(logits, x, mu, log_var) that is c (R + w KL) + constant."""
    ### BEGIN SOLUTION
    rows = 4
    x, off = torch.ones(rows, pixels), torch.zeros(rows, latents)
    here = loss(0 * x, x, off, off)
    by_kl = loss(0 * x, x, off + 2, off) - here
    by_reconstruction = loss(-2 * x, x, off, off) - here
    ce = F.softplus(torch.tensor([2.0, 0.0]))
    per_nat = by_reconstruction / (pixels * (ce[0] - ce[1]))
    return float(by_kl / (latents * 2) / per_nat)
    ### END SOLUTION


def mended_loss(logits: Tensor, x: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """The negative ELBO per image, averaged over the batch."""
    ### BEGIN SOLUTION
    each = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return each.sum(-1).mean() + gaussian_kl(mu, log_var, "batchmean")
    ### END SOLUTION


# %% hint
r"""
Change only `mu`, and the loss changes by $c\,w\,\Delta\mathrm{KL}$, where you know $\Delta\mathrm{KL}$ from (4.3). Change only `logits`, and you learn another product.
"""

# %% hint
r"""
Differences of two calls remove the constant; the quotient of two differences removes $c$. Make the changes large enough for float32.
"""

# %% hint
r"""
For $x = 1$ a Bernoulli with logit $a$ costs $\log(1+e^{-a})$ a pixel. A batch in which all images are alike makes the averages simple, and hides nothing that you need.
"""

# %% visible
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from reparam.exercises import expect


def two_terms(logits, x, mu, log_var):
    """Reconstruction [N] and KL [N], by torch.distributions."""
    reconstruction = -Bernoulli(logits=logits).log_prob(x).sum(-1)
    posterior = Normal(mu, (log_var / 2).exp())
    return reconstruction, kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1)


def a_loss(factor=1.0, weight=1.0, constant=0.0):
    """A loss whose weight we know."""

    def loss(logits, x, mu, log_var):
        reconstruction, kl = two_terms(logits, x, mu, log_var)
        return factor * (reconstruction + weight * kl).mean() + constant

    return loss


def a_batch(rng, rows=6, pixels=20, latents=3):
    """logits, x, mu, log_var."""
    logits = 2 * torch.randn(rows, pixels, generator=rng)
    x = (torch.rand(rows, pixels, generator=rng) < 0.5).float()
    mu, log_var = torch.randn(2, rows, latents, generator=rng)
    return logits, x, mu, log_var


def test_weight(answer, rng):
    """A plain loss with weight 3."""
    found = answer.effective_weight(a_loss(weight=3.0), 20, 5)
    expect.close(
        found, 3.0, "The weight of a loss with w = 3", rtol=0.01,
        mistakes={
            "it is upside down": 1 / 3,
            "it is off by the number of latents: the KL is their sum": 3 / 5,
            "it is off by the number of latents, the other way": 15.0,
            "it is off by the number of pixels: R is their sum": 60.0,
            "it is off by the number of pixels, the other way": 3 / 20,
            "it is off by pixels / latents: R and the KL are sums over their dimensions": 12.0,
            "it is off by latents / pixels: R and the KL are sums over their dimensions": 0.75,
        },
    )  # fmt: skip


def test_factor(answer, rng):
    """A factor before everything and a constant behind it change no weight."""
    found = answer.effective_weight(a_loss(factor=0.1, weight=3.0), 20, 5)
    expect.close(
        found, 3.0, "The weight of 0.1 (R + 3 KL)", rtol=0.01,
        mistakes={
            "the factor before both terms is still in it; measure how much one nat of R "
            "moves the loss, too": 0.3,
        },
    )  # fmt: skip
    loss = a_loss(factor=0.1, weight=3.0, constant=50.0)
    found = expect.number(answer.effective_weight(loss, 20, 5), "The weight")
    expect.that(
        abs(found - 3) < 0.03,
        "A constant behind both terms gets into the weight: a value of the loss says "
        "little, a difference of two values more.",
        f"yours {found:.3g}, expected 3",
    )


def test_mended(answer, rng):
    """The mended loss is the negative ELBO per image."""
    batch = a_batch(rng)
    reconstruction, kl = two_terms(*batch)
    expect.close(
        answer.mended_loss(*batch), (reconstruction + kl).mean(), "The mended loss",
        mistakes={
            "nothing is mended: both terms are still means over their dimensions":
                reconstruction.mean() / 20 + kl.mean() / 3,
            "the KL is a mean over latents: its weight is 1/D":
                (reconstruction + kl / 3).mean(),
            "the reconstruction is a mean over pixels: the KL's weight is P":
                (reconstruction / 20 + kl).mean(),
            "it is a sum over the batch": (reconstruction + kl).sum(),
            "the reconstruction is summed over the batch and the KL averaged: the weight "
            "changes with the batch's size": reconstruction.sum() + kl.mean(),
            "it has the size 1/P of an ELBO: right up to a factor, but not in nats per image":
                (reconstruction + kl).mean() / 20,
        },
    )  # fmt: skip


# %% hidden
from torch import nn

from reparam.exercises import points


def reduced(over_pixels, over_latents, over_batch=torch.mean, weight=1.0):
    """A loss with reductions of its own."""

    def loss(logits, x, mu, log_var):
        ce = nn.functional.binary_cross_entropy_with_logits(
            logits, x, reduction="none"
        )
        kl = (mu**2 + log_var.exp() - 1 - log_var) / 2
        return over_batch(over_pixels(ce, -1) + weight * over_latents(kl, -1))

    return loss


def expect_weight(answer, loss, pixels, latents, wanted, what):
    found = answer.effective_weight(loss, pixels, latents)
    expect.close(found, wanted, f"The weight of {what}", rtol=0.01)


@points(1)
def test_both_means(answer, rng):
    """Means over both kinds of dimensions."""
    for pixels, latents in ((64, 8), (30, 2), (7, 21)):
        loss = reduced(torch.mean, torch.mean)
        what = "a loss with a mean over pixels and a mean over latents"
        expect_weight(answer, loss, pixels, latents, pixels / latents, what)


@points(2)
def test_other_reductions(answer, rng):
    """Sums and means in other combinations, also over the batch."""
    kinds = {"a sum": torch.sum, "a mean": torch.mean}
    for name_p, over_pixels in kinds.items():
        for name_d, over_latents in kinds.items():
            for over_batch in kinds.values():
                P, D = torch.randint(5, 40, (2,), generator=rng).tolist()
                wanted = (P if name_p == "a mean" else 1) / (
                    D if name_d == "a mean" else 1
                )
                loss = reduced(over_pixels, over_latents, over_batch)
                what = (
                    f"a loss with {name_p} over pixels and {name_d} over latents"
                )
                expect_weight(answer, loss, P, D, wanted, what)


@points(2)
def test_any_weight(answer, rng):
    """Weights, factors and constants of any size."""
    for _ in range(4):
        a, b, c = torch.rand(3, generator=rng).tolist()
        weight, factor = 0.05 * 400**a, 0.05 * 40**b
        loss = a_loss(factor, weight, 20 + 30 * c)
        expect_weight(
            answer, loss, 25, 4, weight, "a loss with a factor and a constant"
        )


@points(2)
def test_negative_elbo(answer, rng):
    """The mended loss on other batches, and its gradients."""
    for rows, pixels, latents in ((5, 12, 4), (3, 40, 2)):
        batch = a_batch(rng, rows, pixels, latents)
        inputs = {
            name: t.clone().requires_grad_()
            for name, t in zip(("logits", "mu", "log_var"), (batch[0], *batch[2:]),
                               strict=True)
        }  # fmt: skip
        arguments = inputs["logits"], batch[1], inputs["mu"], inputs["log_var"]
        right = sum(two_terms(*arguments)).mean()
        wanted = torch.autograd.grad(right, list(inputs.values()))
        found = answer.mended_loss(*arguments)
        slopes = expect.gradients(found, **inputs)
        expect.close(found.detach(), right, "The mended loss")
        for (name, slope), other in zip(slopes.items(), wanted, strict=True):
            what = f"The mended loss's gradient by {name}"
            expect.close(slope, other, what, atol=1e-5)


# %% right: by gradients
def effective_weight(loss, pixels, latents):
    x = torch.full((3, pixels), 1.0)
    logits = torch.full((3, pixels), 0.5, requires_grad=True)
    mu = torch.full((3, latents), 1.5, requires_grad=True)
    loss(logits, x, mu, torch.zeros(3, latents)).backward()
    of_reconstruction = logits.grad.mean() / (
        torch.sigmoid(torch.tensor(0.5)) - 1
    )
    return (mu.grad.mean() / 1.5 / of_reconstruction).item()


def mended_loss(logits, x, mu, log_var):
    total = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = 0.5 * (mu.square() + torch.expm1(log_var) - log_var).sum()
    return (total + kl) / x.shape[0]


# %% wrong: looks at the KL only
def effective_weight(loss, pixels, latents):
    x, off = torch.ones(4, pixels), torch.zeros(4, latents)
    step = loss(0 * x, x, off + 2, off) - loss(0 * x, x, off, off)
    return float(step / (2 * latents))


# %% wrong: forgets the constant
def effective_weight(loss, pixels, latents):
    x, off = torch.ones(4, pixels), torch.zeros(4, latents)
    certain = loss(60 * x, x, off + 2, off) / (2 * latents)  # R = 0
    at_prior = loss(-5 * x, x, off, off) / (pixels * 5.00672)  # KL = 0
    return float(certain / at_prior)


# %% wrong: compares means
def effective_weight(loss, pixels, latents):
    x, off = torch.ones(4, pixels), torch.zeros(4, latents)
    here = loss(0 * x, x, off, off)
    by_kl = (loss(0 * x, x, off + 2, off) - here) / 2
    return float(by_kl / ((loss(-2 * x, x, off, off) - here) / 1.43378))


# %% wrong: upside down
def effective_weight(loss, pixels, latents):
    x, off = torch.ones(4, pixels), torch.zeros(4, latents)
    here = loss(0 * x, x, off, off)
    by_kl = (loss(0 * x, x, off + 2, off) - here) / (2 * latents)
    return float((loss(-2 * x, x, off, off) - here) / (1.43378 * pixels) / by_kl)


# %% wrong: mends the reconstruction only
def mended_loss(logits, x, mu, log_var):
    each = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return each.sum(-1).mean() + gaussian_kl(mu, log_var, "none").mean()


# %% wrong: mends the KL only
def mended_loss(logits, x, mu, log_var):
    reconstruction = F.binary_cross_entropy_with_logits(logits, x)
    return reconstruction + gaussian_kl(mu, log_var, "batchmean")


# %% wrong: sums one term over the batch
def mended_loss(logits, x, mu, log_var):
    total = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return total + gaussian_kl(mu, log_var, "batchmean")


# %% solution
r"""
`F.binary_cross_entropy_with_logits` averages over *everything* by default, and so does `.mean()`. The loss is $\frac1P\big(R + \frac PD\,\mathrm{KL}\big)$: its weight is $P/D = 8$, the opposite of the chapter's $1/D$. With $28^2$ pixels and 16 latents it would be 49, and a posterior that pays 49 nats for a nat of information does not carry any. It is not a matter of units or of the learning rate: a common factor would be, a quotient of two factors is not.

The means over the batch are harmless as long as both terms have the same one.

`effective_weight` is a test for a stranger's code: three calls, no reading.
"""

# %% rubric
r"""
Five points for `effective_weight` (of which one for means on both sides, two for the other reductions, two for factors and constants), two for `mended_loss`. The prediction $P/D$, written down with its reason, is worth one point where `effective_weight` fails.
"""
