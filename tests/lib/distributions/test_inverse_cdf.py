"""Ten laws by their inverse CDF: values and slopes from SciPy and mpmath, tails in every dtype."""

import math

import pytest
import torch
from mpmath import mp
from scipy import stats

from reparam import noise
from reparam.distributions import (
    inverse_cdf,
    reparameterize_cauchy,
    reparameterize_exponential,
    reparameterize_gumbel,
    reparameterize_kumaraswamy,
    reparameterize_laplace,
    reparameterize_log_normal,
    reparameterize_logistic,
    reparameterize_pareto,
    reparameterize_uniform,
    reparameterize_weibull,
)
from tests.lib.statistical import ALARM, check_count

F64 = torch.float64
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class _Kumaraswamy:
    """What SciPy does not have, by a Beta(1, b) variable, which is `z**a`."""

    def __init__(self, a, b):
        self.a, self.power = a, stats.beta(1, b)

    def cdf(self, z):
        return self.power.cdf(z**self.a)

    def sf(self, z):
        return self.power.sf(z**self.a)

    def ppf(self, u):
        return self.power.ppf(u) ** (1 / self.a)


#: function: the law in SciPy, its distribution function in mpmath, parameters to try.
LAWS = {
    reparameterize_uniform: (
        lambda low, high: stats.uniform(low, high - low),
        lambda z, low, high: (z - low) / (high - low),
        [(-1.0, 2.0), (3.0, 3.5)],
    ),
    reparameterize_exponential: (
        lambda rate: stats.expon(scale=1 / rate),
        lambda z, rate: -mp.expm1(-rate * z),
        [(1.3,), (0.01,)],
    ),
    reparameterize_logistic: (
        stats.logistic,
        lambda z, loc, scale: 1 / (1 + mp.exp(-(z - loc) / scale)),
        [(0.3, 0.7), (-40.0, 5.0)],
    ),
    reparameterize_gumbel: (
        stats.gumbel_r,
        lambda z, loc, scale: mp.exp(-mp.exp(-(z - loc) / scale)),
        [(0.3, 0.7), (-40.0, 5.0)],
    ),
    reparameterize_laplace: (
        stats.laplace,
        lambda z, loc, scale: (
            mp.exp((z - loc) / scale) / 2 if z < loc else 1 - mp.exp((loc - z) / scale) / 2
        ),
        [(0.3, 0.7), (-40.0, 5.0)],
    ),
    reparameterize_cauchy: (
        stats.cauchy,
        lambda z, loc, scale: mp.atan((z - loc) / scale) / mp.pi + mp.mpf(1) / 2,
        [(0.3, 0.7), (-40.0, 5.0)],
    ),
    reparameterize_weibull: (
        lambda scale, k: stats.weibull_min(k, scale=scale),
        lambda z, scale, k: -mp.expm1(-((z / scale) ** k)),
        [(0.7, 1.6), (3.0, 0.3), (2.0, 30.0)],
    ),
    reparameterize_kumaraswamy: (
        _Kumaraswamy,
        lambda z, a, b: 1 - (1 - z**a) ** b,
        [(1.7, 0.8), (0.4, 6.0), (9.0, 3.0)],
    ),
    reparameterize_log_normal: (
        lambda loc, scale: stats.lognorm(scale, scale=math.exp(loc)),
        lambda z, loc, scale: mp.ncdf((mp.log(z) - loc) / scale),
        [(0.3, 0.7), (-2.0, 3.0)],
    ),
    reparameterize_pareto: (
        lambda scale, alpha: stats.pareto(alpha, scale=scale),
        lambda z, scale, alpha: 1 - (scale / z) ** alpha,
        [(0.7, 2.3), (5.0, 0.4)],
    ),
}
each_law = pytest.mark.parametrize(
    "draw", LAWS, ids=lambda draw: draw.__name__.removeprefix("reparameterize_")
)


def filled(values, count, dtype=F64, **options):
    return [torch.full((count,), value, dtype=dtype, **options) for value in values]


# --- the law -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@each_law
def test_law_by_kolmogorov_and_smirnov(draw, dtype):
    """At 100,000 draws and a false-alarm rate of 1e-9, a distribution function off by 1.2 %."""
    law, _, (parameters, *_) = LAWS[draw]
    z = draw(*filled(parameters, 100_000, dtype)).double().numpy()
    assert stats.kstest(z, law(*parameters).cdf).pvalue > ALARM


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@each_law
def test_both_tails_have_their_probabilities(draw, dtype):
    """In 1e-4 of a million, 100 draws are expected: none, or twice as many, would be found."""
    law, _, (parameters, *_) = LAWS[draw]
    law, count = law(*parameters), 10**6
    z = draw(*filled(parameters, count, dtype)).double()
    check_count((z < law.ppf(1e-4)).sum(), count, 1e-4)
    check_count((z > law.ppf(1 - 1e-4)).sum(), count, 1e-4)


@each_law
def test_one_noise_has_one_quantile_whatever_the_parameters(draw):
    """`z = F⁻¹(U; φ)` exactly: with the same `U`, SciPy finds the same quantile at all φ."""
    law, _, cases = LAWS[draw]
    below, above = [], []
    for parameters in cases:
        torch.manual_seed(3)
        z = draw(*filled(parameters, 1000)).numpy()
        below.append(torch.tensor(law(*parameters).cdf(z)))
        above.append(torch.tensor(law(*parameters).sf(z)))
    for quantiles in (below, above):
        for other in quantiles[1:]:
            torch.testing.assert_close(other, quantiles[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("draw", "source", "quantile"),
    [
        (reparameterize_uniform, noise.open_uniform_noise, lambda law, u: law.ppf(u)),
        (reparameterize_exponential, noise.exponential_noise, lambda law, e: law.isf((-e).exp())),
        (reparameterize_weibull, noise.exponential_noise, lambda law, e: law.isf((-e).exp())),
        (reparameterize_pareto, noise.exponential_noise, lambda law, e: law.isf((-e).exp())),
        (reparameterize_logistic, noise.logistic_noise, lambda law, x: law.ppf(x.sigmoid())),
        (reparameterize_gumbel, noise.gumbel_noise, lambda law, g: law.ppf((-(-g).exp()).exp())),
        (reparameterize_log_normal, torch.randn, lambda law, x: law.ppf(torch.special.ndtr(x))),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_value_is_the_inverse_cdf_of_the_noise(draw, source, quantile):
    """With noise of half a thousand numbers, and its quantile function in SciPy."""
    law, _, cases = LAWS[draw]
    for parameters in cases:
        z = draw(*filled(parameters, 500), generator=torch.Generator().manual_seed(5))
        x = source(500, dtype=F64, generator=torch.Generator().manual_seed(5))
        wanted = torch.as_tensor(quantile(law(*parameters), x))
        torch.testing.assert_close(z, wanted, rtol=1e-9, atol=1e-9)


# --- slopes --------------------------------------------------------------------------------------


@each_law
def test_slope_is_that_of_the_quantile(draw):
    """`dz/dφ = -(dF/dφ) / (dF/dz)`, both by mpmath with 40 digits, sample by sample."""
    _, cdf, cases = LAWS[draw]
    for parameters in cases:
        leaves = filled(parameters, 12, requires_grad=True)
        z = draw(*leaves)
        slopes = torch.autograd.grad(z.sum(), leaves)
        with mp.workdps(60):
            for i, point in enumerate(z.tolist()):
                arguments = tuple(mp.mpf(x) for x in (point, *parameters))
                density = _derivative(cdf, arguments, 0)
                for which, slope in enumerate(slopes, 1):
                    wanted = -_derivative(cdf, arguments, which) / density
                    assert slope[i].item() == pytest.approx(float(wanted), rel=1e-9, abs=1e-11)


def _derivative(function, arguments, which):
    """Central difference with a step of 1e-20, at 60 digits: good to 35 of them."""

    def at(step):
        return function(*(x + step * (i == which) for i, x in enumerate(arguments)))

    step = mp.mpf(10) ** -20
    return (at(step) - at(-step)) / (2 * step)


@each_law
def test_first_and_second_derivatives_by_differences(draw):
    """torch.autograd.gradcheck and gradgradcheck, with the noise held."""
    _, _, (parameters, *_) = LAWS[draw]

    def held(*leaves):
        return draw(*leaves, generator=torch.Generator().manual_seed(1))

    leaves = filled(parameters, 4, requires_grad=True)
    assert torch.autograd.gradcheck(held, leaves)
    assert torch.autograd.gradgradcheck(held, leaves)


# --- extremes ------------------------------------------------------------------------------------


def as_noise(monkeypatch, name, values):
    """What `reparam.noise` would have to draw once in a lifetime, put in by hand."""

    def drawn(size, *, dtype, device, generator):
        return torch.tensor(values, dtype=dtype, device=device)

    monkeypatch.setattr(inverse_cdf, name, drawn)


@pytest.mark.parametrize(("dtype", "close"), [(F64, 1e-12), (torch.float32, 3e-6)], ids=str)
@pytest.mark.parametrize(("a", "b"), [(2.0, 3.0), (0.3, 0.5), (50.0, 0.2)])
def test_kumaraswamy_at_either_end(monkeypatch, a, b, dtype, close):
    """Value, `1 - z` and slopes against 60 digits, from quantiles of 1e-30 to 1 - 1e-15."""
    draws = [1e-30, 1e-7, 0.1, 0.35, 1.0, 8.0, 35.0]
    as_noise(monkeypatch, "exponential_noise", draws)
    leaves = filled((a, b), len(draws), dtype, requires_grad=True)
    z = reparameterize_kumaraswamy(*leaves)
    by_a, by_b = torch.autograd.grad(z.sum(), leaves)
    with mp.workdps(60):
        for i in range(len(draws)):
            e = mp.mpf(torch.tensor(draws[i], dtype=dtype).item())
            c, d = mp.mpf(leaves[0][i].item()), mp.mpf(leaves[1][i].item())
            t = e / d
            exact = (1 - mp.exp(-t)) ** (1 / c)
            slope_a = -exact * mp.log(exact) / c
            slope_b = -(exact ** (1 - c) - exact) * e / (c * d**2)
            smallest = torch.finfo(dtype).tiny
            largest = 1 - torch.finfo(dtype).eps / 2
            inside = min(max(float(exact), smallest), largest)
            assert z[i].item() == pytest.approx(inside, rel=close)
            for got, wanted in ((by_a, slope_a), (by_b, slope_b)):
                assert got[i].item() == pytest.approx(float(wanted), rel=30 * close, abs=1e-37)


def test_tails_of_cauchy_are_as_long_as_each_other(monkeypatch):
    """`1 / tan(pi v / 2)` at `v = 1e-30` is 6.4e29, where `tan(pi (u - 1/2))` ends at 5e6."""
    as_noise(monkeypatch, "open_uniform_noise", [1e-30, 0.5, 1 - 2.0**-24])
    for sign in (-1.0, 1.0):
        as_noise(monkeypatch, "_sign_noise", [sign] * 3)
        z = reparameterize_cauchy(*filled((0.0, 1.0), 3, torch.float32))
        wanted = torch.tensor([6.366198e29, 1.0, 9.3627e-8])
        torch.testing.assert_close(z, sign * wanted, rtol=1e-6, atol=3e-8)


@each_dtype
@each_law
def test_all_is_finite_and_of_the_dtype(draw, dtype, device):
    _, _, (parameters, *_) = LAWS[draw]
    leaves = filled(parameters, 20_000, dtype, device=device, requires_grad=True)
    z = draw(*leaves)
    # Of so many Cauchy numbers 0.2 are expected beyond float16's largest; above five: once in 1e7.
    allowed = 5 if draw is reparameterize_cauchy and dtype == torch.float16 else 0
    for given in (z, *torch.autograd.grad(z.sum(), leaves)):
        assert given.dtype == dtype
        assert (~given.isfinite()).sum() <= allowed


def test_the_smallest_numbers_of_float16_are_not_cut_off(monkeypatch):
    as_noise(monkeypatch, "exponential_noise", [1e-6, 1e-12])
    z = reparameterize_kumaraswamy(*filled((1.0, 1.0), 2, torch.float16))
    assert z.tolist() == pytest.approx([1e-6, 2.0**-24], rel=0.03)


@pytest.mark.parametrize("draw", [reparameterize_laplace, reparameterize_cauchy])
def test_both_signs_are_as_likely(draw):
    """Of four million draws: a share off by 0.2 % is found in 999 of 1,000 cases."""
    count = 2**22
    check_count((draw(*filled((0.0, 1.0), count, torch.float32)) < 0).sum(), count, 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_law
def test_narrow_types_are_computed_in_float32_and_rounded_once(draw, dtype):
    _, _, (parameters, *_) = LAWS[draw]
    narrow = filled(parameters, 1000, dtype)
    z, wide = (
        draw(*given, generator=torch.Generator().manual_seed(2))
        for given in (narrow, [p.float() for p in narrow])
    )
    rounded = wide.to(dtype)
    if draw in (reparameterize_uniform, reparameterize_kumaraswamy):  # kept off their bounds
        inside = (rounded < 1) if draw is reparameterize_kumaraswamy else rounded < parameters[1]
        z, rounded = z[inside], rounded[inside]
        assert len(z) > 900
    assert torch.equal(z, rounded)


@each_dtype
def test_bounded_laws_stay_between_their_bounds(dtype):
    """In bfloat16 every tenth of these would round to 1; the slope there is that of the formula."""
    a, b = filled((1.0, 0.5), 10_000, dtype, requires_grad=True)
    z = reparameterize_kumaraswamy(a, b)
    assert ((z > 0) & (z < 1)).all()
    (slope,) = torch.autograd.grad(z.sum(), b)
    assert (slope <= 0).all()
    assert (slope[z == z.max()] < 0).any()
    low, high = filled((100.0, 102.0), 10_000, dtype, requires_grad=True)
    z = reparameterize_uniform(low, high)
    assert ((z > low) & (z < high)).all()
    slopes = torch.autograd.grad(z.sum(), (low, high))  # 1 - u and u
    torch.testing.assert_close(sum(slopes), torch.ones_like(low), rtol=0, atol=0.01)


# --- shapes, transforms, bad input ---------------------------------------------------------------


def test_parameters_broadcast_and_every_entry_has_noise_of_its_own():
    loc = torch.zeros(3, 1, requires_grad=True)
    scale = torch.ones(4, requires_grad=True)
    for draw in LAWS:
        if draw is not reparameterize_exponential:
            z = draw(loc + (draw in ANY_POSITIVE), scale + (draw is reparameterize_uniform))
            assert z.shape == (3, 4)
            assert len(z.unique()) == 12
    z.sum().backward()
    assert loc.grad.shape == (3, 1)
    assert scale.grad.shape == (4,)
    assert reparameterize_gumbel(torch.tensor(0.0), torch.tensor(1.0)).shape == ()


ANY_POSITIVE = (reparameterize_weibull, reparameterize_kumaraswamy, reparameterize_pareto)


@pytest.mark.parametrize("draw", [reparameterize_uniform, reparameterize_laplace])
def test_under_compile(draw):
    """Two that between them have every piece: a check, a noise of two draws, a bound."""
    _, _, (parameters, *_) = LAWS[draw]
    leaves = filled(parameters, 1000, requires_grad=True)
    z = torch.compile(draw, backend="aot_eager", fullgraph=True)(*leaves)
    by_first, by_second = torch.autograd.grad(z.sum(), leaves)
    torch.testing.assert_close(by_first * leaves[0] + by_second * leaves[1], z)  # homogeneous


@each_law
def test_under_func(draw):
    _, _, (parameters, *_) = LAWS[draw]
    leaves = filled(parameters, 3)

    def loss(*leaves):
        return draw(*leaves).square().sum()

    def seeded(gradient):
        torch.manual_seed(0)
        return gradient(*leaves)

    everything = tuple(range(len(leaves)))
    wanted = [p.clone().requires_grad_() for p in leaves]
    torch.manual_seed(0)
    wanted = torch.autograd.grad(loss(*wanted), wanted)
    torch.testing.assert_close(seeded(torch.func.grad(loss, everything)), wanted)
    over_rows = torch.func.vmap(
        torch.func.grad(lambda *p: draw(*p).sum(), everything), randomness="same"
    )
    assert all(slope.shape == (3,) for slope in over_rows(*leaves))


ONE = torch.tensor([1.0])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: reparameterize_exponential(torch.tensor([1.0, -2.0])),
            ValueError,
            "rate must .*-2",
        ),
        (lambda: reparameterize_exponential(0 * ONE), ValueError, "rate must be positive, got 0"),
        (lambda: reparameterize_exponential(ONE.int()), TypeError, "rate must hold floating"),
        (lambda: reparameterize_exponential(1.0), TypeError, "rate must be a tensor, got float"),
        (lambda: reparameterize_exponential(ONE[:0]), ValueError, "rate is empty"),
        (lambda: reparameterize_logistic(ONE, -ONE), ValueError, "scale must be positive"),
        (lambda: reparameterize_logistic(ONE / 0, ONE), ValueError, "loc holds infinity"),
        (lambda: reparameterize_gumbel(ONE * torch.nan, ONE), ValueError, "loc holds NaN"),
        (lambda: reparameterize_laplace(ONE, ONE.double()), ValueError, "share dtype and device"),
        (lambda: reparameterize_cauchy(ONE, ONE.to("meta")), ValueError, "share dtype and device"),
        (
            lambda: reparameterize_weibull(torch.ones(2), torch.ones(3)),
            ValueError,
            r"scale and concentration must have shapes that broadcast, got \(2,\) and \(3,\)",
        ),
        (
            lambda: reparameterize_kumaraswamy(ONE, 0 * ONE),
            ValueError,
            "concentration0 must be pos",
        ),
        (lambda: reparameterize_pareto(ONE, -ONE), ValueError, "alpha must be positive"),
        (
            lambda: reparameterize_weibull(ONE, 1e-20 * ONE),
            ValueError,
            "concentration must be at l",
        ),
        (
            lambda: reparameterize_kumaraswamy(1e-20 * ONE, ONE),
            ValueError,
            "concentration1 must be at least 1e-17, got 1e-20: .* overflow",
        ),
        (lambda: reparameterize_log_normal(ONE, 0 * ONE), ValueError, "scale must be positive"),
        (lambda: reparameterize_uniform(ONE, ONE), ValueError, "low must be below high"),
        (lambda: reparameterize_uniform(2 * ONE, ONE), ValueError, "low must be below high"),
        (
            lambda: reparameterize_uniform(ONE, torch.nextafter(ONE, 2 * ONE)),
            ValueError,
            "with numbers between them",
        ),
        (lambda: reparameterize_gumbel(ONE, ONE, generator=3), TypeError, "torch.Generator"),
        (lambda: reparameterize_log_normal(ONE, ONE, 3), TypeError, "generator must be a torch"),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_generator_draws_the_same_again():
    for draw, (_, _, (parameters, *_)) in LAWS.items():
        draws = [
            draw(*filled(parameters, 9), generator=torch.Generator().manual_seed(7))
            for _ in range(2)
        ]
        assert torch.equal(*draws), draw.__name__


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_bounds_whose_distance_overflows(dtype):
    most = torch.tensor([0.6 * torch.finfo(dtype).max], dtype=dtype)
    with pytest.raises(ValueError, match="the distance of low and high overflows"):
        reparameterize_uniform(-most, most)
