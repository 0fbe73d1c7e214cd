"""TruncatedNormal against closed forms at 60 digits: samples, four slopes, densities, moments."""

import math

import mpmath as mp
import pytest
import scipy.stats
import torch

from reparam.distributions import TruncatedNormal
from reparam.estimators import ScoreFunction
from tests.lib.statistical import ALARM, check_count

mp.mp.dps = 60
INF = math.inf
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
BOUNDS = [
    (-INF, INF),
    (-INF, 1.0),
    (-2.0, 2.0),
    (-0.1, 0.3),
    (-1e-8, 1e-8),
    (-40.0, 1.0),
    (-3.0, 1e4),
    (0.0, INF),
    (0.0, 1e-4),
    (0.5, 0.75),
    (3.0, 8.0),
    (5.0, INF),
    (-12.0, -8.0),
    (-INF, -40.0),
    (40.0, 40.01),
    (-1e3, -999.0),
    (1e3, INF),
    (1e4, 1e4 + 1),
    (-INF, -1e4),
]
LOG_ODDS = [-30.0, -14.0, -3.0, -0.5, 0.0, 2.0, 14.0, 30.0]


def mass(a, b):
    """Φ(b) - Φ(a), from the side on which nothing cancels."""
    if a < 0 and b <= 0:
        a, b = -b, -a
    return (mp.erfc(a / mp.sqrt(2)) - mp.erfc(b / mp.sqrt(2))) / 2


def phi(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def exact_sample(a, b, log_odds):
    """`x` with `log(F / (1 - F)) = log_odds`, by bisection and Newton's method, and slopes of `x`.

    The slopes with respect to loc, scale, low and high as they stand in every text, which cancel:
    60 digits leave enough.
    """
    a, b, log_odds = mp.mpf(a), mp.mpf(b), mp.mpf(log_odds)

    def error(x):
        return mp.log(mass(a, x) / mass(x, b)) - log_odds

    left = max(a, min(b, 0) - 50 / max(-b, mp.mpf(1)))  # e^-50 is less than any probability here
    right = min(b, max(a, 0) + 50 / max(a, mp.mpf(1)))
    for _ in range(60):
        x = (left + right) / 2
        left, right = (left, x) if error(x) > 0 else (x, right)
    for _ in range(100):
        step = error(x) / (phi(x) / mass(a, x) + phi(x) / mass(x, b))
        x -= max(min(step, (x - a) / 2), -(b - x) / 2)
        if abs(step) < mp.mpf(10) ** -40 * min(x - a, b - x):
            break
    else:
        raise AssertionError(f"no exact sample at {a}, {b}, {log_odds}")
    u = 1 / (1 + mp.exp(-log_odds))
    low = (1 - u) * phi(a) / phi(x) if a > -mp.inf else mp.mpf(0)
    high = u * phi(b) / phi(x) if b < mp.inf else mp.mpf(0)
    products = sum(bound * slope for bound, slope in ((a, low), (b, high)) if slope)
    return x, [1 - low - high, x - products, low, high]


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float64, 3e-13), (torch.float32, 4e-5)], ids=["64", "32"]
)
def test_sample_and_all_four_slopes(bounds, dtype, largest):
    """Relative, from the quantile 1e-13 to 1 - 1e-13; slopes below 1e-30 are absolute.

    float32's are at most 4e-6 wherever they are above 1e-8: the small ones are exponentials of
    numbers up to 70, which are themselves right to a rounding step.
    """
    loc, scale = 0.0, 1.0
    leaves = [torch.tensor(v, dtype=dtype) for v in (loc, scale, *bounds)]
    leaves = [v.expand(len(LOG_ODDS)).clone().requires_grad_() for v in leaves]
    odds = torch.tensor(LOG_ODDS, dtype=dtype)
    z = TruncatedNormal(*leaves)._at_log_odds(odds)
    z.sum().backward()
    a, b = leaves[2][0].item(), leaves[3][0].item()
    for i, log_odds in enumerate(odds.tolist()):
        x, slopes = exact_sample(a, b, log_odds)
        size = max(abs(x), min(b - a, 1) if a < 0 < b else 0)
        # Exponents reach 40, as the log-odds do, and round as such.
        assert abs(z[i].item() - x) < 100 * torch.finfo(dtype).eps * size
        for name, leaf, slope in zip(("loc", "scale", "low", "high"), leaves, slopes, strict=True):
            bound = largest if abs(slope) < 1e-8 else largest / 10
            if dtype is torch.float64:
                bound = largest
            # dz/dscale passes through 0: there it is measured by the size of its terms.
            size = max(abs(slope), 1e-30, 0.1 * slopes[0] if name == "scale" and a < 0 < b else 0)
            assert abs(leaf.grad[i].item() - slope) < bound * size, (name, log_odds)


def test_without_bounds_it_is_the_normal():
    loc, scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, 1.7))
    q, normal = TruncatedNormal(loc, scale), torch.distributions.Normal(loc, scale)
    z = q.rsample((1000,))
    grads = torch.autograd.grad(z.sum(), (loc, scale))
    expected = (torch.tensor(1000.0).double(), ((z - loc) / scale).sum())
    torch.testing.assert_close(grads, expected)
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z))
    torch.testing.assert_close(q.cdf(z), normal.cdf(z))
    for name in ("mean", "variance", "mode"):
        torch.testing.assert_close(getattr(q, name), getattr(normal, name))
    torch.testing.assert_close(q.entropy(), normal.entropy())


@pytest.mark.parametrize("bounds", [b for b in BOUNDS if b != (-INF, INF)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["64", "32"]
)
def test_density_distribution_and_moments(bounds, dtype, digits):
    """At `scale = 1`; the moments by mpmath's quadrature, in units of their own size."""
    low, high = (torch.tensor(v, dtype=dtype) for v in bounds)
    a, b = mp.mpf(low.item()), mp.mpf(high.item())
    q = TruncatedNormal(torch.zeros((), dtype=dtype), 1.0 + 0 * low.new_zeros(()), low, high)
    mode = max(a, min(b, mp.mpf(0)))
    width = 1 / max(abs(mode), mp.mpf(1))
    left, right = max(a, mode - 12 * width), min(b, mode + 12 * width)
    if mode != 0:  # a tail is exponential: its last e-folds are further out
        left, right = max(a, mode - 60 * width), min(b, mode + 60 * width)
    parts = mp.linspace(left, right, 9)

    def moment(f):
        return mp.quad(lambda x: f(x) * mp.exp((mode**2 - x**2) / 2), parts)

    total = moment(lambda x: mp.mpf(1))
    mean = moment(lambda x: x - mode) / total
    variance = moment(lambda x: (x - mode - mean) ** 2) / total
    entropy = mp.log(total) + moment(lambda x: (x**2 - mode**2) / 2) / total
    size = max(abs(mean), abs(mode), min(mp.sqrt(variance), mp.mpf(1)))
    assert abs(q.mean.double().item() - mode - mean) < digits * size
    assert abs(q.variance.item() / variance - 1) < 3 * digits
    assert abs(q.entropy().item() - entropy) < digits * max(1, abs(entropy))
    for share in (0.0, 0.2, 0.9):
        value = low.new_tensor(float(left + share * (right - left))).clamp(low, high)
        x = mp.mpf(value.item())
        log_prob = -(x - mode) * (x + mode) / 2 - mp.log(total)
        assert abs(q.log_prob(value).item() - log_prob) < digits * max(1, abs(log_prob))
        below, above = mass(a, x) if x > a else 0, mass(x, b) if x < b else mp.mpf(0)
        exact = below / (below + above)
        # cdf comes from x, which float32 does not resolve next to a far bound
        assert abs(q.cdf(value).item() - exact) < 10 * digits


def test_first_and_second_derivatives():
    inputs = [
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 1.2, -0.5, 2.0)
    ]
    u = torch.tensor([0.1, 0.5, 0.93], dtype=torch.float64, requires_grad=True)
    for bounds in ((-0.5, 2.0), (3.0, 4.0), (-INF, -2.0)):
        finite = [torch.tensor(v, dtype=torch.float64, requires_grad=abs(v) < INF) for v in bounds]
        leaves = [*inputs[:2], *finite]
        z = TruncatedNormal(*leaves).icdf(u).detach().requires_grad_()
        for name, value in (("icdf", u), ("cdf", z), ("log_prob", z)):

            def function(value, *leaves, name=name):
                return getattr(TruncatedNormal(*leaves), name)(value)

            assert torch.autograd.gradcheck(function, (value, *leaves)), (name, bounds)
            assert torch.autograd.gradgradcheck(function, (value, *leaves)), (name, bounds)


@pytest.mark.parametrize("name", ["mean", "variance", "entropy"])
def test_derivatives_of_moments(name):
    for bounds in ((-0.5, 2.0), (3.0, 4.0), (-5.0, -2.5)):
        leaves = [
            torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 1.2, *bounds)
        ]

        def function(*leaves):
            value = getattr(TruncatedNormal(*leaves), name)
            return value() if callable(value) else value

        assert torch.autograd.gradcheck(function, leaves)


@each_dtype
@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (1.0, INF), (-INF, -3.0)])
def test_law_of_the_samples(bounds, dtype, device):
    """Quantiles by exact binomial tests, with the probability that the dtype's rounding leaves."""
    count = 2**16
    zero = torch.zeros((), dtype=dtype, device=device)
    z = TruncatedNormal(zero, 1 + zero, zero + bounds[0], zero + bounds[1]).sample((count,)).cpu()
    assert z.dtype == dtype
    assert z.min() >= bounds[0] and z.max() <= bounds[1]
    law = scipy.stats.truncnorm(*bounds)
    for tail in (1e-2, 0.1, 0.5, 0.9, 0.99):
        point = torch.tensor(law.ppf(tail), dtype=dtype)
        above = torch.nextafter(point, torch.tensor(INF, dtype=dtype))
        edge = (point.double() + above.double()).item() / 2
        check_count((z <= point).sum(), count, law.cdf(edge))


def test_law_by_kolmogorov_and_smirnov():
    zero = torch.zeros((), dtype=torch.float64)
    z = TruncatedNormal(zero, 1.0 + zero, zero + 8, zero + 8.3).sample((100_000,))
    law = scipy.stats.truncnorm(8, 8.3)
    assert scipy.stats.kstest(z.numpy(), law.cdf).pvalue > ALARM


@each_dtype
@pytest.mark.parametrize("bounds", [*BOUNDS, (-1e4, 1e4), (1e4, INF), (-1e4, -9984.0)], ids=str)
def test_extremes_are_finite(bounds, dtype, device):
    leaves = [
        torch.tensor(v, dtype=dtype, device=device, requires_grad=True) for v in (0.0, 1.0, *bounds)
    ]
    if leaves[2] >= leaves[3]:
        pytest.skip("rounding makes one number of both bounds")
    q = TruncatedNormal(*leaves)
    z = q.rsample((1000,))
    assert z.isfinite().all() and (z >= leaves[2]).all() and (z <= leaves[3]).all()
    values = [z, q.log_prob(z.detach()), q.cdf(z.detach()), q.mean, q.variance, q.entropy()]
    for value in values:
        assert value.isfinite().all()
        grads = torch.autograd.grad(
            value.float().mean(), leaves, retain_graph=True, allow_unused=True
        )
        assert all(grad is None or grad.isfinite().all() for grad in grads)


def test_the_ends_of_icdf_and_cdf():
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    q = TruncatedNormal(zero, 1 + 0 * zero, zero - 1, zero + 2)
    z = q.icdf(torch.tensor([0.0, 1.0]))
    assert z.tolist() == [-1.0, 2.0]
    z.sum().backward()
    assert zero.grad == 2  # both bounds move with it
    assert q.cdf(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 1.0]
    loose = TruncatedNormal(zero, 1 + 0 * zero, zero - 1, zero + 2, validate_args=False)
    assert loose.cdf(torch.tensor([-3.0, 5.0])).tolist() == [0.0, 1.0]
    assert loose.log_prob(torch.tensor([-3.0, 5.0])).tolist() == [-INF, -INF]


def test_batches_and_expand():
    loc = torch.zeros(3, 1)
    q = TruncatedNormal(loc, 1.0, torch.tensor([-1.0, 2.0]), 5.0)
    assert q.batch_shape == (3, 2) and q.rsample((4,)).shape == (4, 3, 2)
    assert len(q.rsample((4,)).unique()) == 24
    wide = q.expand((5, 3, 2))
    assert isinstance(wide, TruncatedNormal) and wide.rsample().shape == (5, 3, 2)
    assert wide.mean.shape == (5, 3, 2)
    unchecked = TruncatedNormal(loc, -torch.ones(2), -1.0, 5.0, validate_args=False)
    assert unchecked.expand((5, 3, 2)).scale.max() == -1
    many = q.rsample((3000,))  # more than a block
    assert many.shape == (3000, 3, 2) and (many[..., 1] > 2).all()
    assert "TruncatedNormal" in repr(q)


def test_moments_in_units_of_another_scale():
    q = TruncatedNormal(*(torch.tensor(v, dtype=torch.float64) for v in (0.3, 1.7, 1.2, 2.9)))
    law = scipy.stats.truncnorm((1.2 - 0.3) / 1.7, (2.9 - 0.3) / 1.7, loc=0.3, scale=1.7)
    for name, exact in (("mean", law.mean()), ("variance", law.var()), ("mode", 1.2)):
        assert getattr(q, name).item() == pytest.approx(exact, rel=1e-9), name
    assert q.entropy().item() == pytest.approx(law.entropy(), rel=1e-9)
    assert q.has_rsample and TruncatedNormal.support.event_dim == 0
    assert not TruncatedNormal.support.is_discrete


@pytest.mark.parametrize("side", [1, -1])
def test_next_to_a_bound_at_0_that_is_far_from_loc(side):
    """The distance from the bound, a hundred-millionth of 1e-8, is not lost in 1e8 + x."""
    bounds = sorted((0.0, -side))
    q = TruncatedNormal(*(torch.tensor(v).double() for v in (side * 1e8, 1.0, *bounds)))
    z = q.icdf(torch.tensor(0.5).double()).item()
    assert z == pytest.approx(-side * math.log(2) / 1e8, rel=1e-6)


def test_slopes_that_will_be_differentiated_again_are_as_exact():
    """Next to a far bound, where the distance from it cannot be told from z any more."""
    leaves = [torch.tensor(v, dtype=torch.float64) for v in (0.0, 1.0, 1e3, 1.1e3)]
    leaves = [leaf.expand(3).clone().requires_grad_() for leaf in leaves]
    z = TruncatedNormal(*leaves)._at_log_odds(torch.tensor([-30.0, -14.0, 3.0]).double())
    first = torch.autograd.grad(z.sum(), leaves, retain_graph=True)
    again = torch.autograd.grad(z.sum(), leaves, create_graph=True)
    torch.testing.assert_close(again, first, rtol=1e-12, atol=0)


def test_the_limits_of_what_the_bounds_may_be():
    limit = torch.finfo(torch.float32).max ** 0.4
    TruncatedNormal(1e10, 1e-6)  # without bounds loc may be as many scales from 0
    TruncatedNormal(0.0, 1e10, 1e20, INF)
    TruncatedNormal(0.0, 1.0, 0.0, 1.5 / limit)
    for arguments in ((0.0, 1.0, 0.0, 0.9 / limit), (0.0, 1e-10, 1e10, 2e10)):
        with pytest.raises(ValueError, match="the bounds must begin within"):
            TruncatedNormal(*arguments)


def test_the_score_function_refuses_moving_bounds():
    theta = torch.tensor(0.5, requires_grad=True)
    for arguments in ((0.0, 1.0, theta, 2.0), (0.0, 1.0, -1.0, theta)):
        with pytest.raises(ValueError, match="support moves with the parameters"):
            ScoreFunction()(lambda z: z, TruncatedNormal(*arguments))
    ScoreFunction()(lambda z: z, TruncatedNormal(theta, 1.0, -1.0, 2.0), 100).backward()
    assert theta.grad.isfinite()


def sample(loc, scale, low, high, u):
    return TruncatedNormal(loc, scale, low, high, validate_args=False).icdf(u)


def test_under_torch_func():
    leaves = [torch.tensor(v, dtype=torch.float64) for v in (0.3, 1.2, -0.5, 2.0)]
    u = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    z = sample(*leaves, u)
    torch.testing.assert_close(torch.func.vmap(sample, (None,) * 4 + (0,))(*leaves, u), z)
    jacobian = torch.func.jacrev(sample, argnums=1)(*leaves, u)
    each = torch.func.vmap(torch.func.grad(sample, argnums=1), (None,) * 4 + (0,))(*leaves, u)
    torch.testing.assert_close(each, jacobian)


def test_under_torch_compile():
    leaves = [torch.tensor(v, requires_grad=True) for v in (0.3, 1.2, -0.5, 2.0)]
    u = torch.linspace(0.1, 0.9, 5)
    expected = torch.autograd.grad(sample(*leaves, u).sum(), leaves)
    compiled = torch.compile(sample, backend="eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves, u).sum(), leaves), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((0.0, 1.0, 2.0, 1.0), ValueError, "low must be below high, got low=2.0 and high=1.0"),
        ((0.0, 1.0, 1.0, 1.0), ValueError, "use that point"),
        ((0.0, -1.0, 0.0, 1.0), ValueError, "scale"),
        ((0.0, 0.0, 0.0, 1.0), ValueError, "scale"),
        ((INF, 1.0, 0.0, 1.0), ValueError, "loc must be finite"),
        ((0.0, INF, 0.0, 1.0), ValueError, "scale must be finite"),
        ((torch.tensor(math.nan), 1.0, 0.0, 1.0), ValueError, "loc holds NaN"),
        ((0.0, 1.0, math.nan, 1.0), ValueError, "low"),
        ((torch.tensor(0), 1.0, 0.0, 1.0), TypeError, "floating-point"),
        ((torch.zeros(2), torch.ones(2).double(), 0.0, 1.0), ValueError, "share dtype"),
        ((torch.zeros(0), 1.0, 0.0, 1.0), ValueError, "empty"),
        ((1e30, 1.0, 0.0, 1.0), ValueError, "within 3e.15 scales of loc, .* loc=1.00.*e.30 and"),
        ((0.0, 1e30, 0.0, 1.0), ValueError, "out of reach|apart, got loc=0.0 and scale=1.00"),
        ((torch.zeros(2), 1.0, torch.tensor([0.0, 2.0]), 1.0), ValueError, "got low=2.0 and high"),
    ],
)
def test_bad_parameters(arguments, error, says):
    with pytest.raises(error, match=says):
        TruncatedNormal(*arguments)


def test_one_law_in_sixteen_bits():
    """A parameter without dimensions does not lift 16-bit values to float32 by itself."""
    parameters = [torch.tensor(v, dtype=torch.float16) for v in (-1e4, 0.17, -2.0, 0.0)]
    value = torch.tensor([-2.0, -1.0], dtype=torch.float16)
    found = TruncatedNormal(*parameters).log_prob(value)
    wide = TruncatedNormal(*(p.float() for p in parameters)).log_prob(value.float())
    torch.testing.assert_close(found, wide.half())


@pytest.mark.parametrize("scale", [1e-30, 1e-10])
def test_bounds_beyond_all_reach_of_a_tiny_scale_leave_the_gaussian(scale):
    loc, scale = (torch.tensor(v, requires_grad=True) for v in (0.0, scale))
    q = TruncatedNormal(loc, scale, -1.0, 1e4)
    torch.testing.assert_close(q.stddev, scale)
    z = q.rsample((100,))
    by_loc, by_scale = torch.autograd.grad(z.sum(), (loc, scale))
    torch.testing.assert_close(by_loc, torch.tensor(100.0))
    torch.testing.assert_close(by_scale, (z.detach() / scale).sum())


def test_the_square_of_a_huge_scale_does_not_spoil_the_variance():
    q = TruncatedNormal(0.0, 1e25, 0.0, 1e13)
    assert q.variance.item() == pytest.approx(1e26 / 12, rel=1e-4)


def test_bad_values():
    q = TruncatedNormal(0.0, 1.0, -1.0, 2.0)
    for method in (q.log_prob, q.cdf):
        with pytest.raises(ValueError, match="within the support"):
            method(torch.tensor(3.0))
        with pytest.raises(ValueError, match="within the support"):
            method(torch.tensor(math.nan))
    for probability in (-0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            q.icdf(torch.tensor(probability))


@pytest.mark.parametrize("bounds", [{}, {"low": -0.5}, {"high": 0.5}], ids=str)
def test_the_ends_of_a_law_without_bounds(bounds):
    loc = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    q = TruncatedNormal(loc, 1.0, **bounds)
    u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    z = q.icdf(u).detach()
    assert z[[0, 2]].tolist() == [bounds.get("low", -math.inf), bounds.get("high", math.inf)]
    got = q.cdf(z)
    torch.testing.assert_close(got, u)
    assert got[[0, 2]].tolist() == [0.0, 1.0]
    assert torch.autograd.grad(got.sum(), loc)[0].isfinite()


def test_autocast_does_not_round_the_quadrature():
    q = TruncatedNormal(torch.tensor(0.0), 1.0, -1.0, 2.0)
    calls = (
        lambda: q.icdf(torch.tensor(0.5)),
        lambda: q.log_prob(torch.tensor(0.5)),
        lambda: q.mean,
    )
    wanted = [call() for call in calls]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [call() for call in calls] == wanted


def test_shapes_on_a_device_without_numbers():
    zero = torch.zeros(3, device="meta")
    q = TruncatedNormal(zero, zero + 1, -1.0, 2.0, validate_args=False)
    z = q.rsample((2,))
    assert z.shape == q.cdf(z).shape == q.log_prob(z).shape == q.icdf(z).shape == (2, 3)
