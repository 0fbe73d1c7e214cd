"""What all estimators share, part by part: draws, checks, what is looked for, what is attached."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
    constraints,
)

from reparam.estimators import NVIL, ScoreFunction, _contract

F64 = torch.float64
PROBS = torch.tensor([0.2, 0.5, 0.9])


# --- draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["probs", "logits"])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_bit_is_one_where_a_uniform_number_lies_below(layers, given):
    parameter = PROBS.expand(4, 3).clone().requires_grad_()
    probs = parameter if given == "probs" else parameter.sigmoid()
    q = Bernoulli(**{given: parameter})
    for _ in range(layers):
        q = Independent(q, 1)
    torch.manual_seed(3)
    drawn = _contract.draw(q, 100)
    torch.manual_seed(3)
    assert torch.equal(drawn, (torch.rand(100, 4, 3) < probs).float())
    assert not drawn.requires_grad


def test_probabilities_come_without_a_graph():
    parameter = PROBS.clone().requires_grad_()
    found = _contract._probabilities(Bernoulli(parameter))
    assert found.data_ptr() == parameter.data_ptr() and not found.requires_grad
    made = _contract._probabilities(Bernoulli(logits=parameter))
    assert torch.equal(made, parameter.sigmoid()) and not made.requires_grad


class OwnSamples(Bernoulli):
    def sample(self, sample_shape=()):
        return torch.ones(*sample_shape, *self.batch_shape)


class OwnLayer(Independent):
    def sample(self, sample_shape=()):
        return torch.zeros(*sample_shape, *self.batch_shape, *self.event_shape)


def test_a_sample_of_ones_own_is_taken():
    assert (_contract.draw(OwnSamples(PROBS), 50) == 1).all()
    assert (_contract.draw(OwnLayer(Bernoulli(PROBS), 1), 50) == 0).all()
    assert (_contract.draw(Independent(OwnSamples(PROBS), 1), 50) == 1).all()


@pytest.mark.parametrize("kind", [Bernoulli, Normal])
def test_the_quick_way_is_taken(kind, monkeypatch):
    """It gives the same numbers, sooner; torch's own `sample` would not show here."""
    q = Bernoulli(PROBS) if kind is Bernoulli else Normal(PROBS, PROBS)
    layers = Independent(Independent(q, 0), 1)

    def slow(*arguments):
        raise AssertionError("the slow way")

    monkeypatch.setattr(_contract, "sampled", slow)
    monkeypatch.setattr(_contract, "_from_one_state", slow)
    _contract.draw_together([layers, layers], (2,))
    if kind is Bernoulli:
        _contract.draw(layers, 2)


def test_no_transform_keeps_what_was_drawn():
    """`log_prob` of the cached tensor itself would have no graph to the parameters."""
    moved = torch.distributions.TransformedDistribution(
        Normal(torch.zeros(3), 1.0), torch.distributions.AffineTransform(1.0, 2.0, cache_size=1)
    )
    for q in (moved, Independent(moved, 1)):
        z = _contract.sampled(q, (2,))
        assert z is not moved.transforms[0].inv._cached_x_y[0]
        assert z is not moved.transforms[0]._cached_x_y[1]
    plain = Normal(0.0, 1.0)
    fixed = torch.ones(2)
    plain.sample = lambda shape: fixed
    assert _contract.sampled(plain, (2,)) is fixed  # which needs no copy


@pytest.mark.parametrize("kind", ["bits", "normals", "others"])
def test_several_are_drawn_from_the_same_noise(kind):
    """And the generator ends where one draw alone leaves it."""
    at = torch.tensor([[0.3, 2.0], [0.4, 1.0], [0.2, 3.0]], requires_grad=True).unbind()
    make = {
        "bits": lambda p: Independent(Bernoulli(p / 4), 1),
        "normals": lambda p: Independent(Normal(p, p), 1),
        "others": lambda p: Independent(Poisson(4 * p), 1),
    }[kind]
    made = [make(p) for p in at]
    torch.manual_seed(5)
    drawn = _contract.draw_together(made, (6,))
    after = torch.rand(())
    assert len(drawn) == 3
    for q, p, z in zip(made, at, drawn, strict=True):
        assert z.shape == (6, 2) and not z.requires_grad
        torch.manual_seed(5)
        if kind == "bits":
            expected = (torch.rand(6, 2) < p / 4).float()
        elif kind == "normals":
            expected = p + p * torch.randn(6, 2)
        else:
            expected = q.sample((6,))
        torch.testing.assert_close(z, expected.detach())
    assert torch.rand(()) == after  # the last of `expected` used the generator as often


def test_several_with_samples_of_their_own():
    made = [OwnSamples(PROBS), OwnSamples(PROBS / 2)]
    assert all((z == 1).all() for z in _contract.draw_together(made, (20,)))
    made = [OwnLayer(Bernoulli(PROBS), 1), OwnLayer(Bernoulli(PROBS / 2), 1)]
    assert all((z == 0).all() for z in _contract.draw_together(made, (20,)))


def test_how_many_samples_have_no_density_is_counted():
    log_prob = torch.tensor([0.0, math.inf, -math.inf, math.nan, 1.0, 2.0, 3.0], requires_grad=True)
    with pytest.raises(ValueError, match="infinite or NaN at 3 of 7 samples"):
        _contract.finite_density(log_prob, Normal(0.0, 1.0))


# --- checks --------------------------------------------------------------------------------------


def test_what_an_estimator_returned_is_described():
    _contract.check_estimates(torch.zeros(3), torch.Size([3]))
    for got, words in (
        (1.0, r"batch_shape \(3,\), got float of no shape"),
        (torch.zeros(2, 3), r"batch_shape \(3,\), got Tensor of \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            _contract.check_estimates(got, torch.Size([3]))


def test_which_samples_have_no_path():
    class Silent(Distribution):
        arg_constraints = {}  # noqa: RUF012

    assert _contract.is_discrete(Independent(Bernoulli(PROBS), 1)) is True
    assert _contract.is_discrete(Normal(0.0, 1.0)) is False
    assert _contract.is_discrete(Silent(validate_args=False)) is False


def test_an_infinite_value_is_named_where_it_matters():
    q, z = Normal(torch.zeros(2), 1.0), torch.zeros(3, 2)

    def infinite(z):
        return z.log()

    assert (_contract.values_of(infinite, z, q) == -math.inf).all()
    with pytest.raises(ValueError, match="ARM has no finite gradient: f is infinite at a sample"):
        _contract.values_of(infinite, z, q, finite_for="ARM")
    with pytest.raises(ValueError, match="f returned NaN for 6 of 6 samples"):
        _contract.values_of(lambda z: z / 0, z, q, finite_for="ARM")
    assert (_contract.values_of(torch.exp, z, q, finite_for="ARM") == 1).all()


def test_in_inference_mode_there_is_a_value():
    """Where torch does not count what is changed in place."""
    with torch.inference_mode():
        value = ScoreFunction()(lambda b: 2 * b, Bernoulli(torch.ones(2)), 3)
    assert (value == 2).all()


def test_a_sample_leads_to_itself():
    """An `f` that is the identity has a path."""
    leaf = torch.ones(2, requires_grad=True)
    for z in (leaf, leaf.exp()):
        assert _contract._depends_on(z, z) is True
        assert _contract._depends_on(z + 1, z) is True


def test_classes_are_told_to_be_one_hot():
    with pytest.raises(
        ValueError, match=r"got Categorical: use OneHotCategorical\(logits=\.\.\.\)"
    ):
        _contract.discrete_logits("ARM", Categorical(PROBS))
    with pytest.raises(ValueError, match=r"Bernoulli or OneHotCategorical .*use Pathwise"):
        _contract.discrete_logits("ARM", Normal(0.0, 1.0))
    logits, kind = _contract.discrete_logits("ARM", Independent(OneHotCategorical(PROBS), 0))
    assert kind is OneHotCategorical and logits.shape == (3,)


NARROW = Bernoulli(logits=torch.tensor([0.5, -1.0], dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((3, NARROW), TypeError, "f must be a function of the samples, got int"),
        ((torch.sum, NARROW, 0), ValueError, "num_samples must be at least 1, got 0"),
        ((lambda b: 1.0, NARROW), TypeError, r"shape \(1, 2\), got float"),
        ((lambda b: b.long(), NARROW), TypeError, "floating-point values, got torch.int64"),
    ],
)
def test_sixteen_bits_change_no_words(arguments, error, says):
    with pytest.raises(error, match=says):
        ScoreFunction()(*arguments)


# --- what is looked for --------------------------------------------------------------------------


def test_modules_are_found_once_wherever_they_are_held():
    @dataclasses.dataclass
    class Holder:
        part: object

    one, two = nn.Linear(1, 1), nn.Linear(1, 1)
    nested = Holder({"a": [one, (two, one)], "b": Holder(two)})
    assert set(_contract.modules_in(nested)) == {one, two}
    assert len(_contract.modules_in(nested)) == 2
    baseline = nn.Linear(3, 1)
    learned = NVIL(baseline).at(torch.ones(2, 3))
    assert baseline in _contract.modules_in(ScoreFunction(learned))
    assert _contract.modules_in(ScoreFunction) == []  # a class holds nothing
    one.holder = nested  # a ring, which must end
    assert set(_contract.modules_in(nested)) == {one, two}


class Shared(Distribution):
    """A direction for each entry of the batch, all of them the same; a width that is not kept."""

    arg_constraints = {"probs": constraints.simplex}  # noqa: RUF012
    support = constraints.real

    def __init__(self, probs, width=1.0, height=2.0, validate_args=None):
        self.probs, self.height = probs, height
        super().__init__(torch.Size([4]), probs.shape[-1:], validate_args=validate_args)


def test_parameters_of_a_family_of_ones_own():
    """One named `probs` alone, which it has for the whole batch, and an argument that it drops."""
    q = Shared(torch.tensor([0.2, 0.8]), width=3.0, height=5.0)
    ((name, value),) = _contract.parameters_of(q).items()
    assert name == "probs"
    assert torch.equal(value, torch.tensor([0.2, 0.8]).expand(4, 2))
    again = _contract.rebuilt(q, {"probs": value})
    assert type(again) is Shared and torch.equal(again.probs, value) and again.height == 5.0


class Line(Distribution):
    """Two numbers for each entry of the batch, of which the first comes once for all."""

    arg_constraints = {"loc": constraints.real}  # noqa: RUF012
    support = constraints.real

    def __init__(self, loc, validate_args=None):
        self.loc = loc
        super().__init__(torch.Size([4]), validate_args=validate_args)


def test_a_parameter_of_size_one_gets_its_full_shape():
    assert _contract.parameters_of(Line(torch.ones(1)))["loc"].shape == (4,)


def test_what_is_rebuilt_is_not_validated():
    """Nor are the values that it is asked about: parameters may stand outside for a moment."""
    for q in (Bernoulli(PROBS, validate_args=True), Independent(Bernoulli(PROBS), 1)):
        again = _contract.rebuilt(q, {"probs": PROBS * 2})
        assert again.log_prob(PROBS).shape == q.batch_shape
        assert not again._validate_args and not _contract.innermost(again)._validate_args


# --- what is attached ----------------------------------------------------------------------------


def attached(value):
    return _contract.attach("SPSA", value, torch.ones(2, requires_grad=True), torch.ones(2))


def also_trained(value):
    return _contract.also_train(value, [nn.Parameter(torch.ones(1))], [torch.ones(1)])


def once(value):
    ctx = SimpleNamespace(saved_tensors=(torch.ones(2, requires_grad=True),), name="SPSA")
    return _contract._once(ctx, value)


@pytest.mark.parametrize("give", [attached, also_trained, once])
def test_an_estimate_that_is_changed_in_place_leaves_the_values_alone(give):
    value = torch.tensor([1.0, 2.0])
    given = give(value)
    with torch.no_grad():
        given.add_(1)
    assert value.tolist() == [1.0, 2.0]


def test_each_sample_hands_its_gradient_on():
    soft = torch.tensor([1.0, 2.0], requires_grad=True)
    weights = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]])
    for some in (weights, weights[:2], weights[:1]):
        hard = torch.zeros(len(some), 2)
        handed = _contract.handed_on("ReinMax", hard, soft)
        (got,) = torch.autograd.grad((some * handed).sum(), soft)
        assert torch.equal(got, some.sum(0))


def test_what_parameters_are_given_has_no_graph():
    w = torch.tensor([3.0], requires_grad=True)
    parameter = nn.Parameter(torch.ones(1))
    value = _contract.also_train(torch.ones(2, requires_grad=True) * 1, [parameter], [w * 2])
    (got,) = torch.autograd.grad(value.sum(), parameter, create_graph=True)
    assert got.item() == 6 and not got.requires_grad


def test_own_parameters_are_not_trained_under_vmap():
    """Each of many copies would give them a gradient, and they take one."""
    parameter = nn.Parameter(torch.ones(1))

    def trained(value):
        return _contract.also_train(value, [parameter], [torch.ones(1)])

    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(trained)(torch.ones(3))


def test_what_is_no_estimator():
    _contract.check_estimator(ScoreFunction())
    _contract.check_estimator(lambda f, distribution, num_samples: f)
    with pytest.raises(TypeError, match=r"got the class ScoreFunction: use ScoreFunction\(\)"):
        _contract.check_estimator(ScoreFunction)
    with pytest.raises(TypeError, match="estimator must be callable, got str"):
        _contract.check_estimator("score")
