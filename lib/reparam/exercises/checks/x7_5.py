"""Self-checks of exercise 7.5. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def test_shapes(answer, rng):
    """Two tensors, one number for each draw."""
    found = answer.poisson_derivatives(lambda z: z, 2.0, 5)
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "Two tensors are expected.",
    )
    for part, name in zip(found, ("first", "second"), strict=True):
        expect.tensor(part, (5,), f"The estimate of the {name} derivative")


def test_square(answer, rng):
    """z² at r = 4: the first derivative is 2r + 1."""
    first, _ = answer.poisson_derivatives(torch.square, 4.0, 20_000)
    expect.mean(
        expect.tensor(first, (20_000,), "The first derivative"), 9.0,
        "The first derivative for z² at r = 4", deviation=4.1,
        mistakes={
            "this is f(z) - f(z-1): the index was shifted the other way": 7.0,
            "this is f'(z), the derivative of f, and f lives on whole numbers": 8.0,
        },
    )  # fmt: skip


def test_no_variance(answer, rng):
    """z²: the second derivative is 2, without noise."""
    _, second = answer.poisson_derivatives(torch.square, 4.0, 100)
    expect.close(
        second, torch.full((100,), 2.0), "The second derivative for z²",
        atol=1e-3,
    )  # fmt: skip

TITLE = 'Counts, differentiated twice'
GIVEN = {}
