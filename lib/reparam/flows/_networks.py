"""The networks that give a flow its parameters. They start at 0, and 0 is the identity."""

import itertools
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparam._checks import check_count


def widths_of(hidden: Iterable[int]) -> list[int]:
    """The hidden widths as a list; an error if they are no ints above 0."""
    if isinstance(hidden, str) or not isinstance(hidden, Iterable):
        raise TypeError(
            f"hidden must be a sequence of widths such as (128, 128), got {type(hidden).__name__} "
            f"({hidden!r})"
        )
    widths = list(hidden)
    for width in widths:
        check_count("hidden", width)
    return widths


def bounded(raw: Tensor, bound: float) -> Tensor:
    """Squeeze smoothly into `(-bound, bound)`: slope 1 at 0, falling like `raw⁻²`."""
    half_pi = math.pi / 2
    return bound / half_pi * torch.atan(raw * (half_pi / bound))


def with_context(z: Tensor, context: Tensor | None) -> Tensor:
    """Context and z side by side; the context comes first."""
    if context is None:
        return z
    return torch.cat([context.expand(*z.shape[:-1], -1), z], -1)


class Network(nn.Sequential):
    """Linear layers with ReLUs between them, of which the last starts at 0."""

    def __init__(self, inputs: int, hidden: Iterable[int], outputs: int):
        sizes = [inputs, *widths_of(hidden), outputs]
        layers = []
        for below, above in itertools.pairwise(sizes):
            layers += [nn.Linear(below, above), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1])
        _zero(self[-1])


class Constant(nn.Module):
    """What a network of no inputs is: numbers of its own, which start at 0."""

    def __init__(self, outputs: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(outputs))

    def forward(self, units: Tensor) -> Tensor:
        return self.value


class MaskedNetwork(nn.Module):
    """Shifts and raw log-scales of D variables, each of those before it and of the context.

    Every unit has a degree: how many variables it may see. The context has degree 0 and variable i
    has i, or D + 1 - i if reversed; a hidden unit sees units of at most its own degree, and an
    output those of degrees below its variable's. Without a context no hidden unit has degree 0,
    which would make it a constant.

    Source: Germain et al. (2015), https://arxiv.org/abs/1502.03509.
    """

    def __init__(self, dim: int, hidden: Iterable[int], context_dim: int, reverse: bool):
        super().__init__()
        self.order = range(dim)[::-1] if reverse else range(dim)
        variables = torch.tensor(self.order) + 1  # the inverse of this order is itself
        least = 1 if dim > 1 and context_dim == 0 else 0
        degrees = [torch.cat([torch.zeros(context_dim, dtype=torch.long), variables])]
        for width in widths_of(hidden):  # the degrees in rising order, as even as they can be
            degrees.append(least + torch.arange(width) * (dim - least) // width)
        above = [*degrees[1:], variables.repeat(2) - 1]
        self.layers = nn.ModuleList(
            _MaskedLinear(may_see[:, None] >= degree)
            for degree, may_see in zip(degrees, above, strict=True)
        )
        _zero(self.layers[-1])
        self._blocks = [torch.bincount(degree, minlength=dim + 1).tolist() for degree in degrees]

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        units = with_context(z, context)
        for layer in self.layers[:-1]:
            units = layer(units).relu_()
        shift, raw = self.layers[-1](units).chunk(2, -1)
        return shift, raw

    def one_by_one(self, follow, context: Tensor | None) -> None:
        """Call `follow(i, shift, raw)` for each i in `self.order`; it answers with variable i.

        A unit is computed when the last variable that it sees is known, and added at once to what
        lies above it: all D steps together cost the multiplications of one pass.
        """
        dim = len(self.order)
        weights = [
            list(layer.masked_weight().T.split(sizes))
            for layer, sizes in zip(self.layers, self._blocks, strict=True)
        ]
        weights[0][1:] = [weights[0][1 + i] for i in self.order]
        sums = [layer.bias for layer in self.layers]
        starts = [0] * len(sums)
        for degree in range(dim + 1):
            if degree:
                i = self.order[degree - 1]
                units = follow(i, sums[-1][..., i], sums[-1][..., dim + i]).unsqueeze(-1)
            else:
                units = context
            for n, blocks in enumerate(weights):
                if n:
                    stop = starts[n] + self._blocks[n][degree]
                    units = sums[n - 1][..., starts[n] : stop].relu()
                    starts[n] = stop
                if self._blocks[n][degree]:
                    sums[n] = sums[n] + units @ blocks[degree]


class _MaskedLinear(nn.Linear):
    def __init__(self, mask: Tensor):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def masked_weight(self) -> Tensor:
        return self.weight * self.mask

    def forward(self, units: Tensor) -> Tensor:
        return F.linear(units, self.masked_weight(), self.bias)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
