"""Logistic: against SciPy and mpmath, far into both tails, in every dtype."""

import math

import pytest
import torch
from mpmath import mp
from scipy import stats
from torch.distributions import Independent

from reparam.distributions import Logistic
from reparam.estimators import Pathwise, ScoreFunction
from reparam.measure import compare, exact_gradient
from tests.lib.statistical import ALARM

F64 = torch.float64
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LOC, SCALE = -0.7, 1.9


def T(value, **options):
    return torch.tensor(value, dtype=F64, **options)


def test_against_scipy():
    q, law = Logistic(T(LOC), T(SCALE)), stats.logistic(LOC, SCALE)
    z = torch.linspace(-30, 30, 121, dtype=F64)
    u = torch.linspace(1e-6, 1 - 1e-6, 121, dtype=F64)
    for got, wanted in (
        (q.log_prob(z), law.logpdf(z)),
        (q.cdf(z), law.cdf(z)),
        (q.icdf(u), law.ppf(u)),
        (q.mean, law.mean()),
        (q.variance, law.var()),
        (q.stddev, law.std()),
        (q.entropy(), law.entropy()),
    ):
        torch.testing.assert_close(got, torch.as_tensor(wanted), rtol=1e-12, atol=1e-14)
    assert q.mode == LOC
    assert q.log_prob(q.mode) > q.log_prob(q.mode + 1e-3)
    assert q.icdf(T([0.0, 1.0])).tolist() == [-math.inf, math.inf]


@pytest.mark.parametrize(("dtype", "close"), [(F64, 1e-14), (torch.float32, 1e-6)], ids=str)
def test_tails_by_mpmath(dtype, close):
    """To 5,000 scales out, where `log(p (1 - p))` is `-inf` from 37 on (float32: 17)."""
    loc, scale = (torch.tensor(p, dtype=dtype, requires_grad=True) for p in (LOC, SCALE))
    for point in (-10_000.0, -800.0, -40.0, -17.0, 17.0, 40.0, 800.0, 10_000.0):
        log_prob = Logistic(loc, scale).log_prob(torch.tensor(point, dtype=dtype))
        slopes = torch.autograd.grad(log_prob, (loc, scale))
        with mp.workdps(60):
            m, s = mp.mpf(loc.item()), mp.mpf(scale.item())
            x = (mp.mpf(point) - m) / s
            exact = -abs(x) - 2 * mp.log1p(mp.exp(-abs(x))) - mp.log(s)
            by_loc = mp.tanh(x / 2) / s
            by_scale = (x * mp.tanh(x / 2) - 1) / s
        for got, wanted in zip((log_prob, *slopes), (exact, by_loc, by_scale), strict=True):
            assert got.item() == pytest.approx(float(wanted), rel=close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples(dtype, device):
    q = Logistic(*torch.tensor([LOC, SCALE], dtype=dtype, device=device))
    z = q.rsample((200_000,))
    assert z.dtype == dtype
    assert z.isfinite().all()
    law = stats.logistic(q.loc.item(), q.scale.item())
    if dtype in (torch.float64, torch.float32):  # an error of 0.9 % in its distribution function
        assert stats.kstest(z.double().cpu().numpy(), law.cdf).pvalue > ALARM


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_types_round_what_float32_gives(dtype):
    narrow = torch.tensor([LOC, SCALE], dtype=dtype)
    q, wide = Logistic(*narrow), Logistic(*narrow.float())
    z = torch.linspace(-30, 30, 121, dtype=dtype)
    u = torch.linspace(0.01, 0.99, 99, dtype=dtype)
    for name, value in (("log_prob", z), ("cdf", z), ("icdf", u)):
        got = getattr(q, name)(value)
        assert got.dtype == dtype
        assert torch.equal(got, getattr(wide, name)(value.float()).to(dtype))


def test_the_path():
    loc, scale = (torch.full((100,), p, dtype=F64, requires_grad=True) for p in (LOC, SCALE))
    z = Logistic(loc, scale).rsample()
    slopes = torch.autograd.grad(z.sum(), (loc, scale))
    torch.testing.assert_close(slopes[0], torch.ones_like(z))
    torch.testing.assert_close(slopes[1], ((z - LOC) / SCALE).detach())


def test_derivatives_by_differences():
    leaves = T([0.2, -3.0], requires_grad=True), T([0.5, 2.0], requires_grad=True)
    z, u = T([1.0, 9.0], requires_grad=True), T([0.1, 0.9], requires_grad=True)
    for f in (
        lambda loc, scale: Logistic(loc, scale).log_prob(z),
        lambda loc, scale: Logistic(loc, scale).cdf(z),
        lambda loc, scale: Logistic(loc, scale).icdf(u),
    ):
        assert torch.autograd.gradcheck(f, leaves)
        assert torch.autograd.gradgradcheck(f, leaves)


def test_estimators_take_it():
    """The pathwise gradient and the score function's against quadrature; `E[z²]` in closed form."""
    parameters = {"loc": T(0.5), "scale": T(0.8)}
    exact = exact_gradient(torch.square, Logistic, parameters).gradient
    assert exact["loc"].item() == pytest.approx(1.0, abs=1e-7)
    assert exact["scale"].item() == pytest.approx(2 * 0.8 * math.pi**2 / 3, abs=1e-7)
    estimators = {"pathwise": Pathwise(), "score": ScoreFunction()}
    table = compare(estimators, torch.square, Logistic, parameters, replicates=20_000)
    assert [row.biased for row in table.rows] == [False] * 4


def test_shapes_and_validation():
    q = Logistic(torch.zeros(3, 1), torch.ones(2))
    assert q.batch_shape == (3, 2)
    assert q.rsample((0,)).shape == (0, 3, 2)
    assert q.expand((4, 3, 2)).sample((5,)).shape == (5, 4, 3, 2)
    assert Logistic(0.0, 1.0).sample().shape == ()
    assert Independent(q, 1).log_prob(torch.zeros(3, 2)).shape == (3,)
    quiet = Logistic(torch.zeros(2), torch.ones(2), validate_args=False).expand((3, 2))
    assert quiet.icdf(torch.tensor(2.0)).isnan().all()
    unchecked = Logistic(torch.zeros(2), -torch.ones(2), validate_args=False)
    assert unchecked.expand((3, 2)).scale.max() == -1
    assert "Logistic(loc: " in repr(q)


def test_under_func():
    loc, scale = torch.zeros(3), torch.ones(3)

    def loss(loc, scale):
        return -Logistic(loc, scale, validate_args=False).log_prob(torch.tensor(2.0)).sum()

    slopes = torch.func.vmap(torch.func.grad(loss))(loc, scale)
    torch.testing.assert_close(slopes, torch.full((3,), -math.tanh(1.0)))


ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: Logistic(ONE, -ONE), ValueError, "scale"),
        (lambda: Logistic(ONE, 0 * ONE), ValueError, "scale"),
        (lambda: Logistic(ONE * math.nan, ONE), ValueError, "loc holds NaN"),
        (lambda: Logistic(ONE.int(), ONE), TypeError, "loc must hold floating-point"),
        (lambda: Logistic(ONE, ONE.double()), ValueError, "share dtype and device"),
        (lambda: Logistic(ONE, ONE).icdf(2 * ONE), ValueError, "between 0 and 1"),
        (lambda: Logistic(ONE, ONE).icdf(0.5), TypeError, "got float"),
        (lambda: Logistic(ONE, ONE).icdf(math.nan * ONE), ValueError, "between 0 and 1"),
        (lambda: Logistic(ONE, ONE).log_prob(math.nan * ONE), ValueError, "support"),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()
