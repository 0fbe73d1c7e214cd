"""Noise on open intervals, with its tails right in every floating-point type.

`torch.rand` returns 0 once in 2**24 float32 draws and once in 2**9 bfloat16 draws, and the usual
cures, `u + 1e-7` or `clamp(u, 1e-7)`, cut off or bend a tail, differently in each dtype. All
noise here starts from exponential noise, drawn and transformed in float32 at least, so that no
offset is needed anywhere and the 16-bit types round the finished number only.

Where the tails end is torch's doing: on a CPU exponential noise is fine down to its smallest draws;
CUDA's float32 knows none below 6e-8, which stops Gumbel noise at 16.6 (one draw in 16 million).

Derived in chapter 5; chapters 1 and 2 need Gaussian noise alone, which `torch.randn` draws well.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reparam._checks import check_generator
from reparam._functions import wide_dtype

__all__ = ["exponential_noise", "gumbel_noise", "logistic_noise", "open_uniform_noise"]


def exponential_noise(
    size: int | Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Standard exponential noise `E`, with density `exp(-e)` on `e > 0`; never 0.

    Args:
        size: shape of the result, an int or a sequence of ints.
        dtype: a floating-point type; torch's default if None. Noise of 16 bits is drawn in float32
            and rounded.
        device: where to draw; torch's default if None.
        generator: source of randomness, on the same device; torch's global one if None.

    Raises:
        TypeError: if `size`, `dtype` or `generator` is something else than the above.
        ValueError: if `size` is negative somewhere, or `generator` lives on another device.

    Derived in chapter 5. Source: Devroye (1986), chapter 2,
    https://luc.devroye.org/rnbookindex.html.

    >>> e = exponential_noise(1000, generator=torch.Generator().manual_seed(0))
    >>> bool((e > 0).all())
    True
    """
    return _rounded(_wide_exponential(size, dtype, device, generator), dtype)


def open_uniform_noise(
    size: int | Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniform noise on the open interval (0, 1): `U = 1 - exp(-E)` with `E` exponential.

    Near 0 a CPU draws multiples of 2⁻⁵³; near 1 it stops at the largest number below 1, where all
    that would round to 1 is gathered. Arguments and errors are those of `exponential_noise`.

    Derived in chapter 5. Source: Devroye (1986), chapter 2,
    https://luc.devroye.org/rnbookindex.html.

    >>> u = open_uniform_noise((2, 3), dtype=torch.bfloat16)
    >>> u.shape, bool(((u > 0) & (u < 1)).all())
    (torch.Size([2, 3]), True)
    """
    noise = _blank(size, dtype, device, generator)
    if noise.device.type == "cpu":  # what the formula would lead back to
        noise = _fine_uniform(noise, generator).to(noise.dtype)
    else:
        noise = noise.exponential_(generator=generator).neg_().expm1_().neg_()
    noise = _rounded(noise.clamp_(min=torch.finfo(noise.dtype).tiny), dtype)
    return noise.clamp_(max=1 - torch.finfo(noise.dtype).eps / 2)


def gumbel_noise(
    size: int | Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Standard Gumbel noise, `G = -log E` with `E` exponential; mean 0.5772, variance pi²/6.

    The inverse CDF gives `-log(-log U)`, and `-log U` is exponential noise: drawing that first
    leaves one logarithm and no zero to guard. Arguments and errors are those of
    `exponential_noise`. Source: Gumbel (1954); Maddison, Tarlow and Minka (2014),
    https://arxiv.org/abs/1411.0030.

    Derived in chapter 5.

    >>> bool(gumbel_noise(1000, dtype=torch.bfloat16).isfinite().all())
    True
    """
    noise = _wide_exponential(size, dtype, device, generator)
    return noise.log_().neg_().to(_asked(dtype))


def logistic_noise(
    size: int | Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Standard logistic noise, `log(U / (1 - U))` with `U` uniform; variance pi²/3.

    That is the inverse CDF. In float32 its upper tail would stop where `1 - U` is a rounding step,
    so that a CPU draws `U` in float64, and other devices `log E1 - log E2` with two exponentials,
    which has the same law. Arguments and errors are those of `exponential_noise`.

    Derived in chapter 5. Source: Devroye (1986), chapter 2,
    https://luc.devroye.org/rnbookindex.html.

    >>> bool(logistic_noise(1000).isfinite().all())
    True
    """
    noise = _blank(size, dtype, device, generator)
    if noise.device.type == "cpu":
        uniform = _fine_uniform(noise, generator)
        # U and 1 - U are exact in float64; their quotient needs no more than `dtype` has.
        low = uniform.to(noise.dtype, copy=True).clamp_(min=2.0**-54)  # 0 once in 2**53 draws
        noise = low.div_(uniform.neg_().add_(1).to(noise.dtype)).log_()
    else:
        first, second = (_wide_exponential(size, dtype, device, generator) for _ in range(2))
        noise = first.log_().sub_(second.log_())
    return noise.to(_asked(dtype))


def _wide_exponential(
    size: int | Sequence[int],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Exponential noise in `dtype`, or in float32 where that is wider; never 0."""
    noise = _blank(size, dtype, device, generator)
    if noise.device.type == "cpu":
        # What torch draws, number by number; by whole tensors it takes a third of the time.
        noise = _fine_uniform(noise, generator).neg_().log1p_().neg_().to(noise.dtype)
    else:
        noise = noise.exponential_(generator=generator)
    # 0 once in 2**53 draws on a CPU; not seen on CUDA, nor ruled out by torch.
    return noise.clamp_(min=torch.finfo(noise.dtype).tiny)


def _fine_uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform on [0, 1) in float64, of the shape of `like`, of which no value is read."""
    options = dict(dtype=torch.float64, device=like.device, generator=generator)
    return torch.rand(like.shape, **options)  # torch.func.vmap knows this, and not uniform_


def _blank(
    size: int | Sequence[int],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    generator: torch.Generator | None,
) -> Tensor:
    """An empty tensor in `dtype`, or in float32 where that is wider."""
    dtype = _asked(dtype)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"noise needs a floating-point dtype, got {dtype!r}")
    size = (size,) if isinstance(size, int) else size
    if not isinstance(size, Sequence) or any(
        not isinstance(length, int) or isinstance(length, bool) for length in size
    ):
        raise TypeError(f"size must be an int or a sequence of ints, got {size!r}")
    size = tuple(size)
    if any(length < 0 for length in size):
        raise ValueError(f"size must not be negative, got {size}")
    blank = torch.empty(size, dtype=wide_dtype(dtype), device=device)
    check_generator(generator, blank.device)
    return blank


def _asked(dtype: torch.dtype | None) -> torch.dtype:
    return torch.get_default_dtype() if dtype is None else dtype


def _rounded(positive: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`positive` in `dtype`; what would round to 0 becomes the smallest number above it."""
    dtype = _asked(dtype)
    if dtype == positive.dtype:
        return positive
    limits = torch.finfo(dtype)
    return positive.to(dtype).clamp_(min=limits.tiny * limits.eps)
