"""Self-checks of exercise 4.4. Derived from the exercise's source; do not edit."""

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

TITLE = 'The weight in disguise'
GIVEN = {}
