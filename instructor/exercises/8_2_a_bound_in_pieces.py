# %% about
"""
title = "A bound in pieces"
kind = "implementation"
difficulty = 3
minutes = 25
points = 6
objective = "Implement the importance-weighted bound of samples that come in pieces, in bounded memory, with the effective number of samples"
after = "What an ELBO mixes"
"""

# %% imports
import math

import torch
from torch import Tensor

# %% text
r"""
A hundred thousand samples of each image do not fit into memory at once, so the logarithms of the weights come in pieces `[n, N]`: some samples of each of $N$ images, more in one piece than in another, perhaps none. Only a state may be kept between them: a tuple of at most four tensors, each of at most $N$ numbers. A last step reads two numbers for each image from it:

$$L_K = \log\frac1K\sum_{k=1}^K w_k, \qquad \text{effective} = \frac{\big(\sum_k w_k\big)^2}{\sum_k w_k^2}.$$

The second is the **effective number of samples**: $K$ if all weights are alike, 1 if one of them is all there is. It says when to distrust the first.

> **Predict first.** Of a thousand samples 999 have the same weight, and one has as much as all of these together. What is their effective number?

- `start(n_images)`: the state before the first piece.
- `merge(state, log_w)`: the state after one more piece. The old state stays what it was.
- `read(state)`: `(bound, effective)`, each `[N]`.

Weights come on any scale: $\log w$ around $-5000$ is ordinary for large images, and $-\infty$ is a weight of 0. An image whose weights are all 0 has the bound $-\infty$ and the effective number 0.
"""


# %% answer
def start(n_images: int) -> tuple[Tensor, ...]:
    """The state before the first piece."""
    ### BEGIN SOLUTION
    none = torch.full((n_images,), -torch.inf)
    return torch.zeros(()), none, none.clone()
    ### END SOLUTION


def merge(state: tuple[Tensor, ...], log_w: Tensor) -> tuple[Tensor, ...]:
    """The state after the piece `log_w` of shape [n, N]."""
    ### BEGIN SOLUTION
    count, log_sum, log_squares = state
    return (
        count + len(log_w),
        torch.logaddexp(log_sum, log_w.logsumexp(0)),
        torch.logaddexp(log_squares, (2 * log_w).logsumexp(0)),
    )
    ### END SOLUTION


def read(state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The bound and the effective number of samples, each [N]."""
    ### BEGIN SOLUTION
    count, log_sum, log_squares = state
    effective = torch.exp(2 * log_sum - log_squares)
    return log_sum - torch.log(count), effective.nan_to_num(0.0)
    ### END SOLUTION


# %% hint
r"""
Three quantities are enough: how many samples came so far, and the logarithms of $\sum w$ and of $\sum w^2$.
"""

# %% hint
r"""
`torch.logsumexp` adds up within a piece, `torch.logaddexp(a, b)` is $\log(e^a+e^b)$ for two of them. Both know $-\infty$. Neither ever forms a weight.
"""

# %% hint
r"""
The logarithm of the effective number is a difference of two logarithms. For an image whose weights are all 0 it is $-\infty-(-\infty)$, which is NaN.
"""

# %% visible
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


# %% hidden
from reparam.exercises import points


def truth(log_w):
    """Bound and effective number in double precision, all rows at once."""
    log_w = log_w.double()
    most = log_w.max(0).values
    w = (log_w - torch.where(most.isfinite(), most, 0.0)).exp()
    bound = most + w.mean(0).log()
    return bound, torch.where(most.isfinite(), w.sum(0) ** 2 / (w**2).sum(0), 0.0)


def compare(answer, log_w, sizes, atol=1e-3):
    (bound, effective), largest = in_pieces(answer, log_w, sizes)
    wanted = truth(log_w)
    expect.close(bound, wanted[0], "The bound", atol=atol)
    expect.close(
        effective, wanted[1], "The effective number", rtol=5e-3, atol=atol
    )
    return largest


@points(2)
def test_any_pieces(answer, rng):
    """Pieces of any size, none of them empty, on an ordinary scale."""
    log_w = 2 * torch.randn(60, 5, generator=rng)
    for sizes in ([60], [1] * 60, [17, 40, 3]):
        compare(answer, log_w, sizes)


@points(2)
def test_any_scale(answer, rng):
    """Scales that differ from image to image, and from piece to piece."""
    scales = torch.tensor([-4000.0, -90.0, 0.0, 90.0, 4000.0])
    log_w = torch.randn(30, 5, generator=rng) + scales
    compare(answer, log_w, [10, 20], atol=5e-3)
    log_w[20:] += 900  # what comes last outweighs everything before
    compare(answer, log_w, [10, 10, 10], atol=5e-3)
    compare(answer, log_w.flip(0), [10, 10, 10], atol=5e-3)


@points(1)
def test_nothing_there(answer, rng):
    """Weights of 0, an image without any other, and an empty piece."""
    log_w = torch.randn(12, 4, generator=rng)
    log_w[torch.rand(12, 4, generator=rng) < 0.5] = -torch.inf
    log_w[:, 1] = -torch.inf
    log_w[:3] = -torch.inf  # the first piece has nothing at all
    log_w[3, [0, 2, 3]] = 0.0
    compare(answer, log_w, [3, 0, 5, 4])


@points(1)
def test_memory(answer, rng):
    """The state stays small."""
    log_w = torch.randn(400, 6, generator=rng)
    largest = compare(answer, log_w, [50] * 8)
    expect.that(largest <= 24, "The state holds more than four numbers an image.")


# %% right: the largest weight so far, and sums relative to it
def start(n_images):
    zero = torch.zeros(n_images)
    return zero, torch.full((n_images,), -1e30), zero, zero


def merge(state, log_w):
    count, most, total, squares = state
    if not len(log_w):
        return state
    now = torch.maximum(most, log_w.max(0).values)
    w = (log_w - now).exp()
    shrink = (most - now).exp()
    return (
        count + len(log_w),
        now,
        shrink * total + w.sum(0),
        shrink**2 * squares + (w**2).sum(0),
    )


def read(state):
    count, most, total, squares = state
    seen = squares > 0
    bound = torch.where(seen, most + (total / count).log(), -torch.inf)
    return bound, torch.where(seen, total**2 / squares.clamp(min=1e-30), 0.0)


# %% wrong: forms the weights
def start(n_images):
    return torch.zeros(()), torch.zeros(n_images), torch.zeros(n_images)


def merge(state, log_w):
    count, total, squares = state
    w = log_w.exp()
    return count + len(w), total + w.sum(0), squares + (w**2).sum(0)


def read(state):
    count, total, squares = state
    return (total / count).log(), (total**2 / squares).nan_to_num(0.0)


# %% wrong: averages the bounds of the pieces
def start(n_images):
    return (
        torch.zeros(()),
        torch.zeros(n_images),
        torch.full((n_images,), -torch.inf),
    )


def merge(state, log_w):
    count, total, log_squares = state
    bound = log_w.logsumexp(0) - math.log(max(len(log_w), 1))
    squares = torch.logaddexp(log_squares, (2 * log_w).logsumexp(0))
    return count + len(log_w), total + len(log_w) * bound, squares


def read(state):
    count, total, log_squares = state
    bound = total / count
    return bound, torch.exp(2 * (bound + torch.log(count)) - log_squares)


# %% wrong: keeps every sample
def start(n_images):
    return (torch.zeros(0, n_images),)


def merge(state, log_w):
    return (torch.cat([state[0], log_w]),)


def read(state):
    (log_w,) = state
    effective = torch.exp(2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0))
    return log_w.logsumexp(0) - math.log(len(log_w)), effective.nan_to_num(0.0)


# %% wrong: NaN where all weights are 0
def read(state):
    count, log_sum, log_squares = state
    return log_sum - torch.log(count), torch.exp(2 * log_sum - log_squares)


# %% wrong: one scale for all images
def start(n_images):
    return (
        torch.zeros(()),
        torch.tensor(-1e30),
        torch.zeros(n_images),
        torch.zeros(n_images),
    )


def merge(state, log_w):
    count, most, total, squares = state
    if not len(log_w):
        return state
    now = torch.maximum(most, log_w.max())
    w, shrink = (log_w - now).exp(), (most - now).exp()
    return (
        count + len(log_w),
        now,
        shrink * total + w.sum(0),
        shrink**2 * squares + (w**2).sum(0),
    )


def read(state):
    count, most, total, squares = state
    return most + (total / count).log(), (total**2 / squares).nan_to_num(0.0)


# %% wrong: the scale of the first piece for all
def start(n_images):
    none = torch.zeros(n_images, dtype=torch.float64)
    return none, none, none, none - torch.inf


def merge(state, log_w):
    count, total, squares, scale = state
    if not len(log_w):
        return state
    most = log_w.max(0).values.double()
    scale = torch.where(scale.isinf() & most.isfinite(), most, scale)
    w = (log_w - torch.where(scale.isinf(), 0.0, scale)).exp()
    return count + len(w), total + w.sum(0), squares + (w**2).sum(0), scale


def read(state):
    count, total, squares, scale = state
    bound = torch.where(scale.isinf(), -torch.inf, scale + (total / count).log())
    return bound, (total**2 / squares).nan_to_num(0.0)


# %% idle: the last piece alone
def start(n_images):
    return (torch.zeros(n_images),)


def merge(state, log_w):
    return (log_w.mean(0) if len(log_w) else state[0],)


def read(state):
    return state[0], state[0] * 0 + 1


# %% solution
r"""
$\sum w$ and $\sum w^2$ are sums, so that they can be carried from piece to piece; their logarithms can be, too, by `logaddexp`. Averages of the pieces' bounds are something else: by Jensen they lie below, and with pieces of one sample they are the ELBO again.

The effective number is scale-free, which is why it is read as $\exp(2\log\sum w-\log\sum w^2)$. One weight as large as 999 equal ones together: $(2\cdot999)^2/(999^2+999)\approx 4$, so a thousand samples are worth four.
"""

# %% rubric
r"""
Two points for any division into pieces, two for any scale, one for zeros and empty pieces, one for memory. A state that grows can get five.
"""
