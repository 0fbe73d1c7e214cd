"""VonMises against its Fourier series at 50 digits, which shares nothing with the library."""

import math

import mpmath as mp
import pytest
import scipy.special
import scipy.stats
import torch

from reparam.distributions import VonMises
from tests.lib.statistical import ALARM, check_count, check_mean

mp.mp.dps = 60
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
CONCENTRATIONS = [1e-8, 1e-3, 0.3, 0.99, 1.0, 1.5, 2.5, 4.0, 10.0, 60.0, 1e3]
LEVELS = [1e-9, 1e-4, 0.02, 0.3, 0.4999, 0.501, 0.6, 0.9, 0.999, 1 - 1e-6]


class Series:
    """`F(z) = 1/2 + z/2π + Σ r_j sin(jz)/jπ`, `r_j = I_j/I_0` by recurrence (Hill 1977)."""

    def __init__(self, concentration):
        kappa = mp.mpf(concentration)
        self.count = count = 25 + int(16 * math.sqrt(concentration))
        r = [mp.mpf(0)] * (count + 2)
        for j in range(count, 0, -1):
            r[j] = 1 / (2 * j / kappa + r[j + 1])
        r[0] = mp.mpf(1)
        for j in range(1, count + 1):
            r[j] *= r[j - 1]
        self.r = r
        self.slopes = [(r[j - 1] + r[j + 1]) / 2 - r[j] * r[1] for j in range(1, count + 1)]

    def at(self, z):
        """`F`, the density and `dF/dκ`."""
        turn, power = mp.expj(z), mp.mpf(1)
        quantile, density, slope = mp.mpf(1) / 2 + z / (2 * mp.pi), 1 / (2 * mp.pi), mp.mpf(0)
        for j in range(1, self.count + 1):
            power *= turn
            quantile += self.r[j] * power.imag / (j * mp.pi)
            density += self.r[j] * power.real / mp.pi
            slope += self.slopes[j - 1] * power.imag / (j * mp.pi)
        return quantile, density, slope


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float64, 2e-13), (torch.float32, 4e-6)], ids=["64", "32"]
)
def test_sample_and_slope_at_fixed_noise(concentration, dtype, largest):
    """The angle and `dz/dκ` of given quantiles, relative; measured: 1e-13 and 2e-6."""
    u = torch.tensor(LEVELS, dtype=dtype)
    u = u[u < 1]
    kappa = torch.full_like(u, concentration, requires_grad=True)
    u.requires_grad_()
    z = VonMises(torch.zeros_like(u), kappa).icdf(u)
    z.sum().backward()
    series = Series(kappa[0].item())
    for i, level in enumerate(u.tolist()):
        exact = mp.mpf(z[i].item())
        for _ in range(5):
            quantile, density, slope = series.at(exact)
            exact -= (quantile - mp.mpf(level)) / density
        # An angle next to ±π is rounded as such.
        assert abs(z[i].item() - exact) < largest * abs(exact)
        assert abs(kappa.grad[i].item() * density / -slope - 1) < largest, level
        if 1e-4 < level < 0.9999:  # log(u / (1 - u)) rounds in float32
            assert abs(u.grad[i].item() * density - 1) < 20 * largest, level


@pytest.mark.parametrize("concentration", [0.0, *CONCENTRATIONS, 1e5])
def test_density_moments_and_distribution(concentration):
    kappa = torch.tensor(concentration, dtype=torch.float64)
    loc = torch.tensor(1.2, dtype=torch.float64)
    q = VonMises(loc, kappa)
    k = mp.mpf(concentration)
    zero, one = mp.besseli(0, k), mp.besseli(1, k)
    assert abs(q.variance.item() / (1 - one / zero) - 1) < 1e-13
    entropy = mp.log(2 * mp.pi * zero) - k * one / zero
    assert abs(q.entropy().item() - entropy) < 1e-13 * max(1, abs(entropy))
    assert q.mean == q.mode == loc
    for z in (-3.0, -1.0, 0.0, 1.0, 1.2, 1.21, 2.0, 3.1):
        z = torch.tensor(z, dtype=torch.float64)
        exact = k * mp.cos(mp.mpf(z.item()) - mp.mpf(loc.item())) - mp.log(2 * mp.pi * zero)
        assert abs(q.log_prob(z).item() - exact) < 1e-13 * max(1, abs(exact))
        torch.testing.assert_close(q.log_prob(z + 2 * math.pi), q.log_prob(z), rtol=1e-9, atol=1e-9)
    if 0 < concentration <= 1e3:
        series, shift = Series(concentration), mp.mpf(loc.item())
        start = series.at(-mp.pi - shift)[0]
        for z in (-3.1, -1.0, 0.0, 1.0, 1.2, 1.3, 3.1):
            exact = series.at(mp.mpf(z) - shift)[0] - start
            u = q.cdf(torch.tensor(z, dtype=torch.float64))
            assert abs(u.item() - exact) < 1e-13
            if 1e-6 < u < 1 - 1e-6:
                assert abs(q.icdf(u) - z) < 1e-8


def test_cdf_runs_from_minus_pi_to_pi_and_icdf_inverts_it():
    for loc in (0.0, 2.9, -3.0, 7.0):
        q = VonMises(torch.tensor(loc, dtype=torch.float64), torch.tensor(1.3).double())
        z = torch.linspace(-math.pi, 3.1415, 40, dtype=torch.float64)
        u = q.cdf(z)
        assert u[0] == 0 and abs(u[-1] - 1) < 1e-4 and (u.diff() > 0).all()
        torch.testing.assert_close(q.icdf(u), z)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_the_ends_of_the_circle(dtype):
    """All quantiles lie on it, whatever rounds; π is -π; no slope is NaN where nothing is left."""
    q = VonMises(
        torch.linspace(-3.14, 3.14, 400, dtype=dtype)[:, None], torch.ones((), dtype=dtype)
    )
    z = q.icdf(torch.tensor([0.0, 1e-12, 1 - 1e-7, 1.0], dtype=dtype))
    assert (z.abs() <= math.pi).all() and (z[:, 0] < -3.14159).all() and (z[:, 3] > 3.14159).all()
    assert (q.cdf(torch.tensor(math.pi, dtype=dtype)) == 0).all()
    kappa = torch.tensor(2.0, dtype=dtype, requires_grad=True)
    z = VonMises(torch.zeros_like(kappa), kappa).icdf(torch.tensor([0.0, 1.0], dtype=dtype))
    z.sum().backward()
    assert kappa.grad == 0


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
def test_an_angle_that_is_rounded_to_pi_is_minus_pi(dtype, monkeypatch):
    monkeypatch.setattr(
        "reparam.distributions.von_mises.logistic_noise", lambda shape, **_: torch.full(shape, 16.0)
    )
    q = VonMises(torch.zeros(1, dtype=dtype), torch.zeros(1, dtype=dtype))
    assert q.has_rsample and q.rsample().item() == torch.tensor(-math.pi, dtype=dtype).item()


def test_first_and_second_derivatives():
    loc = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    u = torch.tensor([0.02, 0.4, 0.6, 0.97], dtype=torch.float64, requires_grad=True)
    for concentration in (0.05, 1.7, 60.0):
        kappa = torch.tensor(concentration, dtype=torch.float64, requires_grad=True)
        z = VonMises(loc, kappa).icdf(u).detach().requires_grad_()
        for name, value in (("icdf", u), ("cdf", z), ("log_prob", z)):

            def function(value, loc, kappa, name=name):
                return getattr(VonMises(loc, kappa), name)(value)

            assert torch.autograd.gradcheck(function, (value, loc, kappa)), name
            assert torch.autograd.gradgradcheck(function, (value, loc, kappa)), name
        assert torch.autograd.gradcheck(lambda k: VonMises(0.0 * k, k).variance, kappa)
        assert torch.autograd.gradcheck(lambda k: VonMises(0.0 * k, k).entropy(), kappa)


def test_gradients_of_an_expectation():
    """E[cos(z - 1)] = A(κ) cos(loc - 1): both slopes, with the variances of the draws as bounds.

    Each term is at most 1 + |dz/dκ| < 2 in size, so that its variance is below 4.
    """
    count, loc, kappa = 100_000, 0.4, 2.5
    leaves = [
        torch.full((count,), v, dtype=torch.float64, requires_grad=True) for v in (loc, kappa)
    ]
    z = VonMises(*leaves).rsample()
    torch.cos(z - 1).sum().backward()
    a = scipy.special.i1(kappa) / scipy.special.i0(kappa)
    slope = 1 - a / kappa - a * a
    check_mean(leaves[0].grad.mean(), -a * math.sin(loc - 1), 1.0, count, catches=0.05)
    check_mean(leaves[1].grad.mean(), slope * math.cos(loc - 1), 1.0, count, catches=0.05)
    assert leaves[1].grad.abs().max() < 1


@each_dtype
@pytest.mark.parametrize("concentration", [0.0, 0.7, 30.0])
def test_law_of_the_samples(concentration, dtype, device):
    count = 2**16
    kappa = torch.tensor(concentration, dtype=dtype, device=device)
    z = VonMises(torch.zeros_like(kappa), kappa).sample((count,)).cpu()
    assert z.dtype == dtype and z.min() >= -math.pi - 1e-3 and z.max() < math.pi
    exact = kappa.item()
    cdf = (
        (lambda x: scipy.stats.vonmises(exact).cdf(x)) if exact else (lambda x: 0.5 + x / 6.2831853)
    )
    for fraction in (-0.9, -0.3, 0.0, 0.1, 0.8):
        point = torch.tensor(fraction * math.pi / (1 + exact) ** 0.5, dtype=dtype)
        above = torch.nextafter(point, torch.tensor(4.0, dtype=dtype))
        edge = (point.double() + above.double()).item() / 2
        check_count((z <= point).sum(), count, cdf(edge))


def test_law_by_kolmogorov_and_smirnov():
    """Around another mode: the angles from it, wrapped."""
    q = VonMises(torch.tensor(3.0, dtype=torch.float64), torch.tensor(2.0).double())
    z = q.sample((100_000,))
    around = torch.remainder(z - 3.0 + math.pi, 2 * math.pi) - math.pi
    assert scipy.stats.kstest(around.numpy(), scipy.stats.vonmises(2.0).cdf).pvalue > ALARM


@each_dtype
@pytest.mark.parametrize("loc", [0.0, 3.1415, -50.0])
def test_extremes_are_finite(loc, dtype, device):
    for concentration in (0.0, 1e-8, 1e-4, 1.0, 1e4, 1e8, 1e16):
        if concentration > torch.finfo(dtype).max:
            continue
        leaves = [
            torch.tensor(v, dtype=dtype, device=device, requires_grad=True)
            for v in (loc, concentration)
        ]
        q = VonMises(*leaves)
        z = q.rsample((500,))
        assert z.isfinite().all() and z.min() >= -3.1416016 and z.max() < 3.1416016
        values = [z, q.log_prob(z.detach()), q.cdf(z.detach()), q.variance, q.entropy()]
        for value in values:
            if dtype is not torch.float16:  # where κ sin(z - loc) overflows by right
                assert value.isfinite().all()
            grads = torch.autograd.grad(
                value.double().mean(), leaves, retain_graph=True, allow_unused=True
            )
            assert all(grad is None or grad.isfinite().all() for grad in grads), concentration


def test_a_wrapped_sample_keeps_its_path():
    loc = torch.linspace(-10, 10, 200).requires_grad_()
    z = VonMises(loc, torch.tensor(1.0)).rsample()
    assert (z >= -math.pi).all() and (z < math.pi).all()
    z.sum().backward()
    assert torch.equal(loc.grad, torch.ones(200))


def test_batches_and_expand():
    q = VonMises(torch.zeros(3, 1), torch.tensor([1.0, 50.0]))
    assert q.batch_shape == (3, 2) and q.rsample((4,)).shape == (4, 3, 2)
    assert len(q.rsample((4,)).unique()) == 24
    wide = q.expand((5, 3, 2))
    assert isinstance(wide, VonMises) and wide.rsample().shape == (5, 3, 2)
    assert wide.variance.shape == wide.entropy().shape == (5, 3, 2)
    unchecked = VonMises(torch.zeros(3, 1), -torch.ones(2), validate_args=False)
    assert unchecked.expand((5, 3, 2)).concentration.max() == -1
    many = q.rsample((3000,))  # more than a block
    assert many[..., 0].std() > 2 * many[..., 1].std()


def test_under_torch_func_and_compile():
    def sample(loc, kappa, u):
        return VonMises(loc, kappa, validate_args=False).icdf(u)

    loc, kappa = torch.tensor(0.3), torch.tensor(1.2)
    u = torch.linspace(0.1, 0.9, 5)
    z = sample(loc, kappa, u)
    torch.testing.assert_close(torch.func.vmap(sample, (None, None, 0))(loc, kappa, u), z)
    jacobian = torch.func.jacrev(sample, argnums=1)(loc, kappa, u)
    each = torch.func.vmap(torch.func.grad(sample, argnums=1), (None, None, 0))(loc, kappa, u)
    torch.testing.assert_close(each, jacobian)
    compiled = torch.compile(sample, backend="eager", fullgraph=True)
    kappa.requires_grad_()
    (slope,) = torch.autograd.grad(compiled(loc, kappa, u).sum(), kappa)
    torch.testing.assert_close(slope, jacobian.sum())


def test_one_concentration_in_sixteen_bits():
    """A parameter without dimensions does not lift 16-bit values to float32 by itself."""
    loc, concentration = (torch.tensor(v, dtype=torch.float16) for v in (1.5, 6e4))
    value = torch.tensor([1.5, 1.508], dtype=torch.float16)
    found = VonMises(loc, concentration).log_prob(value)
    wide = VonMises(loc.float(), concentration.float()).log_prob(value.float())
    torch.testing.assert_close(found, wide.half())


@pytest.mark.parametrize("loc", [1e30, -1e30, 1e4])
def test_a_loc_of_many_turns(loc):
    """What is left of 1e30 modulo 2π is arbitrary, and a law all the same."""
    q = VonMises(torch.tensor(loc), torch.tensor(50.0))
    u = torch.linspace(0.01, 0.99, 21)
    z = q.icdf(u)
    assert (z.abs() <= math.pi).all()
    torch.testing.assert_close(q.cdf(z), u, rtol=0, atol=1e-5)
    assert q.log_prob(q.rsample((100,))).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((0.0, -1.0), ValueError, "concentration"),
        ((0.0, math.inf), ValueError, "concentration must be finite"),
        ((math.inf, 1.0), ValueError, "loc must be finite"),
        ((torch.tensor(math.nan), 1.0), ValueError, "loc holds NaN"),
        ((0.0, math.nan), ValueError, "concentration"),
        ((torch.tensor(0), 1.0), TypeError, "floating-point"),
        ((torch.zeros(2), torch.ones(2).double()), ValueError, "share dtype"),
        ((torch.zeros(0), 1.0), ValueError, "empty"),
    ],
)
def test_bad_parameters(arguments, error, says):
    with pytest.raises(error, match=says):
        VonMises(*arguments)


def test_bad_values():
    q = VonMises(0.0, 1.0)
    for method in (q.log_prob, q.cdf):
        with pytest.raises(ValueError, match="within the support"):
            method(torch.tensor(math.nan))
    for probability in (-0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            q.icdf(torch.tensor(probability))


def test_autocast_does_not_round_the_quadrature():
    q = VonMises(torch.tensor(0.2), 5.0)
    calls = (
        lambda: q.icdf(torch.tensor(0.3)),
        lambda: q.log_prob(torch.tensor(0.5)),
        lambda: q.cdf(torch.tensor(0.5)),
    )
    wanted = [call() for call in calls]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [call() for call in calls] == wanted


def test_a_number_is_no_tensor():
    q = VonMises(0.0, 1.0)
    for method in (q.log_prob, q.cdf):
        with pytest.raises(ValueError, match="must be a Tensor"):
            method(0.5)


def test_shapes_on_a_device_without_numbers():
    zero = torch.zeros(3, device="meta")
    q = VonMises(zero, zero + 1, validate_args=False)
    z = q.rsample((2,))
    assert z.shape == q.cdf(z).shape == q.log_prob(z).shape == q.icdf(z).shape == (2, 3)
