"""Properties of every public function and law of tensors: shapes, dtypes, extremes, bad input.

`properties.py` says how the examples are drawn; `test_properties_of_models.py` has the rest.
"""

import importlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Cauchy, Independent, Laplace, Normal

from reparam.distributions import (
    Logistic,
    Mixture,
    TruncatedNormal,
    VonMises,
    implicit_reparameterization,
)
from reparam.flows import rational_quadratic_spline
from reparam.gaussian import (
    ReparameterizedSampling,
    bound_log_var,
    full_covariance_kl,
    gaussian_kl,
    low_rank_kl,
    reparameterize_gaussian,
)
from reparam.relaxed import annealed_temperature
from tests.lib.properties import (
    COVERED,
    SIXTEEN_BITS,
    WIDE,
    Inputs,
    check_gradients,
    covers,
    examples,
    faulty,
)


def public(name: str) -> Callable:
    """What `module.name` names in reparam."""
    module, _, name = name.rpartition(".")
    return getattr(importlib.import_module(f"reparam.{module}"), name)


# --- functions of tensors ------------------------------------------------------------------------


def joint(**tensors: Tensor) -> torch.Size:
    """The shape that they have together."""
    return torch.broadcast_shapes(*(tensor.shape for tensor in tensors.values()))


@dataclass(frozen=True)
class Recipe:
    """How to call a function, and what to expect of it.

    Attributes:
        tensors: its tensors by name.
        options: its other arguments.
        shape: that of the result.
        inside: what holds of every number of the result.
        wide: whether 16-bit types come out as float32.
        heavy: whether ordinary parameters can lead past the end of a 16-bit type.
        infinite: tensors in which infinity means something.
    """

    tensors: Callable[[Inputs], dict[str, Tensor]]
    options: Callable[[Inputs], dict] = lambda x: {}
    shape: Callable[..., tuple[int, ...]] = joint
    inside: Callable[..., Tensor] = lambda z, /, **_: z == z
    wide: bool = False
    heavy: bool = False
    infinite: tuple[str, ...] = ()


def real_pair(first: str, second: str, *event: str) -> Callable:
    return lambda x: {first: x.real(*event), second: x.real(*event)}


def positive_pair(first: str, second: str) -> Callable:
    return lambda x: {first: x.positive(part=True), second: x.positive(part=True)}


def located(x: Inputs) -> dict:
    return dict(loc=x.real(part=True), scale=x.positive(part=True))


def low_rank(x: Inputs) -> dict:
    return dict(mu=x.real("D"), factor=x.real("D", "R"), log_diagonal=x.real("D"))


def tempered(x: Inputs) -> dict:
    return dict(temperature=x.choose(1.0, 1e-3, 0.5, 100.0))


def tempered_and_hard(x: Inputs) -> dict:
    return dict(**tempered(x), hard=x.choose(False, True))


def one_hot_and_logits(x: Inputs) -> dict:
    classes = torch.randint(x.sizes["C"], x.shape())
    one_hot = torch.nn.functional.one_hot(classes, x.sizes["C"]).to(x.dtype)
    return dict(one_hot=one_hot, logits=x.real("C", part=True))


def spline(x: Inputs) -> dict:
    """Bins that are no narrower than a tenth of an even one, whose sums round alike."""
    bins = x.sizes["D"] + 1
    shares = [torch.rand(x.shape(bins), dtype=torch.float64) + 0.1 for _ in range(2)]
    widths, heights = (x.leaf(8 * share / share.sum(-1, keepdim=True)) for share in shares)
    return dict(z=x.real(), widths=widths, heights=heights, slopes=x.positive(bins - 1))


#: Of a name in `FUNCTIONS` the first part is its module.
FUNCTIONS = {
    "gaussian.reparameterize_gaussian": Recipe(real_pair("mu", "log_var")),
    "gaussian.reparameterize_full_covariance_gaussian": Recipe(
        lambda x: dict(mu=x.real("D"), L=x.factor("D")), shape=lambda mu, L: mu.shape
    ),
    "gaussian.reparameterize_low_rank_gaussian": Recipe(low_rank, shape=lambda mu, **_: mu.shape),
    "gaussian.bound_log_var": Recipe(
        lambda x: dict(raw=x.real()), inside=lambda z, /, **_: z.abs() <= 10
    ),
    "gaussian.cholesky_factor": Recipe(
        lambda x: dict(raw=x.real(x.sizes["D"] * (x.sizes["D"] + 1) // 2)),
        shape=lambda raw: (*raw.shape[:-1], *[math.isqrt(2 * raw.shape[-1])] * 2),
        inside=lambda L, /, **_: (L.triu(1) == 0) & (L.diagonal(dim1=-2, dim2=-1) > 0).all(),
    ),
    "gaussian.gaussian_kl": Recipe(
        real_pair("mu", "log_var", "D"),
        shape=lambda mu, log_var: mu.shape[:-1],
        inside=lambda kl, /, **_: kl >= 0,
        wide=True,
    ),
    "gaussian.full_covariance_kl": Recipe(
        lambda x: dict(mu=x.real("D"), L=x.factor("D")),
        shape=lambda mu, L: mu.shape[:-1],
        inside=lambda kl, /, **_: kl >= 0,
        wide=True,
    ),
    "gaussian.low_rank_kl": Recipe(
        low_rank,
        shape=lambda mu, **_: mu.shape[:-1],
        inside=lambda kl, /, **_: kl >= 0,
        wide=True,
    ),
    "distributions.reparameterize_uniform": Recipe(
        lambda x: dict(zip(("low", "high"), x.below_and_above(), strict=True)),
        inside=lambda z, /, low, high: (low < z) & (z < high),
    ),
    "distributions.reparameterize_exponential": Recipe(
        lambda x: dict(rate=x.positive()), inside=lambda z, /, rate: z >= 0
    ),
    "distributions.reparameterize_logistic": Recipe(located),
    "distributions.reparameterize_gumbel": Recipe(located),
    "distributions.reparameterize_laplace": Recipe(located),
    "distributions.reparameterize_cauchy": Recipe(located, heavy=True),
    "distributions.reparameterize_log_normal": Recipe(
        located, inside=lambda z, /, **_: z >= 0, heavy=True
    ),
    "distributions.reparameterize_weibull": Recipe(
        positive_pair("scale", "concentration"), inside=lambda z, /, **_: z >= 0, heavy=True
    ),
    "distributions.reparameterize_pareto": Recipe(
        positive_pair("scale", "alpha"), inside=lambda z, /, scale, alpha: z >= scale, heavy=True
    ),
    "distributions.reparameterize_kumaraswamy": Recipe(
        positive_pair("concentration1", "concentration0"),
        inside=lambda z, /, **_: (z > 0) & (z < 1),
    ),
    "relaxed.gumbel_softmax": Recipe(
        lambda x: dict(logits=x.real("C")),
        tempered_and_hard,
        inside=lambda y, /, **_: (y >= 0) & ((y.double().sum(-1, keepdim=True) - 1).abs() < 0.02),
        infinite=("logits",),
    ),
    "relaxed.relaxed_bernoulli": Recipe(
        lambda x: dict(logits=x.real()),
        tempered_and_hard,
        inside=lambda y, /, **_: (y >= 0) & (y <= 1),
        infinite=("logits",),
    ),
    "relaxed.log_gumbel_softmax": Recipe(
        lambda x: dict(logits=x.real("C")),
        tempered,
        inside=lambda log_y, /, **_: log_y <= 0,
        heavy=True,
        infinite=("logits",),
    ),
    "relaxed.relaxed_logit": Recipe(
        lambda x: dict(logits=x.real()), tempered, heavy=True, infinite=("logits",)
    ),
    "relaxed.log_gumbel_softmax_log_prob": Recipe(
        lambda x: dict(log_y=x.real("C", part=True), logits=x.real("C", part=True)),
        tempered,
        shape=lambda log_y, logits: joint(log_y=log_y, logits=logits)[:-1],
        wide=True,
    ),
    "relaxed.relaxed_logit_log_prob": Recipe(
        lambda x: dict(x=x.real(part=True), logits=x.real(part=True)), tempered, wide=True
    ),
    "relaxed.gumbel_given": Recipe(
        one_hot_and_logits,
        inside=lambda z, /, one_hot, **_: (z == z.amax(-1, keepdim=True)) | (one_hot == 0),
        infinite=("one_hot", "logits"),
    ),
    "relaxed.logistic_given": Recipe(
        lambda x: dict(b=torch.randint(2, x.shape()).to(x.dtype), logits=x.real(part=True)),
        inside=lambda z, /, b, logits: torch.where(b == 1, z >= 0, z <= 0),
        infinite=("b", "logits"),
    ),
    "relaxed.straight_through": Recipe(
        real_pair("hard", "soft"),
        inside=lambda z, /, hard, soft: z == hard,
        infinite=("hard", "soft"),
    ),
    "flows.rational_quadratic_spline": Recipe(
        spline,
        lambda x: dict(inverse=x.choose(False, True)),
        shape=lambda z, **_: z.shape,
    ),
}
COVERED.update(FUNCTIONS)
OF_ONE_TENSOR = {
    "gaussian.bound_log_var",
    "gaussian.cholesky_factor",
    "distributions.reparameterize_exponential",
    "relaxed.gumbel_softmax",
    "relaxed.relaxed_bernoulli",
    "relaxed.log_gumbel_softmax",
    "relaxed.relaxed_logit",
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def results_of(name: str, x: Inputs, tensors: dict[str, Tensor]) -> list[Tensor]:
    """What a function returns, of the right shape and dtype, without NaN, where it should be."""
    recipe = FUNCTIONS[name]
    results = public(name)(**tensors, **recipe.options(x))
    results = list(results) if isinstance(results, tuple) else [results]
    for result in results:
        assert result.shape == recipe.shape(**tensors)
        narrow = recipe.wide and x.dtype in SIXTEEN_BITS
        assert result.dtype == (torch.float32 if narrow else x.dtype)
        assert recipe.inside(result, **tensors).all()
    return results


@each_function
@given(data=st.data())
@examples(12)
def test_ordinary_numbers(name, data):
    x = Inputs(data)
    tensors = FUNCTIONS[name].tensors(x)
    results = results_of(name, x, tensors)
    if not (FUNCTIONS[name].heavy and x.dtype in SIXTEEN_BITS):
        assert all(result.isfinite().all() for result in results)
    check_gradients(results, tensors)


@each_function
@given(data=st.data())
@examples(25)
def test_extreme_numbers(name, data):
    x = Inputs(data, extreme=True)
    tensors = FUNCTIONS[name].tensors(x)
    try:
        results = results_of(name, x, tensors)
    except ValueError as error:  # refused, with a reason
        assert any(argument in str(error) for argument in tensors), error
    else:
        check_gradients(results, tensors)


@each_function
@given(data=st.data())
@examples(20)
def test_a_fault_is_named(name, data):
    """One argument is wrong, and one clear error says which and how."""
    x = Inputs(data)
    recipe = FUNCTIONS[name]
    tensors = recipe.tensors(x)
    argument = x.choose(*tensors)
    faults = faulty(tensors[argument], infinite=argument not in recipe.infinite)
    if name in OF_ONE_TENSOR:
        del faults["another dtype"]
    wrong, says = faults[x.choose(*faults)]
    with pytest.raises((TypeError, ValueError), match=rf"(?s)(?=.*\b{argument}\b)(?=.*({says}))"):
        public(name)(**{**tensors, argument: wrong})


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in OF_ONE_TENSOR])
@given(data=st.data())
@examples(10)
def test_shapes_that_do_not_fit(name, data):
    x = Inputs(data, parts=False)
    tensors = FUNCTIONS[name].tensors(x)
    argument = x.choose(*tensors)
    fives_and_seven = {
        key: tensor.detach().expand(7 if key == argument else 5, *tensor.shape)
        for key, tensor in tensors.items()
    }
    with pytest.raises(ValueError, match=r"shape|broadcast|for each mean"):
        public(name)(**fives_and_seven)


@each_function
@given(data=st.data())
@examples(5)
def test_the_same_seed_gives_the_same_numbers(name, data):
    x = Inputs(data)
    tensors, options = FUNCTIONS[name].tensors(x), FUNCTIONS[name].options(x)
    seed = x.choose(0, 1, 2**40)
    function = public(name)
    has_generator = "generator" in inspect.signature(function).parameters

    def again() -> tuple[Tensor, ...]:
        torch.default_generator.manual_seed(seed)
        generator = {"generator": torch.Generator().manual_seed(seed)} if has_generator else {}
        if has_generator:
            torch.rand(x.choose(1, 3))  # what else is drawn does not matter
        result = function(**tensors, **options, **generator)
        return result if isinstance(result, tuple) else (result,)

    assert all(map(torch.equal, again(), again()))


# --- what holds between several calls ------------------------------------------------------------


@given(data=st.data())
@examples(20)
def test_reductions_of_a_kl_agree(data):
    x = Inputs(data)
    mu, log_var, L = x.real("D"), x.real("D"), x.factor("D")
    each = gaussian_kl(mu, log_var, "none")
    assert each.shape == mu.shape and (each >= 0).all()
    total = gaussian_kl(mu, log_var)
    torch.testing.assert_close(each.sum(-1), total)
    torch.testing.assert_close(gaussian_kl(mu, log_var, "batchmean"), total.mean())
    torch.testing.assert_close(
        full_covariance_kl(mu, L, "batchmean"), full_covariance_kl(mu, L).mean()
    )
    factor = x.real("D", "R")
    torch.testing.assert_close(
        low_rank_kl(mu, factor, log_var, "batchmean"), low_rank_kl(mu, factor, log_var).mean()
    )


@given(data=st.data())
@examples(40)
def test_a_low_rank_of_nothing_and_a_diagonal_factor_are_the_diagonal_gaussian(data):
    x = Inputs(data, dtypes=WIDE)
    mu, log_var = x.real("D"), x.real("D")
    expected = gaussian_kl(mu, log_var)
    torch.testing.assert_close(low_rank_kl(mu, torch.zeros(*mu.shape, 2).to(mu), log_var), expected)
    L = torch.diag_embed((log_var / 2).exp())
    torch.testing.assert_close(full_covariance_kl(mu, L), expected, rtol=1e-4, atol=1e-5)


@given(data=st.data())
@examples(60)
def test_a_bounded_log_variance_keeps_its_bounds_and_its_order(data):
    x = Inputs(data, extreme=True)
    raw = x.real().detach().flatten().sort().values
    low = data.draw(st.floats(-50, 50), "low")
    high = low + data.draw(st.floats(0.1, 50), "width")
    bounded = bound_log_var(raw, low, high)
    room = torch.finfo(x.dtype).eps * max(abs(low), abs(high))
    assert ((bounded >= low - room) & (bounded <= high + room)).all()
    assert (bounded.diff() >= 0).all()


@covers("gaussian.ReparameterizedSampling")
@given(data=st.data())
@examples(20)
def test_the_layer_is_the_function(data):
    x = Inputs(data)
    mu, log_var = x.real("D"), x.real("D")
    layer, seed = ReparameterizedSampling(), x.choose(0, 1)
    samples = []
    for sample in (
        lambda: reparameterize_gaussian(mu, log_var),
        lambda: layer(mu, log_var),
        lambda: layer(torch.cat([mu, log_var], -1)),
    ):
        torch.default_generator.manual_seed(seed)
        samples.append(sample())
    assert torch.equal(samples[0], samples[1]) and torch.equal(samples[0], samples[2])
    assert torch.equal(layer.eval()(mu, log_var), mu)


@given(data=st.data())
@examples(40)
def test_a_spline_is_monotone_and_its_inverse_leads_back(data):
    x = Inputs(data, dtypes=[torch.float64])
    tensors = {name: tensor.detach() for name, tensor in spline(x).items()}
    bins = {name: tensor for name, tensor in tensors.items() if name != "z"}
    z = 3 * tensors["z"]
    y, log_slopes = rational_quadratic_spline(z, **bins)
    back, inverse_slopes = rational_quadratic_spline(y, **bins, inverse=True)
    torch.testing.assert_close(back, z, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inverse_slopes, -log_slopes, rtol=1e-6, atol=1e-6)
    further = rational_quadratic_spline(z + torch.rand_like(z), **bins)[0]
    assert (further >= y).all()


@covers("relaxed.annealed_temperature")
@given(
    steps=st.lists(st.floats(0, 1e9), min_size=2, max_size=2).map(sorted),
    start=st.floats(1e-3, 1e3),
    share=st.floats(1e-3, 1),
    rate=st.floats(0, 1),
)
@examples(40)
def test_a_temperature_falls_from_start_to_end(steps, start, share, rate):
    end = start * share
    earlier, later = (annealed_temperature(step, start, end, rate) for step in steps)
    assert start >= earlier >= later >= end
    assert annealed_temperature(0, start, end, rate) == start


@covers("distributions.implicit_reparameterization")
@given(data=st.data())
@examples(40)
def test_an_implicit_path_keeps_the_sample_and_moves_with_a_location(data):
    x = Inputs(data, dtypes=WIDE)
    loc, scale = x.real(), x.positive()
    z = Normal(loc, scale).sample()
    path = implicit_reparameterization(z, Normal(loc, scale).cdf)
    assert torch.equal(path, z)
    by_loc, by_scale = torch.autograd.grad(path.sum(), (loc, scale))
    torch.testing.assert_close(by_loc, torch.ones_like(loc), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(by_scale, (z - loc) / scale, rtol=1e-2, atol=1e-2)


# --- laws ----------------------------------------------------------------------------------------


def truncated(x: Inputs) -> dict:
    low, high = x.below_and_above()
    if x.choose(False, True):
        high = torch.full_like(high, math.inf)
    return dict(**located(x), low=low, high=high)


LAWS = {
    Logistic: located,
    VonMises: lambda x: dict(loc=x.real(part=True), concentration=x.positive(part=True)),
    TruncatedNormal: truncated,
}
COVERED.update(f"distributions.{law.__name__}" for law in LAWS)
each_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
SAMPLE_SHAPES = [(), (1,), (3,), (2, 2), (0,)]


@each_law
@given(data=st.data())
@examples(20)
def test_samples_of_a_law(law, data):
    x = Inputs(data)
    parameters = LAWS[law](x)
    q, sample_shape = law(**parameters), x.choose(*SAMPLE_SHAPES)
    assert q.batch_shape == joint(**parameters)
    z = q.rsample(sample_shape)
    assert z.shape == (*sample_shape, *q.batch_shape) and z.dtype == x.dtype
    assert q.support.check(z).all()
    log_prob = q.log_prob(z.detach())
    assert log_prob.shape == z.shape and log_prob.dtype == x.dtype
    assert log_prob.isfinite().all()
    check_gradients([z, log_prob], parameters)
    wider = q.expand((2, *q.batch_shape))
    assert wider.batch_shape == (2, *q.batch_shape) and wider.sample().dtype == x.dtype


@each_law
@given(data=st.data())
@examples(20)
def test_moments_and_quantiles_of_a_law(law, data):
    x = Inputs(data)
    parameters = {name: tensor.detach() for name, tensor in LAWS[law](x).items()}
    q = law(**parameters)
    for moment in (q.mean, q.mode, q.variance, q.entropy()):
        assert moment.shape == q.batch_shape and moment.dtype == x.dtype
        assert moment.isfinite().all()
    assert (q.variance >= 0).all()
    u = torch.rand(3, *q.batch_shape).mul(0.98).add(0.01).to(x.dtype)
    z = q.icdf(u)
    assert z.shape == u.shape and z.dtype == x.dtype and q.support.check(z).all()
    again = q.cdf(z)
    assert ((again >= 0) & (again <= 1)).all()
    if x.dtype in WIDE and law is not TruncatedNormal:  # whose bounds may be a few steps apart
        torch.testing.assert_close(again, u, rtol=1e-2, atol=1e-3)


@each_law
@given(data=st.data())
@examples(60)
def test_a_law_of_extreme_parameters(law, data):
    """No NaN, in samples, densities, quantiles and moments; or a reason at the start."""
    x = Inputs(data, extreme=True)
    parameters = LAWS[law](x)
    try:
        q = law(**parameters)
    except ValueError as error:
        assert any(name in str(error) for name in parameters), error
        return
    z = q.rsample((2,))
    found = [z, q.mean, q.mode, q.variance, q.entropy(), q.icdf(torch.rand(z.shape).to(x.dtype))]
    assert not any(numbers.isnan().any() for numbers in found)
    check_gradients(z, parameters)
    if z.isfinite().all():
        q = law(**parameters, validate_args=False)  # of the edge, which is rounded onto
        density, below = q.log_prob(z.detach()), q.cdf(z.detach())
        assert not density.isnan().any()
        assert ((below >= 0) & (below <= 1)).all()
        scale = parameters.get("scale", torch.ones(1)).detach().double()
        if (scale.square().reciprocal() < torch.finfo(x.dtype).max).all():  # as slopes hold it
            check_gradients(density, parameters)


@each_law
@given(data=st.data())
@examples(30)
def test_a_fault_of_a_law_is_named(law, data):
    x = Inputs(data)
    parameters = LAWS[law](x)
    name = x.choose(*parameters)
    faults = faulty(parameters[name], infinite=name in ("concentration", "loc"))
    if law is Logistic:
        faults.pop("infinity", None)  # as torch's own laws
    del faults["a list"]  # torch takes numbers
    wrong, says = faults[x.choose(*faults)]
    with pytest.raises((TypeError, ValueError), match=rf"(?s)(?=.*\b{name}\b)(?=.*({says}))"):
        law(**{**parameters, name: wrong})


@covers("distributions.Mixture")
@pytest.mark.parametrize("family", [Normal, Laplace, Cauchy, Logistic], ids=lambda f: f.__name__)
@given(data=st.data())
@examples(20)
def test_a_mixture(family, data):
    x = Inputs(data)
    has_vectors, sample_shape = x.choose(False, True), x.choose(*SAMPLE_SHAPES)
    event = ("D",) if has_vectors else ()
    parameters = dict(logits=x.real("C"), loc=x.real("C", *event), scale=x.positive("C", *event))
    components = family(parameters["loc"], parameters["scale"])
    if has_vectors:
        components = Independent(components, 1)
    q = Mixture(Categorical(logits=parameters["logits"]), components)
    z = q.rsample(sample_shape)
    assert z.shape == (*sample_shape, *x.shape(*event)) and z.dtype == x.dtype
    log_prob = q.log_prob(z.detach())
    assert log_prob.shape == (*sample_shape, *x.batch) and log_prob.dtype == x.dtype
    if not (family is Cauchy and x.dtype in SIXTEEN_BITS):
        assert z.isfinite().all() and log_prob.isfinite().all()
    check_gradients([z, log_prob], parameters)
