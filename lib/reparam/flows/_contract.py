"""What every flow promises, and the sequence of several."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from reparam._checks import any_true, check_alike, check_count, check_float, is_infinite
from reparam._functions import is_plain, joint_shape

__all__ = ["Flow", "FlowSequence"]


class Flow(nn.Module):
    """An invertible, differentiable map of `R^dim` onto itself, with its log-determinant.

    `forward(z, context=None)` and `inverse(z, context=None)` both return `(z, log_det)`, and the
    log-determinant is `log |det J|` of the map just applied, so that those of `forward` and of
    `inverse` at the same pair of points are each other's negative.

    A subclass writes `_map` and `_unmap`, which get checked input. Its parameters may depend on a
    context, features of shape `[..., context_dim]` that an encoder hands on (amortization): a layer
    of the flow maps them to the parameters, or adds them to its network's input.

    Args:
        dim: D, the length of z.
        context_dim: length of the context; 0 for parameters that all inputs share.

    Shapes: `z` is `[..., D]`, `context` broadcasts as `[..., context_dim]` with the leading
    dimensions of `z`; the result is `[..., D]` and `[...]`.

    Raises:
        TypeError: if a size is no int, or `z` or `context` no floating-point tensor.
        ValueError: if `z` or `context` does not fit, holds NaN or infinity, is empty, or if a
            context is missing or not wanted.

    Derived in chapter 6. Source: Rezende and Mohamed (2015), https://arxiv.org/abs/1505.05770.

    >>> class Double(Flow):
    ...     def _map(self, z, context):
    ...         return 2 * z, z.new_full(z.shape[:-1], self.dim * math.log(2))
    ...
    ...     def _unmap(self, z, context):
    ...         return z / 2, z.new_full(z.shape[:-1], -self.dim * math.log(2))
    >>> Double(2)(torch.ones(1, 2))
    (tensor([[2., 2.]]), tensor([1.3863]))
    >>> Double(2).inverse(torch.ones(1, 2))
    (tensor([[0.5000, 0.5000]]), tensor([-1.3863]))
    """

    by_columns = False  # whether it is quicker where z lies column by column

    def __init__(self, dim: int, context_dim: int = 0):
        super().__init__()
        check_count("dim", dim)
        check_count("context_dim", context_dim, least=0)
        self.dim = dim
        self.context_dim = context_dim

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._checked("_map", z, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._checked("_unmap", z, context)

    def _checked(self, way: str, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        self._check(z, context)
        if z.dtype.itemsize < 4:
            result = _in_float32(self, way, z, context)
        else:
            result = getattr(self, way)(z, context)
        if any(map(is_infinite, result)):
            self._refuse(way, z, context)
        return result

    @torch.no_grad()
    def _refuse(self, way: str, z: Tensor, context: Tensor | None) -> None:
        raise ValueError(f"{type(self).__name__} {_overflow(z)}")

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _unmap(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _check(self, z: Tensor, context: Tensor | None) -> None:
        self._check_one("z", z, self.dim)
        self.check_context(context)
        if context is not None and joint_shape(z.shape[:-1], context.shape[:-1]) != z.shape[:-1]:
            raise ValueError(
                f"context of shape {list(context.shape)} does not broadcast to the leading "
                f"dimensions of z, shape {list(z.shape)}"
            )

    def check_context(self, context: Tensor | None) -> None:
        """It is there if and only if it is wanted, and of the right length."""
        name, wanted = type(self).__name__, f"shape [..., {self.context_dim}]"
        if context is None and self.context_dim:
            raise ValueError(
                f"{name} has context_dim={self.context_dim} and wants a context of {wanted}, got "
                "none"
            )
        if context is not None and not self.context_dim:
            raise ValueError(
                f"{name} was made without a context and got one: pass context_dim to its flows, or "
                "leave the context out"
            )
        if context is not None:
            self._check_one("context", context, self.context_dim)

    def _check_one(self, name: str, tensor: Tensor, length: int) -> None:
        check_float(**{name: tensor})
        for weight in self.parameters():
            check_alike(weights=weight, **{name: tensor})
            break
        if tensor.ndim == 0 or tensor.shape[-1] != length:
            raise ValueError(
                f"{type(self).__name__} wants {name} of shape [..., {length}], got "
                f"{list(tensor.shape)}"
            )
        if is_infinite(tensor):
            raise ValueError(f"{name} holds infinite values")


class FlowSequence(Flow):
    """Several flows, one after the other: the first one given is applied first.

    Args:
        flows: of one `dim`. All of those that take a context take the same one.

    Raises:
        TypeError: if `flows` is no list of flows.
        ValueError: if there are none, or their sizes differ; in use, as `Flow`, and where a layer
            gives NaN or infinity an error that names it.

    Derived in chapter 6. Source: Rezende and Mohamed (2015), https://arxiv.org/abs/1505.05770.

    >>> from reparam.flows import PlanarFlow, RadialFlow
    >>> first, second = PlanarFlow(2), RadialFlow(2)
    >>> z, log_det = FlowSequence([first, second])(torch.ones(5, 2))
    >>> between, log_det_1 = first(torch.ones(5, 2))
    >>> torch.allclose(log_det, log_det_1 + second(between)[1])
    True
    """

    def __init__(self, flows: Iterable[Flow]):
        if not isinstance(flows, Iterable):
            raise TypeError(f"flows must be a list of reparam.flows, got {type(flows).__name__}")
        flows = list(flows)
        for flow in flows:
            if not isinstance(flow, Flow):
                raise TypeError(f"flows must be reparam.flows, got {type(flow).__name__}")
        dims = {flow.dim for flow in flows}
        contexts = {flow.context_dim for flow in flows} - {0}
        if len(dims) != 1 or len(contexts) > 1:
            raise ValueError(
                f"flows must share one dim and one context_dim, got dims {sorted(dims)} and "
                f"context_dims {sorted(contexts)} in {len(flows)} flows"
            )
        super().__init__(dims.pop(), contexts.pop() if contexts else 0)
        self.flows = nn.ModuleList(flows)

    def _map(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._through("_map", z, context)

    def _unmap(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._through("_unmap", z, context)

    def _numbered(self, way: str) -> list[tuple[int, Flow]]:
        return list(enumerate(self.flows, 1))[:: 1 if way == "_map" else -1]

    def _through(self, way: str, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        start, log_dets = z, []
        by_columns = context is None and is_plain() and all(f.by_columns for f in self.flows)
        if by_columns:
            z = _Columns.apply(z.reshape(-1, self.dim))
        for _, flow in self._numbered(way):
            z, log_det = getattr(flow, way)(z, context if flow.context_dim else None)
            log_dets.append(log_det)
        total = torch.stack(log_dets).sum(0)
        if by_columns:
            z, total = _Rows.apply(z).reshape(start.shape), total.reshape(start.shape[:-1])
        return z, total

    @torch.no_grad()
    def _refuse(self, way: str, z: Tensor, context: Tensor | None) -> None:
        for number, flow in self._numbered(way):
            before = z
            z, log_det = getattr(flow, way)(z, context if flow.context_dim else None)
            if is_infinite(z) or is_infinite(log_det):
                raise ValueError(
                    f"layer {number} of {len(self.flows)} ({type(flow).__name__}) "
                    f"{_overflow(before)}"
                )
        super()._refuse(way, z, context)


def _overflow(z: Tensor) -> str:
    return (
        f"gave NaN or infinity for inputs of size up to {z.abs().max():.3g}: look at its "
        "parameters, lower the learning rate, or use float64"
    )


class _Way(nn.Module):
    """One way of a flow as a module, so that `functional_call` takes it."""

    def __init__(self, flow: Flow, way: str):
        super().__init__()
        self.flow, self.way = flow, way

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return getattr(self.flow, self.way)(z, context)


def _in_float32(flow: Flow, way: str, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """One way of a flow in a 16-bit type: what comes out is rounded, and nothing before it."""
    module = _Way(flow, way)
    wide = {name: p.float() for name, p in module.named_parameters()}
    inputs = z.float(), None if context is None else context.float()
    moved, log_det = torch.func.functional_call(module, wide, inputs)
    return moved.to(z.dtype), log_det.to(z.dtype)


class _Columns(torch.autograd.Function):
    """The identity, which lays a matrix out column by column, and its slope row by row.

    Sums over short rows, and products with vectors, then take a fraction of the time.
    """

    @staticmethod
    def forward(ctx, z):
        return z.mT.contiguous().mT

    @staticmethod
    def backward(ctx, slope):
        return _Rows.apply(slope)


class _Rows(torch.autograd.Function):
    """The identity, which lays a matrix out row by row, and its slope column by column."""

    @staticmethod
    def forward(ctx, z):
        return z.contiguous()

    @staticmethod
    def backward(ctx, slope):
        return _Columns.apply(slope)


class ByHand(torch.autograd.Function):
    """A function written twice: `plain`, and `forward` with a first derivative by hand.

    `forward(ctx, *inputs)` saves the inputs and behind them what `by_hand(saved, *slopes)` needs.
    Second derivatives, and whatever transforms or compiles, go through `plain`.
    """

    @classmethod
    def call(cls, *inputs: Tensor) -> tuple[Tensor, ...]:
        return cls.apply(*inputs) if is_plain() else cls.plain(*inputs)

    @classmethod
    def backward(cls, ctx, *slopes):
        saved = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return cls.by_hand(saved, *slopes)
        inputs = saved[: len(ctx.needs_input_grad)]
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(cls.plain(*inputs), wanted, slopes, create_graph=True))
        return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)


def amortized(context_dim: int, size: int) -> nn.Linear | None:
    """The layer that makes `size` numbers of a context, near 0 at the start; None without one."""
    if context_dim == 0:
        return None
    layer = nn.Linear(context_dim, size, bias=False)
    nn.init.normal_(layer.weight, std=0.01 / math.sqrt(context_dim))
    return layer


def root(step: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where `step`, one of Newton's method, leads from `start`, with derivatives of the root.

    Each step on the graph, from a root that is known, leaves its value alone: the first makes the
    first derivative right, the next one the second and the third.
    """
    with torch.no_grad():
        a = start
        tolerance = 4 * torch.finfo(start.dtype).eps
        for _ in range(100 if is_plain() else 30):
            last, a = a, step(a)
            if is_plain() and not any_true((a - last).abs() > tolerance * a.abs()):
                break
    return step(step(a))
