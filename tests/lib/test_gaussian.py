"""Gaussian samples and their KL: laws, gradients, precision in every dtype, bad input."""

import math

import mpmath
import pytest
import torch
from torch import nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, kl_divergence

from reparam.gaussian import (
    ReparameterizedSampling,
    bound_log_var,
    cholesky_factor,
    full_covariance_kl,
    gaussian_kl,
    low_rank_kl,
    reparameterize_full_covariance_gaussian,
    reparameterize_gaussian,
    reparameterize_low_rank_gaussian,
)
from tests.lib.statistical import check_mean

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
mpmath.mp.dps = 60


F64 = torch.float64


def replay(seed: int, shape, **options) -> torch.Tensor:
    """The noise that a sampler is about to draw: in float32 at least."""
    if "dtype" in options:
        options["dtype"] = torch.promote_types(options["dtype"], torch.float32)
    torch.manual_seed(seed)
    eps = torch.randn(shape, **options)
    torch.manual_seed(seed)
    return eps


# --- samples -------------------------------------------------------------------------------------


@each_dtype
def test_sample_and_both_gradients_are_the_formula_of_the_same_noise(dtype, device):
    """Rounded once, at the end: in 16 bits `exp(log_var / 2)` alone would overflow from 22.2 on."""
    mu = torch.linspace(-3, 3, 80, dtype=dtype, device=device).reshape(20, 4).requires_grad_()
    log_var = torch.linspace(-30, 24, 80, dtype=dtype, device=device).reshape(20, 4)
    log_var.requires_grad_()
    eps = replay(3, (20, 4), dtype=dtype, device=device).double()
    z = reparameterize_gaussian(mu, log_var)
    z.sum().backward()
    assert z.dtype == log_var.grad.dtype == dtype
    sigma = (log_var.detach().double() / 2).exp()
    spread = sigma * eps
    unit, limits = max(torch.finfo(dtype).eps, 8 * 2**-23), torch.finfo(dtype)
    if dtype == F64:
        unit = 4 * limits.eps
    held = (mu.detach().double() + spread).abs() < limits.max
    assert held.double().mean() > 0.9
    gap = (z.detach().double() - (mu.detach().double() + spread)).abs()
    assert (gap <= unit * (mu.detach().abs().double() + spread.abs()))[held].all()
    torch.testing.assert_close(mu.grad, torch.ones_like(mu), rtol=0, atol=0)
    least = limits.tiny * limits.eps  # half a step of the smallest numbers
    close = dict(rtol=unit, atol=least)
    torch.testing.assert_close(log_var.grad.double()[held], spread[held] / 2, **close)


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


def samplers(dtype=torch.float32):
    """Each sampler with parameters of its own kind, shape `[6, 3]`."""
    mu, s = torch.zeros(6, 3, dtype=dtype), torch.zeros(6, 3, dtype=dtype)
    L = torch.eye(3, dtype=dtype).expand(6, 3, 3)
    W = torch.ones(6, 3, 2, dtype=dtype)
    return {
        "diagonal": lambda g=None: reparameterize_gaussian(mu, s, generator=g),
        "full": lambda g=None: reparameterize_full_covariance_gaussian(mu, L, g),
        "low rank": lambda g=None: reparameterize_low_rank_gaussian(mu, W, s, g),
    }


@each_dtype
@pytest.mark.parametrize("kind", samplers())
def test_an_explicit_generator(kind, dtype):
    """The same draws as from the global one of that seed, which it leaves alone."""
    sampler = samplers(dtype)[kind]
    torch.manual_seed(11)
    expected = sampler()
    state = torch.get_rng_state()
    assert torch.equal(sampler(torch.Generator().manual_seed(11)), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert expected.dtype == dtype


@pytest.mark.parametrize("kind", samplers())
def test_a_bad_generator(kind, monkeypatch):
    sampler = samplers()[kind]
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator, got int"):
        sampler(0)
    with pytest.raises(ValueError, match=r"noise is drawn, on meta, got .* cpu"):
        reparameterize_gaussian(
            *torch.zeros(2, 3, device="meta"), generator=torch.Generator().manual_seed(0)
        )


@pytest.mark.gpu
def test_a_generator_on_a_gpu():
    mu = torch.zeros(3, device="cuda")
    with pytest.raises(ValueError, match=r"on cuda:0, got one on cpu: use torch.Generator"):
        reparameterize_gaussian(mu, mu, generator=torch.Generator())
    again = [
        reparameterize_gaussian(mu, mu, generator=torch.Generator("cuda").manual_seed(0))
        for _ in range(2)
    ]
    assert torch.equal(*again)


def test_the_global_draws_are_those_of_randn_like():
    """The chapters' outputs hang on it, for any memory layout."""
    for mu in (torch.zeros(3), torch.zeros(40, 7), torch.zeros(40, 7).T, torch.zeros(2, 3, 5, 7)):
        torch.manual_seed(2)
        eps = torch.randn_like(mu)
        torch.manual_seed(2)
        assert torch.equal(reparameterize_gaussian(mu, torch.zeros_like(mu)), eps)


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


@each_dtype
def test_sixteen_bits_round_the_finished_sample_only(dtype):
    mu, s = torch.randn(2, 6, 3).to(dtype)
    L = (torch.randn(6, 3, 3).tril(-1) + torch.eye(3)).to(dtype)
    W = torch.randn(6, 3, 2).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    for sampler, parameters in (
        (reparameterize_gaussian, (mu, s)),
        (reparameterize_full_covariance_gaussian, (mu, L)),
        (reparameterize_low_rank_gaussian, (mu, W, s)),
    ):
        torch.manual_seed(1)
        narrow = sampler(*parameters)
        torch.manual_seed(1)
        assert torch.equal(narrow, sampler(*(p.to(wide) for p in parameters)).to(dtype))


# --- low rank ------------------------------------------------------------------------------------


@pytest.mark.parametrize("D", [1, 4])
def test_low_rank_sample_is_torchs_of_the_same_noise(D):
    """torch's sampler draws in the same order, and has gradients by the same formula."""
    mu, s = torch.randn(2, 5, D, dtype=F64).unbind()
    W = torch.randn(5, D, 2, dtype=F64)
    weight, samples, slopes = torch.randn(5, D, dtype=F64), [], []
    for sampler in (
        reparameterize_low_rank_gaussian,
        lambda mu, W, s: LowRankMultivariateNormal(mu, W, s.exp()).rsample(),
    ):
        leaves = [p.clone().requires_grad_() for p in (mu, W, s)]
        torch.manual_seed(4)
        samples.append(sampler(*leaves))
        slopes.append(torch.autograd.grad((weight * samples[-1]).sum(), leaves))
    torch.testing.assert_close(*samples)
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_low_rank_law():
    """Every entry of the covariance, as for the full one."""
    n = 100_000
    W = torch.tensor([[1.0, 0.0], [0.5, -1.0], [-1.0, 0.3]])
    s = torch.tensor([-1.0, 0.0, 0.5])
    mu = torch.tensor([1.0, -2.0, 0.0])
    z = reparameterize_low_rank_gaussian(mu.expand(n, 3), W.expand(n, 3, 2), s.expand(n, 3))
    C = (W @ W.T + s.exp().diag()).double()
    centered = z.double() - mu
    for i in range(3):
        for j in range(3):
            product = (centered[:, i] * centered[:, j]).mean()
            check_mean(product, C[i, j], C[i, i] * C[j, j] + C[i, j] ** 2, n, catches=0.15)


# --- a Cholesky factor of free numbers -----------------------------------------------------------


@pytest.mark.parametrize("D", [1, 2, 3, 7, 16])
@each_dtype
def test_cholesky_factor(D, dtype):
    """Zeros give the identity; else each number stands at its place, the diagonal bounded."""
    count = D * (D + 1) // 2
    assert torch.equal(cholesky_factor(torch.zeros(count, dtype=dtype)), torch.eye(D, dtype=dtype))
    raw = (3 * torch.randn(4, 5, count)).to(dtype)
    L = cholesky_factor(raw)
    assert L.shape == (4, 5, D, D) and L.dtype == dtype
    place = D
    for i in range(D):
        for j in range(i):
            assert torch.equal(L[..., i, j], raw[..., place]), "row by row"
            place += 1
        exact = 10 * torch.sin(torch.atan(raw[..., i].double() / 10))
        close = dict(rtol=4 * torch.finfo(dtype).eps, atol=0)
        torch.testing.assert_close(L[..., i, i].double(), torch.exp(exact / 2), **close)
        assert (L[..., i, i + 1 :] == 0).all()


@each_dtype
def test_cholesky_factor_of_extreme_numbers(dtype):
    """Positive, finite, and a covariance that the sampler takes, wherever the numbers are."""
    furthest = min(1e6, torch.finfo(dtype).max / 2)
    raw = torch.tensor([furthest, -furthest, 0.0, 1.0, -2.0, 3.0]).to(dtype).requires_grad_()
    L = cholesky_factor(raw)
    assert (L.diagonal() > 0).all() and L.isfinite().all()
    z = reparameterize_full_covariance_gaussian(torch.zeros(3, dtype=dtype), L)
    (gradient,) = torch.autograd.grad(z.sum(), raw)
    assert z.isfinite().all() and gradient.isfinite().all()


def test_cholesky_factor_bounds():
    raw = torch.tensor([1e9, -1e9, 0.0], dtype=F64)
    L = cholesky_factor(raw, low=-2.0, high=2.0)
    torch.testing.assert_close(L.diagonal(), torch.tensor([1.0, -1.0], dtype=F64).exp())


def test_cholesky_factor_twice_differentiable():
    raw = torch.randn(2, 6, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(cholesky_factor, raw)
    assert torch.autograd.gradgradcheck(cholesky_factor, raw)
    batched = torch.func.vmap(torch.func.jacrev(cholesky_factor))(raw.detach())
    for row, jacobian in zip(raw.detach(), batched, strict=True):
        torch.testing.assert_close(
            torch.autograd.functional.jacobian(cholesky_factor, row), jacobian
        )


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (torch.zeros(4), r"D \(D \+ 1\) / 2 .* got shape \(4,\): 3 would make D = 2, 6 D = 3"),
        (torch.zeros(6, 2), r"got shape \(6, 2\): 1 would make D = 1, 3 D = 2"),
        (torch.tensor(0.0), "numbers in its last dimension"),
        (torch.zeros(0), "raw is empty"),
        (torch.full((3,), math.nan), "raw holds NaN in 3 of its 3"),
        (torch.tensor([0.0, 0.0, math.inf]), "raw holds infinity in 1 of its 3"),
    ],
)
def test_bad_cholesky_input(raw, says):
    with pytest.raises(ValueError, match=says):
        cholesky_factor(raw)


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
        (torch.float64, 1e6, 1e-10),
        (torch.float32, 1e3, 1e-5),
        (torch.float32, 1e6, 0.02),
        (torch.bfloat16, 1e6, 0.02),
        (torch.float16, 1.5e3, 6e-4),
    ],
    ids=str,
)
def test_bound_never_cuts_a_gradient_off(dtype, furthest, relative):
    """The slope is `(1 + t²)^(-3/2)`: 1e-15 at raw 1e6; float16 rounds it to 0 from raw 3e3 on."""
    raw = torch.logspace(-3, math.log10(furthest), 200, dtype=torch.float64).to(dtype)
    raw = torch.cat([-raw.flip(0), torch.zeros(1, dtype=dtype), raw]).requires_grad_()
    bound_log_var(raw).sum().backward()
    assert (raw.grad > 0).all()
    exact = (1 + (raw.detach().double() / 10).square()).pow(-1.5)
    least = torch.finfo(dtype).tiny * torch.finfo(dtype).eps  # where numbers end
    torch.testing.assert_close(raw.grad.double(), exact, rtol=relative, atol=least)


def test_bound_twice_differentiable():
    raw = torch.linspace(-40, 40, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bound_log_var, raw)
    assert torch.autograd.gradgradcheck(bound_log_var, raw)


# --- the KL --------------------------------------------------------------------------------------

LOG_VARS = [s * x for x in (1e-12, 1e-6, 1e-4, 1e-3, 0.02, 0.1, 0.4, 0.499) for s in (1, -1)]
LOG_VARS += [0.0, 0.501, -0.501, 0.7, 1.0, -1.0, 3.0, -3.0, 10.0, -10.0, 80.0, -80.0]


@each_dtype
def test_kl_and_its_gradient_against_mpmath(dtype, device):
    """To four roundings of float32, or of float64, in which the KL comes back (C9)."""
    log_var = torch.tensor(LOG_VARS, dtype=torch.float64).to(dtype)
    exact = [mpmath.expm1(mpmath.mpf(s)) - mpmath.mpf(s) for s in log_var.double().tolist()]
    slope = [mpmath.expm1(mpmath.mpf(s)) / 2 for s in log_var.double().tolist()]
    exact = torch.tensor([float(x / 2) for x in exact], dtype=torch.float64)
    slope = torch.tensor([float(x) for x in slope], dtype=torch.float64)
    s = log_var.to(device).requires_grad_()
    kl = gaussian_kl(torch.zeros_like(s), s, reduction="none")
    kl.sum().backward()
    assert kl.dtype == torch.promote_types(dtype, torch.float32)
    close = dict(rtol=4 * torch.finfo(kl.dtype).eps, atol=0)
    torch.testing.assert_close(kl.detach().cpu().double(), exact, **close)
    limits = torch.finfo(dtype)  # gradients have the dtype of what they are gradients of
    held = slope.abs() < limits.max / 2
    close = dict(rtol=4 * limits.eps, atol=limits.tiny * limits.eps)
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


def test_a_kl_in_float16_does_not_overflow():
    """Its sum passes 65504 with a log-variance of 12 in one dimension."""
    mu, s = torch.zeros(4, dtype=torch.float16), torch.full((4,), 12.0, dtype=torch.float16)
    exact = 2 * (math.exp(12) - 13)
    assert exact > 65504
    for kl in (
        gaussian_kl(mu, s),
        full_covariance_kl(mu, torch.full((4,), math.exp(6)).half().diag()),
        low_rank_kl(mu, torch.zeros(4, 1).half(), s),
    ):
        assert kl.dtype == torch.float32
        assert kl.item() == pytest.approx(exact, rel=1e-3)


# --- KLs of correlated Gaussians -----------------------------------------------------------------


def exact_kl(mu: list, covariance: mpmath.matrix) -> mpmath.mpf:
    trace = sum(covariance[i, i] for i in range(len(mu)))
    square = sum(mpmath.mpf(m) ** 2 for m in mu)
    return (square + trace - len(mu) - mpmath.log(mpmath.det(covariance))) / 2


def as_covariance(W: torch.Tensor, variances: list) -> mpmath.matrix:
    W = mpmath.matrix(W.double().tolist())
    return W * W.T + mpmath.diag(variances)


SCALES = [1e-9, 1e-6, 1e-3, 0.03, 0.3, 1.0, 30.0, 1000.0]


@each_dtype
@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-3, 0.1, 1.0, 10.0])
def test_low_rank_kl_against_mpmath(distance, dtype, device):
    """To a few roundings, from W = 1e-9 to 1000, near the prior and far from it, with gradients.

    Of 7200 draws in each type the worst was off by 3 roundings in float32, and by 14 in float64,
    where nothing wider takes up what happens on the way. The gradients are `mu`, `(I - C⁻¹) W` and
    `d (1 - diag(C⁻¹)) / 2`, as matrices of 60 digits.
    """
    for scale in SCALES:
        mu = torch.zeros(3, dtype=dtype, device=device, requires_grad=True)
        W = (scale * torch.randn(3, 2, dtype=F64)).to(device, dtype).requires_grad_()
        s = (distance * (2 * torch.rand(3, dtype=F64) - 1)).to(device, dtype).requires_grad_()
        kl = low_rank_kl(mu, W, s)
        unit = torch.finfo(kl.dtype).eps
        variances = [mpmath.exp(mpmath.mpf(x)) for x in s.tolist()]
        C = as_covariance(W.detach().cpu(), variances)
        exact = float(exact_kl([0.0] * 3, C))
        least = torch.finfo(kl.dtype).tiny
        rounding = (32 if dtype == F64 else 4) * unit
        assert kl.item() == pytest.approx(exact, rel=rounding, abs=least), scale

        rest = mpmath.eye(3) - C**-1
        slope_W = rest * mpmath.matrix(W.tolist())
        slope_s = [variances[i] * rest[i, i] / 2 for i in range(3)]
        kl.backward()
        # Float64 has nothing wider, and what rounds there grows with exp(s) and exp(-s): of 3000
        # draws, the worst were off by 125 roundings at distance 1, and by 9400 at distance 10.
        unit = (256 * math.exp(distance) if dtype == F64 else 4) * torch.finfo(dtype).eps
        exact_W = torch.tensor(
            [[float(slope_W[i, k]) for k in range(2)] for i in range(3)], dtype=F64
        )
        exact_s = torch.tensor([float(x) for x in slope_s], dtype=F64)
        for slope, wanted in ((W.grad.cpu(), exact_W), (s.grad.cpu(), exact_s)):
            largest = float(wanted.abs().max())
            if largest < torch.finfo(dtype).max:
                gap = (slope.double() - wanted.double()).abs().max()
                assert gap <= unit * largest + torch.finfo(dtype).tiny, scale


@each_dtype
def test_full_covariance_kl_against_mpmath(dtype, device):
    """To four roundings, near the prior too: diagonals from 1e-4 to 1e4, and a few steps from 1."""
    near = [1 + k * torch.finfo(dtype).eps for k in (1, -1, 3, 50, -50)]
    for d in [*near, 0.5, 1.5, 1e-4, 1e4, 0.9, 1.0]:
        for below in (0.0, 1e-3, 2.0):
            L = torch.eye(3, dtype=F64) + below * torch.randn(3, 3, dtype=F64).tril(-1)
            L[1, 1] = d
            L = L.to(device, dtype).requires_grad_()
            mu = torch.zeros(3, dtype=dtype, device=device)
            kl = full_covariance_kl(mu, L)
            kl.backward()
            C = as_covariance(L.detach().cpu(), [0] * 3)
            exact = float(exact_kl([0.0] * 3, C))
            close = dict(rel=4 * torch.finfo(kl.dtype).eps, abs=0)
            assert kl.item() == pytest.approx(exact, **close), (d, below)
            # The gradient is L below the diagonal and L_ii - 1 / L_ii on it.
            pivot = mpmath.mpf(L[1, 1].item())
            slope = float(pivot - 1 / pivot)
            unit = 4 * torch.finfo(dtype).eps
            assert L.grad[1, 1].item() == pytest.approx(slope, rel=unit, abs=0), (d, below)
            assert torch.equal(L.grad.tril(-1), L.detach().tril(-1))


def test_kls_of_correlated_gaussians_against_torch():
    """With means and batches, far enough from the prior for torch's formulas."""
    mu, s = torch.randn(2, 5, 4, 3, dtype=F64).unbind()
    W, raw = torch.randn(5, 4, 3, 2, dtype=F64), torch.randn(5, 4, 6, dtype=F64)
    prior = MultivariateNormal(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64))
    low_rank = kl_divergence(LowRankMultivariateNormal(mu, W, s.exp()), prior)
    torch.testing.assert_close(low_rank_kl(mu, W, s), low_rank)
    torch.testing.assert_close(low_rank_kl(mu, W, s, reduction="batchmean"), low_rank.mean())
    L = cholesky_factor(raw)
    full = kl_divergence(MultivariateNormal(mu, scale_tril=L), prior)
    torch.testing.assert_close(full_covariance_kl(mu, L), full)
    torch.testing.assert_close(full_covariance_kl(mu, L, reduction="batchmean"), full.mean())
    diagonal = torch.diag_embed((s / 2).exp())
    torch.testing.assert_close(full_covariance_kl(mu, diagonal), gaussian_kl(mu, s))
    torch.testing.assert_close(low_rank_kl(mu, 0 * W, s), gaussian_kl(mu, s))


def test_kls_of_correlated_gaussians_twice_differentiable():
    mu, s = torch.randn(2, 2, 3, dtype=F64).unbind()
    W, raw = torch.randn(2, 3, 2, dtype=F64), torch.randn(2, 6, dtype=F64)
    for function, parameters in (
        (low_rank_kl, (mu, W, s)),
        (low_rank_kl, (mu, 0.1 * W, s)),  # the trace below 1: the other branch
        (lambda mu, raw: full_covariance_kl(mu, cholesky_factor(raw)), (mu, raw)),
    ):
        parameters = [p.clone().requires_grad_() for p in parameters]
        assert torch.autograd.gradcheck(function, parameters)
        assert torch.autograd.gradgradcheck(function, parameters)


def test_low_rank_kl_of_equal_and_missing_directions():
    """Equal eigenvalues, an eigenvalue of 0, W = 0: gradients are finite and right there, too."""
    s = torch.zeros(3, dtype=F64)
    for W in (torch.eye(3)[:, :2], torch.ones(3, 2), torch.zeros(3, 2), 1e6 * torch.ones(3, 2)):
        W = W.double().requires_grad_()
        kl = low_rank_kl(s, W, s)
        (slope,) = torch.autograd.grad(kl, W)
        C = W.detach() @ W.detach().T + torch.eye(3, dtype=F64)
        exact = (C.trace() - 3 - torch.logdet(C)) / 2
        torch.testing.assert_close(kl.detach(), exact)
        torch.testing.assert_close(slope, W.detach() - torch.linalg.solve(C, W.detach()))


@pytest.mark.parametrize("log_diagonal", [-55.0, -30.0, 0.0])
def test_low_rank_kl_of_more_columns_than_rows_and_of_equal_ones(log_diagonal):
    """Beside the largest eigenvalue, 1e24, those that are 0 are 0 to 1e-7, not to 1e8."""
    s = torch.full((2,), log_diagonal, dtype=F64)
    for W in (torch.tensor([[0.3, 0.6, 1.1], [0.2, -0.5, 0.4]]), torch.full((2, 2), 0.7)):
        exact = exact_kl([0.0, 0.0], as_covariance(W, [mpmath.exp(log_diagonal)] * 2))
        kl = low_rank_kl(0 * s, W.double(), s)
        assert kl.item() == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.slow
def test_correlated_gaussians_under_torch_compile():
    def total(mu, raw, W):
        L = cholesky_factor(raw)
        # One draw alone: the compiler reorders those of two samplers.
        z = reparameterize_full_covariance_gaussian(mu, L)
        return full_covariance_kl(mu, L) + low_rank_kl(mu, W, mu) + z.sum(-1)

    parameters = [torch.randn(4, n, requires_grad=True) for n in (3, 6)]
    parameters.append(torch.randn(4, 3, 2, requires_grad=True))
    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
    values, slopes = [], []
    for function in (total, compiled):
        torch.manual_seed(0)
        values.append(function(*parameters))
        slopes += torch.autograd.grad(values[-1].sum(), parameters)
    torch.testing.assert_close(*values)
    for eager, fast in zip(slopes[:3], slopes[3:], strict=True):
        torch.testing.assert_close(eager, fast)


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
        (ones(2) * math.inf, ones(2), ValueError, "mu holds infinity in 2 of its 2"),
        (ones(2), ones(2) * -math.inf, ValueError, "log_var holds infinity"),
        (torch.tensor([math.inf, math.nan]), ones(2), ValueError, "mu holds NaN in 1 of its 2"),
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
        (ones(2), torch.diag(torch.tensor([1.0, math.inf])), ValueError, "L holds infinity in 1"),
        (ones(2) * math.inf, torch.eye(2), ValueError, "mu holds infinity"),
        (ones(0), ones(0, 0), ValueError, "empty"),
        ([1.0], torch.eye(1), TypeError, "mu must be a tensor, got list"),
    ],
)
@pytest.mark.parametrize("function", [reparameterize_full_covariance_gaussian, full_covariance_kl])
def test_bad_full_covariance(function, mu, L, error, says):
    with pytest.raises(error, match=says):
        function(mu, L)


@pytest.mark.parametrize("function", [reparameterize_low_rank_gaussian, low_rank_kl])
@pytest.mark.parametrize(
    ("mu", "factor", "log_diagonal", "error", "says"),
    [
        (ones(2), ones(2), ones(2), ValueError, r"shape \(2, 'R'\), got \(2,\)"),
        (ones(2), ones(()), ones(2), ValueError, r"shape \(2, 'R'\), got \(\)"),
        (ones(2), ones(3, 1), ones(2), ValueError, r"shape \(2, 'R'\), got \(3, 1\)"),
        (ones(5, 2), ones(2, 1), ones(5, 2), ValueError, "one matrix of D rows for each mean"),
        (ones(()), ones(1), ones(()), ValueError, "one matrix of D rows for each mean"),
        (ones(2), ones(2, 1), ones(3), ValueError, "mu and log_diagonal must have one shape"),
        (ones(2), ones(2, 0), ones(2), ValueError, "factor is empty"),
        (ones(2), ones(2, 1) / 0, ones(2), ValueError, "factor holds infinity"),
        (ones(2), ones(2, 1), ones(2) * math.nan, ValueError, "log_diagonal holds NaN"),
        (ones(2), ones(2, 1).double(), ones(2), ValueError, "share dtype and device"),
        (ones(2), ones(2, 1).int(), ones(2), TypeError, "factor must hold floating-point"),
        (ones(2), None, ones(2), TypeError, "factor must be a tensor, got NoneType"),
    ],
)
def test_bad_low_rank(function, mu, factor, log_diagonal, error, says):
    with pytest.raises(error, match=says):
        function(mu, factor, log_diagonal)


@pytest.mark.parametrize("factor", [ones(2, 1), 0 * ones(2, 3)])
def test_a_diagonal_that_drowns_beside_its_factor(factor):
    """Where LAPACK raises an error of its own, or nothing is said at all."""
    with pytest.raises(ValueError, match=r"factor must not be .* down to -10000: pass it through"):
        low_rank_kl(ones(2), factor, -1e4 * ones(2))


@pytest.mark.parametrize("sign", [-1, 1])
def test_where_a_diagonal_begins_to_drown(sign):
    """At a hundredth of the largest ratio that float64 can add 1 to."""
    zero, ratio = torch.zeros(1, dtype=F64), 0.01 / torch.finfo(F64).eps
    below, above = (torch.tensor([[sign * k * ratio]], dtype=F64) for k in (0.9, 1.1))
    square = below.item() ** 2
    assert low_rank_kl(zero, below, zero).item() == (square - math.log(square)) / 2
    with pytest.raises(ValueError, match=r"times exp\(log_diagonal / 2\), got 4.9\d*e\+13 times"):
        low_rank_kl(zero, above, zero)


def test_a_generator_is_not_taken_for_the_flag_before_it():
    with pytest.raises(TypeError, match="training must be True or False, got Generator"):
        reparameterize_gaussian(ones(2), ones(2), torch.Generator())


@pytest.mark.parametrize("reduction", ["none", "mean", None])
def test_a_joint_kl_has_no_shares(reduction):
    says = "'sum' or 'batchmean', got .* no sum over dimensions"
    with pytest.raises(ValueError, match=says):
        full_covariance_kl(ones(2), torch.eye(2), reduction=reduction)
    with pytest.raises(ValueError, match=says):
        low_rank_kl(ones(2), ones(2, 1), ones(2), reduction=reduction)


@pytest.mark.parametrize(
    ("raw", "low", "high", "error", "says"),
    [
        (ones(2), 1.0, 1.0, ValueError, "below high and both finite, got low=1.0 and high=1.0"),
        (ones(2), 2.0, 1.0, ValueError, "low must be below high"),
        (ones(2), math.nan, 1.0, ValueError, "low must be below high"),
        (ones(2), -math.inf, 1.0, ValueError, "finite"),
        (ones(2).long(), -1.0, 1.0, TypeError, "raw must hold floating-point"),
        (ones(2) * math.nan, -1.0, 1.0, ValueError, "raw holds NaN"),
        (ones(2) * math.inf, -1.0, 1.0, ValueError, "raw holds infinity"),
        (ones(0), -1.0, 1.0, ValueError, "raw is empty"),
        (2.0, -1.0, 1.0, TypeError, "raw must be a tensor"),
        (ones(2), "low", 1.0, TypeError, "low must be a number, got str"),
        (ones(2), -1.0, ones(2), TypeError, "high must be a number, got Tensor"),
    ],
)
def test_bad_bound(raw, low, high, error, says):
    with pytest.raises(error, match=says):
        bound_log_var(raw, low, high)
