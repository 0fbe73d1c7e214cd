"""`measure`, `exact_gradient` and `compare` against closed forms, and traps for each."""

import gc
import math

import matplotlib
import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    Gumbel,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    StudentT,
    Uniform,
    VonMises,
)

from reparam import measure as module
from reparam.estimators import Enumeration, Pathwise, ScoreFunction
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


@pytest.mark.parametrize("per_replicate", [False, True])
def test_moments_against_closed_forms(per_replicate):
    """`z²` at N(1, 1): pathwise `2z` and `2zε`, with variances 4 and 12."""
    n = 2000 if per_replicate else 200_000
    result = measure(Pathwise(), square, Normal, NORMAL, replicates=n, per_replicate=per_replicate)
    check_mean(result.mean["loc"], 2.0, 4.0, n, catches=0.6)
    check_mean(result.mean["scale"], 2.0, 12.0, n, catches=1.0)
    # the variance of a sample variance of normal numbers is 2 variance² / n
    check_mean(result.variance["loc"], 4.0, 32.0, n, catches=1.3)
    assert result.standard_error["loc"].item() == pytest.approx(math.sqrt(4 / n), rel=0.2)
    assert result.variance_standard_error["loc"].item() == pytest.approx(math.sqrt(32 / n), rel=0.3)
    assert (result.replicates, result.evaluations) == (n, 1)
    assert result.seconds > 0


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
        assert all(v.dtype == torch.float32 for v in moments.values())
    check_mean(result.mean["w"], 3.0, 6.0, 4000, catches=0.4)


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


# --- exact_gradient ------------------------------------------------------------------------------

PHI = math.exp(-0.125) / math.sqrt(2 * math.pi)
CLOSED = [
    ("normal", square, Normal, {"loc": 0.5, "scale": 2.0}, {"loc": 1.0, "scale": 4.0}, 4.25),
    ("step", step, Normal, {"loc": 0.5, "scale": 1.0}, {"loc": PHI, "scale": -PHI / 2}, None),
    ("tiny", square, Normal, {"loc": 1e-8, "scale": 1e-8}, {"loc": 2e-8, "scale": 2e-8}, 2e-16),
    (
        "offset",
        lambda z: z + 1e6,
        Normal,
        {"loc": 0.5, "scale": 2.0},
        {"loc": 1.0, "scale": 0.0},
        None,
    ),
    ("exponential", lambda z: z**3, Exponential, {"rate": 0.7}, {"rate": -18 / 0.7**4}, 6 / 0.343),
    ("slow", lambda z: (0.9 * z).exp(), Exponential, {"rate": 1.0}, {"rate": -90.0}, 10.0),
    (
        "gamma",
        lambda z: z,
        lambda a, b: Gamma(a, b),
        {"a": 3.0, "b": 2.0},
        {"a": 0.5, "b": -0.75},
        1.5,
    ),
    (
        "beta",
        lambda z: z,
        lambda a, b: Beta(a, b),
        {"a": 2.0, "b": 3.0},
        {"a": 0.12, "b": -0.08},
        0.4,
    ),
    (
        "lognormal",
        lambda z: z,
        LogNormal,
        {"loc": 0.0, "scale": 1.0},
        {"loc": math.exp(0.5), "scale": math.exp(0.5)},
        None,
    ),
    (
        "gumbel",
        lambda z: z,
        Gumbel,
        {"loc": 1.0, "scale": 2.0},
        {"loc": 1.0, "scale": 0.5772156649015329},
        None,
    ),
    (
        "cauchy",
        torch.atan,
        Cauchy,
        {"loc": 0.5, "scale": 1.0},
        {"loc": 8 / 17, "scale": -2 / 17},
        None,
    ),
    ("student", square, lambda df: StudentT(df), {"df": 3.0}, {"df": -2.0}, 3.0),
    ("student 2.2", square, lambda df: StudentT(df), {"df": 2.2}, {"df": -50.0}, 11.0),
    (
        "uniform",
        lambda z, t: t * z**2,
        lambda t: Uniform(torch.full_like(t, -1.0), 3.0),
        {"t": 2.0},
        {"t": 7 / 3},
        14 / 3,
    ),
    (
        "both",
        lambda z, loc: (z - loc) ** 2,
        Normal,
        {"loc": 0.3, "scale": 1.0},
        {"loc": 0.0, "scale": 2.0},
        1.0,
    ),
    (
        "batch",
        square,
        Normal,
        {"loc": [0.0, 3.0], "scale": [1.0, 2.0]},
        {"loc": [0.0, 6.0], "scale": [2.0, 4.0]},
        [1.0, 13.0],
    ),
    ("bernoulli", lambda b: (b - 0.45) ** 2, Bernoulli, {"probs": 0.3}, {"probs": 0.1}, None),
    (
        "categorical",
        lambda k: k.double() ** 2,
        lambda p: Categorical(p),
        {"p": [0.2, 0.3, 0.5]},
        {"p": [-2.3, -1.3, 1.7]},
        2.3,
    ),
    (
        "one hot",
        lambda h: h[..., 1] + 4 * h[..., 2],
        lambda p: OneHotCategorical(p),
        {"p": [0.2, 0.3, 0.5]},
        {"p": [-2.3, -1.3, 1.7]},
        2.3,
    ),
    (
        "coins",
        lambda b: b.prod(-1),
        lambda p: Independent(Bernoulli(p), 1),
        {"p": [0.2, 0.3, 0.5]},
        {"p": [0.15, 0.1, 0.06]},
        0.03,
    ),
    ("binomial", square, lambda p: Binomial(5, p), {"p": 0.3}, {"p": 17.0}, 3.3),
]


@pytest.mark.parametrize(
    ("f", "make", "at", "truth", "value"), [c[1:] for c in CLOSED], ids=[c[0] for c in CLOSED]
)
def test_closed_forms_lie_within_the_claimed_error(f, make, at, truth, value):
    result = exact_gradient(f, make, {k: T(v) for k, v in at.items()})
    for name, gradient in truth.items():
        off = (result.gradient[name] - T(gradient)).abs()
        assert (off <= result.error[name] + 1e-14).all(), (name, off, result.error[name])
        assert (result.error[name] <= 4e-8 * T(gradient).abs().clamp(min=1)).all()
    if value is not None:
        assert ((result.value - T(value)).abs() <= result.value_error + 1e-15).all()


def test_two_variables_with_a_corner():
    result = exact_gradient(
        lambda z: (z > 0).all(-1).double(),
        lambda loc: MultivariateNormal(loc, torch.eye(2, dtype=loc.dtype)),
        {"loc": T([0.0, 0.0])},
        break_points=[0.0],
    )
    torch.testing.assert_close(
        result.gradient["loc"], torch.full((2,), 0.5 / math.sqrt(math.tau), dtype=F64)
    )


REFUSED = {
    "moving support": (
        lambda z: z,
        lambda t: Uniform(torch.zeros_like(t), t),
        {"t": 2.0},
        "support",
    ),
    "moving jump": (
        lambda z, loc: (z > loc).double(),
        lambda loc: Normal(loc, 1.0),
        {"loc": 0.5},
        "jump",
    ),
    "poisson": (square, Poisson, {"rate": 2.0}, "Poisson is not finite"),
    "dirichlet": (
        lambda z: z[..., 0],
        Dirichlet,
        {"concentration": [1.0, 2.0]},
        "no quadrature for a support",
    ),
    "no mean": (lambda z: z, Cauchy, {"loc": 0.5, "scale": 1.0}, "not converge"),
    "no variance": (square, Cauchy, {"loc": 0.0, "scale": 1.0}, "no exact gradient"),
    "grows as fast as the density falls": (
        lambda z: (z**2 / 2).exp(),
        Normal,
        {"loc": 0.0, "scale": 1.0},
        "density underflows",
    ),
    "and faster": (
        lambda z: (0.5001 * z**2).exp(),
        Normal,
        {"loc": 0.0, "scale": 1.0},
        "density underflows",
    ),
    "exponentially": (lambda z: z.exp(), Exponential, {"rate": 1.0}, "density underflows"),
    "pole": (lambda z: 1 / (z - 0.3).abs(), Normal, {"loc": 0.0, "scale": 1.0}, "not converge"),
    "jumps overlooked": (
        lambda z: (3 * z).floor(),
        Normal,
        {"loc": 0.5, "scale": 1.0},
        "two quadratures of the slope in loc differ",
    ),
    "clamped at 0": (square, Bernoulli, {"probs": 0.0}, "clamps"),
    "clamped at 1": (square, Bernoulli, {"probs": 1.0}, "clamps"),
    "clamped near 0": (square, Bernoulli, {"probs": 1e-20}, "clamps"),
    "NaN seen": (lambda z: z.log(), Normal, {"loc": 0.0, "scale": 1.0}, "f returned NaN"),
    "NaN far out": (
        lambda z: torch.where(z > 5, torch.nan, z),
        Normal,
        {"loc": 0.0, "scale": 1.0},
        "f is NaN at z",
    ),
    "noise in f": (
        lambda z: z + torch.randn_like(z),
        Normal,
        {"loc": 0.0, "scale": 1.0},
        "two values at the same z",
    ),
    "mixed": (
        lambda z: z - z.mean(-1, keepdim=True),
        Normal,
        {"loc": [0.0, 1.0], "scale": [1.0, 1.0]},
        "mixes entries",
    ),
    "shape": (lambda z: z.sum(), Normal, {"loc": 0.0, "scale": 1.0}, "one value for each sample"),
    "type": (lambda z: 1.0, Normal, {"loc": 0.0, "scale": 1.0}, "got float"),
    "float32 inside": (
        lambda z: z.unsqueeze(-1) @ torch.ones(1),
        Normal,
        {"loc": 0.0, "scale": 1.0},
        "float64 samples",
    ),
    "three variables": (
        lambda z: z.sum(-1),
        lambda loc: Independent(Normal(loc, 1.0), 1),
        {"loc": [0.0] * 3},
        "up to 2 continuous variables an event, got 3",
    ),
    "too many points": (
        lambda z: z.sum(-1),
        lambda p: Independent(Bernoulli(p), 1),
        {"p": [0.5] * 21},
        r"2\*\*21 points",
    ),
    "a circle": (torch.cos, VonMises, {"loc": 0.3, "concentration": 2.0}, "no exact gradient"),
}


@pytest.mark.parametrize(("f", "make", "at", "says"), REFUSED.values(), ids=REFUSED)
def test_no_answer_rather_than_a_wrong_one(f, make, at, says):
    with pytest.raises(ValueError, match=says):
        exact_gradient(f, make, {k: T(v) for k, v in at.items()})


@pytest.mark.parametrize("width", [0.1, 0.01, 0.003])
def test_spikes_down_to_the_stated_width(width):
    scale = 1 + width**2
    value = math.exp(-0.02 / scale) / math.sqrt(scale)
    result = exact_gradient(
        lambda z: (-((z - 0.3) ** 2) / (2 * width**2)).exp() / width,
        lambda loc: Normal(loc, 1.0),
        {"loc": T(0.5)},
    )
    assert result.gradient["loc"].item() == pytest.approx(-0.2 / scale * value, abs=1e-8)


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


def test_compare_finds_the_silent_zero():
    def silent(f, q, num_samples):
        return f(torch.normal(q.loc, q.scale).unsqueeze(0)).mean(0)

    row = compare({"torch.normal": silent}, square, Normal, NORMAL, replicates=100).rows[0]
    assert row.biased and row.variance == 0 and row.bias == pytest.approx(-2.0)


@pytest.mark.parametrize(
    ("slope", "added", "biased"), [(1e6 / 3, 0.0, False), (0.5, 9e-6, False), (0.5, 1.8e-5, True)]
)
def test_compare_allows_for_rounding_and_for_no_more(slope, added, biased):
    """A variance of 0 leaves nothing else: a hundred roundings, of the truth or of 1."""

    def nearly(f, q, num_samples):
        return Pathwise()(f, q, num_samples) + added * q.loc

    at = {"loc": torch.tensor(0.5)}
    table = compare({"it": nearly}, lambda z: slope * z, lambda loc: Normal(loc, 1.0), at)
    assert table.rows[0].variance == pytest.approx(0, abs=1e-12)
    assert table.rows[0].biased is biased


def test_compare_without_truth():
    make, at = (lambda rate: Poisson(rate)), {"rate": T(2.0)}
    table = compare({"score": ScoreFunction()}, square, make, at, replicates=100)
    assert table.truth is None and table.rows[0].biased is None and "unknown" in str(table)
    with pytest.raises(ValueError, match="nothing to plot"):
        table.plot()
    known = compare(
        {"score": ScoreFunction()}, square, make, at, replicates=5000, truth={"rate": T(5.0)}
    )
    assert known.rows[0].biased is False
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


def test_memory_does_not_grow_with_the_number_of_replicates(monkeypatch):
    """No chunk's samples outlive their chunk."""
    monkeypatch.setattr(module, "_CHUNK", 400)
    alive = []

    def f(z):
        alive.append(sum(type(o) is torch.Tensor and o.ndim == 2 for o in gc.get_objects()))
        return z.square()

    measure(Pathwise(), f, Normal, NORMAL, replicates=4_000)
    assert len(alive) > 20
    assert alive[-2] <= alive[5], "samples of earlier chunks are still held"
