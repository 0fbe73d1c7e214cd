"""Gaussian samples as differentiable functions of their parameters, and the KL to the prior.

The 16-bit types are computed in float32: samples and factors round once, at the end, to the dtype
that came; a KL, which is a part of the loss, stays in float32, as float16 ends at 65504.
"""

import math

import torch
from torch import Tensor, nn

from reparam._checks import (
    any_true,
    check_alike,
    check_finite,
    check_flag,
    check_float,
    check_generator,
    check_number,
    check_same_shape,
)
from reparam._functions import wide_dtype

__all__ = [
    "ReparameterizedSampling",
    "bound_log_var",
    "cholesky_factor",
    "full_covariance_kl",
    "gaussian_kl",
    "low_rank_kl",
    "reparameterize_full_covariance_gaussian",
    "reparameterize_gaussian",
    "reparameterize_low_rank_gaussian",
]


def reparameterize_gaussian(
    mu: Tensor,
    log_var: Tensor,
    training: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw `z ~ N(mu, exp(log_var))` so that gradients reach `mu` and `log_var`.

    `z = mu + sigma * eps` with `sigma = exp(log_var / 2)` and `eps ~ N(0, 1)`, so that
    `dz/dmu = 1` and `dz/dlog_var = sigma * eps / 2`, entry by entry.

    Args:
        mu: means, any shape.
        log_var: logarithms of the variances, same shape, dtype and device.
        training: if False, return `mu` and draw nothing.
        generator: source of randomness, on the same device; torch's global one if None.

    Returns:
        Samples of the shape and dtype of `mu`.

    Raises:
        TypeError: if `mu` or `log_var` is not a floating-point tensor, or `training` no bool.
        ValueError: if shapes, dtypes or devices differ, or a value is NaN or infinite.

    Derived in chapter 2. Source: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114;
    Rezende, Mohamed and Wierstra (2014), https://arxiv.org/abs/1401.4082.

    >>> mu = torch.zeros(2, 3, requires_grad=True)
    >>> reparameterize_gaussian(mu, torch.zeros(2, 3)).sum().backward()
    >>> mu.grad
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    check_finite(mu=mu, log_var=log_var)
    check_alike(mu=mu, log_var=log_var)
    check_same_shape(mu=mu, log_var=log_var)
    check_flag("training", training)
    if not training:
        return mu
    eps = _noise_like(mu, generator)
    sigma = torch.exp(log_var.to(eps.dtype) / 2)
    return (mu + sigma * eps).to(mu.dtype)


class ReparameterizedSampling(nn.Module):
    """`reparameterize_gaussian` as a layer: it samples in training and returns the mean in eval.

    Called with two tensors it takes them as `mu` and `log_var`. Called with one, as
    `nn.Sequential` does, it takes the first half of the last dimension as `mu` and the second
    half as `log_var`.

    Raises:
        ValueError: if a single tensor has an odd last dimension; else as
            `reparameterize_gaussian`.

    Used in chapter 2. Source: as `reparameterize_gaussian`.

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


def reparameterize_full_covariance_gaussian(
    mu: Tensor, L: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw `z ~ N(mu, L Lᵀ)` as `z = mu + L eps`, with `eps ~ N(0, I)`.

    Args:
        mu: means, shape `[..., D]`.
        L: lower triangular Cholesky factors, shape `[..., D, D]`, positive diagonals, same
            leading dimensions. `cholesky_factor` makes them.
        generator: source of randomness, on the same device; torch's global one if None.

    Returns:
        Samples of the shape and dtype of `mu`.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if `L` does not fit `mu`, is not lower triangular, or has a diagonal entry
            that is not positive, or if a value is NaN or infinite.

    Derived in chapter 2, which also shows what another root of the same covariance changes.
    Source: Kingma and Welling (2019), section 2.5.1, https://arxiv.org/abs/1906.02691.

    >>> L = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    >>> reparameterize_full_covariance_gaussian(torch.zeros(2), L).shape
    torch.Size([2])
    """
    _check_full_covariance(mu, L)
    eps = _noise_like(mu, generator)
    return (mu + (L.to(eps.dtype) @ eps.unsqueeze(-1)).squeeze(-1)).to(mu.dtype)


def reparameterize_low_rank_gaussian(
    mu: Tensor, factor: Tensor, log_diagonal: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw `z ~ N(mu, W Wᵀ + diag(exp(log_diagonal)))` from R + D noise numbers.

    `z = mu + W eps_R + exp(log_diagonal / 2) eps_D`: R directions along which dimensions vary
    together, at D (R + 1) numbers in place of the D (D + 1) / 2 of a full covariance.

    Args:
        mu: means, shape `[..., D]`.
        factor: W, shape `[..., D, R]`, same leading dimensions.
        log_diagonal: logarithms of the variances that W leaves out, of the shape of `mu`.
        generator: source of randomness, on the same device; torch's global one if None.

    Returns:
        Samples of the shape and dtype of `mu`.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if shapes do not fit, dtypes or devices differ, or a value is NaN or infinite.

    Derived in chapter 4. Source: Ong, Nott and Smith (2018), https://arxiv.org/abs/1701.03208.

    >>> mu, factor = torch.zeros(5, 8), torch.zeros(5, 8, 2)
    >>> reparameterize_low_rank_gaussian(mu, factor, torch.zeros(5, 8)).shape
    torch.Size([5, 8])
    """
    _check_low_rank(mu, factor, log_diagonal)
    eps_R = _noise_like(factor[..., 0, :], generator)
    eps_D = _noise_like(mu, generator)
    together = (factor.to(eps_R.dtype) @ eps_R.unsqueeze(-1)).squeeze(-1)
    alone = torch.exp(log_diagonal.to(eps_D.dtype) / 2) * eps_D
    return (mu + together + alone).to(mu.dtype)


def cholesky_factor(raw: Tensor, low: float = -10.0, high: float = 10.0) -> Tensor:
    """Make a lower triangular matrix with a positive diagonal of D (D + 1) / 2 free numbers.

    The first D numbers are log-variances, `L_ii = exp(bound_log_var(raw_i) / 2)`, as in a Gaussian
    of independent dimensions; the others fill the triangle below, row by row. Zeros give the
    identity (with bounds that are symmetric about 0).

    Args:
        raw: an encoder's output, shape `[..., D (D + 1) / 2]`.
        low, high: bounds of the log-variances on the diagonal, as for `bound_log_var`.

    Returns:
        Factors of shape `[..., D, D]`, in the dtype of `raw`.

    Raises:
        TypeError: if `raw` is not a floating-point tensor.
        ValueError: if the length of `raw` is not D (D + 1) / 2 for any D, a value is NaN or
            infinite, or the bounds are no bounds.

    Derived in chapter 4. Source: Pinheiro and Bates (1996), who call it the log-Cholesky
    parameterization, https://doi.org/10.1007/BF00140873.

    >>> cholesky_factor(torch.tensor([0.0, 0.0, 0.0, 0.5, 0.7, -0.2]))
    tensor([[ 1.0000,  0.0000,  0.0000],
            [ 0.5000,  1.0000,  0.0000],
            [ 0.7000, -0.2000,  1.0000]])
    """
    check_finite(raw=raw)
    length = raw.shape[-1] if raw.ndim else 0
    D = (math.isqrt(8 * length + 1) - 1) // 2
    if length != D * (D + 1) // 2 or D == 0:
        raise ValueError(
            "raw must hold D (D + 1) / 2 numbers in its last dimension, for D latent dimensions; "
            f"got shape {tuple(raw.shape)}: {D * (D + 1) // 2} would make D = {D}, "
            f"{(D + 1) * (D + 2) // 2} D = {D + 1}"
        )
    sigma = torch.exp(bound_log_var(_wide(raw[..., :D]), low, high) / 2).to(raw.dtype)
    place = torch.arange(D, device=raw.device).diag_embed()  # of each entry of L among the numbers
    row, column = torch.tril_indices(D, D, -1, device=raw.device)
    place[row, column] = torch.arange(D, length, device=raw.device)
    numbers = torch.cat([sigma, raw[..., D:]], -1)
    return numbers.index_select(-1, place.flatten()).unflatten(-1, (D, D)).tril()


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
        TypeError: if `raw` is not a floating-point tensor, or `low` or `high` no number.
        ValueError: if `low` is not below `high` or one is infinite, or `raw` holds NaN or infinity.

    Derived in chapter 4. Source: our own.

    >>> bound_log_var(torch.tensor([-1000.0, 0.0, 1000.0]))
    tensor([-9.9995,  0.0000,  9.9995])
    """
    check_finite(raw=raw)
    check_number("low", low)
    check_number("high", high)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low must be below high and both finite, got low={low} and high={high}")
    center, half = (low + high) / 2, (high - low) / 2
    t = (_wide(raw) - center) / half
    return (center + half * torch.sin(torch.atan(t))).to(raw.dtype)


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

    Returns:
        The KL in the dtype of `mu`, or in float32 where that is wider.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: if shapes, dtypes or devices differ, a value is NaN or infinite, or `reduction`
            is none of the three.

    Derived in chapter 4. Source: Kingma and Welling (2014), appendix B,
    https://arxiv.org/abs/1312.6114.

    >>> gaussian_kl(torch.ones(2, 3), torch.zeros(2, 3))
    tensor([1.5000, 1.5000])
    """
    check_finite(mu=mu, log_var=log_var)
    check_alike(mu=mu, log_var=log_var)
    check_same_shape(mu=mu, log_var=log_var)
    if reduction not in ("sum", "none", "batchmean"):
        raise ValueError(f"reduction must be 'sum', 'none' or 'batchmean', got {reduction!r}")
    if reduction != "none" and mu.ndim == 0:
        raise ValueError(
            f"reduction={reduction!r} sums the last dimension, but mu is a scalar: "
            "use reduction='none'"
        )
    log_var = _wide(log_var)
    kl = (_wide(mu).square() + _excess(torch.expm1(log_var), log_var)) / 2
    return kl if reduction == "none" else _reduced(kl.sum(-1), reduction)


def full_covariance_kl(mu: Tensor, L: Tensor, reduction: str = "sum") -> Tensor:
    """KL divergence of `N(mu, L Lᵀ)` from `N(0, I)`, in nats.

    `(‖mu‖² + sum of L_ij² below the diagonal + sum of (L_ii² - 1 - 2 log L_ii)) / 2`: the trace of
    `L Lᵀ` is the sum of all squares, and half its log-determinant the sum of all `log L_ii`. With
    `2 log L_ii` for the log-variance the last sum is that of `gaussian_kl`, and does not cancel.

    Args:
        mu: means, shape `[..., D]`.
        L: lower triangular Cholesky factors, shape `[..., D, D]`, positive diagonals, same
            leading dimensions.
        reduction: `"sum"`, shape `[...]`, or `"batchmean"`, its mean, a scalar. There is no
            `"none"`: the dimensions are not independent, so that the KL has no shares of theirs.

    Returns:
        The KL in the dtype of `mu`, or in float32 where that is wider.

    Raises:
        TypeError, ValueError: as `reparameterize_full_covariance_gaussian`, or if `reduction` is
            neither.

    Derived in chapter 4. Source: Rasmussen and Williams (2006), appendix A.5,
    http://gaussianprocess.org/gpml/.

    >>> full_covariance_kl(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.5, 1.0]]))
    tensor(0.1250)
    """
    _check_full_covariance(mu, L)
    _check_joint(reduction)
    L = _wide(L)
    diagonal = L.diagonal(dim1=-2, dim2=-1)
    diagonal = _excess((diagonal - 1) * (diagonal + 1), 2 * torch.log(diagonal))
    below = L.tril(-1).square().sum((-2, -1))
    return _reduced((_wide(mu).square().sum(-1) + below + diagonal.sum(-1)) / 2, reduction)


def low_rank_kl(mu: Tensor, factor: Tensor, log_diagonal: Tensor, reduction: str = "sum") -> Tensor:
    """KL divergence of `N(mu, W Wᵀ + diag(exp(log_diagonal)))` from `N(0, I)`, in nats.

    What W adds to the KL of its diagonal, `gaussian_kl(mu, log_diagonal)`, is half of
    `‖W‖² - log det(I + A)` with the R × R matrix `A = Wᵀ diag(exp(-log_diagonal)) W`, of which
    the determinant lemma makes the D × D one. With A's eigenvalues λ the logarithm is a sum of
    `log1p(λ)`. They are the squared singular values of `diag(exp(-log_diagonal / 2)) W`, in
    float64: A itself would drown the small ones in the rounding of the large ones. Where W is
    small `‖W‖²` is taken apart into the trace of A, which leaves `λ - log1p(λ)`, summed as a
    series, and the rest, `-W_ij² expm1(-log_diagonal_i)`.

    Args:
        mu: means, shape `[..., D]`.
        factor: W, shape `[..., D, R]`, same leading dimensions.
        log_diagonal: logarithms of the variances that W leaves out, of the shape of `mu`.
        reduction: as for `full_covariance_kl`.

    Returns:
        The KL in the dtype of `mu`, or in float32 where that is wider. It can be differentiated
        once; second derivatives in W are NaN where singular values coincide, as at W = 0.

    Raises:
        TypeError, ValueError: as `reparameterize_low_rank_gaussian`, or if `reduction` is neither
            `"sum"` nor `"batchmean"`; ValueError too if `exp(log_diagonal / 2)` drowns beside W.

    Derived in chapter 4. Source: as `full_covariance_kl`; the way to sum it: our own.

    >>> low_rank_kl(torch.zeros(2), torch.tensor([[1.0], [1.0]]), torch.zeros(2))
    tensor(0.4507)
    """
    _check_low_rank(mu, factor, log_diagonal)
    _check_joint(reduction)
    W, log_d = factor.double(), log_diagonal.double().unsqueeze(-1)
    whitened = W * torch.exp(-log_d / 2)
    most = 0.01 / torch.finfo(W.dtype).eps  # where rounding adds 1e-4 to an eigenvalue of 0
    if any_true(~(whitened.abs() < most)):
        raise ValueError(
            f"factor must not be more than {most:.0e} times exp(log_diagonal / 2), got "
            f"{whitened.abs().max().item():g} times, where log_diagonal goes down to "
            f"{log_diagonal.min().item():g}: pass it through bound_log_var"
        )
    eigenvalues = torch.linalg.svdvals(whitened).square()
    log_1p = torch.log1p(eigenvalues)
    far = W.square().sum((-2, -1)) - log_1p.sum(-1)
    near = _excess(eigenvalues, log_1p).sum(-1) - (W.square() * torch.expm1(-log_d)).sum((-2, -1))
    added = torch.where(eigenvalues.sum(-1) < 1, near, far) / 2
    kl = gaussian_kl(mu, log_diagonal)
    return _reduced(kl + added.to(kl.dtype), reduction)


def _noise_like(mu: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gaussian noise of the shape of `mu`, in float32 at least."""
    check_generator(generator, mu.device)
    return torch.empty_like(mu, dtype=wide_dtype(mu.dtype)).normal_(generator=generator)


def _wide(x: Tensor) -> Tensor:
    return x.to(wide_dtype(x.dtype))


def _reduced(kl: Tensor, reduction: str) -> Tensor:
    return kl.mean() if reduction == "batchmean" else kl


def _check_joint(reduction: str) -> None:
    if reduction not in ("sum", "batchmean"):
        raise ValueError(
            f"reduction must be 'sum' or 'batchmean', got {reduction!r}: a KL between Gaussians "
            "whose dimensions are correlated is no sum over dimensions"
        )


def _check_full_covariance(mu: Tensor, L: Tensor) -> None:
    check_finite(mu=mu, L=L)
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
            "an exponential or a softplus, as cholesky_factor does"
        )


def _check_low_rank(mu: Tensor, factor: Tensor, log_diagonal: Tensor) -> None:
    check_finite(mu=mu, factor=factor, log_diagonal=log_diagonal)
    check_alike(mu=mu, factor=factor, log_diagonal=log_diagonal)
    check_same_shape(mu=mu, log_diagonal=log_diagonal)
    if mu.ndim == 0 or factor.shape[:-1] != mu.shape:
        raise ValueError(
            "factor must have one matrix of D rows for each mean: for mu of shape "
            f"{tuple(mu.shape)} shape {(*mu.shape, 'R')}, got {tuple(factor.shape)}"
        )


def _excess(expm1_x: Tensor, x: Tensor) -> Tensor:
    """`exp(x) - 1 - x` without cancellation, nor in its gradient: a Taylor series near x = 0."""
    threshold = 0.5
    s = x.clamp(-threshold, threshold)  # keeps the unused branch, and its gradient, finite
    series = torch.ones_like(s)
    for k in range(15, 2, -1):  # 14 terms: the next is below float64's rounding
        series = 1 + s / k * series
    return torch.where(x.abs() < threshold, s * s / 2 * series, expm1_x - x)
