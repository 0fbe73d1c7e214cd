"""What torch has not, or does slowly by its plainest call, and several modules need."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def is_plain() -> bool:
    """Whether operations run as they come: no torch.compile, no transform of torch.func."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


class Function(torch.autograd.Function):
    """Base of functions with `forward(*inputs)`, `setup_context` and `backward`; use `call`.

    torch.func needs that form, and at every `apply` of it torch inspects the signature of
    `forward`, which takes longer than the rest of the call. So `call` goes, where it may, by a
    twin whose `forward(ctx, *inputs)` does both.
    """

    generate_vmap_rule = True

    def __init_subclass__(cls):
        super().__init_subclass__()

        def forward(ctx, *inputs):
            output = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        ways = {"forward": staticmethod(forward), "backward": staticmethod(cls.backward)}
        cls._twin = type(torch.autograd.Function)(cls.__name__, (torch.autograd.Function,), ways)

    @classmethod
    def call(cls, *inputs):
        return (cls._twin if is_plain() else cls).apply(*inputs)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """What is computed in where `dtype` is asked for: float32 for the 16-bit types, else itself."""
    return torch.promote_types(dtype, torch.float32)


def joint_shape(*shapes: torch.Size) -> torch.Size | None:
    """What shapes broadcast to; None if they do not."""
    if all(shape == shapes[0] for shape in shapes):  # torch.broadcast_shapes takes its time
        return shapes[0]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        return None


def below(noise: Tensor, bound: Tensor) -> Tensor:
    """1 where `noise < bound`, else 0, in the dtype of the noise.

    In place, on a copy: a comparison that makes booleans takes six times as long to become numbers.
    """
    if is_plain():
        return noise.clone().lt_(bound)
    return (noise < bound).to(noise.dtype)


def above_zero(z: Tensor) -> Tensor:
    """1 where `z > 0`, else 0, in the dtype of `z`, as quickly as `below`."""
    return z.detach().clone().gt_(0) if is_plain() else (z > 0).to(z.dtype)


def graph_of(tensor: Tensor) -> Iterator[torch.autograd.graph.Node]:
    """Every node that the gradient of `tensor` would pass, once."""
    todo, seen = [tensor.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo += [parent for parent, _ in node.next_functions]


@contextmanager
def keeping_modes(module: object) -> Iterator[None]:
    """Training and evaluation modes may change inside; afterwards each part has its own again."""
    parts = module.modules() if isinstance(module, nn.Module) else ()
    modes = {part: part.training for part in parts}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
