"""Inputs of any shape, dtype and size for property tests, and what is asked of every result.

The examples are the same in every run. `TEST_SEED=17` draws others, and `TEST_EXAMPLES=1000` as
many for each test.
"""

import os
from collections.abc import Callable, Sequence

import hypothesis
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WIDE, SIXTEEN_BITS = DTYPES[:2], DTYPES[2:]

#: Numbers where formulas break; those that a dtype does not have end at its largest or at 0.
EXTREMES = (0.0, 1.0, 1e-4, 50.0, 200.0, 1e4, 1e30, 1e-30, 1e-40)

#: Names of what has a property test, as `module.name`.
COVERED: set[str] = set()


def examples(count: int) -> Callable:
    """Hypothesis' settings for a test of `count` examples."""
    seed = os.environ.get("TEST_SEED")
    options = hypothesis.settings(
        max_examples=int(os.environ.get("TEST_EXAMPLES", count)),
        deadline=None,
        derandomize=seed is None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return options if seed is None else lambda test: hypothesis.seed(seed)(options(test))


def covers(*names: str) -> Callable:
    """Marks a test as that of the public `names`."""
    COVERED.update(names)
    return lambda test: test


class Inputs:
    """What one example is made of: a dtype, a batch shape, sizes by name, and numbers.

    Numbers are ordinary ones, unless `extreme`: then some or all are from `EXTREMES`. They come
    from torch's global generator, from a seed that belongs to the example.
    """

    def __init__(
        self,
        data: st.DataObject,
        extreme: bool = False,
        parts: bool = True,
        dtypes: Sequence[torch.dtype] = DTYPES,
    ):
        self.choose = lambda *options: data.draw(st.sampled_from(options))
        self.dtype = self.choose(*dtypes)
        self.parts = parts
        self.batch = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3)))
        self.sizes = {name: data.draw(st.integers(1, 4), name) for name in ("D", "R", "C")}
        signed = st.tuples(st.sampled_from(EXTREMES), st.sampled_from((1, -1)))
        self.extremes = data.draw(st.lists(signed, min_size=1, max_size=3)) if extreme else []
        # torch.manual_seed takes longer than most of the tests.
        torch.default_generator.manual_seed(data.draw(st.integers(0, 2**32 - 1), "seed"))

    def shape(self, *event: str | int, part: bool = False) -> tuple[int, ...]:
        """The batch shape, or part of it, which broadcasts to it, and an event shape behind it."""
        batch = self.batch
        if part and self.parts:
            batch = [self.choose(1, length) for length in batch]
            batch = batch[self.choose(*range(len(batch) + 1)) :]
        return *batch, *(self.sizes.get(length, length) for length in event)

    def real(self, *event: str | int, part: bool = False) -> Tensor:
        """A leaf of numbers of both signs."""
        return self.leaf(self._numbers(self.shape(*event, part=part)))

    def positive(self, *event: str | int, part: bool = False) -> Tensor:
        shape = self.shape(*event, part=part)
        ordinary = 0.5 + 1.5 * torch.rand(shape, dtype=torch.float64)
        limits = torch.finfo(self.dtype)
        least = limits.tiny * limits.eps
        return self.leaf(self._numbers(shape, ordinary).abs().clamp(min=least))

    def factor(self, size: str) -> Tensor:
        """Lower triangular, with a positive diagonal."""
        below = self.real(size, size).detach().tril(-1)
        return (below + torch.diag_embed(self.positive(size).detach())).requires_grad_()

    def below_and_above(self) -> tuple[Tensor, Tensor]:
        """Two leaves of which the second is larger, by more than rounding."""
        low, high = torch.stack([self.real().detach(), self.real().detach()]).double().sort(0)[0]
        room = 8 * torch.finfo(self.dtype).eps * torch.maximum(low.abs(), high.abs()) + 1e-3
        return self.leaf(low), self.leaf(torch.maximum(high, low + room))

    def _numbers(self, shape: Sequence[int], ordinary: Tensor | None = None) -> Tensor:
        numbers = torch.randn(shape, dtype=torch.float64) if ordinary is None else ordinary
        if not self.extremes:
            return numbers
        some = torch.tensor([size * sign for size, sign in self.extremes], dtype=torch.float64)
        picked = some[torch.randint(len(some), shape)]
        return torch.where(torch.rand(shape) < self.choose(0.3, 1.0), picked, numbers)

    def leaf(self, numbers: Tensor) -> Tensor:
        largest = torch.finfo(self.dtype).max
        return numbers.double().clamp(-largest, largest).to(self.dtype).requires_grad_()


def check_gradients(outputs: Tensor | Sequence[Tensor], leaves: dict[str, Tensor]) -> None:
    """Each leaf that the outputs depend on gets a gradient like it, and none of them NaN.

    Nothing is asked where an output overflowed. Infinite gradients are for outputs at the end of
    their range.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    outputs = [output for output in outputs if output.requires_grad]
    if not outputs or not all(output.isfinite().all() for output in outputs):
        return
    leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    loss = sum(output.double().sum() for output in outputs)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        if gradient is not None:
            assert gradient.shape == leaf.shape and gradient.dtype == leaf.dtype, name
            assert not gradient.isnan().any(), f"the gradient of {name} is NaN"


def faulty(tensor: Tensor, infinite: bool = True) -> dict[str, tuple[Tensor | object, str]]:
    """Wrong versions of a good tensor by what is wrong, and what an error must say of them."""
    first = torch.zeros_like(tensor.detach()).flatten()
    first[:1] = 1
    first = first.view(tensor.shape).bool()
    other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
    wrong = {
        "NaN": (tensor.detach().masked_fill(first, torch.nan), "NaN"),
        "empty": (tensor.detach()[None][:0], "empty"),
        "integers": (tensor.detach().nan_to_num().clamp(-9, 9).long(), "int64"),
        "a list": (tensor.tolist(), "list|float"),
        "another dtype": (tensor.detach().to(other), str(other)),
    }
    if infinite:
        wrong["infinity"] = tensor.detach().masked_fill(first, torch.inf), "inf"
    return wrong
