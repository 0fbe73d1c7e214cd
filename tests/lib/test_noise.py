"""Noise on open intervals: its whole law, tails included, in every dtype."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reparam import noise as noise_module
from reparam.noise import exponential_noise, gumbel_noise, logistic_noise, open_uniform_noise
from tests.lib.statistical import ALARM, check_count, check_mean

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LAWS = {
    exponential_noise: stats.expon,
    open_uniform_noise: stats.uniform,
    gumbel_noise: stats.gumbel_r,
    logistic_noise: stats.logistic,
}
each_noise = pytest.mark.parametrize("noise", LAWS, ids=lambda noise: noise.__name__)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
COUNT = 2**20


def halfway_up(x: float, dtype: torch.dtype) -> tuple[float, float]:
    """`x` in `dtype`, and the real number above which rounding leads further up than that."""
    low = torch.tensor(x, dtype=dtype)
    high = torch.nextafter(low, torch.tensor(math.inf, dtype=dtype))
    return low.item(), (low.item() + high.item()) / 2


@each_dtype
@each_noise
def test_tails_and_bulk_have_their_probabilities(noise, dtype, device):
    """Both tails to 4e-5, where an offset of 1e-7 or a clamp at the dtype's eps shows.

    Each binomial test, of the false-alarm rate in `statistical`, catches a tail that is missing
    (42 draws expected in 4e-5: none has probability 1e-18) or twice too heavy.
    """
    x = noise(COUNT, dtype=dtype, device=device).cpu()
    law = LAWS[noise]
    for tail in (4e-5, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 4e-5):
        if noise is open_uniform_noise and 1 - tail < torch.finfo(dtype).eps:
            continue  # no numbers of this dtype there
        point, edge = halfway_up(law.ppf(tail), dtype)
        check_count((x <= point).sum(), COUNT, law.cdf(edge))
        check_count((x > point).sum(), COUNT, law.sf(edge))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@each_noise
def test_law_by_kolmogorov_and_smirnov(noise, dtype):
    """At 200,000 draws and a false-alarm rate of 1e-9, a distribution function off by 0.8 %."""
    x = noise(200_000, dtype=dtype).double().numpy()
    assert stats.kstest(x, LAWS[noise].cdf).pvalue > ALARM


@each_dtype
@pytest.mark.parametrize(
    ("noise", "mean", "variance"),
    [
        (exponential_noise, 1.0, 1.0),
        (open_uniform_noise, 0.5, 1 / 12),
        (gumbel_noise, 0.5772156649015329, math.pi**2 / 6),
        (logistic_noise, 0.0, math.pi**2 / 3),
    ],
)
def test_mean(noise, mean, variance, dtype):
    x = noise(COUNT, dtype=dtype).double()
    check_mean(x.mean(), mean, variance, COUNT, catches=0.02)


def test_gumbel_in_bfloat16_against_the_source_document():
    """C11: `-log(-log(u + 1e-7) + 1e-7)` reaches 5.53 and has variance 1.58; ours is pi²/6.

    The variance of a sample variance is (m4 - v²) / n; for the Gumbel m4 = 5.4 v², so that its
    standard error at 2²⁰ draws is 0.0034: the 0.069 missing in the source's are 20 of them.
    """
    u = torch.rand(COUNT, dtype=torch.bfloat16)
    theirs = -torch.log(-torch.log(u + 1e-7) + 1e-7)
    assert theirs.max() < 6
    assert abs(theirs.double().var() - 1.576) < 0.02
    ours = gumbel_noise(COUNT, dtype=torch.bfloat16)
    assert ours.max() > 10
    variance = math.pi**2 / 6
    check_mean(ours.double().var(), variance, 4.4 * variance**2, COUNT, catches=0.04)


@each_dtype
@each_noise
def test_open_interval(noise, dtype):
    x = noise(COUNT, dtype=dtype)
    assert x.isfinite().all()
    if noise in (exponential_noise, open_uniform_noise):
        assert (x > 0).all()
    if noise is open_uniform_noise:
        assert (x < 1).all()


@pytest.mark.parametrize(
    ("drawn", "dtype", "exponential", "uniform"),
    [
        (0.0, torch.float32, 2.0**-126, 2.0**-126),
        (0.0, torch.float16, 2.0**-24, 2.0**-24),
        (0.0, torch.bfloat16, 2.0**-126, 2.0**-126),
        (36.7, torch.float32, 36.7, 1 - 2.0**-24),
        (36.7, torch.float64, 36.7, 1 - 2.0**-53),
        (36.7, torch.bfloat16, 36.7, 1 - 2.0**-8),
        (36.7, torch.float16, 36.7, 1 - 2.0**-11),
    ],
)
def test_the_most_extreme_draws(monkeypatch, drawn, dtype, exponential, uniform, device):
    """What torch would have to draw once in a lifetime, put in by hand."""
    below_one = -math.expm1(-drawn)  # where a CPU starts from uniform noise
    monkeypatch.setattr(
        torch, "rand", lambda size, dtype, **_: torch.full(size, below_one, dtype=dtype)
    )
    monkeypatch.setattr(
        torch.Tensor, "exponential_", lambda self, generator=None: self.fill_(drawn)
    )
    options = dict(dtype=dtype, device=device)
    assert exponential_noise(3, **options).tolist() == pytest.approx([exponential] * 3, rel=1e-2)
    assert open_uniform_noise(3, **options).tolist() == pytest.approx([uniform] * 3, rel=1e-2)
    assert (open_uniform_noise(3, **options) < 1).all()
    assert gumbel_noise(3, **options).isfinite().all()


@each_noise
@given(shape=st.lists(st.integers(0, 4), max_size=4), dtype=st.sampled_from(DTYPES))
@settings(max_examples=20, deadline=None)
def test_shape_and_dtype(noise, shape, dtype):
    x = noise(shape, dtype=dtype)
    assert x.shape == tuple(shape)
    assert x.dtype == dtype
    assert not x.requires_grad


@each_noise
def test_defaults_generator_and_size_as_an_int(noise):
    again = [noise(5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)
    assert again[0].shape == (5,)
    assert again[0].dtype == torch.get_default_dtype()
    assert len(again[0].unique()) == 5
    assert noise((2, 3), device="meta").device.type == "meta"
    torch.manual_seed(0)
    one = noise(5)
    assert not torch.equal(one, noise(5))


@each_noise
@each_dtype
def test_one_number(noise, dtype):
    """`size=()` is the shape of a scalar, and draws what `size=1` draws."""
    numbers = [
        noise(size, dtype=dtype, generator=torch.Generator().manual_seed(1)) for size in ((), 1)
    ]
    assert numbers[0].shape == () and numbers[0] == numbers[1]


@each_noise
@pytest.mark.parametrize(
    ("size", "options", "error", "says"),
    [
        (3, {"dtype": torch.int64}, TypeError, "floating-point dtype, got torch.int64"),
        (3, {"dtype": "float32"}, TypeError, "floating-point dtype, got 'float32'"),
        ((2, -1), {}, ValueError, r"negative, got \(2, -1\)"),
        (-1, {}, ValueError, "negative"),
        ((2, 1.5), {}, TypeError, r"sequence of ints, got \(2, 1.5\)"),
        ((True, 2), {}, TypeError, "sequence of ints"),
        (None, {}, TypeError, "sequence of ints, got None"),
        (1.5, {}, TypeError, "sequence of ints, got 1.5"),
        (3, {"generator": 0}, TypeError, "must be a torch.Generator, got int"),
        (
            3,
            {"generator": torch.Generator(), "device": "meta"},
            ValueError,
            "generator must live where the noise is drawn, on meta, got one on cpu",
        ),
    ],
)
def test_bad_input(noise, size, options, error, says):
    with pytest.raises(error, match=says):
        noise(size, **options)


def test_a_zero_that_a_cpu_draws_once_in_many_years_is_taken_care_of(monkeypatch):
    """The generator's smallest number, which no number of draws here would show."""
    monkeypatch.setattr(
        noise_module, "_fine_uniform", lambda noise, generator: torch.zeros(4, dtype=torch.float64)
    )
    for dtype in (torch.float32, torch.float64):
        assert (open_uniform_noise(4, dtype=dtype) == torch.finfo(dtype).tiny).all()
        assert (exponential_noise(4, dtype=dtype) == torch.finfo(dtype).tiny).all()
        x = logistic_noise(4, dtype=dtype)
        torch.testing.assert_close(x, torch.full((4,), -54 * math.log(2), dtype=dtype))


@each_noise
def test_the_default_dtype_is_torchs(noise):
    before = torch.get_default_dtype()
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            assert noise(3).dtype == dtype
        finally:
            torch.set_default_dtype(before)
