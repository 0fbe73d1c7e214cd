"""Affine autoregressive flows: each variable is shifted and scaled as those before it say."""

from collections.abc import Iterable

import torch
from torch import Tensor

from reparam._checks import check_flag
from reparam.flows._contract import Flow
from reparam.flows._networks import MaskedNetwork, bounded

__all__ = ["InverseAutoregressiveFlow", "MaskedAutoregressiveFlow"]

LOG_SCALE_BOUND = 5.0  # a layer stretches by e⁵ at most: in float32 no 17 of them overflow


def stretch(z: Tensor, shift: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """`shift + exp(log_scale) z`, and the logarithm of its slope."""
    return torch.addcmul(shift, z, log_scale.exp()), log_scale


def shrink(z: Tensor, shift: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `stretch`."""
    return (z - shift) * torch.exp(-log_scale), -log_scale


class _AutoregressiveFlow(Flow):
    def __init__(
        self,
        dim: int,
        hidden: Iterable[int] = (128, 128),
        context_dim: int = 0,
        reverse: bool = False,
    ):
        super().__init__(dim, context_dim)
        check_flag("reverse", reverse)
        self.network = MaskedNetwork(dim, hidden, context_dim, reverse)

    def _in_one_pass(self, step, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, raw = self.network(z, context)
        z, log_slopes = step(z, shift, bounded(raw, LOG_SCALE_BOUND))
        return z, log_slopes.sum(-1)

    def _one_by_one(self, step, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        found, log_slopes = list(z.unbind(-1)), []

        def follow(i, shift, raw):
            found[i], log_slope = step(found[i], shift, bounded(raw, LOG_SCALE_BOUND))
            log_slopes.append(log_slope.expand_as(found[i]))
            return found[i]

        self.network.one_by_one(follow, context)
        return torch.stack(found, -1), torch.stack(log_slopes, -1).sum(-1)


class InverseAutoregressiveFlow(_AutoregressiveFlow):
    """`z'_i = m_i + exp(s_i) z_i`, with `m_i` and `s_i` a masked network's of `z_1 … z_{i-1}`.

    `forward`, which is sampling, is one pass of the network, and its log-determinant is `Σ s_i`.
    `inverse`, the density at a given point, finds the variables one after the other: D steps, in
    which every unit of the network is computed once, when the variables that it sees are known. Use
    it where the samples are one's own, as a posterior's are.

    The log-scale is bounded smoothly by ±5. A fresh flow is the identity exactly, because the last
    layer of its network starts at 0.

    Args:
        dim: D, the length of z; 1 is possible, and is a shift and a scale.
        hidden: widths of the masked network's hidden layers, each with a ReLU. A width of D and
            more lets every variable depend on all those before it.
        context_dim: length of the context, which every unit of the first layer sees.
        reverse: take the variables from the last to the first. In a stack every other flow should,
            since the first variable in the order is changed by a constant alone.

    Shapes and errors are those of `Flow`.

    Raises:
        TypeError: if `hidden` is no sequence of ints, or `reverse` no bool.
        ValueError: if a width is below 1.

    Derived in chapter 6. Source: Kingma et al. (2016), https://arxiv.org/abs/1606.04934; the masks:
    Germain et al. (2015), https://arxiv.org/abs/1502.03509.

    >>> flow = InverseAutoregressiveFlow(3)
    >>> flow(torch.tensor([[1.0, 2.0, 3.0]]))
    (tensor([[1., 2., 3.]], grad_fn=...), tensor([0.], grad_fn=...))
    """

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._in_one_pass(stretch, z, context)

    def _unmap(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._one_by_one(shrink, z, context)


class MaskedAutoregressiveFlow(_AutoregressiveFlow):
    """`z'_i = m_i + exp(s_i) z_i`, with `m_i` and `s_i` a masked network's of `z'_1 … z'_{i-1}`.

    The network sees the result, not the input: `z'_i` is Gaussian given those before it if z is.
    `inverse`, the density at a given point, is one pass of the network, and its log-determinant is
    `-Σ s_i`. `forward`, which is sampling, takes D steps, as the inverse of
    `InverseAutoregressiveFlow` does. Use it where points are given, as where a density is fitted
    to data.

    Arguments, shapes, errors, bounds and the start at the identity are those of
    `InverseAutoregressiveFlow`.

    Derived in chapter 6. Source: Papamakarios et al. (2017), https://arxiv.org/abs/1705.07057.

    >>> flow = MaskedAutoregressiveFlow(3)
    >>> flow.inverse(torch.tensor([[1.0, 2.0, 3.0]]))
    (tensor([[1., 2., 3.]], grad_fn=...), tensor([0.], grad_fn=...))
    """

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._one_by_one(stretch, z, context)

    def _unmap(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._in_one_pass(shrink, z, context)
