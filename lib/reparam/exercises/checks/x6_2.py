"""Self-checks of exercise 6.2. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def first(factor):
    """A network that sees only the first variable."""
    return lambda z: factor * z[:, :1] * torch.ones(z.shape[1])


def test_forward(answer, rng):
    """One point, forward."""
    bound = answer.given["BOUND"]
    layer = answer.MaskedCoupling(
        torch.tensor([1.0, 0.0, 0.0]), first(1.0), first(2.0)
    )
    z, log_det = layer(torch.tensor([[1.0, 2.0, -3.0]]))
    s = bound * math.tanh(1 / bound)
    by = math.exp(s)
    expect.close(
        z, torch.tensor([[1.0, 2 * by + 2, -3 * by + 2]]), "The image of a point",
        mistakes={
            "kept variables are moved, too": torch.tensor([[by + 2, 2 * by + 2, -3 * by + 2]]),
            "the log-scale is not bounded by c tanh(r/c)":
                torch.tensor([[1.0, 2 * math.e + 2, -3 * math.e + 2]]),
            "the shift comes before the scale": torch.tensor([[1.0, 4 * by, -by]]),
        },
    )  # fmt: skip
    expect.close(
        log_det, torch.tensor([2 * s]), "Its log-determinant",
        mistakes={
            "a kept variable is counted. Its slope is 1": torch.tensor([3 * s]),
            "it is the inverse's": torch.tensor([-2 * s]),
            "it is the mean over variables, and a determinant is a product of all":
                torch.tensor([2 * s / 3]),
        },
    )  # fmt: skip


def test_inverse(answer, rng):
    """One point, backward."""
    bound = answer.given["BOUND"]
    layer = answer.MaskedCoupling(
        torch.tensor([1.0, 0.0, 0.0]), first(1.0), first(2.0)
    )
    layer(torch.tensor([[0.0, 2.0, -3.0]]))  # another point, whose s and t are 0
    z, log_det = layer.inverse(torch.tensor([[1.0, 5.0, 0.0]]))
    s = bound * math.tanh(1 / bound)
    by = math.exp(-s)
    expect.close(
        z, torch.tensor([[1.0, by * 3, -by * 2]]), "The point whose image is given",
        mistakes={
            "the scale is undone before the shift, which came last":
                torch.tensor([[1.0, by * 5 - 2, -2.0]]),
            "it uses what the last call of forward left behind, for another point":
                torch.tensor([[1.0, 5.0, 0.0]]),
        },
    )  # fmt: skip
    expect.close(
        log_det, torch.tensor([-2 * s]), "The inverse's log-determinant",
        mistakes={"it is that of the forward map": torch.tensor([2 * s])},
    )  # fmt: skip


def test_sees(answer, rng):
    """The networks are shown kept variables only."""
    seen = []

    def watch(z):
        seen.append(z.detach())
        return 0 * z

    layer = answer.MaskedCoupling(torch.tensor([0.0, 1.0]), watch, watch)
    layer(torch.tensor([[5.0, 7.0]]))
    layer.inverse(torch.tensor([[5.0, 7.0]]))
    expect.that(
        all(torch.equal(z, torch.tensor([[0.0, 7.0]])) for z in seen),
        "A network is shown a variable that moves. The inverse does not know it yet.",
    )

TITLE = 'A coupling layer by mask'
GIVEN = {'BOUND': 2.0}
