"""Gaussian samples as differentiable functions of their parameters, and the KL to the prior."""

import math

import torch
from torch import Tensor, nn

from reparam._checks import any_true, check_alike, check_float, check_same_shape

__all__ = [
    "ReparameterizedSampling",
    "bound_log_var",
    "gaussian_kl",
    "reparameterize_full_covariance_gaussian",
    "reparameterize_gaussian",
]


def reparameterize_gaussian(mu: Tensor, log_var: Tensor, training: bool = True) -> Tensor:
    """Draw `z ~ N(mu, exp(log_var))` so that gradients reach `mu` and `log_var`.

    `z = mu + sigma * eps` with `sigma = exp(log_var / 2)` and `eps ~ N(0, 1)`, so that
    `dz/dmu = 1` and `dz/dlog_var = sigma * eps / 2`, entry by entry.

    Args:
        mu: means, any shape.
        log_var: logarithms of the variances, same shape, dtype and device.
        training: if False, return `mu` and draw nothing.

    Returns:
        Samples of the shape of `mu`.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if shapes, dtypes or devices differ, or a value is NaN.

    Derived in chapter 2. Source: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114;
    Rezende, Mohamed and Wierstra (2014), https://arxiv.org/abs/1401.4082.

    >>> mu = torch.zeros(2, 3, requires_grad=True)
    >>> reparameterize_gaussian(mu, torch.zeros(2, 3)).sum().backward()
    >>> mu.grad
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    check_float(mu=mu, log_var=log_var)
    check_alike(mu=mu, log_var=log_var)
    check_same_shape(mu=mu, log_var=log_var)
    if not training:
        return mu
    return mu + torch.exp(log_var / 2) * torch.randn_like(mu)


class ReparameterizedSampling(nn.Module):
    """`reparameterize_gaussian` as a layer: it samples in training and returns the mean in eval.

    Called with two tensors it takes them as `mu` and `log_var`. Called with one, as
    `nn.Sequential` does, it takes the first half of the last dimension as `mu` and the second
    half as `log_var`.

    Raises:
        ValueError: if a single tensor has an odd last dimension; else as
            `reparameterize_gaussian`.

    Used in chapter 2.

    >>> encoder = nn.Sequential(nn.Linear(64, 2 * 8), ReparameterizedSampling())
    >>> encoder(torch.zeros(5, 64)).shape
    torch.Size([5, 8])
    """

    def forward(self, mu: Tensor, log_var: Tensor | None = None) -> Tensor:
        if log_var is None:
            check_float(mu=mu)
            if mu.ndim == 0 or mu.shape[-1] % 2:
                raise ValueError(
                    "one tensor must hold mu and log_var side by side in its last dimension, "
                    f"so that its length is even; got shape {tuple(mu.shape)}"
                )
            mu, log_var = mu.chunk(2, dim=-1)
        return reparameterize_gaussian(mu, log_var, training=self.training)


def reparameterize_full_covariance_gaussian(mu: Tensor, L: Tensor) -> Tensor:
    """Draw `z ~ N(mu, L Lᵀ)` as `z = mu + L eps`, with `eps ~ N(0, I)`.

    Args:
        mu: means, shape `[..., D]`.
        L: lower triangular Cholesky factors, shape `[..., D, D]`, positive diagonals, same
            leading dimensions.

    Returns:
        Samples of the shape of `mu`.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if `L` does not fit `mu`, is not lower triangular, or has a diagonal entry
            that is not positive.

    Derived in chapter 2, which also shows what another root of the same covariance changes.

    >>> L = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    >>> reparameterize_full_covariance_gaussian(torch.zeros(2), L).shape
    torch.Size([2])
    """
    check_float(mu=mu, L=L)
    check_alike(mu=mu, L=L)
    if mu.ndim == 0 or L.shape != (*mu.shape, mu.shape[-1]):
        raise ValueError(
            "L must have one square matrix for each mean: for mu of shape "
            f"{tuple(mu.shape)} shape {(*mu.shape, *mu.shape[-1:])}, got {tuple(L.shape)}"
        )
    if any_true(L.triu(1) != 0):
        raise ValueError(
            "L must be lower triangular, got non-zero entries above the diagonal: pass "
            "torch.linalg.cholesky(covariance) or L.tril()"
        )
    diagonal = L.diagonal(dim1=-2, dim2=-1)
    if any_true(diagonal <= 0):
        raise ValueError(
            f"the diagonal of L must be positive, got {diagonal.min().item():g}: pass it through "
            "an exponential or a softplus"
        )
    eps = torch.randn_like(mu)
    return mu + (L @ eps.unsqueeze(-1)).squeeze(-1)


def bound_log_var(raw: Tensor, low: float = -10.0, high: float = 10.0) -> Tensor:
    """Squeeze an encoder's raw output smoothly into `(low, high)`.

    `center + half * t / sqrt(1 + t²)` with `t = (raw - center) / half`: slope 1 in the center,
    and a slope that falls like `|t|⁻³`, so that no unit is cut off as a clamp cuts it off.
    Computed as `sin(arctan(t))`, whose slope `cos(arctan(t)) / (1 + t²)` does not cancel: that of
    the quotient comes out as 0 or negative in bfloat16 from raw = 300 on.

    Args:
        raw: any shape, any floating-point dtype.
        low, high: the bounds of the log-variance; they are approached, not reached, until
            rounding does.

    Returns:
        Log-variances of the shape of `raw`.

    Raises:
        TypeError: if `raw` is not a floating-point tensor.
        ValueError: if `low` is not below `high` or one is infinite, or `raw` holds NaN.

    Derived in chapter 4.

    >>> bound_log_var(torch.tensor([-1000.0, 0.0, 1000.0]))
    tensor([-9.9995,  0.0000,  9.9995])
    """
    check_float(raw=raw)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low must be below high and both finite, got low={low} and high={high}")
    center, half = (low + high) / 2, (high - low) / 2
    t = (raw - center) / half
    return center + half * torch.sin(torch.atan(t))


def gaussian_kl(mu: Tensor, log_var: Tensor, reduction: str = "sum") -> Tensor:
    """KL divergence of `N(mu, diag(exp(log_var)))` from `N(0, I)`, in nats.

    Each dimension contributes `(mu² + exp(log_var) - 1 - log_var) / 2`. The last three terms
    cancel near the prior, so that they are summed as a series where `log_var` is small.

    Args:
        mu, log_var: one shape `[..., D]`.
        reduction: `"sum"` adds the D dimensions, shape `[...]`; `"none"` keeps them, shape
            `[..., D]`; `"batchmean"` adds the D dimensions and averages the rest, a scalar.
            There is no mean over dimensions: beside a reconstruction summed over pixels that is
            a β-VAE with β = 1/D in disguise (chapter 4).

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if shapes, dtypes or devices differ, a value is NaN, or `reduction` is none
            of the three.

    Derived in chapter 4. Source: Kingma and Welling (2014), appendix B,
    https://arxiv.org/abs/1312.6114.

    >>> gaussian_kl(torch.ones(2, 3), torch.zeros(2, 3))
    tensor([1.5000, 1.5000])
    """
    check_float(mu=mu, log_var=log_var)
    check_alike(mu=mu, log_var=log_var)
    check_same_shape(mu=mu, log_var=log_var)
    if reduction not in ("sum", "none", "batchmean"):
        raise ValueError(f"reduction must be 'sum', 'none' or 'batchmean', got {reduction!r}")
    kl = (mu.square() + _expm1_minus(log_var)) / 2
    if reduction == "none":
        return kl
    if mu.ndim == 0:
        raise ValueError(
            f"reduction={reduction!r} sums the last dimension, but mu is a scalar: "
            "use reduction='none'"
        )
    kl = kl.sum(-1)
    return kl.mean() if reduction == "batchmean" else kl


def _expm1_minus(x: Tensor) -> Tensor:
    """`exp(x) - 1 - x` without cancellation, nor in its gradient: a Taylor series near 0."""
    threshold = 0.5
    s = x.clamp(-threshold, threshold)  # keeps the unused branch, and its gradient, finite
    series = torch.ones_like(s)
    for k in range(15, 2, -1):  # 14 terms: the next is below float64's rounding
        series = 1 + s / k * series
    return torch.where(x.abs() < threshold, s * s / 2 * series, torch.expm1(x) - x)
