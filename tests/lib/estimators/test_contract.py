"""One contract, every estimator: what DESIGN.md promises of any `estimator(f, q, num_samples)`.

An estimator that is added needs an entry in `CASES`, one for each kind of variable that it takes.
"""

import functools
import inspect
import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal, OneHotCategorical

import reparam.estimators as estimators
from reparam.estimators import (
    ARM,
    NVIL,
    REBAR,
    RELAX,
    SPSA,
    Constant,
    DisARM,
    Enumeration,
    GumbelRao,
    GumbelSoftmax,
    Learned,
    LeaveOneOut,
    MeasureValued,
    MovingAverage,
    Pathwise,
    RaoBlackwell,
    ReinMax,
    ScoreFunction,
    StraightThrough,
    optimal_constant,
)
from reparam.measure import compare, exact_gradient

F64 = torch.float64
#: Public names that are no estimators but belong to one: they are held through `ScoreFunction`.
PARTS = {Constant, Learned, LeaveOneOut, MovingAverage, NVIL, optimal_constant}
#: A mean over this many standard errors from the truth is wrong. With fewer than 1,000 such
#: comparisons a correct library fails one run in a million; seeds are fixed by the tests' names.
SIGMAS = float(stats.norm.isf(1e-9 / 2))  # 6.1
#: What `compare` must find in 999 runs of 1,000: its verdict is at 5 standard errors.
VERDICT_AND_POWER = 5 + float(stats.norm.isf(1e-3))


# --- three kinds of variables, two or three of them in an event ----------------------------------


class Normals:
    parameters = {"loc": [0.4, -0.7], "scale": [0.8, 0.6]}  # noqa: RUF012
    event_shape = (2,)

    @staticmethod
    def make(loc, scale):
        return Independent(Normal(loc, scale), 1)

    @staticmethod
    def f(z):
        return z[..., 0] ** 2 * z[..., 1] + z[..., 1] ** 2

    @staticmethod
    def exact(loc, scale):
        square = loc**2 + scale**2
        return square[..., 0] * loc[..., 1] + square[..., 1]


class Bits:
    parameters = {"logits": [0.4, -1.0, 0.9]}  # noqa: RUF012
    event_shape = (3,)

    @staticmethod
    def make(logits):
        return Independent(Bernoulli(logits=logits), 1)

    @staticmethod
    def f(b):
        return torch.exp(0.8 * b[..., 0] - b[..., 1] + 1.2 * b[..., 2] * b[..., 0])

    @classmethod
    def exact(cls, logits):
        points = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=F64)
        p = logits.sigmoid().unsqueeze(-2)
        return ((p * points + (1 - p) * (1 - points)).prod(-1) * cls.f(points)).sum(-1)


class Classes:
    parameters = {"logits": [[0.4, -0.6, 0.1], [-0.3, 0.2, 0.8]]}  # noqa: RUF012
    event_shape = (2, 3)

    @staticmethod
    def make(logits):
        return Independent(OneHotCategorical(logits=logits), 1)

    @staticmethod
    def f(h):
        levels = torch.tensor([0.0, 1.0, 3.0], dtype=h.dtype, device=h.device)
        k = (h * levels).sum(-1)
        return torch.exp(0.5 * k[..., 0] - 0.4 * k[..., 1])

    @classmethod
    def exact(cls, logits):
        one_hots = torch.eye(3, dtype=F64)
        points = torch.stack([one_hots[[i, j]] for i in range(3) for j in range(3)])
        p = logits.softmax(-1).unsqueeze(-3)
        return ((p * points).sum(-1).prod(-1) * cls.f(points)).sum(-1)


def parameters_of(kind, batch=(), dtype=F64, device="cpu"):
    return {
        name: torch.tensor(value, dtype=dtype, device=device)
        .expand(*batch, *torch.tensor(value).shape)
        .clone()
        .requires_grad_()
        for name, value in kind.parameters.items()
    }


@functools.cache
def truth(kind):
    """The value and its gradient, in closed form."""
    parameters = parameters_of(kind)
    value = kind.exact(**parameters)
    slopes = torch.autograd.grad(value, tuple(parameters.values()))
    return value.item(), dict(zip(parameters, slopes, strict=True))


# --- every estimator -----------------------------------------------------------------------------


class Surrogate(nn.Module):
    """A small network that acts on the event dimensions alone."""

    def __init__(self, kind):
        super().__init__()
        self.event = len(kind.event_shape)
        self.weights = nn.Parameter(torch.full(kind.event_shape, 0.3))

    def forward(self, z):
        return torch.tanh(z * self.weights.to(z)).flatten(z.ndim - self.event).sum(-1)


class AtOnce(nn.Module):
    """A network that is made for the input it is used on: any batch shape."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.weight * x[..., 0]


class AtOnes(nn.Module):
    """A learned baseline, whose inputs are ones of the batch shape that it is called with."""

    def __init__(self, kind):
        super().__init__()
        self.learned = kind(AtOnce())

    def forward(self, f, distribution, num_samples=1):
        x = torch.ones(*getattr(distribution, "batch_shape", ()), 1)
        if isinstance(distribution, Independent):
            x = x.to(distribution.base_dist.probs.device)
        return ScoreFunction(self.learned.at(x))(f, distribution, num_samples)


def _base(distribution):
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


@dataclass(frozen=True)
class Case:
    """An estimator with a kind of variables that it takes.

    `biased`: its gradient is not that of the mean. `relaxed`: nor is its value. `twice`: its
    second derivative is right; otherwise it must refuse. `func`: it works under `torch.func.grad`.
    """

    estimator: type
    kind: type
    make: object
    biased: bool = False
    relaxed: bool = False
    twice: bool = False
    func: bool = True
    note: str = ""

    def __str__(self):
        return f"{self.estimator.__name__}{self.note and '-' + self.note}-{self.kind.__name__}"


def case(estimator, *kinds, make=None, **options):
    make = make or (lambda kind: estimator())
    return [Case(estimator, kind, functools.partial(make, kind), **options) for kind in kinds]


EVERY = Normals, Bits, Classes
DISCRETE = Bits, Classes
CASES = [
    *case(Pathwise, Normals, twice=True),
    *case(
        Pathwise, Normals, make=lambda kind: Pathwise(implicit=True), twice=True, note="implicit"
    ),
    *case(ScoreFunction, *EVERY, twice=True),
    *(
        c
        for name, baseline in {
            "constant": lambda: Constant(0.7),
            "average": MovingAverage,
            "loo": LeaveOneOut,
        }.items()
        for c in case(
            ScoreFunction,
            *EVERY,
            make=lambda kind, baseline=baseline: ScoreFunction(baseline()),
            twice=True,
            func=name != "average",  # keeps its state in place
            note=name,
        )
    ),
    *case(
        ScoreFunction,
        Bits,
        make=lambda kind: AtOnes(Learned),
        twice=True,
        func=False,
        note="learned",
    ),
    *case(ScoreFunction, Bits, make=lambda kind: AtOnes(NVIL), func=False, note="nvil"),
    *case(MeasureValued, *EVERY),
    *case(MeasureValued, *EVERY, make=lambda kind: MeasureValued(coupled=False), note="uncoupled"),
    *case(Enumeration, *DISCRETE, twice=True),
    *case(
        RaoBlackwell,
        *DISCRETE,
        make=lambda kind: RaoBlackwell(ScoreFunction(), [1]),
        twice=True,
    ),
    *case(SPSA, *EVERY, make=lambda kind: SPSA(step=0.8), biased=True),
    *case(ARM, *DISCRETE),
    *case(DisARM, *DISCRETE),
    *case(GumbelSoftmax, *DISCRETE, biased=True, relaxed=True, twice=True),
    *case(
        GumbelSoftmax,
        *DISCRETE,
        make=lambda kind: GumbelSoftmax(hard=True),
        biased=True,
        note="hard",
    ),
    *(
        c
        for through in ("probabilities", "identity")
        for c in case(
            StraightThrough,
            *DISCRETE,
            make=lambda kind, through=through: StraightThrough(through),
            biased=True,
            note=through,
        )
    ),
    *case(
        StraightThrough,
        *DISCRETE,
        make=lambda kind: StraightThrough("argmax"),
        biased=True,
        relaxed=True,
        note="argmax",
    ),
    *case(GumbelRao, *DISCRETE, biased=True),
    *case(ReinMax, *DISCRETE, biased=True),
    *case(REBAR, *DISCRETE, func=False),
    *case(RELAX, *EVERY, make=lambda kind: RELAX(Surrogate(kind)), func=False),
]
every_case = pytest.mark.parametrize("c", CASES, ids=str)


def test_every_public_estimator_has_a_case():
    public = {getattr(estimators, name) for name in estimators.__all__}
    held = {c.estimator for c in CASES} | PARTS
    missing = sorted(thing.__name__ for thing in public - held)
    assert not missing, f"give {missing} an entry in CASES (or in PARTS, if it is no estimator)"
    assert held <= public


@pytest.mark.parametrize("estimator", sorted({c.estimator for c in CASES}, key=str))
def test_its_docstring_says_what_it_takes_and_costs(estimator):
    text = inspect.getdoc(estimator)
    for word in ("Needs:", "Bias:", "Cost:", "Higher derivatives:", "Raises:", "chapter", "https"):
        assert word in text, f"{estimator.__name__} does not say {word!r}"


@pytest.mark.parametrize("kind", EVERY)
def test_the_closed_forms_agree_with_quadrature(kind):
    parameters = {name: value.detach() for name, value in parameters_of(kind).items()}
    exact = exact_gradient(kind.f, kind.make, parameters, tolerance=1e-6)
    value, slopes = truth(kind)
    assert exact.value.item() == pytest.approx(value, abs=1e-7)
    torch.testing.assert_close(exact.gradient, slopes, rtol=1e-6, atol=1e-6)


# --- shapes, types, and what reaches whom --------------------------------------------------------


@pytest.mark.parametrize("c", [c for c in CASES if c.note != "loo"], ids=str)  # which needs two
def test_one_sample_is_drawn_unless_told(c):
    call = getattr(c.estimator, "forward", c.estimator.__call__)
    assert inspect.signature(call).parameters["num_samples"].default == 1  # what help() shows
    q = c.kind.make(**parameters_of(c.kind))
    told = []
    for arguments in ((), (1,)):
        torch.manual_seed(0)
        sizes = []
        value = c.make()(
            lambda z, sizes=sizes: (sizes.append(len(z)), c.kind.f(z))[1], q, *arguments
        )
        told.append((sizes, value.item()))
    assert told[0] == told[1]


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["32", "64"])
def test_shapes_and_types(c, dtype, device):
    for batch, num_samples in (((), 2), ((3,), 3), ((2, 1), 2)):
        parameters = parameters_of(c.kind, batch, dtype, device)
        q = c.kind.make(**parameters)
        handed = []

        def f(z, handed=handed):
            handed.append(z)
            return c.kind.f(z)

        estimate = c.make()(f, q, num_samples)
        assert estimate.shape == batch and estimate.dtype == dtype
        assert estimate.device.type == device
        for z in handed:
            assert z.shape[1:] == (*batch, *c.kind.event_shape)
            assert z.dtype == dtype and z.device.type == device
        for g in torch.autograd.grad(estimate.sum(), tuple(parameters.values())):
            assert g.dtype == dtype and g.isfinite().all()


@every_case
def test_a_single_variable_is_no_event(c):
    """The same family without `Independent`: entries of the batch, each by itself."""
    parameters = {name: p[0].detach().expand(4, *p[0].shape).clone().requires_grad_()
                  for name, p in parameters_of(c.kind).items()}  # fmt: skip
    if c.estimator is RaoBlackwell:
        pytest.skip("needs several variables, some of which it enumerates")
    base = type(_base(c.kind.make(**parameters)))
    q = base(**parameters)
    event = len(q.event_shape)
    levels = torch.tensor([0.0, 1.0, 3.0], dtype=F64)
    estimator = c.make() if c.estimator is not RELAX else RELAX(SingleSurrogate(event))
    estimate = estimator(lambda z: ((z * levels).sum(-1) if event else z) ** 2, q, 3)
    assert estimate.shape == (4,)
    for g in torch.autograd.grad(estimate.sum(), tuple(parameters.values())):
        assert g.isfinite().all() and g.shape[0] == 4


class SingleSurrogate(nn.Module):
    def __init__(self, event):
        super().__init__()
        self.event, self.weight = event, nn.Parameter(torch.tensor(0.3))

    def forward(self, z):
        y = torch.tanh(self.weight.to(z) * z)
        return y[..., 0] if self.event else y


@every_case
def test_the_decoder_gets_the_gradient_of_the_plain_average(c):
    """With `f = w g(z)` the estimate is `w` times an average of `g`, which is its slope in `w`."""
    w = torch.tensor(1.7, dtype=F64, requires_grad=True)
    q = c.kind.make(**parameters_of(c.kind, (3,)))
    estimate = c.make()(lambda z: w * c.kind.f(z), q, 4)
    slopes = torch.autograd.grad(estimate.sum(), w)[0]
    torch.testing.assert_close(slopes * w.detach(), estimate.sum().detach())


@every_case
def test_a_weight_that_f_uses_alone_gets_its_gradient(c):
    """Also with nothing else to differentiate, and with a graph on both sides."""
    w = torch.tensor(1.7, dtype=F64, requires_grad=True)
    fixed = {name: p.detach() for name, p in parameters_of(c.kind).items()}
    estimate = c.make()(lambda z: w * (c.kind.f(z) + 1), c.kind.make(**fixed), 3)
    (slope,) = torch.autograd.grad(estimate, w)
    torch.testing.assert_close(slope * w.detach(), estimate.detach())


@every_case
def test_without_grad_there_is_a_value_and_no_graph(c):
    parameters = parameters_of(c.kind, (2,))
    with torch.no_grad():
        estimate = c.make()(c.kind.f, c.kind.make(**parameters), 3)
    assert estimate.shape == (2,) and not estimate.requires_grad and estimate.isfinite().all()
    fixed = {name: p.detach() for name, p in parameters.items()}
    estimate = c.make()(c.kind.f, c.kind.make(**fixed), 3)
    assert not estimate.requires_grad and estimate.isfinite().all()


@every_case
def test_entries_of_the_batch_do_not_touch(c):
    """The gradient of one entry's estimate is zero in the parameters of the others."""
    if c.note == "average":
        pytest.skip("one average for the whole batch")
    parameters = parameters_of(c.kind, (3,))
    estimate = c.make()(c.kind.f, c.kind.make(**parameters), 2)
    for g in torch.autograd.grad(estimate[1], tuple(parameters.values())):
        assert (g[[0, 2]] == 0).all() and g[1].isfinite().all()


@every_case
def test_the_gradient_is_linear_in_the_loss(c):
    """A scaled or negated loss scales or negates the parameters' gradient."""
    got = []
    for factor in (1.0, -3.0):
        torch.manual_seed(1)
        parameters = parameters_of(c.kind, (2,))
        estimate = c.make()(c.kind.f, c.kind.make(**parameters), 2)
        g = torch.autograd.grad((factor * estimate).sum(), tuple(parameters.values()))
        got.append([factor * x for x in (g if factor == 1 else [x / 9 for x in g])])
    torch.testing.assert_close(got[0], got[1])


# --- its means -----------------------------------------------------------------------------------

REPLICATES = 12_000


def check_means(draws, wanted, at_most, what):
    """Means over dimension 0 against the truth, within `SIGMAS` of their own standard errors.

    `at_most`: the error that the test must be able to see.
    """
    error = draws.std(0) / math.sqrt(len(draws))
    power = (SIGMAS + 3.1) * error.max()
    assert power <= at_most, f"{what}: this test sees errors from {power:.2g} on, not {at_most}"
    off = (draws.mean(0) - wanted).abs()
    assert (off <= SIGMAS * error + 1e-9).all(), f"{what}: {draws.mean(0)} for {wanted}"


@every_case
def test_value_is_the_mean(c):
    """A relaxation says that its value is not; every other one's value has the mean of `f`."""
    parameters = parameters_of(c.kind, (REPLICATES,))
    values = c.make()(c.kind.f, c.kind.make(**parameters), 2).detach().unsqueeze(-1)
    wanted = torch.tensor([truth(c.kind)[0]], dtype=F64)
    if c.estimator is SPSA:  # O(step²), as it says
        error = 0.8**2
        assert ((values.mean(0) - wanted).abs() < error * 2).all()
        values = SPSA(1e-3)(c.kind.f, c.kind.make(**parameters), 2).detach().unsqueeze(-1)
    if c.relaxed:
        assert ((values.mean(0) - wanted).abs() > 0.1).all()
    else:
        check_means(values, wanted, 0.25, "the value")


@every_case
def test_bias_is_what_is_said(c):
    """`compare` calls the unbiased ones unbiased, with power, and finds the biased ones out.

    Its verdict is at five standard errors; a bias of 8.1 is seen in 999 runs of 1,000.
    """
    parameters = {name: p.detach() for name, p in parameters_of(c.kind).items()}
    table = compare(
        {str(c): c.make()},
        c.kind.f,
        c.kind.make,
        parameters,
        num_samples=2,
        replicates=10 * REPLICATES if c.biased else REPLICATES,
        truth=truth(c.kind)[1],
    )
    if c.biased:
        assert any(row.biased for row in table.rows), f"{c} is said to be biased:\n{table}"
        return
    for row in table.rows:
        assert not row.biased, f"{c} is said to be unbiased:\n{table}"
        sees = VERDICT_AND_POWER * math.sqrt(row.variance / REPLICATES)
        assert sees < 0.6, f"{c}: this test sees biases from {sees:.2g} on"


@every_case
def test_second_derivatives_are_right_or_refused(c):
    """Along one direction of the parameters, against the closed form."""
    shift = torch.zeros(REPLICATES, dtype=F64, requires_grad=True)

    def moved(shift):
        parameters = {n: p.detach() for n, p in parameters_of(c.kind).items()}
        first = next(iter(parameters))
        direction = torch.linspace(0.5, 1.0, parameters[first].numel(), dtype=F64)
        direction = direction.reshape(parameters[first].shape)
        step = shift[(..., *(None,) * direction.ndim)] * direction
        return {
            n: p + step if n == first else p.expand(*shift.shape, *p.shape)
            for n, p in parameters.items()
        }

    estimate = c.make()(c.kind.f, c.kind.make(**moved(shift)), 2)
    (g,) = torch.autograd.grad(estimate.sum(), shift, create_graph=True)
    if not c.twice:
        with pytest.raises(NotImplementedError, match="first derivatives only"):
            torch.autograd.grad(g.sum(), shift)
        return
    (h,) = torch.autograd.grad(g.sum(), shift)
    if c.biased:
        assert h.isfinite().all()
        return
    at = torch.zeros((), dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(c.kind.exact(**moved(at)), at, create_graph=True)
    (second,) = torch.autograd.grad(first, at)
    check_means(h.unsqueeze(-1), second.unsqueeze(-1), 3.0, "the second derivative")


# --- nested --------------------------------------------------------------------------------------


def gradients(estimate, alpha, parameters):
    got = torch.autograd.grad(estimate.sum(), (alpha, *parameters.values()))
    return torch.cat([g.reshape(len(alpha), -1) for g in got], -1)


def wanted_gradients(kind, alpha):
    value, slopes = truth(kind)
    own = [(1 + 2 * alpha) * g.flatten() for g in slopes.values()]
    return torch.cat([torch.tensor([2 * value], dtype=F64), *own])


@every_case
def test_inside_a_score_function(c):
    """`E[(1 + 2a) f(z)]`, `a` a bit outside: the inner batch has a dimension for its samples."""
    alpha = torch.full((REPLICATES,), 0.3, dtype=F64, requires_grad=True)
    parameters = parameters_of(c.kind, (REPLICATES,))
    estimator = c.make()

    def outer(a):
        inner = {n: p.expand(len(a), *p.shape) for n, p in parameters.items()}
        return estimator(lambda z: (1 + 2 * a) * c.kind.f(z), c.kind.make(**inner), 2)

    estimate = ScoreFunction()(outer, Bernoulli(alpha), num_samples=2)
    assert estimate.shape == (REPLICATES,)
    got = gradients(estimate, alpha, parameters)
    assert got.isfinite().all()
    if not c.biased and c.note != "nvil":
        check_means(got, wanted_gradients(c.kind, 0.3), 2.5, f"{c} inside ScoreFunction")


@every_case
def test_around_an_enumeration(c):
    """`E[(1 + 2a) f(z)]`, `a` a bit inside, summed over: Rao-Blackwellization by nesting."""
    alpha = torch.full((REPLICATES,), 0.3, dtype=F64, requires_grad=True)
    parameters = parameters_of(c.kind, (REPLICATES,))

    def f(z):
        values = c.kind.f(z)
        return Enumeration()(lambda a: (1 + 2 * a) * values, Bernoulli(alpha.expand_as(values)))

    estimate = c.make()(f, c.kind.make(**parameters), 2)
    got = gradients(estimate, alpha, parameters)
    assert got.isfinite().all()
    if not c.biased and c.note != "nvil":
        check_means(got, wanted_gradients(c.kind, 0.3), 1.5, f"{c} around Enumeration")


# --- where users take it -------------------------------------------------------------------------


@every_case
def test_under_torch_func(c):
    """`torch.func.grad` gives what `backward()` gives.

    Not where an estimator trains parameters of its own or keeps a state.
    """
    if not c.func:
        pytest.skip("trains or keeps something of its own")
    names = list(c.kind.parameters)
    estimator = c.make()

    def loss(*values):
        return estimator(c.kind.f, c.kind.make(**dict(zip(names, values, strict=True))), 2).sum()

    values = tuple(p.detach() for p in parameters_of(c.kind, (3,)).values())
    torch.manual_seed(0)
    got = torch.func.grad(loss, argnums=tuple(range(len(values))))(*values)
    estimator = c.make()
    leaves = tuple(v.clone().requires_grad_() for v in values)
    torch.manual_seed(0)
    torch.testing.assert_close(got, torch.autograd.grad(loss(*leaves), leaves))


# --- bad input -----------------------------------------------------------------------------------


@every_case
def test_bad_input(c, monkeypatch):
    q = c.kind.make(**parameters_of(c.kind, (2,)))
    f, estimator = c.kind.f, c.make()
    for bad, error, says in (
        (3, TypeError, "f must be a function of the samples, got int"),
        (lambda z: 1.0, TypeError, r"f must return a tensor of shape .*, got float"),
        (lambda z: f(z).unsqueeze(-1), ValueError, "one value for each sample"),
        (lambda z: f(z).mean(), ValueError, r"one value for each sample.*got shape \(\)"),
        (lambda z: z, ValueError, "sum event dimensions"),
        (lambda z: f(z) * math.nan, ValueError, "f returned NaN for"),
        (lambda z: f(z).long(), TypeError, "floating-point values, got torch.int64"),
        (lambda z: f(z).to("meta"), ValueError, "must return values on cpu.*got meta"),
    ):
        with pytest.raises(error, match=says):
            estimator(bad, q, 2)
    for number, error, says in (
        (0, ValueError, "num_samples must be at least 1, got 0"),
        (2.0, TypeError, "num_samples must be an int, got float"),
        (True, TypeError, "num_samples must be an int, got bool"),
    ):
        with pytest.raises(error, match=says):
            estimator(f, q, number)
    with pytest.raises(TypeError, match="Distribution, got Tensor"):
        estimator(f, torch.ones(2), 2)
    none = {name: p.detach()[:0] for name, p in parameters_of(c.kind, (2,)).items()}
    monkeypatch.setattr(Distribution, "_validate_args", False)  # torch cannot check empty ones
    with pytest.raises(ValueError, match=r"empty: batch_shape \(0,\)"):
        estimator(f, c.kind.make(**none), 2)


FOLLOW = Pathwise, GumbelSoftmax, StraightThrough, GumbelRao, ReinMax, REBAR


@pytest.mark.parametrize("c", [c for c in CASES if c.estimator in FOLLOW], ids=str)
def test_a_path_needs_an_f_that_has_one(c):
    q = c.kind.make(**parameters_of(c.kind, (2,)))
    for f in (lambda z: c.kind.f(z.detach()), lambda z: (c.kind.f(z) > 0).to(z.dtype)):
        with pytest.raises(ValueError, match=r"does not depend on the sample through a graph.*use"):
            c.make()(f, q, 2)


@pytest.mark.parametrize(
    "c", [c for c in CASES if c.kind is Bits and c.estimator is not Enumeration], ids=str
)
def test_the_wrong_kind_of_variables_is_named(c):
    """What takes bits alone refuses a normal variable, and says what to use."""
    if any(other.kind is Normals and other.estimator is c.estimator for other in CASES):
        pytest.skip("takes normal variables too")
    q = Normals.make(**parameters_of(Normals))
    with pytest.raises(ValueError, match=r"Independent\(Normal\).*use"):
        c.make()(Normals.f, q, 2)


@every_case
def test_f_must_leave_its_samples_alone(c):
    """They are used again after `f`, where a changed one would make the gradient wrong."""
    q = c.kind.make(**parameters_of(c.kind, (2,)))
    for change in (lambda z: z.mul_(0.5), lambda z: z[..., :1].zero_()):

        def f(z, change=change):
            with torch.no_grad():
                change(z)
            return c.kind.f(z)

        # An enumerated point is a view of few numbers, which torch itself refuses to change.
        with pytest.raises((ValueError, RuntimeError), match=r"in place|written-to tensor"):
            c.make()(f, q, 2)


SPLIT = ARM, DisARM, MeasureValued, SPSA, REBAR, RELAX


@pytest.mark.parametrize("c", [c for c in CASES if c.estimator in SPLIT], ids=str)
def test_an_infinite_f_is_named(c):
    """Their differences of `f` would be NaN."""
    with pytest.raises(ValueError, match="no finite gradient: f is infinite at a sample"):
        c.make()(lambda z: c.kind.f(z) + math.inf, c.kind.make(**parameters_of(c.kind, (9,))), 2)


# --- classes that cannot come --------------------------------------------------------------------


def masked(place, batch=()):
    """Logits of two variables of three classes, one of which is ruled out in each."""
    logits = parameters_of(Classes, batch)["logits"].detach()
    logits[..., 0, place] = -math.inf
    logits[..., 1, 1] = -math.inf
    return logits.requires_grad_()


@functools.cache
def masked_truth(place):
    """By the closed form, with a logit of -60 for each class that is ruled out."""
    logits = masked(place).detach().clamp(min=-60.0).requires_grad_()
    return torch.autograd.grad(Classes.exact(logits), logits)[0]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("c", [c for c in CASES if c.kind is Classes], ids=str)
def test_a_class_that_is_ruled_out_has_no_part(c, place):
    """Finite, also for an own parameter; unbiased ones right; nothing for the masked logits."""
    estimator, logits = c.make(), masked(place, (4000,))
    (4000 * estimator(Classes.f, Classes.make(logits), 2).mean()).backward()
    got = logits.grad
    assert got.isfinite().all()
    if isinstance(estimator, nn.Module):
        assert all(p.grad is None or p.grad.isfinite().all() for p in estimator.parameters())
    noisy = ARM, SPSA  # whose noise is in each logit
    if c.estimator not in noisy and c.note not in ("identity", "argmax"):
        assert (got[logits.isinf()] == 0).all()
    if not c.biased:
        check_means(got, masked_truth(place), 1.0, "the gradient")


def test_a_surrogate_alone_stands_a_class_that_is_ruled_out():
    logits = masked(2, (4000,))
    relax = RELAX(Surrogate(Classes), eta=None)
    relax.surrogate.forward = lambda z: (z * relax.surrogate.weights).sum((-1, -2)) / 20
    relax(Classes.f, Classes.make(logits), 2).sum().backward()
    check_means(logits.grad, masked_truth(2), 2.0, "the gradient")
    assert relax.surrogate.weights.grad.isfinite().all()


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(
    "estimator", [Enumeration(), MeasureValued(), RaoBlackwell(Enumeration(), [0])], ids=repr
)
def test_f_need_not_be_finite_where_no_sample_comes(estimator, batch):
    """The entropy: its exact value and gradient are those of the classes that are left."""
    logits = masked(2, batch)
    q = Classes.make(logits)
    value = estimator(lambda h: -Classes.make(logits.detach()).log_prob(h), q, 2)
    (got,) = torch.autograd.grad(value.sum(), logits)
    assert got.isfinite().all() and (got[logits.isinf()] == 0).all()
    if isinstance(estimator, MeasureValued):
        return
    p = logits.detach().softmax(-1)
    terms = torch.special.entr(p)
    torch.testing.assert_close(value.detach(), terms.sum((-1, -2)))
    left = torch.where(p > 0, -p.log(), 0.0)
    torch.testing.assert_close(got, p * (left - terms.sum(-1, keepdim=True)))


# --- forward mode --------------------------------------------------------------------------------


@every_case
def test_forward_mode_is_right_or_refused(c):
    """Never a tangent of 0 because nothing asked for a gradient."""
    parameters = {name: p.detach() for name, p in parameters_of(c.kind, (2,)).items()}
    first = next(iter(parameters))

    def estimate(p):
        torch.manual_seed(0)
        return c.make()(c.kind.f, c.kind.make(**{**parameters, first: p}), 2).sum()

    p = parameters[first]
    backward = torch.autograd.grad(estimate(leaf := p.clone().requires_grad_()), leaf)[0].sum()
    try:
        _, got = torch.func.jvp(estimate, (p,), (torch.ones_like(p),))
    except (NotImplementedError, RuntimeError) as error:
        assert "forward mode" in str(error) or "jvp" in str(error), error
    else:
        torch.testing.assert_close(got, backward)


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["b16", "16"])
def test_sixteen_bits_hold_the_parameters_and_no_more(c, dtype):
    """At a logit of 7 their probability rounds to 1, and a gradient made of it to 0."""
    if c.kind is not Bits:
        pytest.skip("bits")
    logits = torch.tensor([7.0, -6.0, 0.5], dtype=dtype)
    got = {}
    for kind in (dtype, torch.float32):
        torch.manual_seed(0)
        leaf = logits.to(kind).requires_grad_()
        seen = []

        def f(b, seen=seen):
            seen.append(b.dtype)
            return b.float() @ torch.tensor([1.0, 2.0, 3.0]) + 5

        value = c.make()(f, Bits.make(leaf), 64)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert set(seen) == {kind} and gradient.dtype == kind and value.dtype == torch.float32
        got[kind] = value.detach(), gradient.float()
    if c.estimator in (REBAR, RELAX, GumbelSoftmax):
        return  # the relaxed sample itself is rounded
    torch.testing.assert_close(got[dtype], got[torch.float32], rtol=0.02, atol=1e-5)
