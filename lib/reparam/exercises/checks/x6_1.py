"""Self-checks of exercise 6.1. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def test_plain(answer, rng):
    """With slope 1 it is the Gaussian's KL."""
    sigma = torch.tensor([0.5, 1.0, 3.0])
    found = answer.bent_kl(sigma, torch.ones(3))
    wanted = 0.5 * (sigma**2 - 1 - 2 * torch.log(sigma))
    expect.close(found, wanted, "The KL at a = 1")


def test_bent(answer, rng):
    """With other slopes, at σ = 1, where the right half is the prior's."""
    a = torch.tensor([3.0, 0.2])
    log_a = torch.log(a)
    expect.close(
        answer.bent_kl(torch.ones(2), a), (a**2 - 1) / 4 - log_a / 2,
        "The KL of two bent Gaussians with σ = 1",
        mistakes={
            "the log-determinant is counted for every sample. On which side is the slope a?":
                (a**2 - 1) / 4 - log_a,
            "the log-determinant has the other sign. Where space is stretched, density is "
            "thinned": (a**2 - 1) / 4 + log_a / 2,
            "the log-determinant is missing, so that q is no density": (a**2 - 1) / 4,
            "the prior is taken at σε, before the bend. With large a this 'KL' is negative":
                -log_a / 2,
            "this is the KL without the bend": torch.zeros(2),
        },
    )  # fmt: skip


def test_mirror(answer, rng):
    """A law and its mirror image are equally far from the prior."""
    sigma, a = torch.tensor([0.5, 1.5]), torch.tensor([3.0, 1.8])
    found = answer.bent_kl(sigma, a)
    expect.close(
        answer.bent_kl(a * sigma, 1 / a), found,
        "The KL of the mirror image, whose right half has the scale aσ and whose left half σ,",
    )  # fmt: skip


def test_best(answer, rng):
    """The best slope at σ = 1/2 beats its neighbors, by the answer's own KL."""
    sigma = torch.tensor([0.5], dtype=torch.float64)
    found = expect.tensor(answer.best_slope(sigma), (1,), "The best slope")
    expect.that(bool((found > 0).all()), "The best slope should be positive.")
    here, left, right = (
        expect.number(answer.bent_kl(sigma, found * c), "The KL")
        for c in (1.0, 0.97, 1.03)
    )
    sentence = "By your bent_kl a slightly {} slope is closer than the one you call best."
    expect.that(here < left, sentence.format("smaller"))
    expect.that(here < right, sentence.format("larger"))

TITLE = 'The KL of a bent Gaussian'
GIVEN = {}
