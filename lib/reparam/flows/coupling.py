"""Coupling flows: one half of the variables tells how to change the other half."""

from collections.abc import Iterable

import torch
from torch import Tensor

from reparam._checks import check_flag
from reparam.flows._contract import Flow
from reparam.flows._networks import Constant, Network, bounded, with_context
from reparam.flows.autoregressive import LOG_SCALE_BOUND, shrink, stretch

__all__ = ["AffineCouplingFlow"]


class CouplingFlow(Flow):
    """Keeps `dim // 2` variables and changes the others, entry by entry; what all couplings share.

    A subclass writes `_change(z, raw, inverse)`, where `raw` holds `raw_size` numbers for every
    entry of z, and returns the entries with the logarithms of their slopes.
    """

    def __init__(
        self, dim: int, hidden: Iterable[int], context_dim: int, reverse: bool, raw_size: int
    ):
        super().__init__(dim, context_dim)
        check_flag("reverse", reverse)
        kept = dim // 2
        self.sizes = [dim - kept, kept] if reverse else [kept, dim - kept]
        self.reverse = reverse
        inputs, outputs = context_dim + kept, raw_size * (dim - kept)
        self.network = Network(inputs, hidden, outputs) if inputs else Constant(outputs)

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._both_halves(z, context, inverse=False)

    def _unmap(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._both_halves(z, context, inverse=True)

    def _both_halves(self, z, context, inverse):
        first, second = z.split(self.sizes, -1)
        kept, moved = (second, first) if self.reverse else (first, second)
        raw = self.network(with_context(kept, context))
        moved, log_slopes = self._change(moved, raw, inverse)
        halves = (moved, kept) if self.reverse else (kept, moved)
        return torch.cat(halves, -1), log_slopes.sum(-1)

    def _change(self, z: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class AffineCouplingFlow(CouplingFlow):
    """`z'_b = m(z_a) + exp(s(z_a)) z_b`, while `z'_a = z_a`: real NVP.

    One half of the variables is kept and tells the other its shifts and log-scales, by a network
    that need not be invertible. `forward` and `inverse` are one pass each, and the log-determinant
    is `± Σ s`. The log-scale is bounded smoothly by ±5. A fresh flow is the identity exactly,
    because the last layer of its network starts at 0.

    Args:
        dim: D, the length of z, 2 or more; the first `D // 2` variables are kept.
        hidden: widths of the network's hidden layers, each with a ReLU.
        context_dim: length of the context, which the network sees beside the kept half.
        reverse: keep the last `D // 2` variables instead. In a stack every other flow should,
            since what no flow changes keeps its law.

    Shapes and errors are those of `Flow`.

    Raises:
        TypeError: if `hidden` is no sequence of ints, or `reverse` no bool.
        ValueError: if `dim` is 1, or a width is below 1.

    Derived in chapter 6. Source: Dinh, Sohl-Dickstein and Bengio (2017),
    https://arxiv.org/abs/1605.08803.

    >>> flow = AffineCouplingFlow(3)
    >>> flow(torch.tensor([[1.0, 2.0, 3.0]]))
    (tensor([[1., 2., 3.]], grad_fn=...), tensor([0.], grad_fn=...))
    """

    def __init__(
        self,
        dim: int,
        hidden: Iterable[int] = (128, 128),
        context_dim: int = 0,
        reverse: bool = False,
    ):
        if dim == 1:
            raise ValueError(
                "AffineCouplingFlow needs dim of at least 2, since one half of the variables tells "
                "the other what to do, got 1: use InverseAutoregressiveFlow or SplineFlow"
            )
        super().__init__(dim, hidden, context_dim, reverse, raw_size=2)

    def _change(self, z: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        shift, log_scale = raw.chunk(2, -1)
        return (shrink if inverse else stretch)(z, shift, bounded(log_scale, LOG_SCALE_BOUND))
