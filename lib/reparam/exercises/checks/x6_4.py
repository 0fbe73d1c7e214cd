"""Self-checks of exercise 6.4. Derived from the exercise's source; do not edit."""

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

TITLE = 'A bound that is none'
GIVEN = {'U': -3.0}
