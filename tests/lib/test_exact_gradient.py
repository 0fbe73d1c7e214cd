"""`exact_gradient` against closed forms, what it refuses, and the weights of a network."""

import math

import pytest
import scipy.stats
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    Dirichlet,
    Exponential,
    Gamma,
    Gumbel,
    Independent,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Pareto,
    Poisson,
    StudentT,
    Uniform,
    VonMises,
    constraints,
)

from reparam import measure as module
from reparam.distributions import TruncatedNormal
from reparam.estimators import Enumeration, LeaveOneOut, ScoreFunction
from reparam.measure import compare, exact_gradient

F64 = torch.float64


def T(x):
    return torch.tensor(x, dtype=F64)


NORMAL = {"loc": T(1.0), "scale": T(1.0)}


def square(z):
    return z**2


def step(z):
    return (z > 0).double()


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
    (
        "exponentials",
        lambda z: z**3,
        Exponential,
        {"rate": [0.7, 1.4]},
        {"rate": [-18 / 0.7**4, -18 / 1.4**4]},
        [6 / 0.343, 6 / 2.744],
    ),
    (
        "betas",
        lambda z: z,
        Beta,
        {"concentration1": [2.0, 3.0], "concentration0": [3.0, 1.0]},
        {"concentration1": [3 / 25, 1 / 16], "concentration0": [-2 / 25, -3 / 16]},
        [2 / 5, 3 / 4],
    ),
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
def test_closed_forms_lie_within_the_claimed_error(f, make, at, truth, value, device):
    result = exact_gradient(f, make, {k: T(v).to(device) for k, v in at.items()})
    for name, gradient in truth.items():
        gradient = T(gradient).to(device)
        off = (result.gradient[name] - gradient).abs()
        assert (off <= result.error[name] + 1e-14).all(), (name, off, result.error[name])
        assert (result.error[name] <= 4e-8 * gradient.abs().clamp(min=1)).all()
    assert (result.value_error >= 0).all()
    assert (result.value_error <= 4e-8 * result.value.abs().clamp(min=1)).all()
    if value is not None:
        off = (result.value - T(value).to(device)).abs()
        assert (off <= result.value_error + 1e-15).all()


LEAKS = {
    "to the left": lambda b: b * nn.functional.pad(b[..., 1:], (0, 1)),
    "to the right": lambda b: b * nn.functional.pad(b[..., :-1], (1, 0)),
    "from the last to the second": lambda b: b + (torch.arange(b.shape[-1]) == 1) * b[..., -1:],
    "from the second to the last": lambda b: b + b[..., 1:2] * (torch.arange(b.shape[-1]) == 4),
    "little": lambda b: 1 + 1e-3 * nn.functional.pad(b[..., 1:], (0, 1)),
    "sum so far": lambda b: b.cumsum(-1),
    "softmax": lambda b: b.softmax(-1),
    "where all are one": lambda b: b * b.prod(-1, keepdim=True),
}


@pytest.mark.parametrize("make", [lambda p: Bernoulli(logits=p), lambda p: Normal(p, 1.0)])
@pytest.mark.parametrize("leak", LEAKS)
def test_entries_that_f_mixes(leak, make):
    """Whatever entry of the batch leaks into whatever other one."""
    f = LEAKS[leak]
    with pytest.raises(ValueError, match="f mixes entries of the batch"):
        exact_gradient(f, make, {"p": torch.zeros(5)})


def test_entries_that_f_mixes_in_every_pair_of_a_batch():
    """Of two dimensions, seven entries: each into each other one, and none into itself."""
    for i in range(6):
        for j in range(6):

            def leaky(b, i=i, j=j):
                flat = b.flatten(-2)
                leak = flat[..., j : j + 1] * (torch.arange(6) == i)
                return (flat + leak).unflatten(-1, (2, 3))

            def refused(f):
                try:
                    exact_gradient(f, lambda p: Bernoulli(logits=p), {"p": torch.zeros(2, 3)})
                except ValueError as reason:
                    return "f mixes entries" in str(reason)
                return False

            assert refused(leaky) is (i != j)


def test_entries_that_f_mixes_where_ones_are_rare():
    """One in a million, which no sample has."""
    with pytest.raises(ValueError, match="f mixes entries of the batch"):
        exact_gradient(LEAKS["to the left"], Bernoulli, {"probs": torch.full((3,), 1e-6)})


def test_where_f_is_looked_at_does_not_depend_on_the_seed():
    distribution = Bernoulli(torch.full((3,), 0.5))
    pilot = distribution.sample((512,))
    found = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        found.append(torch.stack(module._pairs(distribution, pilot)))
        assert torch.initial_seed() == seed
        after = torch.rand(())
        torch.manual_seed(seed)
        assert after == torch.rand(()), "it draws from the stream of the caller"
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_support_of_a_million_points_and_no_more():
    """Two to the twenty are summed; REFUSED has one coin more."""
    coins = Independent(Bernoulli(torch.full((20,), 0.5)), 1)
    values, variables = module._finite_support(coins)
    assert values.tolist() == [0, 1] and variables == 20
    ten = list(module._points(Independent(Bernoulli(torch.full((3, 10), 0.5)), 1)))
    assert torch.equal(torch.cat(ten)[:, 1], torch.cartesian_prod(*[values] * 10))


@pytest.mark.parametrize(("room", "length"), [(1, 1), (16 * 10 * 25, 25)])
def test_points_come_in_pieces_of_bounded_memory(monkeypatch, room, length):
    monkeypatch.setattr(module, "_CHUNK", room)
    pieces = list(module._points(Independent(Bernoulli(torch.full((10,), 0.5)), 1)))
    assert sum(map(len, pieces)) == 1024 and max(map(len, pieces)) == length


@pytest.mark.parametrize("boxes", [0, 1, 4])
def test_a_quadrature_looks_at_few_points_at_a_time(monkeypatch, boxes):
    """At those of so many boxes as memory allows, each with 21 and 10, and of one at least."""
    monkeypatch.setattr(module, "_CHUNK", 32 * 31 * boxes + 1)
    seen = set()

    def f(z):
        if len(z) == 1:  # the samples that f is tried on are more
            seen.add(z.shape[1])
        return z**2

    truth = exact_gradient(f, lambda loc: Normal(loc, 1.0), {"loc": T(1.0)})
    assert max(seen) == 31 * max(boxes, 1) and truth.gradient["loc"].item() == pytest.approx(2.0)


def test_samples_that_f_mixes():
    """`z - z.mean()` is 0 at one point alone."""
    with pytest.raises(ValueError, match="f mixes samples"):
        exact_gradient(lambda z: (z - z.mean()) ** 2, Normal, NORMAL)
    with pytest.raises(ValueError, match="f mixes samples"):
        exact_gradient(lambda z: 1 + 0.1 * (z - z.mean()) ** 2, Normal, NORMAL)


def test_parameters_that_change_nothing():
    truth = exact_gradient(
        square, lambda loc: Normal(torch.zeros_like(loc), 1.0), {"loc": T([1.0, 2.0])}
    )
    assert truth.gradient["loc"].tolist() == [0, 0] and truth.error["loc"].tolist() == [0, 0]
    assert truth.value.tolist() == pytest.approx([1, 1])


def test_a_cholesky_factor_as_the_parameter():
    """What stands above its diagonal cannot be moved: the direction keeps zeros."""
    truth = exact_gradient(
        lambda z: z[..., 0] * z[..., 1],
        lambda L: MultivariateNormal(torch.zeros_like(L[..., 0]), scale_tril=L.tril()),
        {"L": T([[1.0, 0.0], [0.5, 2.0]])},
    )
    wanted = T([[0.5, 0.0], [1.0, 0.0]])
    assert (truth.gradient["L"] - wanted).abs().max() < 1e-9
    plain = exact_gradient(
        lambda z: z[..., 0] * z[..., 1],
        lambda L: MultivariateNormal(torch.zeros_like(L[..., 0]), scale_tril=L),
        {"L": T([[1.0, 0.0], [0.5, 2.0]])},
    )
    assert (plain.gradient["L"].tril() - wanted).abs().max() < 1e-9


@pytest.mark.parametrize("by", [-0.01, 0.01])
def test_a_density_that_does_not_integrate_to_one(by):
    class Shifted:
        def log_prob(self, value):
            return super().log_prob(value) + by

    class ShiftedNormal(Shifted, Normal):
        pass

    class ShiftedBernoulli(Shifted, Bernoulli):
        pass

    says = f"the density sums to {math.exp(by):.3f}"
    with pytest.raises(ValueError, match=says):
        exact_gradient(square, ShiftedNormal, NORMAL)
    with pytest.raises(ValueError, match=says):
        exact_gradient(square, ShiftedBernoulli, {"probs": T(0.3)})
    net = nn.Linear(1, 1, dtype=F64)

    def coin(**weights):
        return ShiftedBernoulli(logits=torch.func.functional_call(net, weights, (T([1.0]),)))

    with pytest.raises(ValueError, match=says):
        exact_gradient(square, coin, dict(net.named_parameters()), per_replicate=True)


def test_the_error_is_that_of_two_quadratures():
    """Ten times what the one says of itself and what the other differs by."""

    def answer(slope, value):
        parts = T([slope, -slope]), T([value])
        return module.ExactGradient({"w": parts[0]}, {"w": T([1e-10, 2e-10])}, parts[1], T([3e-10]))

    for other in (2.0 + 4e-10, 2.0 - 4e-10):
        found = module._with_error(answer(2.0, 2.0), answer(other, other), 1e-8)
        assert found.gradient["w"].tolist() == [2.0, -2.0] and found.value.tolist() == [2.0]
        assert found.error["w"].tolist() == pytest.approx([5e-9, 6e-9], rel=1e-5)
        assert found.value_error.tolist() == pytest.approx([7e-9], rel=1e-5)
    for size, refused in ((1.0, 1.2e-8), (0.1, 1.2e-8), (-3.0, 4e-8)):
        with pytest.raises(ValueError, match="two quadratures of the slope in w differ"):
            module._with_error(answer(size, 0.0), answer(size + refused, 0.0), 1e-8)
        module._with_error(answer(size, 0.0), answer(size + refused / 1.5, 0.0), 1e-8)


def test_two_variables_with_a_corner():
    result = exact_gradient(
        lambda z: (z > 0).all(-1).double(),
        lambda loc: MultivariateNormal(loc, torch.eye(2, dtype=loc.dtype)),
        {"loc": T([0.0, 0.0])},
        break_points=[0.0],
        tolerance=1e-6,  # finer takes seconds
    )
    off = (result.gradient["loc"] - 0.5 / math.sqrt(math.tau)).abs()
    assert (off <= result.error["loc"]).all() and (off < 1e-7).all()
    assert (result.error["loc"] < 1e-6).all()


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
    "poisson": (square, Poisson, {"rate": 2.0}, "Poisson has no list of its values"),
    "dirichlet": (
        lambda z: z[..., 0],
        Dirichlet,
        {"concentration": [1.0, 2.0]},
        "no quadrature for a support",
    ),
    "moving jump beside what does not jump": (
        lambda z, loc: z + 0.2 * (z > loc).double(),
        lambda loc: Normal(loc, 1.0),
        {"loc": 0.5},
        "Does the support, or a jump of f, move",
    ),
    "no mean": (lambda z: z, Cauchy, {"loc": 0.5, "scale": 1.0}, "not exist"),
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
    "and downwards": (
        lambda z: -(z**2 / 2).exp(),
        Normal,
        {"loc": 0.0, "scale": 1.0},
        "density underflows",
    ),
    "a single NaN that no sample meets": (
        lambda b: torch.where(b == 1, math.nan, b),
        lambda logits: Bernoulli(logits=logits),
        {"logits": -20.0},
        "f is NaN at z = 1",
    ),
    "exponentially": (lambda z: z.exp(), Exponential, {"rate": 1.0}, "density underflows"),
    "pole": (lambda z: 1 / (z - 0.3).abs(), Normal, {"loc": 0.0, "scale": 1.0}, "not converge"),
    "jumps overlooked": (
        lambda z: (4 * z).floor(),
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


@pytest.mark.filterwarnings("error::RuntimeWarning")  # the error says it all
@pytest.mark.parametrize(("f", "make", "at", "says"), REFUSED.values(), ids=REFUSED)
def test_no_answer_rather_than_a_wrong_one(f, make, at, says):
    with pytest.raises(ValueError, match=says):
        exact_gradient(f, make, {k: T(v) for k, v in at.items()})


def test_a_jump_without_a_break_point_is_found_or_refused():
    """Wherever it is: most are found; beside an edge of the subdivisions two quadratures differ."""
    refused = 0
    parameters = {"loc": T(0.5), "scale": T(1.0)}
    for place in torch.linspace(-2.5, 3.0, 41, dtype=torch.float64) + 0.0123:
        try:
            result = exact_gradient(lambda z, at=place: (z > at).double(), Normal, parameters)
        except ValueError as reason:
            assert "two quadratures" in str(reason)
            refused += 1
            continue
        truth = Normal(0.5, 1.0).log_prob(place).exp()
        assert (result.gradient["loc"] - truth).abs() <= result.error["loc"], place
    assert refused <= 6


@pytest.mark.parametrize(
    ("law", "parameters", "known"),
    [
        (Gamma, {"concentration": T(100.0), "rate": T(1.0)}, scipy.stats.gamma(100)),
        (
            Beta,
            {"concentration1": T(400.0), "concentration0": T(300.0)},
            scipy.stats.beta(400, 300),
        ),
        (Exponential, {"rate": T(2.0)}, scipy.stats.expon(scale=0.5)),
        (Normal, {"loc": T(3.0), "scale": T(0.5)}, scipy.stats.norm(3, 0.5)),
        (lambda loc: StudentT(3.0, loc, 2.0), {"loc": T(1.0)}, scipy.stats.t(3, 1, 2)),
        (
            lambda alpha: Pareto(T(50.0), alpha),
            {"alpha": T(99.0)},
            scipy.stats.pareto(99, scale=50),
        ),
    ],
)
def test_a_narrow_window_is_found_or_refused(law, parameters, known):
    """A twentieth of a standard deviation wide, anywhere; its exact mean is a difference of CDFs.

    `f` is a window times `w`, whose slope is that mean; where it is overlooked, the slope is 0.
    """
    fixed = law(**parameters)
    spread = fixed.stddev.item()
    refused = 0
    for _ in range(30):
        z, width = fixed.sample().item(), 0.05 * spread
        if abs(z - fixed.mean.item()) > 6 * spread:
            continue
        edges = T([z - width / 2, z + width / 2])
        try:
            truth = exact_gradient(
                lambda z, w, at=edges: w * ((z > at[0]) & (z < at[1])).double(),
                lambda w: law(**{name: p + 0 * w for name, p in parameters.items()}),
                {"w": T(1.0)},
            )
        except ValueError:
            refused += 1
            continue
        low, high = known.cdf(edges)
        exact = high - low
        assert abs(truth.gradient["w"].item() - exact) <= truth.error["w"].item() + 1e-13
    assert refused < 10


def test_a_sum_over_more_than_a_thousand_values():
    """Ten bits, of whose number the mean and its slopes are known."""
    logits = torch.linspace(-2, 1, 10, dtype=F64)
    truth = exact_gradient(
        lambda b: b.sum(-1).square(), lambda s: Independent(Bernoulli(logits=s), 1), {"s": logits}
    )
    p = logits.sigmoid()
    slopes = (1 + 2 * (p.sum() - p)) * p * (1 - p)
    torch.testing.assert_close(truth.gradient["s"], slopes)


def test_a_law_that_is_random_is_refused():
    """No step is short enough for it; what is said is the slope of a step of the usual length."""
    with pytest.raises(ValueError, match=r"gives a slope of -?0\.\d+, the integral itself"):
        exact_gradient(
            torch.square,
            lambda logits: Bernoulli(logits=logits + torch.randn((), dtype=F64)),
            {"logits": T(0.3)},
        )


@pytest.mark.parametrize(
    ("loc", "scale"), [(-3.0, 1e-6), (0.0, 1e-6), (1e6, 1.0), (1e3, 1e6), (1e-9, 1e-9)]
)
def test_a_law_that_is_narrow_for_its_place(loc, scale):
    """The step of the difference check goes by the law and not by the size of the parameters."""
    density = 1 / (scale * math.sqrt(2 * math.pi))
    truth = exact_gradient(
        lambda z: (z > loc).double(),
        Normal,
        {"loc": T(loc), "scale": T(scale)},
        break_points=[loc],
        tolerance=1e-8 * max(1.0, density),  # of slopes that are so large
    )
    for name, slope in {"loc": density, "scale": 0.0}.items():
        assert abs(truth.gradient[name].item() - slope) <= truth.error[name].item()
        assert truth.error[name].item() <= 1e-6 * max(1.0, density)


def test_a_covariance_matrix_as_the_parameter():
    loc, covariance = T([0.0, 1.0]), T([[1.0, 0.3], [0.3, 2.0]])
    truth = exact_gradient(
        lambda z: z[..., 0] * z[..., 1],
        MultivariateNormal,
        {"loc": loc, "covariance_matrix": covariance},
    )
    assert truth.gradient["loc"].tolist() == pytest.approx([1.0, 0.0], abs=1e-9)
    halves = torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=F64)
    assert (truth.gradient["covariance_matrix"] - halves).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"tolerance": math.nan}, ValueError, "tolerance must be positive and finite, got nan"),
        ({"tolerance": 0}, ValueError, "tolerance must be positive"),
        ({"tolerance": "a"}, TypeError, "tolerance must be a number, got str"),
        ({"break_points": 0.0}, TypeError, "break_points must be numbers in a list, got 0.0"),
        ({"break_points": [None]}, TypeError, "break_points must be numbers in a list"),
    ],
)
def test_options_that_are_wrong(wrong, error, says):
    with pytest.raises(error, match=says):
        exact_gradient(torch.square, Normal, {"loc": T(0.0), "scale": T(1.0)}, **wrong)


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


def constant(outputs):
    """A network that puts out these numbers, whatever it is given."""
    net = nn.Linear(1, len(outputs), dtype=F64)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.copy_(T(outputs))
    return net


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
    assert truth.value.shape == (5,) and not truth.value.requires_grad
    theta = encoder(x).sigmoid().unsqueeze(1)
    mass = (theta * COINS + (1 - theta) * (1 - COINS)).prod(-1)  # [5, 4]
    summed = (mass * rough(COINS)).sum(1).detach()
    torch.testing.assert_close(truth.value, summed)
    # What rounding may cost: a hundred units in the last place of each sum's terms.
    below = exact_gradient(lambda z: -rough(z), coins_of(encoder, x), weights, per_replicate=True)
    unit, relative = 100 * torch.finfo(F64).eps, {"rtol": 1e-6, "atol": 0}
    most = max(slope.abs().max() for slope in hand)
    for result in (truth, below):
        torch.testing.assert_close(result.value_error, unit * summed, **relative)
        for name, wanted in zip(weights, hand, strict=True):
            torch.testing.assert_close(result.error[name], unit * (wanted.abs() + most), **relative)
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


def test_a_rare_nan_in_a_sum_over_weights():
    """One outcome in a hundred million, which no pilot sample meets and the sum does."""
    net = constant([-9.0, -9.0]).float()

    def f(z):
        return torch.where(z.sum(-1) == 2, math.nan, z[..., 0])

    with pytest.raises(ValueError, match="f is NaN at z = 1"):
        exact_gradient(
            f, coins_of(net, torch.ones(4, 1)), dict(net.named_parameters()), per_replicate=True
        )


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


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_what_fails_without_a_reason_of_ours(dtype):
    def broken(**weights):
        raise RuntimeError("out of order")

    weights = dict(nn.Linear(1, 1, dtype=dtype).named_parameters())
    says = r"^no exact gradient: make_distribution or f fails \(out of order\)$"
    with pytest.raises(ValueError, match=says):
        exact_gradient(square, broken, weights, per_replicate=True)
    with pytest.raises(RuntimeError, match=r"^out of order$"):
        exact_gradient(square, broken, weights)


@pytest.mark.parametrize(
    ("probs", "f"),
    [([0.0], lambda b: b[..., 0] ** 2), ([0.5, 0.0], lambda b: 3 * b[..., 0] + b[..., 1])],
    ids=["alone", "beside one whose slope is right"],
)
def test_a_probability_of_zero_from_a_network(probs, f):
    """Torch clamps it, and its slope is 0 where that of the sum is not."""
    net = constant(probs)

    def coins(**weights):
        return Independent(Bernoulli(torch.func.functional_call(net, weights, (T([1.0]),))), 1)

    with pytest.raises(ValueError, match=r"^no exact gradient: .* that torch clamps it"):
        exact_gradient(f, coins, dict(net.named_parameters()), per_replicate=True)


def test_what_is_infinite_where_the_density_is_zero():
    net = constant([-800.0])
    truth = exact_gradient(
        lambda b: torch.where(b[..., 0] == 1, math.inf, b[..., 0]),
        coins_of(net, T([1.0])),
        dict(net.named_parameters()),
        per_replicate=True,
    )
    assert truth.value == 0 and truth.gradient["bias"] == 0


@pytest.mark.parametrize("law", ["coins", "normal"])
def test_weights_that_are_not_used(law):
    """Their slope is 0, and certain."""
    net = nn.Linear(3, 1, dtype=F64)
    weights = dict(net.named_parameters()) | {"idle": T([1.0, 2.0])}
    x = torch.ones(2, 3, dtype=F64)

    def make(idle, **used):
        output = torch.func.functional_call(net, used, (x,)).squeeze(-1)
        return Bernoulli(logits=output) if law == "coins" else Normal(output, 1.0)

    truth = exact_gradient(square, make, weights, per_replicate=True)
    assert truth.gradient["idle"].tolist() == [0, 0]
    if law == "normal":
        assert truth.error["idle"].tolist() == [0, 0]
    assert (truth.gradient["bias"] != 0).all()


def test_an_integrand_of_the_only_weights():
    x = torch.ones(2, 3, dtype=F64)
    with pytest.raises(ValueError, match="f depends on the weights itself"):
        exact_gradient(
            lambda z, w: z * w.sum(),
            lambda w: Normal(x @ w, 1.0),
            {"w": T([0.1, 0.2, 0.3])},
            per_replicate=True,
        )


@pytest.mark.parametrize("parameters", [{}, [1], {"loc": T(0.0).long(), "scale": T(1.0).long()}])
def test_parameters_that_are_none(parameters):
    with pytest.raises(TypeError, match=r"dict of tensors|floating-point"):
        exact_gradient(square, Normal, parameters)


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
        coins_of(encoder, x),
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


# --- bounds that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds",
    [{}, {"low": 0.2}, {"low": -3.0}, {"high": 0.2}, {"low": -0.5, "high": 2.0}],
    ids=str,
)
def test_a_truncated_normal_with_and_without_bounds(bounds):
    """Against the library's moments, which come from another quadrature."""

    def make(loc, scale):
        return TruncatedNormal(loc, scale, **bounds)

    parameters = {name: torch.tensor(0.7, dtype=F64) for name in ("loc", "scale")}
    got = exact_gradient(torch.square, make, parameters)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    q = make(**leaves)
    moment = q.variance + q.mean.square()
    slopes = torch.autograd.grad(moment, tuple(leaves.values()))
    assert got.value.item() == pytest.approx(moment.item(), abs=1e-8)
    torch.testing.assert_close(tuple(got.gradient.values()), slopes, rtol=1e-6, atol=1e-7)


def test_bounds_that_quadrature_cannot_take():
    def some(loc):
        return TruncatedNormal(loc, 1.0, low=torch.tensor([0.0, -math.inf], dtype=F64))

    with pytest.raises(ValueError, match="some entries of the batch have a bound, others none"):
        exact_gradient(torch.square, some, {"loc": torch.tensor([0.3, 0.3], dtype=F64)})

    def parts(loc):
        ends = loc.unsqueeze(-1) + torch.tensor([0.0, 2.0], dtype=F64)
        weights = torch.ones_like(ends)
        return MixtureSameFamily(Categorical(weights), Uniform(ends, ends + 1))

    with pytest.raises(ValueError, match="have bounds of their own, where the density may jump"):
        exact_gradient(torch.square, parts, {"loc": torch.tensor(0.3, dtype=F64)})


@pytest.mark.parametrize("bounds", [{}, {"low": -0.5}, {"low": -0.5, "high": 2.0}], ids=str)
def test_a_mixture_whose_components_share_their_bounds(bounds):
    def make(loc):
        ends = loc.unsqueeze(-1) + torch.tensor([0.0, 1.0], dtype=F64)
        parts = TruncatedNormal(ends, 1.0, **bounds)
        # torch 2.6 would hold samples of the mixture against the bounds of each component.
        validate = None if hasattr(constraints, "MixtureSameFamilyConstraint") else False
        return MixtureSameFamily(Categorical(torch.ones_like(ends)), parts, validate_args=validate)

    loc = torch.tensor(0.3, dtype=F64, requires_grad=True)
    got = exact_gradient(torch.square, make, {"loc": loc.detach()})
    parts = make(loc).component_distribution
    moment = (parts.variance + parts.mean.square()).mean(-1)
    assert got.value.item() == pytest.approx(moment.item(), abs=1e-7)
    (slope,) = torch.autograd.grad(moment, loc)
    torch.testing.assert_close(got.gradient["loc"], slope, rtol=1e-6, atol=1e-7)
