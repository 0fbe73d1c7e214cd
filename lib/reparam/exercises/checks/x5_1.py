"""Self-checks of exercise 5.1. Derived from the exercise's source; do not edit."""

import numpy as np
import torch

from reparam.exercises import expect


def lifetimes(E, a, b, c):
    """The z with Λ(z) = E, by bisection."""
    low, high = np.broadcast_arrays(np.zeros_like(E), E / c)
    for _ in range(55):
        middle = (low + high) / 2
        with np.errstate(over="ignore"):
            above = c * middle + a / b * np.expm1(b * middle) > E
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2


def moved(E, *point):
    """Lifetimes, and how far each moves as a parameter moves: differences."""
    at = np.array(point)
    steps = 1e-4 * np.diag(at)
    around = np.concatenate([at[None], at + steps, at - steps])
    z = lifetimes(E, *around.T[:, :, None])
    slopes = (z[1:4] - z[4:]) / (2e-4 * at[:, None])
    return torch.tensor(z[0]).float(), torch.tensor(slopes.T.copy())


def wrong_models(z, truth, a, b, c):
    """What known mistakes lead to."""
    z = z.double()
    hazard = c + a * torch.exp(b * z)
    survival = torch.exp(-(c * z + a / b * torch.expm1(b * z)))[:, None]
    rise = torch.stack([torch.exp(b * z), a * z * torch.exp(b * z), z**0], -1)
    halved = truth.clone()
    halved[:, 1] = -a / b * z * torch.exp(b * z) / hazard
    return {
        "the sign is turned around. A higher risk makes lives shorter": -truth,
        "∂Λ was divided by the density. Along a path Λ itself stays, and what "
        "it rises by per unit of z is the hazard": truth / survival,
        "∂F was divided by the hazard, which belongs to ∂Λ; under ∂F stands "
        "the density": truth * survival,
        "the hazard was differentiated by the parameters, where its integral "
        "up to z should be": -rise / hazard[:, None],
        "the column of b has one term of two: b stands in the exponent and "
        "before it": halved,
    }


def test_no_aging(answer, rng):
    """Almost without aging the law is exponential."""
    z = torch.tensor([0.5, 1.0, 4.0])
    found = answer.makeham_slopes(z, 1e-9, 1.0, 2.0)
    found = expect.tensor(found, (3, 3), "What you return")
    expect.close(
        found[:, 2], -z / 2, "∂z/∂c for a tiny a, where z = E/c",
        mistakes={
            "the sign is turned around. A higher risk makes lives shorter": z / 2,
            "the integral of the hazard, not the hazard, goes into the numerator":
                torch.full((3,), -0.5),
        },
    )  # fmt: skip


def test_example(answer, rng):
    """Three lives, against a lifetime solved for numerically."""
    point = (0.3, 0.7, 0.2)
    z, truth = moved(np.array([0.1, 0.7, 2.5]), *point)
    found = answer.makeham_slopes(z, *point)
    expect.close(
        found, truth, "The slopes of three lives", rtol=1e-3,
        mistakes=wrong_models(z, truth, *point),
    )  # fmt: skip


def test_tail(answer, rng):
    """A life so long that F rounds to 1."""
    point = (0.3, 0.7, 0.2)
    z, truth = moved(np.array([150.0]), *point)
    found = answer.makeham_slopes(z, *point)
    expect.that(
        isinstance(found, torch.Tensor) and bool(found.isfinite().all()),
        "For a long life a slope is not finite: 1 - F(z) is 0 in float32. "
        "Cancel what ∂F and the density have in common before you compute.",
    )
    expect.close(found, truth, "The slopes of a long life", rtol=1e-3)

TITLE = 'Slopes from a hazard'
GIVEN = {}
