# %% about
"""
title = "Slopes from a hazard"
kind = "derivation"
difficulty = 2
minutes = 15
points = 6
objective = "Derive the implicit slope of a law given by its hazard, in a form that holds where F rounds to 1"
after = "Without the inverse: implicit reparameterization"
"""

# %% imports
import torch
from torch import Tensor

# %% text
r"""
Lifetimes come with a **hazard** $\lambda_\phi(t) = p(t)/(1-F(t))$, the rate of failing now if nothing has failed yet. With $\Lambda_\phi(z) = \int_0^z\lambda_\phi(t)\,dt$ the law is $F_\phi(z) = 1 - e^{-\Lambda_\phi(z)}$.

On paper, put this into (5.3) and find $\partial z/\partial\phi$ in terms of $\Lambda$ and $\lambda$ alone. Then do the **Gompertz-Makeham law**, a constant risk plus one that grows with age,

$$\lambda(t) = c + a\,e^{bt},$$

whose inverse CDF is no elementary function. `makeham_slopes(z, a, b, c)` takes lifetimes `z` of shape `[n]` and three positive numbers, and returns $\partial z/\partial a,\ \partial z/\partial b,\ \partial z/\partial c$ as the columns of an `[n, 3]` tensor. It must be right in float32 where $F(z)$ is 1 to the last digit, too.

> **Predict first.** Which lives move most when $c$ rises a little?

Then look at your result: `moved_most` is `"short"`, `"middle"` or `"long"`.
"""


# %% answer
def makeham_slopes(z: Tensor, a: float, b: float, c: float) -> Tensor:
    """dz/da, dz/db, dz/dc of lifetimes z [n], in the columns of [n, 3]."""
    ### BEGIN SOLUTION
    grown = torch.exp(b * z)
    aged = torch.expm1(b * z) / b  # integral of exp(b t)
    crossing = torch.stack([aged, a * (z * grown - aged) / b, z], -1)
    return -crossing / (c + a * grown)[:, None]
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
moved_most = "middle"
### END SOLUTION

# %% hint
r"""
Differentiate $1 - e^{-\Lambda}$ by $\phi$ and by $z$. Both results have one factor in common.
"""

# %% hint
r"""
$\partial z/\partial\phi = -\,\partial_\phi\Lambda_\phi(z)/\lambda_\phi(z)$. It is (5.3) for the noise $E = \Lambda_\phi(z)$, which is exponential: along the path of a sample it stays.
"""

# %% hint
r"""
$\Lambda(z) = cz + \frac ab\big(e^{bz}-1\big)$. In $\partial_b\Lambda$ the letter $b$ occurs twice, so the product rule gives two terms.
"""

# %% visible
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


# %% hidden
from reparam.exercises import points


def drawn(rng, n):
    a, b, c = (0.1 + 0.9 * torch.rand(3, generator=rng)).tolist()
    E = torch.empty(n).exponential_(generator=rng).double().numpy() + 0.02
    return E, (a, b, c)


def column(answer, rng, i, what):
    for _ in range(2):
        E, point = drawn(rng, 40)
        z, truth = moved(E, *point)
        found = answer.makeham_slopes(z, *point)
        found = expect.tensor(found, (40, 3), "What you return")
        models = wrong_models(z, truth, *point)
        expect.close(
            found[:, i], truth[:, i], what, rtol=2e-3, atol=1e-4,
            mistakes={name: wrong[:, i] for name, wrong in models.items()},
        )  # fmt: skip


@points(1)
def test_a(answer, rng):
    """The slope by a."""
    column(answer, rng, 0, "∂z/∂a")


@points(1)
def test_b(answer, rng):
    """The slope by b."""
    column(answer, rng, 1, "∂z/∂b")


@points(1)
def test_c(answer, rng):
    """The slope by c."""
    column(answer, rng, 2, "∂z/∂c")


@points(2)
def test_far_tail(answer, rng):
    """Long lives in float32."""
    _, point = drawn(rng, 1)
    E = np.linspace(30.0, 300.0, 10)
    z, truth = moved(E, *point)
    found = answer.makeham_slopes(z, *point)
    found = expect.tensor(found, (10, 3), "The slopes of long lives")
    expect.close(found, truth, "The slopes of long lives", rtol=2e-3)


@points(1)
def test_moved_most(answer, rng):
    """Which lives the constant risk moves most."""
    expect.equal(
        answer.moved_most, "middle", "Your choice", options=("short", "middle", "long"),
        mistakes={
            "that holds for the exponential law, where ∂z/∂c is -z/c. Here the "
            "hazard at z stands below, and it grows": "long",
            "a life close to 0 has nowhere to go: ∂z/∂c = -∂Λ/∂c over the hazard, "
            "and Λ is 0 at birth": "short",
        },
    )  # fmt: skip


# %% right: Λ differentiated by autograd
def makeham_slopes(z, a, b, c):
    def cumulative(z, a, b, c):
        return c * z + a * torch.expm1(b * z) / b

    arguments = [z.clone()] + [torch.full_like(z, value) for value in (a, b, c)]
    arguments = [value.requires_grad_() for value in arguments]
    by_z, *by_parameters = torch.autograd.grad(
        cumulative(*arguments).sum(), arguments
    )
    return torch.stack([-slope / by_z for slope in by_parameters], 1)


# %% wrong: a guess by the exponential law
moved_most = "long"


# %% wrong: the sign
def makeham_slopes(z, a, b, c):
    grown = torch.exp(b * z)
    aged = torch.expm1(b * z) / b
    rise = torch.stack([aged, a * (z * grown - aged) / b, z], -1)
    return rise / (c + a * grown)[:, None]


# %% wrong: Λ over the density
def makeham_slopes(z, a, b, c):
    grown = torch.exp(b * z)
    aged = torch.expm1(b * z) / b
    rise = torch.stack([aged, a * (z * grown - aged) / b, z], -1)
    density = (c + a * grown) * torch.exp(-c * z - a * aged)
    return -rise / density[:, None]


# %% wrong: the hazard differentiated instead of its integral
def makeham_slopes(z, a, b, c):
    grown = torch.exp(b * z)
    rise = torch.stack([grown, a * z * grown, torch.ones_like(z)], -1)
    return -rise / (c + a * grown)[:, None]


# %% wrong: one term of two by b
def makeham_slopes(z, a, b, c):
    grown = torch.exp(b * z)
    rise = torch.stack([torch.expm1(b * z) / b, a / b * z * grown, z], -1)
    return -rise / (c + a * grown)[:, None]


# %% wrong: by F and its density, which are 1 and 0 in the tail
def makeham_slopes(z, a, b, c):
    arguments = [z.clone()] + [torch.full_like(z, value) for value in (a, b, c)]
    arguments = [value.requires_grad_() for value in arguments]
    x, a, b, c = arguments
    F = 1 - torch.exp(-c * x - a * torch.expm1(b * x) / b)
    by_z, *by_parameters = torch.autograd.grad(F.sum(), arguments)
    return torch.stack([-slope / by_z for slope in by_parameters], 1)


# %% solution
r"""
$\partial_\phi F = e^{-\Lambda}\,\partial_\phi\Lambda$ and $p = e^{-\Lambda}\lambda$, so the survival $e^{-\Lambda}$ cancels in (5.3):

$$\frac{\partial z}{\partial\phi} = -\frac{\partial_\phi\Lambda_\phi(z)}{\lambda_\phi(z)}.$$

Any increasing function of $F$ that does not contain $\phi$ otherwise is as good as $F$: the noise that stays may be $u$, or $E = -\log(1-u)$, or a Gaussian. Which one we take is a matter of rounding. Here $\Lambda = cz + \frac ab(e^{bz}-1)$ and

$$\partial_a\Lambda = \frac{e^{bz}-1}b,\qquad \partial_b\Lambda = \frac ab\Big(z e^{bz} - \frac{e^{bz}-1}b\Big),\qquad \partial_c\Lambda = z.$$

To the prediction: $\partial z/\partial c = -z/(c+ae^{bz})$ grows with $z$ at first, like the exponential law's, and then falls. Someone very old dies of age, whatever the constant risk.
"""

# %% rubric
r"""
A point for each slope in the bulk, two for the tail, one for the lives that move most. On paper, look for the cancellation of $e^{-\Lambda}$: an answer that computes $F$ and $p$ and divides has the right formula and loses the tail.
"""
