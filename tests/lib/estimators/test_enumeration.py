"""Enumeration of all variables, and Rao-Blackwellization over some: exactly, and on bad input."""

import itertools
import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
)

from reparam.estimators import (
    ARM,
    Constant,
    DisARM,
    Enumeration,
    Learned,
    LeaveOneOut,
    MovingAverage,
    RaoBlackwell,
    ScoreFunction,
)
from reparam.estimators.enumeration import _woven, support_points
from reparam.measure import measure

F64 = torch.float64


def T(values):
    return torch.tensor(values, dtype=F64, requires_grad=True)


# --- Enumeration ---------------------------------------------------------------------------------


def test_enumeration_of_every_kind():
    p = T([0.2, 0.3, 0.5])
    c = torch.tensor([0.0, 1.0, 4.0], dtype=F64)
    exact = (c - (c * p.detach()).sum()).tolist()
    for f, q in [
        (lambda k: c[k], Categorical(p)),
        (lambda h: (h * c).sum(-1), OneHotCategorical(p)),
    ]:
        estimate = Enumeration()(f, q)
        assert estimate.item() == pytest.approx(2.3)
        assert torch.autograd.grad(estimate, p)[0].tolist() == pytest.approx(exact)
    theta = T([[0.2, 0.3, 0.5], [0.9, 0.1, 0.4]])
    estimate = Enumeration()(lambda b: b.prod(-1), Independent(Bernoulli(theta), 1))
    torch.testing.assert_close(estimate, theta.prod(-1))
    nested = Independent(Independent(Bernoulli(theta), 1), 1)
    torch.testing.assert_close(Enumeration()(lambda b: b.sum((-1, -2)), nested), theta.sum())
    one_hots = Independent(OneHotCategorical(T([[0.2, 0.8], [0.5, 0.5]])), 1)
    torch.testing.assert_close(
        Enumeration()(lambda h: h[..., 0].prod(-1), one_hots), torch.tensor(0.1, dtype=F64)
    )


def test_enumeration_second_derivative_and_limit():
    theta = T([0.2, 0.3])
    q = Independent(Bernoulli(theta), 1)
    (g,) = torch.autograd.grad(Enumeration()(lambda b: b.prod(-1), q), theta, create_graph=True)
    (h,) = torch.autograd.grad(g[0], theta)
    torch.testing.assert_close(h, torch.tensor([0.0, 1.0], dtype=F64))
    three = Independent(Bernoulli(T([0.2, 0.3, 0.4])), 1)
    assert Enumeration(max_points=8)(lambda b: b.sum(-1), three).item() == pytest.approx(0.9)
    with pytest.raises(ValueError, match=r"visit 2\*\*3 points, more than max_points=7"):
        Enumeration(max_points=7)(lambda b: b.sum(-1), three)
    most = 2**20  # the default
    mean = Enumeration()(lambda b: b, Binomial(most - 1, T(0.3)))
    assert mean.item() == pytest.approx(0.3 * (most - 1))
    with pytest.raises(ValueError, match=f"max_points={most}"):
        Enumeration()(lambda b: b, Binomial(most, T(0.3)))


def test_enumeration_refuses_what_is_not_finite():
    for q in (Normal(0.0, 1.0), Poisson(2.0)):
        with pytest.raises(ValueError, match=f"finite support, and that of {type(q).__name__}"):
            Enumeration()(torch.square, q)


def test_an_infinite_value_has_a_mean_and_no_gradient():
    f = lambda b: -b.log()  # noqa: E731
    assert Enumeration()(f, Bernoulli(torch.tensor(0.3))).item() == math.inf
    with pytest.raises(ValueError, match="Enumeration has no finite gradient: f is infinite"):
        Enumeration()(f, Bernoulli(T(0.3)))


# --- RaoBlackwell --------------------------------------------------------------------------------

KINDS = {
    "bits": (Bernoulli, (3,)),
    "classes": (Categorical, (3, 3)),
    "one-hot": (OneHotCategorical, (3, 3)),
}


def variables(kind):
    """Three variables of a kind, and a function that treats each of them differently."""
    family, shape = KINDS[kind]
    logits = torch.randn(shape, dtype=F64).requires_grad_()
    values = torch.randn(3, 3, 3, dtype=F64)

    def f(z):
        z = z.argmax(-1) if kind == "one-hot" else z
        return values[tuple(z.long().unbind(-1))]

    return lambda x: Independent(family(logits=x), 1), logits, f


def over_samples(monkeypatch, estimator, f, make, logits, kept, num_samples=1):
    """Mean and variance of the gradient over every tuple of samples of the `kept` variables."""
    family = type(make(logits).base_dist)
    points = support_points(make(logits[kept]).expand(()), 2**10)
    tuples = torch.tensor(list(itertools.product(range(len(points)), repeat=num_samples)))
    z = points[tuples.T]
    many = logits.detach().expand(len(tuples), *logits.shape).clone().requires_grad_()
    monkeypatch.setattr(family, "sample", lambda self, shape: z)
    estimate = estimator(f, make(many), num_samples)
    monkeypatch.undo()
    (slopes,) = torch.autograd.grad(estimate.sum(), many)
    weights = make(logits[kept]).log_prob(z).exp().prod(0).detach()
    shaped = weights.reshape(-1, *(1,) * logits.ndim)
    mean = (shaped * slopes).sum(0)
    return (weights * estimate.detach()).sum(), mean, (shaped * (slopes - mean) ** 2).sum(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("some", [[0], [1], [2], [0, 2], [2, 0], [-2]], ids=str)
@pytest.mark.parametrize("baseline", [None, LeaveOneOut(), Constant(0.4)], ids=str)
def test_exact_over_every_sample_of_the_rest(monkeypatch, kind, some, baseline):
    make, logits, f = variables(kind)
    rest = [i for i in range(3) if i not in [s % 3 for s in some]]
    estimator = RaoBlackwell(ScoreFunction(baseline), some)
    count = 2 if isinstance(baseline, LeaveOneOut) else 1
    value, mean, _ = over_samples(monkeypatch, estimator, f, make, logits, rest, count)
    truth = Enumeration()(f, make(logits))
    torch.testing.assert_close(value, truth.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(mean, torch.autograd.grad(truth, logits)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("some", [[0], [1], [0, 2]], ids=str)
def test_variance_is_never_above_the_outer_ones(monkeypatch, kind, some):
    """Of each parameter, and each variable more that is enumerated takes some of it."""
    make, logits, f = variables(kind)
    rest = [i for i in range(3) if i not in some]
    _, _, alone = over_samples(monkeypatch, ScoreFunction(), f, make, logits, [0, 1, 2])
    estimator = RaoBlackwell(ScoreFunction(), some)
    _, _, less = over_samples(monkeypatch, estimator, f, make, logits, rest)
    assert (less <= alone + 1e-12).all()
    assert less.sum() < 0.9 * alone.sum()


def test_it_is_the_mean_given_the_rest(monkeypatch):
    """For each value of the rest: the mean of ScoreFunction's gradient over the enumerated."""
    make, logits, f = variables("bits")
    for kept in (0.0, 1.0):
        z = torch.tensor([[kept]], dtype=F64)
        monkeypatch.setattr(Bernoulli, "sample", lambda self, shape, z=z: z)
        estimate = RaoBlackwell(ScoreFunction(), [0, 2])(f, make(logits))
        (got,) = torch.autograd.grad(estimate, logits)
        mean = torch.zeros(3, dtype=F64)
        theta = logits.sigmoid().detach()
        for a, c in itertools.product((0.0, 1.0), repeat=2):
            full = torch.tensor([[a, kept, c]], dtype=F64)
            monkeypatch.setattr(Bernoulli, "sample", lambda self, shape, z=full: z)
            (slope,) = torch.autograd.grad(ScoreFunction()(f, make(logits)), logits)
            weight = (theta[0] if a else 1 - theta[0]) * (theta[2] if c else 1 - theta[2])
            mean = mean + weight * slope
        torch.testing.assert_close(got, mean)


@pytest.mark.parametrize("outer", [ARM(), DisARM(), ScoreFunction(), Enumeration()], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_other_estimators_outside(outer, kind):
    """The enumerated variables' own gradient is exact where `f` does not mix; and so is f's."""
    make, logits, _ = variables(kind)
    w = T(2.0)

    def f(z):
        first, last = z[:, 0], z[:, 2]
        if kind == "one-hot":
            first, last = first[..., 1], last[..., 2]
        return w * (first == 1).to(F64) - (last == (1 if kind == "one-hot" else 0)).to(F64)

    estimate = RaoBlackwell(outer, [0, 2])(f, make(logits), 3)
    truth = Enumeration()(f, make(logits))
    torch.testing.assert_close(estimate, truth)
    got = torch.autograd.grad(estimate, (logits, w))
    exact = torch.autograd.grad(truth, (logits, w))
    torch.testing.assert_close(got[0][[0, 2]], exact[0][[0, 2]])
    torch.testing.assert_close(got[1], exact[1])


def test_two_dimensions_of_variables(monkeypatch):
    """Indices are along the last one; all rows of a column are enumerated together."""
    logits = torch.randn(2, 2, dtype=F64).requires_grad_()
    weight = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=F64)

    def f(b):
        return (b * weight).sum((-1, -2)) ** 2

    def make(x):
        return Independent(Bernoulli(logits=x), 2)

    truth = Enumeration()(f, make(logits))
    (exact,) = torch.autograd.grad(truth, logits)
    for some in ([0], [1]):
        kept = 1 - some[0]
        mean = torch.zeros_like(logits)
        for column in itertools.product((0.0, 1.0), repeat=2):
            z = torch.tensor(column, dtype=F64).reshape(1, 2, 1)
            monkeypatch.setattr(Bernoulli, "sample", lambda self, shape, z=z: z)
            (slope,) = torch.autograd.grad(
                RaoBlackwell(ScoreFunction(), some)(f, make(logits)), logits
            )
            probability = Bernoulli(logits=logits[:, kept]).log_prob(z[0, :, 0]).sum().exp()
            mean = mean + probability.detach() * slope
        torch.testing.assert_close(mean, exact)


def test_runs_of_both_kinds_are_woven_in_order():
    some, rest = torch.tensor([[0, 2, 4, 5]]), torch.tensor([[1, 3, 6]])
    assert _woven(some, rest, [0, 2, 4, 5], 7, 1).tolist() == [[0, 1, 2, 3, 4, 5, 6]]


def test_evaluations_and_shapes(device):
    """`num_samples` times the combinations in one call, with every variable in its place."""
    logits = torch.tensor([60.0, -60.0, 0.0, 60.0], device=device).expand(5, 4).requires_grad_()
    seen = []

    def f(b):
        seen.append(b)
        return b.sum(-1)

    estimator = RaoBlackwell(ScoreFunction(), [2, -4])
    estimate = estimator(f, Independent(Bernoulli(logits=logits), 1), 3)
    estimate.sum().backward()
    (b,) = seen
    assert b.shape == (4 * 3, 5, 4)
    assert b.device == logits.device
    assert (b[..., 1] == 0).all() and (b[..., 3] == 1).all()
    assert [b[..., i].mean().item() for i in (0, 2)] == [0.5, 0.5]
    torch.testing.assert_close(estimate, torch.full((5,), 2.5, device=device))


def test_probabilities_and_second_derivatives():
    """With a score function outside they are right where it is: for the enumerated, exactly."""
    theta = T([0.3, 0.6, 0.5])
    q = Independent(Bernoulli(theta), 1)
    estimate = RaoBlackwell(ScoreFunction(), [0, 1])(lambda b: b[..., 0] * b[..., 1], q)
    (slope,) = torch.autograd.grad(estimate, theta, create_graph=True)
    torch.testing.assert_close(slope[:2], theta[:2].flip(0))
    (second,) = torch.autograd.grad(slope[0], theta)
    torch.testing.assert_close(second[:2], torch.tensor([0.0, 1.0], dtype=F64))


def test_under_torch_func():
    def loss(logits):
        q = Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)
        return RaoBlackwell(ScoreFunction(), [0])(lambda b: b.sum(-1) ** 2, q, 2)

    torch.manual_seed(0)
    got = torch.func.grad(loss)(torch.ones(3))
    torch.manual_seed(0)
    logits = torch.ones(3, requires_grad=True)
    torch.testing.assert_close(got, torch.autograd.grad(loss(logits), logits)[0])


def test_it_is_a_value_and_measure_freezes_it():
    assert len({RaoBlackwell(ARM(), [0, 1]), RaoBlackwell(ARM(), (0, 1))}) == 1
    average = MovingAverage()
    result = measure(
        RaoBlackwell(ScoreFunction(average), [0]),
        lambda b: b.sum(-1),
        lambda logits: Independent(Bernoulli(logits=logits), 1),
        {"logits": torch.zeros(3)},
        num_samples=2,
        replicates=10,
    )
    assert average.weight == 0
    assert result.evaluations == 4
    assert result.variance["logits"][0] < 1e-12 < result.variance["logits"][1]


BITS = Independent(Bernoulli(logits=torch.zeros(3, requires_grad=True)), 1)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: RaoBlackwell("score", [0]), TypeError, "outer must be an estimator.* got str"),
        (lambda: RaoBlackwell(ARM(), []), TypeError, r"list the indices of variables.* got \[\]"),
        (lambda: RaoBlackwell(ARM(), None), TypeError, "list the indices.* got None"),
        (lambda: RaoBlackwell(ARM(), 0), TypeError, "list the indices.* got 0"),
        (lambda: RaoBlackwell(ARM(), [True]), TypeError, r"list the indices.* got \[True\]"),
        (lambda: RaoBlackwell(ARM(), [1.0]), TypeError, r"list the indices.* got \[1.0\]"),
    ],
)
def test_bad_arguments(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize(
    ("some", "q", "says"),
    [
        ([3], BITS, r"variables \[3\], and there are 3: \[3\] is out of range"),
        ([0, -4], BITS, r"\[-4\] is out of range"),
        ([0, -3], BITS, r"enumerates a variable twice: \[0, -3\]"),
        ([0, 1, 2], BITS, "leaves none of the 3 variables to ScoreFunction: use Enumeration"),
        ([0], Bernoulli(torch.tensor([0.3, 0.4])), r"several Bernoulli.* got Bernoulli"),
        ([0], Independent(BITS.base_dist, 0), r"one event.* got Independent\(Bernoulli\)"),
        ([0], Independent(Normal(torch.zeros(3), 1.0), 1), r"got Independent\(Normal\)"),
        (
            range(21),
            Independent(Bernoulli(torch.full((22,), 0.5)), 1),
            r"RaoBlackwell would visit 2\*\*21 points, more than .*: enumerate fewer variables",
        ),
    ],
)
def test_bad_choices(some, q, says):
    with pytest.raises(ValueError, match=says):
        RaoBlackwell(ScoreFunction(), some)(lambda b: b.sum(-1), q)


def test_bad_calls():
    estimator = RaoBlackwell(ScoreFunction(), [0])
    with pytest.raises(ValueError, match=r"one value for each sample, shape \(2,\)"):
        estimator(lambda b: b, BITS)
    with pytest.raises(ValueError, match="NaN"):
        estimator(lambda b: b.sum(-1) * float("nan"), BITS)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        estimator(lambda b: b.sum(-1), BITS, 0)
    with pytest.raises(ValueError, match="LeaveOneOut needs num_samples of at least 2"):
        RaoBlackwell(ScoreFunction(LeaveOneOut()), [0])(lambda b: b.sum(-1), BITS)


def test_what_is_no_estimator_is_named():
    for outer, says in (
        (ScoreFunction, r"got the class ScoreFunction: use ScoreFunction\(\)"),
        (Learned(torch.nn.Linear(1, 1)), "outer must be an estimator such as .*, got Learned"),
    ):
        with pytest.raises(TypeError, match=says):
            RaoBlackwell(outer, [0])
    with pytest.raises(TypeError, match="max_points must be an int, got str"):
        Enumeration("a")
