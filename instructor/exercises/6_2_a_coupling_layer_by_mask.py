# %% about
"""
title = "A coupling layer by mask"
kind = "implementation"
difficulty = 2
minutes = 20
points = 6
objective = "Implement a coupling layer whose inverse needs no inverse of its networks"
after = "Triangular Jacobians"
"""

# %% imports
import torch
from torch import Tensor, nn

# %% given
BOUND = 2.0  # or 1.5, 3.0

# %% text
r"""
The library's coupling layers split the variables in halves. Real NVP was first written with a mask instead, which lets any set of variables be the one that stays. With $m_i = 1$ where a variable is kept and $m_i = 0$ where it moves,

$$z'_i = \begin{cases} z_i & m_i = 1\\ e^{s_i}z_i + t_i & m_i = 0\end{cases}\qquad s = c\,\tanh\!\big(r/c\big),\quad r = \mathtt{log\_scale}(m\odot z),\quad t = \mathtt{shift}(m\odot z),$$

with $c$ = `BOUND`, so that no layer scales by more than $e^{c}$.

Write the module. `mask` is a tensor `[D]` of zeros and ones; `log_scale` and `shift` are any two functions or modules from `[n, D]` to `[n, D]`, and what they return for kept variables is ignored. `forward` and `inverse` each return the new points `[n, D]` and the log-determinant `[n]` *of the map just applied*. Keep the mask as a buffer named `mask`, so that it is saved and moved with the module.

> **Predict first.** The two networks are not invertible. What does the inverse of the layer need from them?
"""


# %% answer
class MaskedCoupling(nn.Module):
    """Scale and shift variables where mask is 0, as those where it is 1 tell."""

    def __init__(self, mask: Tensor, log_scale, shift):
        super().__init__()
        ### BEGIN SOLUTION
        self.register_buffer("mask", mask)
        self.log_scale = log_scale
        self.shift = shift
        ### END SOLUTION

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """([n, D], [n]): the image of z, and the log-determinant."""
        ### BEGIN SOLUTION
        seen, moves = self.mask * z, 1 - self.mask
        s = moves * BOUND * torch.tanh(self.log_scale(seen) / BOUND)
        t = moves * self.shift(seen)
        return torch.exp(s) * z + t, s.sum(-1)
        ### END SOLUTION

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """([n, D], [n]): what has image y, and the inverse's log-determinant."""
        ### BEGIN SOLUTION
        seen, moves = self.mask * y, 1 - self.mask
        s = moves * BOUND * torch.tanh(self.log_scale(seen) / BOUND)
        t = moves * self.shift(seen)
        return torch.exp(-s) * (y - t), -s.sum(-1)
        ### END SOLUTION


# %% hint
r"""
Kept variables are the same before and after. So the networks can be given the same input in both directions.
"""

# %% hint
r"""
Multiply $s$ and $t$ by $1 - m$: kept variables then have scale $e^0 = 1$ and shift 0, and they add nothing to the log-determinant.
"""

# %% hint
r"""
To undo "scale, then shift", undo the shift first.
"""

# %% visible
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


# %% hidden
from reparam.exercises import points


def random_layer(answer, rng, dim=5):
    """A layer with a mask of both kinds, and two networks that no one can invert."""
    mask = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])[
        torch.randperm(dim, generator=rng)
    ]
    a, b = torch.randn(2, dim, dim, generator=rng)
    c, d = torch.randn(2, dim, generator=rng)

    def log_scale(z):
        return 2 * torch.sin(z @ a.to(z.dtype)) + c

    def shift(z):
        return torch.cos(z @ b.to(z.dtype)) * 3 + d

    return mask, log_scale, shift, answer.MaskedCoupling(mask, log_scale, shift)


def moved(z, mask, log_scale, shift, bound):
    """The image of z [n, D], and the log-scales of the variables that move."""
    told = [i for i in range(len(mask)) if mask[i] == 0]
    s = bound * torch.tanh(log_scale(z * mask) / bound)[:, told]
    t = shift(z * mask)[:, told]
    image = z.clone()
    image[:, told] = s.exp() * z[:, told] + t
    return image, s


@points(2)
def test_jacobian(answer, rng):
    """The image is right, and the log-determinant is that of autograd's Jacobian."""
    *parts, layer = random_layer(answer, rng)
    point = torch.randn(5, generator=rng)
    z = point.repeat(5, 1).requires_grad_()
    image, log_det = layer(z)
    image = expect.tensor(image, (5, 5), "The image")
    wanted, _ = moved(z.detach(), *parts, answer.given["BOUND"])
    expect.close(image, wanted, "The image", atol=1e-4)
    log_det = expect.tensor(log_det, (5,), "The log-determinant").detach()
    jacobian = expect.gradients(image.diagonal(), z=z)["z"]
    wanted = torch.linalg.slogdet(jacobian.double()).logabsdet.expand(5)
    expect.close(log_det, wanted, "The log-determinant", atol=1e-4, rtol=1e-4)


@points(2)
def test_back(answer, rng):
    """The inverse inverts, whatever was asked before, and its log-determinant undoes."""
    *parts, layer = random_layer(answer, rng)
    layer(torch.randn(7, 5, generator=rng))
    y = torch.randn(7, 5, generator=rng)
    z, log_det_back = layer.inverse(y)
    z = expect.tensor(z, (7, 5), "The inverse's point").detach()
    log_det_back = expect.tensor(
        log_det_back, (7,), "The inverse's log-determinant"
    )
    image, s = moved(z, *parts, answer.given["BOUND"])
    expect.close(image, y, "The image of the inverse's point", atol=1e-4)
    expect.close(
        log_det_back, -s.sum(-1), "The inverse's log-determinant", atol=1e-4
    )


@points(1)
def test_bounded(answer, rng):
    """The bound holds, and is smooth."""
    bound = answer.given["BOUND"]
    mask = torch.tensor([0.0, 1.0, 0.0, 0.0])
    raw = bound * torch.tensor([0.01, 0.5, 1.0, 50.0])
    raw = torch.cat([raw, -raw])[:, None]
    layer = answer.MaskedCoupling(
        mask, lambda z: raw * torch.ones(4), lambda z: 0 * z
    )
    _, log_det = layer(torch.randn(8, 4, generator=rng))
    wanted = 3 * bound * torch.tanh(raw / bound).squeeze(-1)
    sentence = "a clamp gives no gradient beyond the bound; tanh does"
    expect.close(
        log_det, wanted, "The log-determinant under large log-scales",
        mistakes={sentence: 3 * raw.squeeze(-1).clamp(-bound, bound)},
    )  # fmt: skip


@points(1)
def test_state(answer, rng):
    """The mask is saved with the module, and gradients pass through the networks."""
    bound, mask = answer.given["BOUND"], torch.tensor([1.0, 0.0])
    layer = answer.MaskedCoupling(mask, first(1.5), first(-2.0))
    state = layer.state_dict()
    expect.that(
        "mask" in state, "The state has no `mask`: it is lost when saved."
    )
    expect.close(state["mask"], mask, "The mask in the state")
    expect.that(not answer.parameters(layer), "The mask would be trained.")
    z = torch.randn(3, 2, generator=rng).requires_grad_()
    slope = expect.gradients(layer(z)[1], z=z)["z"]
    wanted = 1.5 / torch.cosh(1.5 * z.detach()[:, 0] / bound) ** 2
    wanted = torch.stack([wanted, torch.zeros(3)], -1)
    expect.close(slope, wanted, "The gradient of the log-determinant", atol=1e-4)


# %% right: only the moved columns are touched
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.register_buffer("mask", mask.clone())
        self.networks = [log_scale, shift]

    def _told(self, z):
        kept = torch.where(self.mask.bool(), z, torch.zeros_like(z))
        r, t = (network(kept) for network in self.networks)
        return BOUND * (2 * torch.sigmoid(2 * r / BOUND) - 1), t

    def forward(self, z):
        s, t = self._told(z)
        moved = torch.where(self.mask.bool(), z, z * s.exp() + t)
        return moved, s[:, ~self.mask.bool()].sum(1)

    def inverse(self, y):
        s, t = self._told(y)
        moved = torch.where(self.mask.bool(), y, (y - t) / s.exp())
        return moved, -s[:, ~self.mask.bool()].sum(1)


# %% wrong: kept variables count in the log-determinant
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.register_buffer("mask", mask)
        self.log_scale, self.shift = log_scale, shift

    def forward(self, z):
        kept = self.mask * z
        s, t = BOUND * torch.tanh(self.log_scale(kept) / BOUND), self.shift(kept)
        return kept + (1 - self.mask) * (z * s.exp() + t), s.sum(-1)

    def inverse(self, y):
        kept = self.mask * y
        s, t = BOUND * torch.tanh(self.log_scale(kept) / BOUND), self.shift(kept)
        return kept + (1 - self.mask) * (y - t) * (-s).exp(), -s.sum(-1)


# %% wrong: undoes the scale first
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.register_buffer("mask", mask)
        self.log_scale, self.shift = log_scale, shift

    def told(self, z):
        kept, moves = self.mask * z, 1 - self.mask
        s = moves * BOUND * torch.tanh(self.log_scale(kept) / BOUND)
        return s, moves * self.shift(kept)

    def forward(self, z):
        s, t = self.told(z)
        return z * s.exp() + t, s.sum(-1)

    def inverse(self, y):
        s, t = self.told(y)
        return y * (-s).exp() - t, -s.sum(-1)


# %% wrong: the inverse reports the forward log-determinant
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.register_buffer("mask", mask)
        self.log_scale, self.shift = log_scale, shift

    def told(self, z):
        kept, moves = self.mask * z, 1 - self.mask
        s = moves * BOUND * torch.tanh(self.log_scale(kept) / BOUND)
        return s, moves * self.shift(kept)

    def forward(self, z):
        s, t = self.told(z)
        return z * s.exp() + t, s.sum(-1)

    def inverse(self, y):
        s, t = self.told(y)
        return (y - t) * (-s).exp(), s.sum(-1)


# %% wrong: networks see every variable
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.register_buffer("mask", mask)
        self.log_scale, self.shift = log_scale, shift

    def told(self, z):
        moves = 1 - self.mask
        s = moves * BOUND * torch.tanh(self.log_scale(z) / BOUND)
        return s, moves * self.shift(z)

    def forward(self, z):
        s, t = self.told(z)
        return z * s.exp() + t, s.sum(-1)

    def inverse(self, y):
        s, t = self.told(y)
        return (y - t) * (-s).exp(), -s.sum(-1)


# %% wrong: the inverse remembers the last forward pass
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.register_buffer("mask", mask)
        self.log_scale, self.shift = log_scale, shift

    def forward(self, z):
        kept, moves = self.mask * z, 1 - self.mask
        self.s = moves * BOUND * torch.tanh(self.log_scale(kept) / BOUND)
        self.t = moves * self.shift(kept)
        return z * self.s.exp() + self.t, self.s.sum(-1)

    def inverse(self, y):
        return (y - self.t) * (-self.s).exp(), -self.s.sum(-1)


# %% wrong: the networks are cut off from gradients, the mask is no buffer
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.keeps, self.log_scale, self.shift = mask, log_scale, shift

    def told(self, z):
        kept, moves = (self.keeps * z).detach(), 1 - self.keeps
        s = moves * BOUND * torch.tanh(self.log_scale(kept) / BOUND)
        return s, moves * self.shift(kept)

    def forward(self, z):
        s, t = self.told(z)
        return z * s.exp() + t, s.sum(-1)

    def inverse(self, y):
        s, t = self.told(y)
        return (y - t) * (-s).exp(), -s.sum(-1)


# %% wrong: a clamp for the bound, and the mask a parameter
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.mask = nn.Parameter(mask)
        self.log_scale, self.shift = log_scale, shift

    def told(self, z):
        kept, moves = self.mask * z, 1 - self.mask
        s = moves * self.log_scale(kept).clamp(-BOUND, BOUND)
        return s, moves * self.shift(kept)

    def forward(self, z):
        s, t = self.told(z)
        return z * s.exp() + t, s.sum(-1)

    def inverse(self, y):
        s, t = self.told(y)
        return (y - t) * (-s).exp(), -s.sum(-1)


# %% idle: the identity, with its mask
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, z):
        return z, 0 * z.sum(-1)

    inverse = forward


# %% idle: adds the same to every point, and asks no network
class MaskedCoupling(nn.Module):
    def __init__(self, mask, log_scale, shift):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, z):
        return z + (1 - self.mask), 0 * z.sum(-1)

    def inverse(self, y):
        return y - (1 - self.mask), 0 * y.sum(-1)


# %% solution
r"""
The kept variables are the same on both sides, so both directions evaluate the networks at the same input, forward, once. Nothing about the networks needs to be inverted; that is the whole idea of a coupling. With variables sorted by the mask the Jacobian is $\begin{pmatrix} I & 0\\ * & \mathrm{diag}(e^{s})\end{pmatrix}$: the lower left block holds the derivatives of the networks, and the determinant never sees it.

The bound keeps a few large log-scales from turning into overflow ten layers later. A clamp would bound as well, and leave its units without a gradient, as in chapter 4. An inverse that uses what `forward` stored works in every test that calls them in pairs, and fails in the first one that asks for the density of a point that was not just sampled.
"""

# %% rubric
r"""
Two points for the log-determinant, two for the inverse, one for the smooth bound, one for the mask as a buffer. A correct layer with the mask as a plain attribute gets five of six.
"""
