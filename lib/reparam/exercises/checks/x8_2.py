"""Self-checks of exercise 8.2. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def in_pieces(answer, log_w, sizes):
    """Bound and effective number of rows that come in pieces of these sizes; the state's size."""
    state = answer.start(log_w.shape[1])
    largest = held(state)
    for piece in log_w.split(sizes):
        state = answer.merge(state, piece)
        largest = max(largest, held(state))
    found = answer.read(state)
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "`read` should return a tuple of two tensors, (bound, effective).",
    )
    return found, largest


def held(state):
    """How many numbers a state holds."""
    expect.that(
        isinstance(state, (tuple, list))
        and all(isinstance(part, torch.Tensor) for part in state),
        "A state should be a tuple of tensors, the count included.",
    )
    return sum(part.numel() for part in state)


LOGS = torch.tensor(
    [[0.0, -1.0], [2.0, 0.5], [-1.0, 1.0], [1.0, 3.0], [0.5, -2.0]]
)


def test_one_piece(answer, rng):
    """All samples in one piece."""
    (bound, effective), _ = in_pieces(answer, LOGS, [5])
    w = LOGS.exp()
    expect.close(
        bound, w.mean(0).log(), "The bound",
        mistakes={
            "this is the mean of the logarithms, the ELBO": LOGS.mean(0),
            "this is the logarithm of the sum; divide by the number of samples":
                w.sum(0).log(),
        },
    )  # fmt: skip
    expect.close(
        effective, w.sum(0) ** 2 / (w**2).sum(0), "The effective number",
        mistakes={
            "this is its share of the samples": w.sum(0) ** 2 / (w**2).sum(0) / 5,
            "this is its inverse": (w**2).sum(0) / w.sum(0) ** 2,
        },
    )  # fmt: skip


def test_two_pieces(answer, rng):
    """Four samples, then one."""
    (bound, effective), _ = in_pieces(answer, LOGS, [4, 1])
    w = LOGS.exp()
    parts = torch.stack([w[:4].mean(0), w[4]])
    expect.close(
        bound, w.mean(0).log(), "The bound of two pieces",
        mistakes={
            "the bounds of the pieces are averaged; average the weights":
                parts.log().mean(0),
            "each piece counts the same, and the first has four samples":
                parts.mean(0).log(),
            "the bounds of the pieces are averaged by their sizes; average the weights":
                (4 * parts[0].log() + parts[1].log()) / 5,
            "only the last piece counts": LOGS[4],
        },
    )  # fmt: skip
    expect.close(
        effective, w.sum(0) ** 2 / (w**2).sum(0), "The effective number of two pieces",
        mistakes={
            "the effective numbers of the pieces are added; one piece may have nearly all of the weight":
                w[:4].sum(0) ** 2 / (w[:4] ** 2).sum(0) + 1,
        },
    )  # fmt: skip


def test_scale(answer, rng):
    """Weights too large or too small for a float."""
    for shift in (-5000.0, 5000.0):
        (bound, effective), _ = in_pieces(answer, LOGS + shift, [2, 3])
        expect.that(
            bool(torch.as_tensor(bound).isfinite().all()),
            "With logarithms of some thousands the bound is not finite: a weight was formed.",
        )
        w = LOGS.exp()
        expect.close(
            bound - shift, w.mean(0).log(), "The bound, less the scale", atol=2e-3
        )
        expect.close(
            effective, w.sum(0) ** 2 / (w**2).sum(0),
            "The effective number on another scale", atol=2e-2,
        )  # fmt: skip


def test_nothing(answer, rng):
    """An image whose weights are all 0, beside one that has some, and an empty piece."""
    nothing = torch.full((2, 2), -torch.inf)
    (bound, effective), _ = in_pieces(
        answer, torch.cat([nothing, torch.tensor([[0.0, -torch.inf]])]), [2, 0, 1]
    )
    expect.close(
        bound,
        torch.tensor([-math.log(3), -torch.inf]),
        "The bound, with weights of 0,",
    )
    expect.close(
        effective,
        torch.tensor([1.0, 0.0]),
        "The effective number, with weights of 0,",
    )


def test_old_state(answer, rng):
    """An old state stays what it was."""
    early = answer.merge(answer.start(2), LOGS[:3])
    held(early)
    before = [part.clone() for part in early]
    answer.merge(early, LOGS[3:])
    expect.that(
        all(torch.equal(a, b) for a, b in zip(before, early, strict=True)),
        "`merge` changes the state that it is given.",
    )

TITLE = 'A bound in pieces'
GIVEN = {}
