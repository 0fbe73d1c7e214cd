"""Discrete samples made smooth: relaxations that gradients pass through, and the noise inside them.

A Bernoulli variable is the sign of its logit plus logistic noise, a categorical one the argmax of
its logits plus Gumbel noise: both exactly. Dividing that sum by a temperature and passing it
through a sigmoid or a softmax gives a sample that has a derivative and is not discrete any more.

Everything is computed in float32 at least; the 16-bit types round the finished sample only.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reparam._checks import (
    any_true,
    check_alike,
    check_finite,
    check_flag,
    check_float,
    check_number,
    check_temperature,
    is_infinite,
)
from reparam._functions import Function, above_zero, joint_shape, wide_dtype
from reparam.noise import gumbel_noise, logistic_noise

__all__ = [
    "annealed_temperature",
    "gumbel_given",
    "gumbel_softmax",
    "log_gumbel_softmax",
    "log_gumbel_softmax_log_prob",
    "logistic_given",
    "relaxed_bernoulli",
    "relaxed_logit",
    "relaxed_logit_log_prob",
    "straight_through",
]


def gumbel_softmax(logits: Tensor, temperature: float | Tensor = 1.0, hard: bool = False) -> Tensor:
    """Draw relaxed one-hot samples, `softmax((logits + G) / temperature)` with Gumbel noise `G`.

    The largest entry stands where `logits + G` has its maximum, which is at class k with
    probability `softmax(logits)[k]` at every temperature.

    Args:
        logits: shape `[..., C]`; they need not be normalized.
        temperature: positive, a number or a tensor that broadcasts against `logits`; gradients
            reach a tensor.
        hard: if True, the sample is exactly one-hot, and its gradient that of the relaxed one.

    Returns:
        Samples of the shape and dtype of `logits`.

    Raises:
        TypeError: if `logits` is not a floating-point tensor, `temperature` no number, or `hard`
            no bool.
        ValueError: if `logits` has no dimension, is empty or holds NaN, if all its classes are
            ruled out by minus infinity, or one is infinite, or if `temperature` is not positive
            and finite, does not fit, or is so small or large (1e-31 or 1e31 in float32) that
            noise divided by it may leave the dtype.

    Derived in chapter 5; used in chapters 7 and 8 through `GumbelSoftmax`. Source: Jang, Gu and
    Poole (2017), https://arxiv.org/abs/1611.01144; Maddison, Mnih and Teh (2017),
    https://arxiv.org/abs/1611.00712.

    >>> y = gumbel_softmax(torch.zeros(5, 3), temperature=0.5)
    >>> torch.allclose(y.sum(-1), torch.ones(5))
    True
    >>> gumbel_softmax(torch.tensor([100.0, 0.0]), hard=True)
    tensor([1., 0.])
    """
    _check_classes(logits)
    check_flag("hard", hard)
    temperature = _fitting(temperature, logits)
    z = _with_gumbel_noise(logits)
    soft = _one_hot_softened(z, temperature).to(logits.dtype)
    return _one_hot_of(z.detach()).to(soft) + (soft - soft.detach()) if hard else soft


def relaxed_bernoulli(
    logits: Tensor, temperature: float | Tensor = 1.0, hard: bool = False
) -> Tensor:
    """Draw relaxed binary samples, `sigmoid((logits + L) / temperature)` with logistic noise `L`.

    A sample exceeds 1/2 with probability `sigmoid(logits)` at every temperature. Its derivative
    does not die where the sample rounds to 1.

    Args, returns, raises: as for `gumbel_softmax`, for `logits` of any shape; `hard` samples are
    0 or 1.

    Derived in chapter 5. Source: Maddison, Mnih and Teh (2017), appendix B,
    https://arxiv.org/abs/1611.00712.

    >>> relaxed_bernoulli(torch.tensor([-100.0, 100.0]), hard=True)
    tensor([0., 1.])
    """
    check_float(logits=logits)
    check_flag("hard", hard)
    temperature = _fitting(temperature, logits)
    z = _with_logistic_noise(logits)
    return _Sigmoid.call(_divided(z, temperature), hard).to(logits.dtype)


# --- in log space ---------------------------------------------------------------------------------


def log_gumbel_softmax(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Draw the logarithm of a `gumbel_softmax` sample, `log_softmax((logits + G) / temperature)`.

    At low temperatures all classes but one underflow to 0 on the simplex, where densities and
    their gradients are then NaN or infinite; their logarithms do not.

    Args, raises: as for `gumbel_softmax`.

    Returns:
        Log-samples of the shape and dtype of `logits`; their exponentials sum to 1.

    Derived in chapter 5. Source: Maddison, Mnih and Teh (2017), appendix C.3,
    https://arxiv.org/abs/1611.00712.

    >>> log_y = log_gumbel_softmax(torch.zeros(1000, 3), temperature=0.01)
    >>> bool(log_y.isfinite().all()), bool((log_y.exp() == 0).any())
    (True, True)
    """
    _check_classes(logits)
    temperature = _fitting(temperature, logits)
    return _divided(_with_gumbel_noise(logits), temperature).log_softmax(-1).to(logits.dtype)


def log_gumbel_softmax_log_prob(
    log_y: Tensor, logits: Tensor, temperature: float | Tensor = 1.0
) -> Tensor:
    """The log-density of `log_gumbel_softmax(logits, temperature)` at `log_y`.

    With `s = logits - temperature * log_y` and C classes it is
    `log((C - 1)!) + (C - 1) log(temperature) + sum(log_softmax(s))`: a density of the C - 1
    log-ratios `log(y_k / y_C)`, the same whichever class comes last. On the simplex the density
    is that minus `log_y.sum(-1)`; a ratio of two densities at one point does not change.

    Args:
        log_y: log-samples, shape `[..., C]`.
        logits: shape `[..., C]`, broadcast against `log_y`.
        temperature: positive, a number or a tensor that broadcasts against `logits`, of last
            dimension 1: the classes share it.

    Returns:
        Log-densities of shape `[...]`, in the dtype of `logits`, or in float32 where that is wider.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or `temperature` no number.
        ValueError: if shapes, dtypes or devices do not fit, a value is NaN or infinite (a class of
            probability 0 has no log-ratio: leave it out), or `temperature` is not positive.

    Described in chapter 5. Source: Maddison, Mnih and Teh (2017), appendix C.3,
    https://arxiv.org/abs/1611.00712.

    >>> logits = torch.randn(5, 3)
    >>> log_y = log_gumbel_softmax(logits, temperature=0.01)
    >>> log_gumbel_softmax_log_prob(log_y, logits, temperature=0.01).shape
    torch.Size([5])
    """
    _check_classes(logits)
    _check_point("log_y", log_y, logits)
    temperature = _fitting(temperature, logits)
    log_temperature = _log(temperature)
    if isinstance(temperature, Tensor) and temperature.ndim:
        if temperature.shape[-1] != 1:
            raise ValueError(
                "the classes must share one temperature: its last dimension must be 1, "
                f"got shape {tuple(temperature.shape)}"
            )
        log_temperature = log_temperature.squeeze(-1)
    score = (_wide(logits) - temperature * _wide(log_y)).log_softmax(-1).sum(-1)
    others = logits.shape[-1] - 1
    return score + others * log_temperature + math.lgamma(others + 1)


def relaxed_logit(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Draw the logit of a `relaxed_bernoulli` sample, `(logits + L) / temperature`.

    Where the sample itself rounds to 0 or 1, its logit goes on.

    Args, returns, raises: as for `relaxed_bernoulli`.

    Derived in chapter 5. Source: Maddison, Mnih and Teh (2017), appendix C.2,
    https://arxiv.org/abs/1611.00712.

    >>> x = relaxed_logit(torch.zeros(1000), temperature=0.01)
    >>> bool((x.sigmoid() == 1).any()), bool(x.isfinite().all())
    (True, True)
    """
    check_float(logits=logits)
    temperature = _fitting(temperature, logits)
    return _divided(_with_logistic_noise(logits), temperature).to(logits.dtype)


def relaxed_logit_log_prob(x: Tensor, logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """The log-density of `relaxed_logit(logits, temperature)` at `x`.

    `log(temperature) + log sigmoid(d) + log sigmoid(-d)` with `d = logits - temperature * x`.
    That of `y = sigmoid(x)` on (0, 1) is it minus `log sigmoid(x) + log sigmoid(-x)`.

    Args:
        x: logits of samples, of a shape that broadcasts against that of `logits`.
        logits: any shape.
        temperature: positive, a number or a tensor that broadcasts against `logits`.

    Returns:
        Log-densities in the common shape, in the dtype of `logits`, or in float32 where that is
        wider.

    Raises:
        TypeError, ValueError: as for `log_gumbel_softmax_log_prob`.

    Described in chapter 5 for classes, of which this is the case of two. Source: Maddison, Mnih and
    Teh (2017), appendix C.2, https://arxiv.org/abs/1611.00712.

    >>> relaxed_logit_log_prob(torch.tensor(0.0), torch.tensor(0.0))  # the logistic's 1/4
    tensor(-1.3863)
    """
    _check_point("x", x, logits)
    temperature = _fitting(temperature, logits)
    d = _wide(logits) - temperature * _wide(x)
    return F.logsigmoid(d) + F.logsigmoid(-d) + _log(temperature)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard` in the forward pass, `soft` in the backward pass.

    `hard + (soft - soft.detach())`, exactly `hard`. Written elsewhere as
    `hard - soft.detach() + soft`, it rounds unless `hard` holds zeros and ones. No gradient reaches
    `hard`, nor a `soft` that is infinite.

    Args:
        hard, soft: one shape, dtype and device.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if shapes, dtypes or devices differ, or a value is NaN.

    Used in chapter 7 through `VectorQuantizer`. Source: Bengio, Léonard and Courville (2013),
    https://arxiv.org/abs/1308.3432.

    >>> p = torch.tensor(0.3, requires_grad=True)
    >>> b = straight_through(torch.tensor(1.0), p)
    >>> b.backward()
    >>> b.item(), p.grad.item()
    (1.0, 1.0)
    """
    check_float(hard=hard, soft=soft)
    check_alike(hard=hard, soft=soft)
    if hard.shape != soft.shape:
        raise ValueError(
            f"hard and soft must have one shape, got {tuple(hard.shape)} and {tuple(soft.shape)}"
        )
    return hard.detach() + _zero_with_slope(soft)


def _zero_with_slope(x: Tensor) -> Tensor:
    """Zeros, whose derivative with respect to `x` is 1; infinite entries have none."""
    return (x - x.detach()).nan_to_num()


def annealed_temperature(
    step: float, start: float = 1.0, end: float = 0.1, rate: float = 1e-4
) -> float:
    """The temperature of a training step, `max(end, start * exp(-rate * step))`.

    Args:
        step: optimizer steps so far, from 0 on.
        start, end: the first temperature, and the lowest one.
        rate: per step; Jang et al. search 1e-5 and 1e-4.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if `start` or `end` is not positive and finite, if `end` exceeds `start`, or if
            `step` or `rate` is negative.

    Used in chapter 7. Source: Jang, Gu and Poole (2017), section 4, https://arxiv.org/abs/1611.01144.

    >>> [round(annealed_temperature(step), 3) for step in (0, 10_000, 1_000_000)]
    [1.0, 0.368, 0.1]
    """
    check_temperature(start, "start")
    check_temperature(end, "end")
    for name, number in dict(step=step, start=start, end=end, rate=rate).items():
        check_number(name, number)
    if end > start:
        raise ValueError(f"end must not exceed start, got start={start} and end={end}")
    if not (step >= 0 and rate >= 0):
        raise ValueError(f"step and rate must not be negative, got step={step} and rate={rate}")
    return max(end, start * math.exp(-rate * step))


# --- the noise, given the discrete sample --------------------------------------------------------


def gumbel_given(one_hot: Tensor, logits: Tensor) -> Tensor:
    """Draw `z = logits + G`, `G` Gumbel noise, given that `z` has its maximum where `one_hot` is 1.

    The maximum of all is Gumbel noise around `logsumexp(logits)`, whichever class has it. In terms
    of exponential arrival times `exp(-z)` the others come later by exponential times of rates
    `exp(logits)`, as if the clock began anew. So `z_k = z_max - softplus(w_k)` with
    `w_k = logsumexp(logits) - logits_k + G_max - G_k`, a function of fresh noise that is smooth in
    the logits. The maximum is strict (in the 16-bit types up to their rounding).

    Args:
        one_hot: shape `[..., C]`, one 1 and zeros in the last dimension.
        logits: a shape that broadcasts with that of `one_hot`.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if one holds NaN, `one_hot` is not one-hot, `logits` rule every class out, or
            dtypes or devices differ.

    Described in chapter 7. Source: Maddison, Tarlow and Minka (2014), section 3,
    https://arxiv.org/abs/1411.0030; Tucker et al. (2017), https://arxiv.org/abs/1703.07370.

    >>> b = torch.tensor([0.0, 1.0, 0.0])
    >>> gumbel_given(b, torch.tensor([5.0, 0.0, 0.0])).argmax().item()
    1
    """
    one_hot = _check_given("one_hot", one_hot, logits)
    if one_hot.ndim == 0 or any_true(one_hot.sum(-1) != 1):
        raise ValueError("one_hot must hold exactly one 1 in its last dimension")
    _check_some_class(logits)
    return _gumbel_given(one_hot, _wide(logits)).to(logits.dtype)


def logistic_given(b: Tensor, logits: Tensor) -> Tensor:
    """Draw `z = logits + L`, `L` logistic noise, given the outcome `b`: positive for 1, else not.

    For `b = 1` it is `softplus(softplus(logits) + L)` with fresh logistic `L`, for `b = 0` minus
    the same of `-logits`: the inverse CDF of either half, without a cancellation in either tail.

    Args:
        b: zeros and ones.
        logits: a shape that broadcasts with that of `b`.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if one holds NaN, `b` something else than 0 and 1, or dtypes or devices differ.

    Derived in chapter 7. Source: Tucker et al. (2017), https://arxiv.org/abs/1703.07370.

    >>> z = logistic_given(torch.tensor([0.0, 1.0]), torch.tensor([20.0, -20.0]))
    >>> (z > 0).tolist()
    [False, True]
    """
    b = _check_given("b", b, logits)
    return _logistic_given(b, _wide(logits)).to(logits.dtype)


# --- details -------------------------------------------------------------------------------------


def _one_hot_softened(z: Tensor, temperature: float | Tensor) -> Tensor:
    return _divided(z, temperature).softmax(-1)


def _binary_softened(z: Tensor, temperature: float | Tensor) -> Tensor:
    return _Sigmoid.call(_divided(z, temperature), False)


class _Sigmoid(Function):
    """A sigmoid, or with its slope a step, whose slope does not cancel.

    torch computes `y (1 - y)`, which is 0 where `y` rounds to 1; the smaller of both never does.
    """

    @staticmethod
    def forward(x, hard):
        return above_zero(x) if hard else x.sigmoid()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        smaller = x.abs().neg_().sigmoid_()
        return torch.ops.aten.sigmoid_backward(slope, smaller), None


def _one_hot_of(z: Tensor) -> Tensor:
    """Exactly one 1 in the last dimension, at the maximum."""
    return torch.zeros_like(z).scatter(-1, z.argmax(-1, keepdim=True), 1.0)


def _divided(z: Tensor, temperature: float | Tensor) -> Tensor:
    return z / temperature if isinstance(temperature, Tensor) or temperature != 1 else z


def _softplus(x: Tensor) -> Tensor:
    """`log(1 + exp(x))`; at torch's own threshold, 20, it would be off by 2e-9."""
    return F.softplus(x, threshold=50)


def _gumbel_given(one_hot: Tensor, logits: Tensor, draws: tuple[int, ...] = ()) -> Tensor:
    """Unchecked, shape `[*draws, *one_hot.shape]`; `logits` are float32 at least."""
    shape = (*draws, *one_hot.shape)
    noise = gumbel_noise(shape, dtype=logits.dtype, device=logits.device)
    total = logits.logsumexp(-1, keepdim=True)
    highest = (one_hot * noise).sum(-1, keepdim=True)
    z_max = total + highest
    others = z_max - _softplus((total - logits) + (highest - noise))
    # What is below by less than a rounding step would tie.
    below = torch.nextafter(z_max, torch.full_like(z_max, -math.inf)).detach()
    return torch.where(one_hot != 0, z_max, torch.minimum(others, below))


def _logistic_given(b: Tensor, logits: Tensor, draws: tuple[int, ...] = ()) -> Tensor:
    """Unchecked, as `_gumbel_given`."""
    noise = logistic_noise((*draws, *b.shape), dtype=logits.dtype, device=logits.device)
    sign = 2 * b.to(logits.dtype) - 1
    return sign * _softplus(_softplus(sign * logits) + noise)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(wide_dtype(logits.dtype))


def _with_gumbel_noise(logits: Tensor) -> Tensor:
    wide = _wide(logits)
    return wide + gumbel_noise(wide.shape, dtype=wide.dtype, device=wide.device)


def _with_logistic_noise(logits: Tensor) -> Tensor:
    wide = _wide(logits)
    return wide + logistic_noise(wide.shape, dtype=wide.dtype, device=wide.device)


def _log(temperature: float | Tensor) -> float | Tensor:
    return temperature.log() if isinstance(temperature, Tensor) else math.log(temperature)


def _check_classes(logits: Tensor) -> None:
    check_float(logits=logits)
    if logits.ndim == 0:
        raise ValueError(
            "logits must have a last dimension with one number for each class, got a scalar: "
            "for one Bernoulli variable use relaxed_bernoulli"
        )
    _check_some_class(logits)


def _check_some_class(logits: Tensor) -> None:
    if not is_infinite(logits):
        return
    largest = logits.amax(-1)
    if any_true(largest.isinf()):
        raise ValueError(
            "the largest of the logits in the last dimension must be finite, got "
            f"{largest[largest.isinf()][0].item():g}: minus infinity rules a class out, and one of "
            "them must be left"
        )


def _check_point(name: str, point: Tensor, logits: Tensor) -> None:
    """Where a density is asked for."""
    check_finite(**{name: point, "logits": logits})
    check_alike(logits=logits, **{name: point})
    if joint_shape(point.shape, logits.shape) is None or (
        name == "log_y" and point.shape[-1:] != logits.shape[-1:]
    ):
        raise ValueError(
            f"{name} must fit logits, got shapes {tuple(point.shape)} and {tuple(logits.shape)}"
        )


def _fitting(temperature: float | Tensor, logits: Tensor) -> float | Tensor:
    """The temperature, checked; a tensor in the dtype of the arithmetic."""
    check_temperature(temperature)
    limits = torch.finfo(wide_dtype(logits.dtype))
    least = limits.tiny / limits.eps  # what is divided by less may overflow
    if not isinstance(temperature, Tensor):
        if not least <= temperature <= 1 / least:
            raise ValueError(_out_of_range(temperature, least, limits.dtype))
        return temperature
    if joint_shape(temperature.shape, logits.shape) != logits.shape:
        raise ValueError(
            f"temperature of shape {tuple(temperature.shape)} does not broadcast to the shape of "
            f"logits, {tuple(logits.shape)}"
        )
    out = (temperature < least) | (temperature > 1 / least)
    if any_true(out):
        raise ValueError(_out_of_range(temperature[out][0].item(), least, limits.dtype))
    return temperature.to(_wide(logits))


def _out_of_range(temperature: float, least: float, dtype: str) -> str:
    return (
        f"temperature must lie between {least:.0e} and {1 / least:.0e} in {dtype}, got "
        f"{temperature:g}"
    )


def _check_given(name: str, b: Tensor, logits: Tensor) -> Tensor:
    """`b`, checked, in the shape that it has with the logits."""
    check_float(**{name: b, "logits": logits})
    check_alike(logits=logits, **{name: b})
    shape = joint_shape(b.shape, logits.shape)
    if shape is None:
        raise ValueError(
            f"{name} and logits must broadcast, got shapes {tuple(b.shape)} and "
            f"{tuple(logits.shape)}"
        )
    if any_true((b != 0) & (b != 1)):
        raise ValueError(f"{name} must hold zeros and ones alone")
    return b.expand(shape)
