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
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    StudentT,
    Uniform,
    VonMises,
)

from reparam import measure as module
from reparam.estimators import (
    Enumeration,
    Learned,
    LeaveOneOut,
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


# --- weights of an encoder -----------------------------------------------------------------------


def encoder_for(outputs, dtype=F64, activation=nn.Tanh):
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Linear(3, 4, dtype=dtype), activation(), nn.Linear(4, outputs, dtype=dtype)
    )


def coins_of(encoder, x):
    return lambda **w: Independent(
        Bernoulli(logits=torch.func.functional_call(encoder, w, (x,))), 1
    )


COINS = torch.tensor([[a, b] for a in (0, 1) for b in (0, 1)], dtype=F64)


def summed_by_hand(encoder, x, value):
    """`∇ Σ_z q(z) f(z)`, the four points of two coins written out."""
    theta = encoder(x).sigmoid()
    total = 0.0
    for z in COINS.to(x):
        mass = (theta * z + (1 - theta) * (1 - z)).prod(-1)
        total = total + (mass * value(z, theta)).sum()
    return torch.autograd.grad(total, list(encoder.parameters()))


def rough(z, theta=None):
    return (z[..., 0] - 0.3 * z[..., 1] - 0.2) ** 2 + 3.0 * (z.sum(-1) > 1)


def test_the_truth_for_the_weights_of_an_encoder():
    encoder, x = encoder_for(2), torch.randn(5, 3, dtype=F64)
    weights = dict(encoder.named_parameters())
    assert "0.weight" in weights
    truth = exact_gradient(rough, coins_of(encoder, x), weights, per_replicate=True)
    hand = summed_by_hand(encoder, x, rough)
    for (name, got), wanted in zip(truth.gradient.items(), hand, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-13)
        assert (truth.error[name] >= (got - wanted).abs()).all()
        assert (truth.error[name] < 1e-10).all()
    assert truth.value.shape == (5,)
    with pytest.raises(ValueError, match="pass per_replicate=True"):
        exact_gradient(rough, coins_of(encoder, x), weights)


def test_the_truth_where_f_depends_on_the_weights():
    """`f(z, **weights)`, as an ELBO is: its own slope at fixed z is part of the truth."""
    encoder, x = encoder_for(2), torch.randn(5, 3, dtype=F64)
    make = coins_of(encoder, x)

    def elbo(z, **weights):
        return rough(z) - make(**weights).log_prob(z)

    truth = exact_gradient(elbo, make, dict(encoder.named_parameters()), per_replicate=True)

    def by_hand(z, theta):
        return rough(z) - (theta.log() * z + (1 - theta).log() * (1 - z)).sum(-1)

    for got, wanted in zip(
        truth.gradient.values(), summed_by_hand(encoder, x, by_hand), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_the_truth_in_the_dtype_of_the_network(monkeypatch):
    """A float32 network over float32 data, read as it is; also in chunks of a single point."""
    monkeypatch.setattr(module, "_CHUNK", 1)
    encoder, decoder = encoder_for(2, torch.float32, nn.ReLU), nn.Linear(2, 1)
    x = torch.randn(5, 3)

    def f(z, theta=None):
        return decoder(z).squeeze(-1).square()

    truth = exact_gradient(
        f, coins_of(encoder, x), dict(encoder.named_parameters()), per_replicate=True
    )
    encoder, decoder, x = encoder.double(), decoder.double(), x.double()
    for (name, got), wanted in zip(
        truth.gradient.items(), summed_by_hand(encoder, x, f), strict=True
    ):
        assert ((got - wanted).abs() <= truth.error[name]).all()
        assert (truth.error[name] < 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_truth_by_quadrature_and_the_chain_rule(dtype):
    """`E z²` = μ² + σ² and `E 1[z > 0]` = Φ(μ/σ), differentiated by the weights."""
    encoder, x = encoder_for(2, dtype), torch.randn(4, 3, dtype=dtype)
    weights = dict(encoder.named_parameters())

    def make(**w):
        loc, raw = torch.func.functional_call(encoder, w, (x,)).unbind(-1)
        return Normal(loc, raw.exp())

    q = make(**weights)
    for f, value, breaks in (
        (square, q.loc**2 + q.scale**2, []),
        (step, torch.special.ndtr(q.loc / q.scale), [0.0]),
    ):
        truth = exact_gradient(f, make, weights, breaks, per_replicate=True)
        hand = torch.autograd.grad(value.sum(), list(weights.values()), retain_graph=True)
        torch.testing.assert_close(truth.value, value.double(), rtol=1e-6, atol=1e-6)
        for (name, got), wanted in zip(truth.gradient.items(), hand, strict=True):
            off = (got - wanted.double()).abs()
            assert (off <= truth.error[name] + 1e-14).all(), (name, off, truth.error[name])
            assert (truth.error[name] < (1e-6 if dtype == F64 else 1e-3)).all()


def lopsided(encoder, x):
    """A mixture, which cannot be taken apart."""
    return lambda **w: MixtureSameFamily(
        Categorical(logits=torch.func.functional_call(encoder, w, (x,))),
        Normal(T([[-1.0, 1.0]] * 5), 1.0),
    )


def noisy(encoder, x):
    return lambda **w: Bernoulli(
        logits=nn.functional.dropout(torch.func.functional_call(encoder, w, (x,)), 0.5)
    )


def flat(encoder, x):
    return lambda **w: Normal(torch.func.functional_call(encoder, w, (x,)), 1.0)


@pytest.mark.parametrize(
    ("make", "f", "says"),
    [
        (noisy, square, "put the network in eval mode"),
        (lopsided, square, "no exact gradient: .*MixtureSameFamily"),
        (flat, lambda z, **w: z * w["0.bias"].sum(), "f depends on the weights itself"),
        (flat, lambda z: z.sum(), "one value for each sample"),
        (lambda e, x: lambda **w: 3, square, "must return a torch.distributions.Distribution"),
        (coins_of, lambda z: z.sum(-1) * math.nan, "f returned NaN"),
        (coins_of, lambda z: torch.randn(len(z), 5).to(z), "two values at the same z"),
        (
            coins_of,
            lambda z: z.float() @ torch.ones(2, dtype=F64),
            "no exact gradient: f fails on float64 samples",
        ),
    ],
)
def test_no_truth_for_weights_rather_than_a_wrong_one(make, f, says):
    encoder, x = encoder_for(2), torch.randn(5, 3, dtype=F64)
    with pytest.raises((TypeError, ValueError), match=says):
        exact_gradient(f, make(encoder, x), dict(encoder.named_parameters()), per_replicate=True)


def test_compare_on_the_weights_of_an_encoder():
    """As in the docstring; a straight-through estimate is found out."""
    encoder, x = encoder_for(2, torch.float32, nn.ReLU), torch.randn(5, 3)

    def straight_through(f, q, num_samples):
        theta = q.base_dist.probs
        z = q.sample((num_samples,))
        return f(z + theta - theta.detach()).mean(0)

    def f(z):
        return (z.sum(-1) - 0.45) ** 2

    weights = dict(encoder.named_parameters())
    estimators = {"straight-through": straight_through, "score": ScoreFunction(LeaveOneOut())}
    table = compare(
        estimators,
        f,
        lambda **w: Independent(Bernoulli(logits=torch.func.functional_call(encoder, w, (x,))), 1),
        weights,
        num_samples=2,
        replicates=400,
        per_replicate=True,
    )
    biased, right = table.totals
    assert biased.biased is True and right.biased is False
    assert [row.parameter for row in table.rows] == list(weights) * 2
    hand = summed_by_hand(encoder, x, lambda z, theta: f(z))
    for got, wanted in zip(table.truth.values(), hand, strict=True):
        torch.testing.assert_close(got, wanted.double(), rtol=0, atol=1e-5)
    enumerated = compare({"sum": Enumeration()}, f, coins_of(encoder, x), weights, 1, 2, True)
    assert enumerated.totals[0].biased is False and enumerated.totals[0].variance < 1e-10
    assert all(p.grad is None for p in encoder.parameters())


# --- table, picture, progress --------------------------------------------------------------------


def many(count):
    return {f"p{i}": T(0.1 * i) for i in range(count)}


def together(**p):
    return Independent(Normal(torch.stack(list(p.values()), -1), 1.0), 1)


@pytest.mark.parametrize(("count", "rows"), [(4, 8), (5, 2)])
def test_more_than_four_parameters_share_a_row(count, rows):
    parameters = many(count)
    table = compare(
        {"a": Pathwise(), "b": ScoreFunction()},
        lambda z: z.square().sum(-1),
        together,
        parameters,
        replicates=2000,
        truth={name: 2 * value for name, value in parameters.items()},
    )
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
    figure = table.plot()
    assert len(figure.axes) == (4 if count == 4 else 1)
    wrong = compare(
        {"a": Pathwise()},
        lambda z: z.square().sum(-1),
        together,
        parameters,
        replicates=2000,
        truth={name: 2 * value - (1 if name == "p0" else 0) for name, value in parameters.items()},
    ).totals[0]
    assert wrong.biased is True and wrong.bias == pytest.approx(1.0, abs=0.3)
    assert wrong.squared_bias == pytest.approx(wrong.bias**2, rel=0.05)


def test_the_limit_grows_with_the_entries():
    """As rarely wrong for ten thousand entries as for one: 5.73e-7, two-sided."""
    assert module._deviations(1) == pytest.approx(5.0)
    for entries in (1, 100, 10_000):
        rare = math.erfc(module._deviations(entries) / math.sqrt(2))
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
    for line, row in zip(drawn, table.rows, strict=True):
        assert line.get_xdata()[0] == pytest.approx(row.variance_time or row.variance * row.seconds)
        assert line.get_ydata()[0] == row.bias
        low, high = panel.get_xlim()
        assert low < line.get_xdata()[0] < high
    close = compare(
        {"a": Pathwise(), "b": biased_by(0.5)},
        square,
        lambda loc: Normal(loc, 1.0),
        {"loc": T(1.0)},
        replicates=2000,
    )
    assert close.plot().axes[0].get_yscale() == "linear"
    matplotlib.pyplot.close("all")


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
            self.steps = 0

        def update(self, n=1):
            self.steps += n

    monkeypatch.setattr(module, "tqdm", Bar)
    monkeypatch.setattr(module, "_CHUNK", 64)
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    compare({"a": Pathwise(), "b": ScoreFunction()}, square, Normal, NORMAL, replicates=100)
    ((bar, options),) = bars
    assert bar.steps == options["total"] == 200
    assert options["delay"] == 1 and options["disable"] is bool(disabled)


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
