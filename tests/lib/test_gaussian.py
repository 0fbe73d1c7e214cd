"""Gaussian samples and their KL: laws, gradients, precision in every dtype, bad input."""

import math

import mpmath
import pytest
import torch
from torch import nn

from reparam.gaussian import (
    ReparameterizedSampling,
    bound_log_var,
    gaussian_kl,
    reparameterize_full_covariance_gaussian,
    reparameterize_gaussian,
)
from tests.lib.statistical import check_mean

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
mpmath.mp.dps = 60


def replay(seed: int, shape, **options) -> torch.Tensor:
    torch.manual_seed(seed)
    eps = torch.randn(shape, **options)
    torch.manual_seed(seed)
    return eps


# --- samples -------------------------------------------------------------------------------------


@each_dtype
def test_sample_and_both_gradients_are_the_formula_of_the_same_noise(dtype, device):
    mu = torch.linspace(-3, 3, 8, dtype=dtype, device=device).reshape(2, 4).requires_grad_()
    log_var = torch.linspace(-4, 2, 8, dtype=dtype, device=device).reshape(2, 4).requires_grad_()
    eps = replay(3, (2, 4), dtype=dtype, device=device)
    z = reparameterize_gaussian(mu, log_var)
    z.sum().backward()
    sigma = (log_var.detach() / 2).exp()
    close = dict(rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(z.detach(), mu.detach() + sigma * eps, **close)
    torch.testing.assert_close(mu.grad, torch.ones_like(mu), rtol=0, atol=0)
    torch.testing.assert_close(log_var.grad, sigma * eps / 2, **close)


def test_law_of_the_samples():
    """Mean and variance, by z-tests whose variances are σ²/n and 2σ⁴/n."""
    n = 100_000
    z = reparameterize_gaussian(torch.full((n,), 1.5), torch.full((n,), math.log(4.0))).double()
    check_mean(z.mean(), 1.5, 4.0, n, catches=0.06)
    check_mean((z - 1.5).square().mean(), 4.0, 2 * 4.0**2, n, catches=0.2)


def test_every_entry_has_noise_of_its_own():
    z = reparameterize_gaussian(torch.zeros(3, 4), torch.zeros(3, 4))
    assert len(z.unique()) == 12


def test_evaluation_returns_the_mean_and_draws_nothing():
    mu = torch.randn(3)
    before = torch.get_rng_state()
    assert reparameterize_gaussian(mu, torch.zeros(3), training=False) is mu
    assert torch.equal(torch.get_rng_state(), before)


def test_second_derivative():
    """`z² `: with `s = log_var`, `d²/ds² = σ ε z / 2 + σ² ε² / 2`, by hand."""
    mu, s = torch.tensor(0.7).double(), torch.tensor(0.4).double().requires_grad_()
    eps = replay(1, (), dtype=torch.float64)
    z = reparameterize_gaussian(mu, s)
    (first,) = torch.autograd.grad(z**2, s, create_graph=True)
    (second,) = torch.autograd.grad(first, s)
    sigma = math.exp(0.2)
    expected = sigma * eps * (0.7 + sigma * eps) / 2 + sigma**2 * eps**2 / 2
    torch.testing.assert_close(second, expected)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_as_a_layer(shape):
    layer = ReparameterizedSampling()
    mu, log_var = torch.randn(shape), torch.randn(shape)
    torch.manual_seed(0)
    z = layer(mu, log_var)
    torch.manual_seed(0)
    assert torch.equal(z, layer(torch.cat([mu, log_var], -1)))
    torch.manual_seed(0)
    assert torch.equal(z, reparameterize_gaussian(mu, log_var))
    layer.eval()
    assert torch.equal(layer(mu, log_var), mu)
    assert torch.equal(layer(torch.cat([mu, log_var], -1)), mu)
    assert nn.Sequential(nn.Linear(4, 6), layer)(torch.zeros(5, 4)).shape == (5, 3)


def test_under_torch_func():
    def loss(mu, log_var):
        return reparameterize_gaussian(mu, log_var).square().sum()

    mu, log_var = torch.randn(3), torch.randn(3)
    eps = replay(0, (3,))
    gradient = torch.func.grad(loss)(mu, log_var)
    torch.testing.assert_close(gradient, 2 * (mu + (log_var / 2).exp() * eps))
    kl = torch.func.vmap(torch.func.grad(lambda m, s: gaussian_kl(m, s)))(
        mu.expand(2, 3), log_var.expand(2, 3)
    )
    torch.testing.assert_close(kl, mu.expand(2, 3))


@pytest.mark.slow
def test_under_torch_compile():
    def total(mu, log_var):
        z = reparameterize_gaussian(mu, bound_log_var(log_var))
        return gaussian_kl(mu, log_var) + z.sum(-1)

    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
    mu, log_var = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    torch.manual_seed(0)
    expected = total(mu, log_var)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(mu, log_var), expected)


# --- full covariance -----------------------------------------------------------------------------


def test_full_covariance_sample_is_the_formula_of_the_same_noise():
    mu = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    L = (torch.randn(2, 3, 3, dtype=torch.float64).tril(-1) + 2 * torch.eye(3)).requires_grad_()
    eps = replay(5, (2, 3), dtype=torch.float64)
    z = reparameterize_full_covariance_gaussian(mu, L)
    torch.testing.assert_close(z, mu + torch.einsum("bij,bj->bi", L, eps))
    weights = torch.randn(2, 3, dtype=torch.float64)
    (z * weights).sum().backward()
    torch.testing.assert_close(mu.grad, weights)
    torch.testing.assert_close(L.grad, torch.einsum("bi,bj->bij", weights, eps))


def test_full_covariance_law():
    """Every entry of the covariance, whose estimate has variance `(C_ii C_jj + C_ij²) / n`."""
    n = 100_000
    L = torch.tensor([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-1.0, 0.3, 0.7]])
    mu = torch.tensor([1.0, -2.0, 0.0])
    z = reparameterize_full_covariance_gaussian(mu.expand(n, 3), L.expand(n, 3, 3)).double()
    C = (L @ L.T).double()
    centered = z - mu
    for i in range(3):
        check_mean(z[:, i].mean(), mu[i], C[i, i], n, catches=0.1)
        for j in range(3):
            product = (centered[:, i] * centered[:, j]).mean()
            check_mean(product, C[i, j], C[i, i] * C[j, j] + C[i, j] ** 2, n, catches=0.25)


# --- the bound -----------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize(("low", "high"), [(-10.0, 10.0), (-6.0, 2.0), (0.0, 1.0)])
def test_bound_is_monotone_and_inside(dtype, low, high):
    raw = torch.linspace(-1e4, 1e4, 20_001, dtype=torch.float64).to(dtype)
    bounded = bound_log_var(raw, low, high)
    assert bounded.dtype == dtype
    assert (bounded.diff() >= 0).all()
    assert bounded.min() >= low
    assert bounded.max() <= high
    center, half = (low + high) / 2, (high - low) / 2
    t = (raw.double() - center) / half
    exact = center + half * t / (1 + t * t).sqrt()
    scale = max(abs(low), abs(high))
    torch.testing.assert_close(
        bounded.double(), exact, rtol=0, atol=8 * scale * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize(
    ("dtype", "furthest", "relative"),
    [
        (torch.float64, 1e6, 1e-8),
        (torch.float32, 1e4, 1e-3),
        (torch.bfloat16, 1e4, 0.9),
        (torch.float16, 300.0, 0.02),
    ],
    ids=str,
)
def test_bound_never_cuts_a_gradient_off(dtype, furthest, relative):
    """The slope is `(1 + t²)^(-3/2)`: 1e-9 at raw 1e4, which float16 has no numbers for."""
    raw = torch.logspace(-3, math.log10(furthest), 200, dtype=torch.float64).to(dtype)
    raw = torch.cat([-raw.flip(0), torch.zeros(1, dtype=dtype), raw]).requires_grad_()
    bound_log_var(raw).sum().backward()
    assert (raw.grad > 0).all()
    exact = (1 + (raw.detach().double() / 10).square()).pow(-1.5)
    torch.testing.assert_close(raw.grad.double(), exact, rtol=relative, atol=0)


def test_bound_twice_differentiable():
    raw = torch.linspace(-40, 40, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bound_log_var, raw)
    assert torch.autograd.gradgradcheck(bound_log_var, raw)


# --- the KL --------------------------------------------------------------------------------------

LOG_VARS = [s * x for x in (1e-12, 1e-6, 1e-4, 1e-3, 0.02, 0.1, 0.4, 0.499) for s in (1, -1)]
LOG_VARS += [0.0, 0.501, -0.501, 0.7, 1.0, -1.0, 3.0, -3.0, 10.0, -10.0, 80.0, -80.0]


@each_dtype
def test_kl_and_its_gradient_against_mpmath(dtype, device):
    """To four roundings of the dtype wherever the dtype can hold the number at all (C9)."""
    log_var = torch.tensor(LOG_VARS, dtype=torch.float64).to(dtype)
    exact = [mpmath.expm1(mpmath.mpf(s)) - mpmath.mpf(s) for s in log_var.double().tolist()]
    slope = [mpmath.expm1(mpmath.mpf(s)) / 2 for s in log_var.double().tolist()]
    exact = torch.tensor([float(x / 2) for x in exact], dtype=torch.float64)
    slope = torch.tensor([float(x) for x in slope], dtype=torch.float64)
    s = log_var.to(device).requires_grad_()
    kl = gaussian_kl(torch.zeros_like(s), s, reduction="none")
    kl.sum().backward()
    limits = torch.finfo(dtype)
    held = (exact < limits.max / 4) & (exact > 64 * limits.tiny) | (exact == 0)
    assert held.sum() > 10
    close = dict(rtol=4 * limits.eps, atol=0)
    torch.testing.assert_close(kl.detach().cpu().double()[held], exact[held], **close)
    torch.testing.assert_close(s.grad.cpu().double()[held], slope[held], **close)


@pytest.mark.parametrize("mu", [-3.0, 0.0, 1e-3, 20.0])
@pytest.mark.parametrize("log_var", [-5.0, 0.3, 2.0])
def test_kl_is_the_integral_that_defines_it(mu, log_var):
    sigma = mpmath.exp(mpmath.mpf(log_var) / 2)

    def integrand(t):  # z = mu + sigma t
        log_ratio = -mpmath.log(sigma) - t**2 / 2 + (mu + sigma * t) ** 2 / 2
        return mpmath.npdf(t) * log_ratio

    with mpmath.workdps(20):
        exact = mpmath.quad(integrand, [-12, -3, 0, 3, 12])
    kl = gaussian_kl(*torch.tensor([[mu], [log_var]], dtype=torch.float64))
    assert float(kl) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("log_var", [1e-8, 0.3, -0.499999, 2.0, -4.0])
def test_kl_twice_differentiable(log_var):
    mu = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([log_var], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gaussian_kl, (mu, s))
    assert torch.autograd.gradgradcheck(gaussian_kl, (mu, s))


def test_kl_of_extreme_but_legal_parameters_is_no_nan():
    s = torch.tensor([-1e30, -1e4, 0.0], requires_grad=True)
    kl = gaussian_kl(torch.zeros(3), s, reduction="none")
    kl.sum().backward()
    assert kl.isfinite().all()
    torch.testing.assert_close(s.grad, torch.tensor([-0.5, -0.5, 0.0]))


def test_kl_reductions():
    mu, s = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    each = gaussian_kl(mu, s, reduction="none")
    assert each.shape == (4, 5, 3)
    torch.testing.assert_close(gaussian_kl(mu, s), each.sum(-1))
    torch.testing.assert_close(gaussian_kl(mu, s, reduction="batchmean"), each.sum(-1).mean())
    assert gaussian_kl(mu[0, 0, 0], s[0, 0, 0], reduction="none").shape == ()


# --- bad input -----------------------------------------------------------------------------------

ones = torch.ones
PAIRS = [reparameterize_gaussian, gaussian_kl, ReparameterizedSampling()]


@pytest.mark.parametrize("function", PAIRS, ids=["sample", "kl", "layer"])
@pytest.mark.parametrize(
    ("mu", "log_var", "error", "says"),
    [
        (1.0, ones(2), TypeError, "mu must be a tensor, got float"),
        (ones(2), [0.0], TypeError, "log_var must be a tensor, got list"),
        (ones(2).long(), ones(2), TypeError, "mu must hold floating-point numbers, got .*int64"),
        (ones(2), ones(2).bool(), TypeError, "log_var must hold floating-point .* torch.bool"),
        (ones(2), ones(2) * math.nan, ValueError, "log_var holds NaN in 2 of its 2"),
        (ones(2) * math.nan, ones(2), ValueError, "mu holds NaN"),
        (ones(0), ones(0), ValueError, r"mu is empty, got shape \(0,\)"),
        (ones(3), ones(2), ValueError, r"one shape, got \(3,\) and \(2,\)"),
        (ones(1), ones(2), ValueError, r"one shape, got \(1,\) and \(2,\)"),
        (ones(2), ones(2).double(), ValueError, "share dtype and device, got .*float32.*float64"),
        (ones(2), ones(2, device="meta"), ValueError, "share dtype and device, got .*cpu.*meta"),
    ],
)
def test_bad_pairs(function, mu, log_var, error, says):
    with pytest.raises(error, match=says):
        function(mu, log_var)


@pytest.mark.parametrize(
    ("single", "error", "says"),
    [
        (ones(4, 3), ValueError, "side by side in its last dimension"),
        (ones(4, 4, 3), ValueError, "side by side in its last dimension"),
        (ones(()), ValueError, "side by side in its last dimension"),
        ([1.0, 0.0], TypeError, "mu must be a tensor, got list"),
    ],
)
def test_bad_single_input_of_the_layer(single, error, says):
    with pytest.raises(error, match=says):
        ReparameterizedSampling()(single)


@pytest.mark.parametrize("reduction", ["mean", "Sum", None, 3])
@pytest.mark.parametrize("shape", [(2,), ()])
def test_bad_reduction(reduction, shape):
    with pytest.raises(ValueError, match="'sum', 'none' or 'batchmean', got"):
        gaussian_kl(ones(shape), ones(shape), reduction=reduction)


@pytest.mark.parametrize("reduction", ["sum", "batchmean"])
def test_kl_of_scalars_has_no_dimension_to_sum(reduction):
    with pytest.raises(ValueError, match="mu is a scalar: use reduction='none'"):
        gaussian_kl(ones(()), ones(()), reduction=reduction)


@pytest.mark.parametrize(
    ("mu", "L", "error", "says"),
    [
        (ones(2), ones(2), ValueError, r"shape \(2, 2\), got \(2,\)"),
        (ones(2), torch.eye(3), ValueError, r"shape \(2, 2\), got \(3, 3\)"),
        (ones(5, 2), torch.eye(2), ValueError, r"shape \(5, 2, 2\), got \(2, 2\)"),
        (ones(()), torch.eye(1), ValueError, "one square matrix for each mean"),
        (ones(2), ones(2, 2), ValueError, "lower triangular, got non-zero entries above"),
        (ones(2), -torch.eye(2), ValueError, "diagonal of L must be positive, got -1"),
        (ones(2), torch.diag(torch.tensor([1.0, 0.0])), ValueError, "must be positive, got 0"),
        (ones(2), torch.eye(2).double(), ValueError, "share dtype and device"),
        (ones(2), torch.eye(2, device="meta"), ValueError, "share dtype and device"),
        (ones(2), torch.eye(2).int(), TypeError, "L must hold floating-point"),
        (ones(2), torch.eye(2) * math.nan, ValueError, "L holds NaN"),
        (ones(0), ones(0, 0), ValueError, "empty"),
        ([1.0], torch.eye(1), TypeError, "mu must be a tensor, got list"),
    ],
)
def test_bad_full_covariance(mu, L, error, says):
    with pytest.raises(error, match=says):
        reparameterize_full_covariance_gaussian(mu, L)


@pytest.mark.parametrize(
    ("raw", "low", "high", "error", "says"),
    [
        (ones(2), 1.0, 1.0, ValueError, "below high and both finite, got low=1.0 and high=1.0"),
        (ones(2), 2.0, 1.0, ValueError, "low must be below high"),
        (ones(2), math.nan, 1.0, ValueError, "low must be below high"),
        (ones(2), -math.inf, 1.0, ValueError, "finite"),
        (ones(2).long(), -1.0, 1.0, TypeError, "raw must hold floating-point"),
        (ones(2) * math.nan, -1.0, 1.0, ValueError, "raw holds NaN"),
        (ones(0), -1.0, 1.0, ValueError, "raw is empty"),
        (2.0, -1.0, 1.0, TypeError, "raw must be a tensor"),
    ],
)
def test_bad_bound(raw, low, high, error, says):
    with pytest.raises(error, match=says):
        bound_log_var(raw, low, high)
