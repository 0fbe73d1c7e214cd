"""`measure` and `compare` against closed forms, and traps for each."""

import functools
import math
import time
import weakref
from dataclasses import FrozenInstanceError, dataclass, replace

import matplotlib
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
)

from reparam import measure as module
from reparam.estimators import (
    Enumeration,
    Learned,
    MovingAverage,
    Pathwise,
    ScoreFunction,
)
from reparam.measure import compare, exact_gradient, measure
from tests.lib.statistical import check_mean

matplotlib.use("Agg")
F64 = torch.float64


def T(x):
    return torch.tensor(x, dtype=F64)


def square(z):
    return z**2


def step(z):
    return (z > 0).double()


NORMAL = {"loc": T(1.0), "scale": T(1.0)}

# --- measure -------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_seconds_are_those_of_the_gpu():
    def slow(z):
        torch.cuda._sleep(100_000_000)  # cycles: some 50 ms, during which the CPU goes on
        return z**2

    on_gpu = {name: value.cuda() for name, value in NORMAL.items()}
    result = measure(Pathwise(), slow, Normal, on_gpu, replicates=100)
    assert 100 * result.seconds > 0.03, "measure._now must wait for the GPU"


@pytest.mark.parametrize("per_replicate", [False, True])
def test_moments_against_closed_forms(per_replicate):
    """`z²` at N(1, 1): pathwise `2z` and `2zε`, with variances 4 and 12."""
    n = 2000 if per_replicate else 200_000
    begun = time.perf_counter()
    result = measure(Pathwise(), square, Normal, NORMAL, replicates=n, per_replicate=per_replicate)
    took = time.perf_counter() - begun
    check_mean(result.mean["loc"], 2.0, 4.0, n, catches=0.6)
    check_mean(result.mean["scale"], 2.0, 12.0, n, catches=1.0)
    # the variance of a sample variance of normal numbers is 2 variance² / n
    check_mean(result.variance["loc"], 4.0, 32.0, n, catches=1.3)
    assert result.standard_error["loc"].item() == pytest.approx(math.sqrt(4 / n), rel=0.2)
    assert result.variance_standard_error["loc"].item() == pytest.approx(math.sqrt(32 / n), rel=0.3)
    assert (result.replicates, result.evaluations) == (n, 1)
    assert 0 < result.seconds * n < took


@pytest.mark.parametrize("size", [0.1, 1 / 3, 0.7, 1e-3, 123.4])
def test_the_error_of_a_variance_where_the_variance_has_none(size):
    """Gradients of one size and either sign: their squares do not vary but for rounding."""

    def either(f, q, num_samples):
        f(q.loc.detach().unsqueeze(0))
        return q.loc * size * (1 - 2 * (torch.arange(len(q.loc)) % 2))

    result = measure(either, square, lambda loc: Normal(loc, 1.0), {"loc": T(1.0)}, replicates=1000)
    assert result.variance["loc"].item() == pytest.approx(size**2 * 1000 / 999)
    assert 0 <= result.variance_standard_error["loc"].item() < 1e-6 * size**2


@pytest.mark.parametrize("chunk", [1, 3, 10, 2**22])
def test_moments_are_those_of_the_gradients_whatever_the_chunks(monkeypatch, chunk):
    """An estimator that hands out known numbers, 1 to 10: mean 5.5, variance 55/6."""
    monkeypatch.setattr(module, "_CHUNK", chunk)
    given = []

    def estimator(f, q, num_samples):
        f(q.loc.detach().unsqueeze(0))
        count = len(q.loc)
        if not given:
            given.append(0.0)  # the probe
            return q.loc * 0
        weights = torch.arange(count) + given[-1] + 1
        given.append(given[-1] + count)
        return q.loc * weights

    result = measure(
        estimator, square, lambda loc: Normal(loc, 1.0), {"loc": T(0.5)}, replicates=10
    )
    x = torch.arange(1, 11, dtype=F64)
    m4 = (x - 5.5).pow(4).mean()
    m2 = (x - 5.5).pow(2).mean()
    assert result.mean["loc"].item() == pytest.approx(5.5)
    assert result.variance["loc"].item() == pytest.approx(55 / 6)
    assert result.standard_error["loc"].item() == pytest.approx(math.sqrt(55 / 60))
    assert result.variance_standard_error["loc"].item() == pytest.approx(
        ((m4 - m2**2) / 10).sqrt().item()
    )


def test_memory_counts_what_f_is_handed(monkeypatch):
    """A support of 256 points is 256 numbers for each replicate, not one."""
    monkeypatch.setattr(module, "_CHUNK", 2**14)
    sizes = []
    measure(
        Enumeration(),
        lambda b: (sizes.append(b.numel()), b.sum(-1))[1],
        lambda p: Independent(Bernoulli(p), 1),
        {"p": torch.full((8,), 0.3)},
        replicates=100,
    )
    assert max(sizes[1:]) <= 2**14


def test_as_much_at_once_as_memory_should_hold():
    """Between one and four million numbers, where 1,500 samples of 4,096 would be six."""
    sizes = []
    measure(
        Pathwise(),
        lambda z: (sizes.append(z.numel()), z.sum(-1))[1],
        lambda loc: Independent(Normal(loc.unsqueeze(-1).expand(*loc.shape, 4096), 1.0), 1),
        {"loc": torch.tensor(0.0)},
        replicates=1500,
    )
    assert 2**20 <= max(sizes) <= 2**22


def test_evaluations_are_summed_over_the_calls_of_one_estimate():
    def twice(f, q, num_samples):
        return Pathwise()(f, q, num_samples) + Pathwise()(f, q, 2) * 0

    assert measure(twice, square, Normal, NORMAL, num_samples=3, replicates=9).evaluations == 5
    coin = {"probs": T(0.3)}
    assert measure(Enumeration(), square, Bernoulli, coin, replicates=9).evaluations == 2


def test_shapes_dtypes_and_f_with_parameters():
    parameters = {"loc": torch.zeros(3), "scale": torch.ones(3), "w": torch.ones(())}
    result = measure(
        ScoreFunction(),
        lambda z, w: w.unsqueeze(-1) * z**2 if w.ndim else w * z**2,
        lambda loc, scale, w: Normal(loc, scale),
        parameters,
        replicates=4000,
    )
    for moments in (result.mean, result.variance, result.standard_error):
        assert {k: v.shape for k, v in moments.items()} == {
            k: v.shape for k, v in parameters.items()
        }
    assert all(v.dtype == torch.float32 for v in result.mean.values())
    for moments in (result.variance, result.standard_error, result.variance_standard_error):
        assert all(v.dtype == torch.float64 for v in moments.values())
    check_mean(result.mean["w"], 3.0, 6.0, 4000, catches=0.4)


LEAKS = {
    "to the left": lambda z: z * nn.functional.pad(z[..., 1:], (0, 1)),
    "to the right": lambda z: z * nn.functional.pad(z[..., :-1], (1, 0)),
    "into one": lambda z: torch.cat([z[..., :-1], z[..., -1:] * z[..., :1]], -1),
    "sum so far": lambda z: z.cumsum(-1),
    "mean": lambda z: z - z.mean(-1, keepdim=True),
}


@pytest.mark.parametrize("unit", [1e-9, 1.0])
@pytest.mark.parametrize(
    ("make", "estimator"),
    [
        (lambda p: Normal(p, 1.0), Pathwise()),
        (lambda p: Bernoulli(logits=p), ScoreFunction()),
        (lambda p: Bernoulli(logits=p), Enumeration()),
    ],
    ids=["pathwise", "score", "enumeration"],
)
@pytest.mark.parametrize("leak", LEAKS)
def test_replicates_that_f_mixes(leak, make, estimator, unit):
    """Whatever replicate leaks into whatever other one."""
    with pytest.raises(ValueError, match="f mixes replicates"):
        measure(
            estimator, lambda z: unit * LEAKS[leak](z), make, {"p": torch.tensor(0.3)}, replicates=9
        )


@pytest.mark.parametrize(("leak", "mixed"), [(1e-3, True), (1e-6, False), (0.0, False)])
def test_how_little_is_rounding(leak, mixed):
    """A thousandth of a value, and a millionth of the largest one: 1e-5 each for 0.01 beside 10."""

    def f(z):
        return z * torch.tensor([0.01, 10.0], dtype=F64) + leak * z.flip(-1)

    ones = torch.ones(3, 2, dtype=F64)
    assert module._mixes(f, ones, 0 * ones, (2,), tolerance=1e-3) is mixed


def test_a_module_for_an_integrand():
    """It is given the parameters that its forward names, as any function is."""

    class Plain(nn.Module):
        def forward(self, z):
            return z**2

    class Knowing(nn.Module):
        def forward(self, z, scale, more=1.0):
            return z**2 * scale * more

    class Taking(nn.Module):
        def forward(self, z, **parameters):
            return z**2 * parameters["scale"] * parameters["loc"]

    at = {"loc": T(0.3), "scale": T(2.0)}

    def make(loc, scale):
        return Bernoulli(loc)

    for f, like in (
        (Plain(), lambda z: z**2),
        (Knowing(), lambda z, scale: z**2 * scale),
        (Taking(), lambda z, loc, scale: z**2 * scale * loc),
        (functools.partial(Knowing(), more=3.0), lambda z, scale: 3 * z**2 * scale),
    ):
        got, wanted = (exact_gradient(g, make, at).gradient for g in (f, like))
        for name in at:
            torch.testing.assert_close(got[name], wanted[name])
    assert not compare({"it": Pathwise()}, Knowing(), Normal, at, replicates=99).rows[0].biased


def test_what_partial_has_bound_stays_bound():
    """Ten is ten, and no longer the parameter of that name."""

    def f(z, loc, scale):
        return scale * (z - loc) ** 2

    at = {"loc": T(1.0), "scale": T(2.0)}
    truth = exact_gradient(functools.partial(f, scale=10.0), Normal, at)
    assert truth.value.item() == pytest.approx(40.0)
    assert truth.gradient["scale"].item() == pytest.approx(40.0)
    everything = functools.partial(lambda z, **p: f(z, **p), scale=10.0)
    assert exact_gradient(everything, Normal, at).gradient["scale"].item() == pytest.approx(40.0)
    first = functools.partial(lambda power, z, scale: scale * z**power, 2)
    assert exact_gradient(first, Normal, at).value.item() == pytest.approx(2 * (1 + 4))


def test_a_network_by_functional_call():
    net = nn.Linear(2, 1)
    parameters = dict(net.named_parameters())
    x = torch.tensor([[1.0, 2.0]])

    def make(**weights):
        return Normal(torch.func.functional_call(net, weights, x).squeeze(), 1.0)

    result = measure(Pathwise(), lambda z: z, make, parameters, replicates=3, per_replicate=True)
    torch.testing.assert_close(result.mean["weight"], x)
    assert result.variance["bias"].item() == 0
    assert all(p.grad is None for p in parameters.values())


def test_state_of_an_estimator_is_left_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.inner = nn.Dropout()
            self.seen = set()

        def forward(self, f, q, num_samples):
            self.calls += 1
            self.seen.add(self.training)
            return Pathwise()(f, q, num_samples)

    estimator = Counting()
    estimator.inner.eval()
    measure(estimator, square, Normal, NORMAL, replicates=5)
    assert estimator.calls == 0
    assert estimator.seen == {False}
    assert estimator.training and not estimator.inner.training


PHI = math.exp(-0.125) / math.sqrt(2 * math.pi)

# --- compare -------------------------------------------------------------------------------------


def smooth_step(z):
    return (torch.sign(z) + 1) / 2  # a graph, and a gradient of 0


def test_compare_finds_the_step_bias():
    """C6: pathwise 0 for 0.352, with the score function right beside it."""
    table = compare(
        {"pathwise": Pathwise(), "score": ScoreFunction()},
        smooth_step,
        lambda loc: Normal(loc, 1.0),
        {"loc": torch.tensor(0.5)},
        replicates=20_000,
    )
    pathwise, score = table.rows
    assert (pathwise.biased, score.biased) == (True, False)
    assert pathwise.bias == pytest.approx(-PHI, abs=1e-6)
    assert pathwise.variance_time is None
    assert pathwise.error_time == pytest.approx(PHI**2 * pathwise.seconds, rel=1e-4)
    assert score.error_time == score.variance_time == score.variance * score.seconds
    for shown in (str(table), repr(table), table._repr_html_()):
        assert "biased" in shown and "no bias seen" in shown and "20000 replicates" in shown
    figure = table.plot()
    assert "pathwise, biased" in figure.axes[0].get_legend_handles_labels()[1]
    assert (
        "<b>"
        not in compare({"<b>": Pathwise()}, square, Normal, NORMAL, replicates=9)._repr_html_()
    )


def test_the_picture_takes_time_or_evaluations_for_the_price():
    table = compare({"two": Pathwise()}, square, Normal, NORMAL, num_samples=2, replicates=50)
    for price, factor in (("time", table.rows[0].seconds), ("evaluations", 2)):
        (mark,) = (c[0] for c in table.plot(price).axes[0].containers)
        assert mark.get_xdata()[0] == pytest.approx(table.rows[0].variance * factor)
    with pytest.raises(ValueError, match="'time' or 'evaluations', got 'money'"):
        table.plot(price="money")


def test_compare_finds_the_silent_zero():
    def silent(f, q, num_samples):
        return f(torch.normal(q.loc, q.scale).unsqueeze(0)).mean(0)

    row = compare({"torch.normal": silent}, square, Normal, NORMAL, replicates=100).rows[0]
    assert row.biased and row.variance == 0 and row.bias == pytest.approx(-2.0)


@pytest.mark.parametrize("slope", [1e6 / 3, 0.5, -0.5, 1e-7])
@pytest.mark.parametrize(("added", "biased"), [(0.0, False), (3.5e-6, False), (9e-6, True)])
def test_compare_allows_for_rounding_and_for_no_more(slope, added, biased):
    """A variance of 0 leaves nothing else: ten roundings, of a truth and an estimate of `slope`
    and of `slope·z(z - 0.5)`, whose root mean square is 1.8 slopes, 4.5e-6 in all. An absolute
    floor, 1.2e-5 it was, would pass anything where `f` is small."""

    def nearly(f, q, num_samples):
        return Pathwise()(f, q, num_samples) + slope * added * q.loc

    at = {"loc": torch.tensor(0.5)}
    table = compare({"it": nearly}, lambda z: slope * z, lambda loc: Normal(loc, 1.0), at)
    assert table.rows[0].variance == 0
    assert table.rows[0].biased is biased


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_a_verdict_does_not_depend_on_the_unit_of_f(dtype, unit):
    def nothing(f, q, num_samples):
        return Enumeration()(f, q, num_samples) * 0

    table = compare(
        {"nothing": nothing, "sum": Enumeration()},
        lambda b: unit * (b - 0.45) ** 2,
        lambda logits: Bernoulli(logits=logits),
        {"logits": torch.tensor([-1.0, 0.3, 2.0], dtype=dtype)},
        replicates=9,
    )
    assert [row.biased for row in table.rows] == [True, False]
    assert [row.variance for row in table.rows] == [0, 0]


def test_rounding_of_an_f_that_is_large_where_its_gradient_is_small():
    """`f` near 1,000 in float32 is right to 3e-5, which its gradient of 0.1 then is too."""
    table = compare(
        {"sum": Enumeration(), "off": lambda f, q, n: Enumeration()(f, q, n) * 0.9},
        lambda b: 1000 + (b - 0.05) ** 2 / 3,
        lambda logits: Bernoulli(logits=logits),
        {"logits": torch.tensor(0.3)},
        replicates=9,
    )
    assert abs(table.rows[0].bias) > 1e-6
    assert [row.biased for row in table.rows] == [False, True]


def test_a_truth_for_what_has_no_density():
    class Sampler(Normal):
        def log_prob(self, value):
            raise NotImplementedError

    table = compare({"pathwise": Pathwise()}, square, Sampler, NORMAL, truth=exact_of_square())
    assert table.totals[0].biased is False


def exact_of_square():
    return {"loc": T(2.0), "scale": T(2.0)}


def test_compare_leaves_the_stream_of_random_numbers_to_the_estimators():
    """What decides on rounding draws its own."""
    first = []

    def watched(f, q, num_samples):
        first.append(torch.rand(()))
        return Pathwise()(f, q, num_samples)

    torch.manual_seed(3)
    compare({"it": watched}, square, Normal, NORMAL, replicates=9, truth=exact_of_square())
    torch.manual_seed(3)
    assert first[-1] == torch.rand(())


def test_compare_without_truth():
    make, at = (lambda rate: Poisson(rate)), {"rate": T(2.0)}
    table = compare({"score": ScoreFunction()}, square, make, at, replicates=100)
    assert table.truth is None and table.rows[0].biased is None and "unknown" in str(table)
    assert str(table).endswith(f" No bias: {table.note}") and table.note
    with pytest.raises(ValueError, match="nothing to plot"):
        table.plot()
    known = compare(
        {"score": ScoreFunction()}, square, make, at, replicates=5000, truth={"rate": T(5.0)}
    )
    assert known.rows[0].biased is False and "No bias:" not in str(known)
    wrong = compare(
        {"score": ScoreFunction()}, square, make, at, replicates=5000, truth={"rate": T(50.0)}
    )
    assert wrong.rows[0].biased is True


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"estimator": 3}, TypeError, "estimator must be callable, got int"),
        (
            {"estimator": lambda f, q, n: f(q.rsample((n,))).mean()},
            ValueError,
            r"batch_shape \(7,\)",
        ),
        ({"estimator": lambda f, q, n: 1.0}, ValueError, "got float"),
        (
            {"estimator": lambda f, q, n: f(q.sample((n,))).mean(0)},
            ValueError,
            "no path to parameter 'loc'",
        ),
        ({"f": 3}, TypeError, "f must be a function"),
        ({"f": lambda z: (z - z.mean()) ** 2}, ValueError, "f mixes replicates"),
        ({"make_distribution": lambda loc, scale: loc}, TypeError, "Distribution, got Tensor"),
        (
            {"make_distribution": lambda loc, scale: Normal(loc.sum(), 1.0)},
            ValueError,
            r"batch_shape \(7,\)",
        ),
        (
            {"make_distribution": lambda loc, scale: Normal(float(loc), 1.0)},
            ValueError,
            "index parameters from the right",
        ),
        (
            {"make_distribution": lambda loc, scale: Normal(loc, 1.0)},
            ValueError,
            "no path to parameter 'scale'",
        ),
        (
            {"f": lambda z: torch.where(z > 1e9, (z - 1e9).sqrt(), z * 0)},
            ValueError,
            "the gradient for 'loc' is NaN or infinite in .* of 10 replicates",
        ),
        (
            {"parameters": {"loc": torch.arange(7.0), "scale": torch.tensor(1.0)}},
            ValueError,
            "index parameters from the right",
        ),
        ({"parameters": {}}, TypeError, "dict of tensors"),
        ({"parameters": [1]}, TypeError, "dict of tensors"),
        (
            {"parameters": {"loc": 1.0, "scale": T(1.0)}},
            TypeError,
            "loc must be a tensor, got float",
        ),
        ({"parameters": {"loc": T(1.0).long(), "scale": T(1.0)}}, TypeError, "floating-point"),
        ({"parameters": {"loc": T(math.nan), "scale": T(1.0)}}, ValueError, "loc holds NaN"),
        ({"parameters": {"loc": T([]), "scale": T([])}}, ValueError, "loc is empty"),
        (
            {"parameters": {"loc": T(1.0), "scale": T(1.0).float()}},
            ValueError,
            "share dtype and device",
        ),
        (
            {"parameters": {"loc": T(1.0), "scale": T(1.0).to("meta")}},
            ValueError,
            "share dtype and device",
        ),
        ({"parameters": {"loc": T(1.0), "scale": T(-1.0)}}, ValueError, "scale"),
        ({"replicates": 1}, ValueError, "replicates must be at least 2, got 1"),
        ({"replicates": 10.0}, TypeError, "replicates must be an int"),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1"),
        (
            {"estimator": lambda f, q, n: Pathwise()(f, q, 1), "num_samples": 0},
            ValueError,
            "num_samples must be at least 1",
        ),
    ],
)
def test_bad_calls(change, error, says):
    arguments = {
        "estimator": Pathwise(),
        "f": square,
        "make_distribution": Normal,
        "parameters": NORMAL,
        "replicates": 10,
    } | change
    with pytest.raises(error, match=says):
        measure(**arguments)
    estimators = {"mine": arguments.pop("estimator")}
    with pytest.raises((TypeError, ValueError)):
        compare(estimators, **arguments)


def test_where_torch_compile_has_turned_the_checks_of_distributions_off(monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", False)
    with pytest.raises(ValueError, match="scale"):
        measure(Pathwise(), square, Normal, NORMAL | {"scale": T(-1.0)})
    with pytest.raises(ValueError, match="scale"):
        exact_gradient(square, Normal, NORMAL | {"scale": T(-1.0)})
    tiny = exact_gradient(square, Normal, {"loc": T(1e-8), "scale": T(1e-8)})
    assert tiny.gradient["scale"].item() == pytest.approx(2e-8)
    assert Distribution._validate_args is False  # left as it was


def test_bad_calls_of_compare():
    with pytest.raises(TypeError, match="dict by name, got list"):
        compare([Pathwise()], square, Normal, NORMAL)
    with pytest.raises(ValueError, match="truth must have the parameters"):
        compare({"a": Pathwise()}, square, Normal, NORMAL, truth={"loc": T(1.0)})
    with pytest.raises(ValueError, match=r"^mine: .*no path"):
        compare({"mine": lambda f, q, n: f(q.sample((n,))).mean(0)}, square, Normal, NORMAL)
    with pytest.raises(TypeError, match="names of estimators must be strings, got 1"):
        compare({1: Pathwise()}, square, Normal, NORMAL)


@pytest.mark.parametrize(
    ("truth", "error", "says"),
    [
        (exact_gradient(square, Normal, NORMAL), TypeError, r"as exact_gradient\(...\).gradient"),
        ({"loc": T(2.0), "scale": 2.0}, TypeError, r"truth\['scale'\] must be a tensor, got float"),
        ({"loc": T(2.0), "scale": T([2.0])}, ValueError, r"have the shape .* \[\], got \[1\]"),
        ({"loc": T(2.0), "scale": T(math.nan)}, ValueError, r"truth\['scale'\] holds NaN"),
    ],
)
def test_a_truth_that_does_not_fit(truth, error, says):
    with pytest.raises(error, match=says):
        compare({"pathwise": Pathwise()}, square, Normal, NORMAL, truth=truth)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_are_measured_where_they_are_switched_off(off):
    with off():
        parameters = {"loc": torch.tensor(1.0), "scale": torch.tensor(2.0)}
        table = compare({"pathwise": Pathwise()}, square, Normal, parameters, replicates=100)
        exact = exact_gradient(square, Normal, parameters)
        assert not torch.is_grad_enabled()
    assert exact.gradient["scale"].item() == pytest.approx(4.0)
    assert [row.biased for row in table.rows] == [False, False]


def test_replicates_without_a_gradient_are_counted_not_entries():
    def slopeless(z):
        return torch.where(z > -1e9, (z - z).sqrt(), z)  # a slope of 0 times infinity

    with pytest.raises(ValueError, match="in 10 of 10 replicates"):
        measure(
            Pathwise(),
            slopeless,
            Normal,
            {"loc": T([1.0, 2.0, 3.0]), "scale": T([1.0, 1.0, 1.0])},
            1,
            10,
        )


def test_an_estimator_may_have_a_closed_form():
    measured = measure(lambda f, q, n: q.mean**2 + q.variance, square, Normal, NORMAL)
    assert measured.evaluations == 0 and measured.variance["loc"] == 0
    assert measured.mean["scale"].item() == pytest.approx(2.0)


def test_constants_of_another_dtype_leave_the_bias_open():
    table = compare(
        {"pathwise": Pathwise()},
        lambda z: z.square().sum(-1),
        lambda mu: MultivariateNormal(mu, torch.eye(2)),
        {"mu": torch.zeros(2)},
    )
    assert table.truth is None and "float64 parameters" in table.note


def test_memory_does_not_grow_with_the_number_of_replicates(monkeypatch):
    """No chunk's samples outlive their chunk."""
    monkeypatch.setattr(module, "_CHUNK", 400)
    handed, alive = [], []

    def f(z):
        handed.append(weakref.ref(z))
        alive.append(sum(sample() is not None for sample in handed))
        return z.square()

    measure(Pathwise(), f, Normal, NORMAL, replicates=4_000)
    assert len(alive) > 20
    assert alive[-2] <= alive[9], "samples of earlier chunks are still held"


# --- table, picture, progress --------------------------------------------------------------------


def many(count):
    return {f"p{i}": T(0.1 * i) for i in range(count)}


def together(**p):
    return Independent(Normal(torch.stack(list(p.values()), -1), 1.0), 1)


def compare_on_squares(estimators, count, replicates, off=0.0):
    """The mean of the sum of squares, for so many parameters; the truth of p0 is told wrong."""
    parameters = many(count)
    return compare(
        estimators,
        lambda z: z.square().sum(-1),
        together,
        parameters,
        replicates=replicates,
        truth={n: 2 * value - (off if n == "p0" else 0) for n, value in parameters.items()},
    )


@pytest.mark.parametrize(("count", "rows"), [(4, 8), (5, 2)])
def test_more_than_four_parameters_share_a_row(count, rows):
    table = compare_on_squares({"a": Pathwise(), "b": ScoreFunction()}, count, 2000)
    assert len(str(table).splitlines()) == rows + 2
    assert table._repr_html_().count("<tr>") == rows + 1
    assert len(table.rows) == 2 * count and len(table.totals) == 2
    for k, total in enumerate(table.totals):
        parts = table.rows[k * count : (k + 1) * count]
        assert total.parameter == f"{count} entries"
        assert total.variance == pytest.approx(sum(row.variance for row in parts))
        assert total.bias in [row.bias for row in parts] and total.biased is False
        worst = max(abs(row.bias) / row.bias_error for row in parts)
        assert abs(total.bias) / total.bias_error == pytest.approx(worst)
        errors = [row.variance_error**2 for row in parts]
        assert total.variance_error == pytest.approx(math.sqrt(sum(errors)))
    assert ("Bias is that of the entry with most of it" in str(table)) is (count == 5)
    figure = table.plot()
    assert len(figure.axes) == (4 if count == 4 else 1)
    wrong = compare_on_squares({"a": Pathwise()}, count, 2000, off=1.0).totals[0]
    assert wrong.biased is True and wrong.bias == pytest.approx(1.0, abs=0.3)
    assert wrong.squared_bias == pytest.approx(wrong.bias**2, rel=0.05)


def test_the_limit_grows_with_the_entries():
    """As rarely wrong for ten thousand entries as for one: 5.73e-7, two-sided."""
    assert module._deviations(1, 10**9) == pytest.approx(5.0)
    for entries in (1, 100, 10_000):
        for replicates in (2, 10, 1000):
            limit = module._deviations(entries, replicates)
            rare = 2 * stats.t.sf(limit, replicates - 1)
            assert rare * entries == pytest.approx(math.erfc(5 / math.sqrt(2)), rel=1e-6)


def biased_by(shift):
    return lambda f, q, n: Pathwise()(f, q, n) + shift * (q.loc - q.loc.detach())


def test_a_picture_of_thirteen_estimators():
    estimators = {f"off by {shift}": biased_by(shift) for shift in (0.5, 3.0, 40.0)}
    estimators |= {f"right {k}": Pathwise() for k in range(10)}
    table = compare(
        estimators, square, lambda loc: Normal(loc, 1.0), {"loc": T(1.0)}, replicates=2000
    )
    figure = table.plot()
    (panel,) = figure.axes
    assert panel.get_legend() is None and len(figure.legends[0].get_texts()) == 13
    drawn = [container[0] for container in panel.containers]
    looks = [(line.get_marker(), line.get_color()) for line in drawn]
    assert len(set(looks)) == 13
    hollow = [line.get_markerfacecolor() == "white" for line in drawn]
    assert hollow == [True] * 3 + [False] * 10
    assert [c.get_label() for c in panel.containers][:2] == [
        "off by 0.5, biased",
        "off by 3.0, biased",
    ]
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "symlog")
    assert panel.get_ylabel() == "bias, ± 2 s.e. (band: linear)"
    for line, row in zip(drawn, table.rows, strict=True):
        assert line.get_xdata()[0] == pytest.approx(row.variance_time or row.variance * row.seconds)
        assert line.get_ydata()[0] == row.bias
        low, high = panel.get_xlim()
        assert low < line.get_xdata()[0] < high
    for container, row in zip(panel.containers, table.rows, strict=True):
        ((_, low), (_, high)) = container[2][0].get_segments()[0]
        assert low == pytest.approx(row.bias - 2 * row.bias_error)
        assert high == pytest.approx(row.bias + 2 * row.bias_error)
    for end in map(math.log10, panel.get_xlim()):
        assert end == pytest.approx(round(end)), "a power of ten, so that it has a label"
    assert figure.legends[0]._ncols == 3
    assert tuple(figure.get_size_inches()) == pytest.approx((7.0, 3.2 + 0.25 * 5))
    right = max(abs(row.bias) + 2 * row.bias_error for row in table.rows[3:])
    (band,) = panel.patches
    ends = panel.transData.inverted().transform(band.get_window_extent())[:, 1]
    assert list(ends) == pytest.approx([-right, right])
    close = compare(
        {"a": Pathwise(), "b": biased_by(0.5)},
        square,
        lambda loc: Normal(loc, 1.0),
        {"loc": T(1.0)},
        replicates=2000,
    )
    wrong = compare(
        {"off": biased_by(40.0)}, square, lambda loc: Normal(loc, 1.0), {"loc": T(1.0)}, 1, 2000
    )
    for table in (close, wrong):
        (panel,) = table.plot().axes
        assert panel.get_yscale() == "linear" and not panel.patches
        assert [0, 0] in [list(line.get_ydata()) for line in panel.lines], "no line at no bias"
        parts = [(t.tick1line, t.label1) for t in panel.xaxis.get_minor_ticks()]
        assert parts and not any(p.get_visible() for pair in parts for p in pair), "beside labels"
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (4, (2, 2))])
def test_a_panel_for_each_parameter(count, shape):
    """Two side by side, under their names, and none that is empty."""
    table = compare_on_squares({"a": Pathwise(), "b": ScoreFunction()}, count, 50)
    figure = table.plot()
    grid = figure.axes[0].get_subplotspec().get_gridspec()
    assert (grid.nrows, grid.ncols) == shape
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == [f"gradient with respect to {name}" for name in many(count)]
    assert tuple(figure.get_size_inches()) == pytest.approx((7.0, 3.2 * shape[0] + 0.25))
    matplotlib.pyplot.close("all")


def test_an_estimator_without_variance_stands_a_decade_to_the_left():
    table = compare(
        {"sum": Enumeration(), "score": ScoreFunction()},
        lambda b: b / 2,
        Bernoulli,
        {"probs": T(0.5)},
        replicates=50,
    )
    none, some = table.rows
    assert none.variance == 0 < some.variance < 1
    drawn = [container[0] for container in table.plot("evaluations").axes[0].containers]
    assert drawn[1].get_xdata()[0] == pytest.approx(some.variance * some.evaluations)
    assert drawn[0].get_xdata()[0] == pytest.approx(some.variance * some.evaluations / 10)
    matplotlib.pyplot.close("all")


def test_no_marker_stands_at_the_edge():
    """The axis ends at powers of ten, and goes on to the next where one is close."""
    table = compare({"it": Pathwise()}, square, Normal, NORMAL, replicates=9)
    for variance, low, high in ((9.0, 1, 100), (2.0, 1, 10), (1.1, 0.1, 10)):
        rows = [replace(table.rows[0], variance=variance)]
        (panel,) = replace(table, rows=rows).plot("evaluations").axes
        assert panel.get_xlim() == pytest.approx((low, high))
    matplotlib.pyplot.close("all")


def test_the_squared_bias_is_that_of_the_entries_that_have_one():
    """Less the variance of each mean, and never below nothing."""

    def estimator(f, distribution, num_samples):
        shift = torch.tensor([0.5, 0.0, 0.0], dtype=F64)
        off = shift * (distribution.loc - distribution.loc.detach())
        return Pathwise()(f, distribution, num_samples) + off

    def make(loc):
        return Normal(loc, torch.tensor([0.1, 0.1, 5.0], dtype=F64))

    at, truth = {"loc": T([1.0, 1.0, 1.0])}, T([2.0, 2.0, 2.0])
    torch.manual_seed(0)
    row = compare({"it": estimator}, square, make, at, replicates=100).rows[0]
    torch.manual_seed(0)
    measured = measure(estimator, square, make, at, replicates=100)
    off = (measured.mean["loc"] - truth).square()
    excess = off - measured.standard_error["loc"].square()
    assert (excess < 0).any() and row.biased
    assert row.squared_bias == pytest.approx(excess.clamp(min=0).sum().item(), rel=1e-6)
    # The entry that is shown is the one whose bias is certain, not the one that varies most.
    assert row.bias == pytest.approx((measured.mean["loc"] - truth)[0].item(), abs=1e-6)
    assert row.bias_error == pytest.approx(measured.standard_error["loc"][0].item())


def test_what_decides_on_rounding_does_not_depend_on_the_seed():
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(module._sizes(square, Normal, NORMAL, False))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (61.0, "61 s"),
        (1.0, "1 s"),
        (0.25, "250 ms"),
        (1e-3, "1 ms"),
        (2e-5, "20 µs"),
        (1e-6, "1 µs"),
        (3e-8, "30 ns"),
        (0.0, "0 ns"),
    ],
)
def test_times_in_the_table(seconds, shown):
    assert module._time(seconds) == shown


def test_a_thousand_replicates_unless_told_otherwise():
    results = [
        measure(Pathwise(), square, Normal, NORMAL),
        compare({"a": Pathwise()}, square, Normal, NORMAL),
    ]
    assert [result.replicates for result in results] == [1000, 1000]


def test_results_stay_as_they_are():
    table = compare({"a": Pathwise()}, square, Normal, NORMAL, replicates=9)
    exact = exact_gradient(square, Normal, NORMAL)
    for result, field in (
        (measure(Pathwise(), square, Normal, NORMAL, replicates=9), "mean"),
        (exact, "value"),
        (table, "note"),
        (table.rows[0], "bias"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(result, field, None)


def test_a_picture_of_estimators_without_variance():
    exact = compare({"sum": Enumeration()}, square, Bernoulli, {"probs": T(0.3)}, replicates=9)
    assert exact.totals[0].variance == 0
    (line,) = [c[0] for c in exact.plot().axes[0].containers]
    assert line.get_xdata()[0] > 0
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("disabled", ["", "1"])
def test_progress(monkeypatch, disabled):
    """One step for each replicate; silent under TQDM_DISABLE, in a notebook too."""
    bars = []

    class Bar(module.tqdm):
        def __init__(self, *args, **options):
            bars.append((self, options))
            super().__init__(*args, **options)
            self.steps, self.names = 0, []

        def set_description(self, name, refresh):
            self.names.append(name)

        def update(self, n=1):
            self.steps += n

    monkeypatch.setattr(module, "tqdm", Bar)
    monkeypatch.setattr(module, "_CHUNK", 64)
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    compare({"a": Pathwise(), "b": ScoreFunction()}, square, Normal, NORMAL, replicates=100)
    ((bar, options),) = bars
    assert bar.steps == options["total"] == 200 and bar.names == ["a", "b"]
    assert options["delay"] == 1 and options["disable"] is bool(disabled)
    assert options["leave"] is False


def test_a_baseline_inside_an_estimator_is_left_as_it_was():
    average = MovingAverage()
    average.update(torch.tensor(3.0))
    before = {name: value.clone() for name, value in average.state_dict().items()}
    learned = Learned(nn.Linear(1, 1, dtype=F64))
    inputs = torch.ones(7, 1, dtype=F64)
    for estimator in (ScoreFunction(average), ScoreFunction(learned.at(inputs[0]))):
        result = measure(estimator, square, Normal, NORMAL, replicates=50, per_replicate=True)
        again = measure(estimator, square, Normal, NORMAL, replicates=50, per_replicate=True)
        assert result.variance["loc"] > 0 and again.replicates == 50
    for name, value in average.state_dict().items():
        assert torch.equal(value, before[name])
    assert average.training and learned.training and learned.network.weight.grad is None


@dataclass
class Holder:
    inside: object


@pytest.mark.parametrize("wrap", ["a module", "a module's list", "a dataclass", "a circle"])
def test_state_is_found_however_deep_it_is(wrap):
    """A module that holds a dataclass that holds a module, and so on."""
    average = MovingAverage()
    average.update(torch.tensor(3.0))
    before = {name: value.clone() for name, value in average.state_dict().items()}

    class Wrapped(nn.Module):
        def __init__(self, held):
            super().__init__()
            self.held = held

        def forward(self, f, q, num_samples):
            assert not average.training
            return ScoreFunction(average)(f, q, num_samples)

    inner = ScoreFunction(average)
    if wrap == "a circle":
        inner = Holder(inner)
        estimator = Wrapped([inner])
        inner.inside = (estimator, inner.inside)
    else:
        held = {"a module": inner, "a module's list": [{"it": inner}], "a dataclass": Holder(inner)}
        estimator = Wrapped(held[wrap])
    measure(estimator, square, Normal, NORMAL, replicates=50)
    for name, value in average.state_dict().items():
        assert torch.equal(value, before[name])
    assert average.training and estimator.training


# --- verdicts on what is rare, large or small ---------------------------------------------------


def twice(f, distribution, num_samples):
    return 2 * Pathwise()(f, distribution, num_samples)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1e20, torch.float32),  # squares of these slopes are infinite in float32, or 0
        (1e-23, torch.float32),
        (1e-26, torch.float32),
        (1e80, F64),  # and their fourth powers in float64
        (1e-90, F64),
    ],
    ids=str,
)
def test_a_verdict_does_not_depend_on_the_size_of_f(size, dtype):
    table = compare(
        {"once": Pathwise(), "twice": twice},
        lambda z: size * z**2,
        lambda loc: Normal(loc, 1.0),
        {"loc": torch.tensor(1.0, dtype=dtype)},
        replicates=2000,
        truth={"loc": torch.tensor(2 * size, dtype=dtype)},
    )
    assert [row.biased for row in table.rows] == [False, True]
    once, other = (row.variance / size**2 for row in table.rows)
    assert once == pytest.approx(4, rel=0.2) and other == pytest.approx(16, rel=0.2)
    assert table.plot()


@pytest.mark.parametrize("replicates", [2, 3, 10])
def test_few_replicates_are_no_reason_to_call_an_estimator_biased(replicates):
    """With a normal quantile one in eight of the pairs would be."""
    called = 0
    for seed in range(100):
        torch.manual_seed(seed)
        row = compare(
            {"pathwise": Pathwise()},
            torch.square,
            lambda loc: Normal(loc, 1.0),
            {"loc": torch.tensor(1.0)},
            replicates=replicates,
            truth={"loc": torch.tensor(2.0)},
        ).rows[0]
        called += row.biased
    assert called == 0


def test_a_verdict_in_sixteen_bits():
    table = compare(
        {"once": Pathwise(), "twice": twice},
        lambda z: 200 * z**2,
        lambda loc: Normal(loc, 1.0),
        {"loc": torch.tensor(1.0, dtype=torch.float16)},
        replicates=2000,
    )
    assert [row.biased for row in table.rows] == [False, True]
    assert table.rows[0].variance == pytest.approx(4 * 200**2, rel=0.2)


def test_a_handful_of_rare_estimates_is_no_bias():
    """One in a hundred replicates sees the event. Each binomial count here is as it may come.

    The verdict of a count depends on it alone; so all counts are gone through, and weighted by how
    often they come. Where none comes nothing has a spread, as the docstring says.
    """
    replicates, probability = 1000, 0.01
    called = 0.0
    for count in range(1, 60):
        events = torch.zeros(replicates, dtype=F64)
        events[:count] = 1 / probability

        def estimator(f, distribution, num_samples, events=events):
            return distribution.probs * events[: len(distribution.probs)]

        row = compare(
            {"rare": estimator},
            lambda b: b,
            lambda probs: Bernoulli(probs),
            {"probs": torch.tensor(probability, dtype=F64)},
            replicates=replicates,
        ).rows[0]
        called += row.biased * stats.binom.pmf(count, replicates, probability)
    assert called < 1e-5  # within five plain standard errors of each count it would be 0.01


class Stateful(nn.Module):
    """Changes all that a module can hold, at each call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(()))
        self.register_buffer("beside", torch.zeros(()), persistent=False)
        self.register_buffer("later", None)
        self.register_buffer("growing", torch.zeros(1))
        self.register_buffer("spread", torch.ones(1).expand(3), persistent=False)
        with torch.inference_mode():
            self.register_buffer("unwritten", torch.ones(2), persistent=False)
        self.register_buffer("sparse", torch.ones(2).to_sparse())
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = torch.zeros(())

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]

    def forward(self, f, distribution, num_samples):
        self.kept += 1
        self.beside = self.beside + 1
        self.later = torch.ones(2)
        self.register_buffer("new", torch.ones(2))
        self.growing.resize_(3).fill_(1.0)
        self.calls += 1
        with torch.no_grad():
            self.weight.add_(1)
        return Pathwise()(f, distribution, num_samples)


def test_an_estimator_is_put_back_whole():
    stateful = Stateful()
    before = dict(stateful.named_buffers())
    graph = 2 * stateful.weight
    measure(stateful, torch.square, lambda loc: Normal(loc, 1.0), {"loc": torch.tensor(1.0)})
    after = dict(stateful.named_buffers())
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in after)
    assert stateful.kept == 0 and stateful.beside == 0 and stateful.weight == 1
    assert stateful.later is None and stateful.growing.tolist() == [0.0] and stateful.calls == 0
    graph.backward()
    assert stateful.weight.grad == 2


def test_a_graph_of_the_estimators_weights_outlives_a_measurement():
    """What was not changed is not written to, which autograd would notice."""

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, f, distribution, num_samples):
            return Pathwise()(f, distribution, num_samples)

    weighted = Weighted()
    graph = weighted.weight.square()
    measure(weighted, torch.square, lambda loc: Normal(loc, 1.0), {"loc": torch.tensor(1.0)})
    graph.backward()
    assert weighted.weight.grad == 2


def test_what_is_no_function_is_named():
    parameters = {"loc": torch.tensor(1.0), "scale": torch.tensor(1.0)}
    with pytest.raises(TypeError, match=r"got the class Pathwise: use Pathwise\(\)"):
        measure(Pathwise, torch.square, Normal, parameters)
    for call in (
        lambda: measure(Pathwise(), torch.square, Normal(0.0, 1.0), parameters),
        lambda: exact_gradient(torch.square, Normal(0.0, 1.0), parameters),
    ):
        with pytest.raises(TypeError, match=r"make_distribution must be a function .* got Normal"):
            call()
