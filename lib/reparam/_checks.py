"""Checks of what callers pass in: one clear error that says what came and what was wanted."""

import math
from numbers import Real

import torch
from torch import Tensor


def any_true(condition: Tensor) -> bool:
    """`bool(condition.any())`, or False where values cannot be looked at (compiling, vmap)."""
    if torch.compiler.is_compiling():
        return False
    try:
        return bool(condition.any())
    except RuntimeError:  # inside torch.func.vmap a value has no truth
        return False


def holds_nan(tensor: Tensor) -> bool:
    """Whether a value is NaN; False where values cannot be looked at."""
    if torch.compiler.is_compiling():
        return False
    try:  # a sum is quick; infinities of both signs make it NaN as well
        return math.isnan(tensor.detach().sum().item()) and any_true(tensor.isnan())
    except RuntimeError:  # inside torch.func.vmap
        return False


def is_infinite(tensor: Tensor) -> bool:
    """Whether a value is infinite or NaN; False where values cannot be looked at."""
    if torch.compiler.is_compiling():
        return False
    try:  # a sum is quick, and overflows as well
        return not math.isfinite(tensor.detach().sum().item()) and any_true(~tensor.isfinite())
    except RuntimeError:  # inside torch.func.vmap
        return False


def check_float(**tensors: Tensor) -> None:
    """Each one is a floating-point tensor with at least one value, and none of them NaN."""
    for name, tensor in tensors.items():
        _check_form(name, tensor)
        if holds_nan(tensor):
            _raise_nan(name, tensor)


def check_finite(**tensors: Tensor) -> None:
    """As `check_float`, and none of the values infinite either."""
    for name, tensor in tensors.items():
        _check_form(name, tensor)
        if is_infinite(tensor):
            if tensor.isnan().any():
                _raise_nan(name, tensor)
            raise ValueError(
                f"{name} holds infinity in {int(tensor.isinf().sum())} of its {tensor.numel()} "
                "values: look for an overflow upstream, an exponential or a division by 0"
            )


def _check_form(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(tensor).__name__}: "
            f"torch.as_tensor({name}) makes one"
        )
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} must hold floating-point numbers, got dtype {tensor.dtype}: use {name}.float()"
        )
    if tensor.numel() == 0:
        raise ValueError(f"{name} is empty, got shape {tuple(tensor.shape)}")


def _raise_nan(name: str, tensor: Tensor) -> None:
    raise ValueError(
        f"{name} holds NaN in {int(tensor.isnan().sum())} of its {tensor.numel()} values: "
        "look for the first operation upstream that makes them "
        "(torch.autograd.set_detect_anomaly(True) names it)"
    )


def check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    """A source of randomness on the device where the noise is drawn; or None."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}: "
            "torch.Generator().manual_seed(0) makes one"
        )
    if generator.device.type != device.type:
        raise ValueError(
            f"generator must live where the noise is drawn, on {device}, got one on "
            f"{generator.device}: use torch.Generator({device.type!r})"
        )


def check_alike(**tensors: Tensor) -> None:
    """All of them share dtype and device with the first."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{first_name} and {name} must share dtype and device, got "
                f"{first.dtype} on {first.device} and {tensor.dtype} on {tensor.device}: "
                f"use {name}.to({first_name})"
            )


def check_same_shape(**tensors: Tensor) -> None:
    """All of them have the shape of the first."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != first.shape:
            raise ValueError(
                f"{first_name} and {name} must have one shape, got {tuple(first.shape)} and "
                f"{tuple(tensor.shape)}: expand the smaller one first, so that every entry "
                "has noise of its own"
            )


def check_count(name: str, value: int, least: int = 1) -> None:
    """An `int` of at least `least` (a bool is not a count)."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} ({value!r})")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_number(name: str, value: float) -> None:
    """A real number (a bool is none, nor is a tensor)."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} ({value!r})")


def check_flag(name: str, value: bool) -> None:
    """`True` or `False`."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__} ({value!r})")


def check_temperature(temperature: float | Tensor, name: str = "temperature") -> None:
    """A positive finite number, or a tensor of them."""
    if isinstance(temperature, Tensor):
        bad = any_true(~((temperature > 0) & temperature.isfinite()))
    elif isinstance(temperature, (int, float)) and not isinstance(temperature, bool):
        bad = not 0 < temperature < math.inf
    else:
        raise TypeError(
            f"{name} must be a positive number, got {type(temperature).__name__} ({temperature!r})"
        )
    if bad:
        raise ValueError(
            f"{name} must be positive and finite, got {temperature}: at 0 a relaxed sample is "
            "discrete and has no derivative, so use StraightThrough or ScoreFunction there"
        )


def check_probability(value: Tensor) -> None:
    """What an inverse CDF takes: a floating-point tensor of numbers between 0 and 1."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"icdf takes a floating-point tensor of probabilities, got {got}")
    if any_true(~((value >= 0) & (value <= 1))):
        raise ValueError("icdf takes probabilities, between 0 and 1")
