"""Self-checks of exercise 6.1. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def kl_by_sum(sigma, a, points=4001):
    """The KL by summing over z on a fine grid, each half on its own; [n] for [n]."""
    sigma, a = sigma.double()[:, None], a.double()[:, None]
    total = 0
    for scale, side in ((sigma, 1), (a * sigma, -1)):
        z = side * scale * torch.linspace(0, 12, points, dtype=torch.float64)
        log_q = (
            -0.5 * (z / scale) ** 2 - torch.log(scale) - 0.5 * math.log(math.tau)
        )
        log_p = -0.5 * z**2 - 0.5 * math.log(math.tau)
        inside = log_q.exp() * (log_q - log_p)
        total = total + torch.trapezoid(inside, z.abs(), dim=-1)
    return total


def mistaken(sigma, a):
    """What known mistakes lead to."""
    bent = sigma**2 * (1 + a**2) / 2 - 1 - torch.log(sigma**2)
    straight = sigma**2 - 1 - torch.log(sigma**2)
    return {
        "the log-determinant is counted for every sample. On which side is the slope a?":
            0.5 * bent - torch.log(a),
        "the log-determinant has the other sign. Where space is stretched, density is "
        "thinned": 0.5 * (bent + torch.log(a)),
        "the log-determinant is missing, so that q is no density": 0.5 * bent,
        "the prior is taken at σε, before the bend. With large a this 'KL' is negative":
            0.5 * (straight - torch.log(a)),
        "this is the KL without the bend": 0.5 * straight,
    }  # fmt: skip


def test_plain(answer, rng):
    """With slope 1 it is the Gaussian's KL."""
    sigma = torch.tensor([0.5, 1.0, 3.0])
    found = answer.bent_kl(sigma, torch.ones(3))
    wanted = 0.5 * (sigma**2 - 1 - 2 * torch.log(sigma))
    expect.close(found, wanted, "The KL at a = 1")


def test_bent(answer, rng):
    """With other slopes it agrees with a sum over z."""
    sigma, a = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([3.0, 0.2, 1.8])
    expect.close(
        answer.bent_kl(sigma, a), kl_by_sum(sigma, a), "The KL of three bent Gaussians",
        mistakes=mistaken(sigma, a),
    )  # fmt: skip


def test_best(answer, rng):
    """The best slope at σ = 1/2 beats its neighbors."""
    sigma = torch.tensor([0.5])
    found = expect.tensor(answer.best_slope(sigma), (1,), "The best slope")
    expect.that(bool((found > 0).all()), "The best slope should be positive.")
    here, left, right = (kl_by_sum(sigma, found * c) for c in (1.0, 0.97, 1.03))
    sentence = "A slightly {} slope has a smaller KL than the one you call best."
    expect.that(bool((here < left).all()), sentence.format("smaller"))
    expect.that(bool((here < right).all()), sentence.format("larger"))

TITLE = 'The KL of a bent Gaussian'
GIVEN = {}
