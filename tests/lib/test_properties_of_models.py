"""Properties of everything public that is no function or law of tensors: shapes, dtypes, bad input.

Flows, estimators, bounds, VAEs, measurements, checks, pictures and quizzes, on examples drawn as
`properties.py` says. What no property of tensors can be stated of stands in `WITHOUT`.
"""

import importlib
import math
import re
from collections.abc import Callable

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
)

from reparam import checkup, estimators, explorers, flows, measure, objectives, plots, quiz, vae
from reparam.gaussian import gaussian_kl, reparameterize_gaussian
from tests.lib import test_properties
from tests.lib.properties import (
    COVERED,
    DTYPES,
    WIDE,
    Inputs,
    check_gradients,
    covers,
    examples,
    faulty,
)
from tests.lib.test_house import PUBLIC

#: Public names without a property test, and why.
WITHOUT = {
    "checkup.Finding": "holds three texts",
    "checkup.Report": "what the checks return",
    "data.Digits": "what load_digits returns",
    "data.load_digits": "one data set, the same every time",
    "distributions.survey": "a table of torch's own distributions",
    "estimators.Constant": "held by ScoreFunction, which has the test",
    "estimators.Learned": "held by ScoreFunction, which has the test",
    "estimators.LeaveOneOut": "held by ScoreFunction, which has the test",
    "estimators.MovingAverage": "held by ScoreFunction, which has the test",
    "estimators.NVIL": "held by ScoreFunction, which has the test",
    "exercises.Outcome": "holds texts",
    "exercises.check": "reads the answers in a notebook",
    "exercises.points": "decorates a test of an exercise",
    "exercises.require": "reads the answers in a notebook",
    "explorers.Explorer": "what the explorers return",
    "explorers.chooser": "takes nothing",
    "explorers.transport": "takes nothing",
    "explorers.warped_grid": "takes nothing",
    "live.TryYourOwnF": "widgets",
    "live.try_your_own_f": "widgets",
    "long_runs.load": "reads a file",
    "long_runs.write": "writes a file",
    "measure.Comparison": "what compare returns",
    "measure.ExactGradient": "what exact_gradient returns",
    "measure.Measurement": "what measure returns",
    "measure.Row": "what a Comparison holds",
    "noise.exponential_noise": "test_noise draws its shapes and dtypes",
    "noise.gumbel_noise": "test_noise draws its shapes and dtypes",
    "noise.logistic_noise": "test_noise draws its shapes and dtypes",
    "noise.open_uniform_noise": "test_noise draws its shapes and dtypes",
    "plots.use_style": "takes nothing",
    "quiz.Quiz": "what quiz returns",
    "vae.HeldOut": "what evaluate returns",
    "vae.History": "what train returns",
    "vae.Quantized": "what a VectorQuantizer returns",
}


def test_everything_public_has_its_properties():
    assert test_properties.FUNCTIONS  # which fill COVERED, too
    modules = {name: importlib.import_module(f"reparam.{name}") for name in PUBLIC}
    everything = {
        f"{module}.{name}"
        for module, loaded in modules.items()
        for name in loaded.__all__
        if callable(getattr(loaded, name))
    }
    assert everything == COVERED | set(WITHOUT), "give it a test, or a line in WITHOUT"
    assert not COVERED & set(WITHOUT)


# --- flows ---------------------------------------------------------------------------------------


def two_of_a_kind(dim: int, context_dim: int = 0) -> flows.FlowSequence:
    return flows.FlowSequence(flows.PlanarFlow(dim, context_dim) for _ in range(2))


FLOWS = {
    flows.AffineCouplingFlow: dict(hidden=(4,)),
    flows.InverseAutoregressiveFlow: dict(hidden=(4,)),
    flows.MaskedAutoregressiveFlow: dict(hidden=(4,)),
    flows.PlanarFlow: {},
    flows.RadialFlow: {},
    flows.SplineFlow: dict(hidden=(4,), bins=3),
    flows.SylvesterFlow: {},
    two_of_a_kind: {},
}
COVERED.update(f"flows.{flow.__name__}" for flow in FLOWS if flow is not two_of_a_kind)
COVERED.update({"flows.Flow", "flows.FlowSequence"})  # the contract of all, and `two_of_a_kind`
each_flow = pytest.mark.parametrize("make", FLOWS, ids=lambda make: make.__name__)


def flow_and_input(make: Callable, x: Inputs, size: float = 0.3) -> tuple[flows.Flow, dict]:
    """A flow that is not the identity, and what it takes."""
    dim, context_dim = x.sizes["D"] + 1, x.choose(0, 2)
    flow = make(dim, context_dim=context_dim, **FLOWS[make])
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=size)
    tensors = dict(z=x.real(dim))
    if context_dim:
        tensors["context"] = x.real(context_dim, part=True)
    return flow.to(x.dtype), tensors


@each_flow
@given(data=st.data())
@examples(15)
def test_a_flow_and_its_inverse(make, data):
    x = Inputs(data)
    flow, tensors = flow_and_input(make, x)
    z, context = tensors["z"], tensors.get("context")
    moved, log_det = flow(z, context)
    back, inverse_log_det = flow.inverse(moved, context)
    for tensor, shape in ((moved, z.shape), (log_det, x.batch), (inverse_log_det, x.batch)):
        assert tensor.shape == shape and tensor.dtype == x.dtype
    check_gradients([moved, log_det], {**tensors, **dict(flow.named_parameters())})
    if x.dtype == torch.float64:
        torch.testing.assert_close(back, z, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-5, atol=1e-5)


@each_flow
@given(data=st.data())
@examples(20)
def test_a_flow_of_extreme_numbers(make, data):
    x = Inputs(data, extreme=True)
    flow, tensors = flow_and_input(make, x)
    way = x.choose(flow, flow.inverse)
    try:
        results = way(tensors["z"], tensors.get("context"))
    except ValueError as error:
        assert "gave NaN or infinity" in str(error)
    else:
        assert all(result.isfinite().all() for result in results)
        check_gradients(results, tensors)


@each_flow
@given(data=st.data())
@examples(20)
def test_a_fault_of_what_a_flow_takes_is_named(make, data):
    x = Inputs(data)
    flow, tensors = flow_and_input(make, x)
    name = x.choose(*tensors)
    faults = faulty(tensors[name])
    faults["another length"] = tensors[name][..., :1], r"shape|of shape \[\.\.\., 2\]"
    wrong, says = faults[x.choose(*faults)]
    tensors = {**dict(context=None), **tensors, name: wrong}
    with pytest.raises((TypeError, ValueError), match=rf"(?s)(?=.*\b{name}\b)(?=.*({says}))"):
        flow(**tensors)


@covers("flows.NormalizingFlowPosterior")
@each_flow
@given(data=st.data())
@examples(10)
def test_a_flow_posterior(make, data):
    x = Inputs(data)
    flow, tensors = flow_and_input(make, x)
    loc, scale = tensors["z"], x.positive(flow.dim)
    context = tensors.get("context")
    q = flows.NormalizingFlowPosterior(Independent(Normal(loc, scale), 1), flow, context)
    assert q.batch_shape == x.batch and q.event_shape == (flow.dim,)
    sample_shape = x.choose((), (1,), (2, 2))
    z, log_q = q.rsample_and_log_prob(sample_shape)
    assert z.shape == (*sample_shape, *x.batch, flow.dim) and log_q.shape == z.shape[:-1]
    assert z.dtype == log_q.dtype == x.dtype
    check_gradients([z, log_q], dict(loc=loc, scale=scale, **dict(flow.named_parameters())))
    if x.dtype == torch.float64:
        torch.testing.assert_close(q.log_prob(z.detach()), log_q, rtol=1e-5, atol=1e-5)


# --- estimators ----------------------------------------------------------------------------------

KINDS = ("bits", "one-hot", "classes", "normals")


def variables(kind: str, x: Inputs, are_vectors: bool) -> tuple[Distribution, dict[str, Tensor]]:
    """A distribution of a kind, alone or as vectors, and the leaves that it is made from."""
    event = ("D",) if are_vectors else ()
    if kind == "normals":
        leaves = dict(loc=x.real(*event), scale=x.positive(*event))
        q = Normal(**leaves)
    elif kind == "bits":
        leaves = dict(logits=x.real(*event))
        q = Bernoulli(**leaves)
    else:
        leaves = dict(logits=x.real(*event, "C"))
        # torch refuses 16-bit probabilities, which do not sum to 1 to 1e-6.
        check = x.dtype in WIDE
        q = (OneHotCategorical if kind == "one-hot" else Categorical)(**leaves, validate_args=check)
    return Independent(q, 1) if are_vectors else q, leaves


def summed(z: Tensor, q: Distribution) -> Tensor:
    """`z` with its event dimensions summed."""
    return z.flatten(z.ndim - len(q.event_shape)).sum(-1) if q.event_shape else z


class Surrogate(nn.Module):
    """A control variate of any event, in any dtype."""

    def __init__(self, event_dims: int, dtype: torch.dtype):
        super().__init__()
        self.event_dims = event_dims
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=dtype))

    def forward(self, z: Tensor) -> Tensor:
        value = torch.tanh(self.weight * z)
        return value.flatten(value.ndim - self.event_dims).sum(-1) if self.event_dims else value


def with_baseline(learned: type) -> Callable:
    def make(x: Inputs, q: Distribution) -> estimators.ScoreFunction:
        network = nn.Linear(2, 1).to(x.dtype)
        return estimators.ScoreFunction(learned(network).at(torch.ones(*x.batch, 2).to(x.dtype)))

    return make


def simply(make: Callable, *arguments: object, **options: object) -> Callable:
    return lambda x, q: make(*arguments, **options)


#: How each is made for a distribution, and the kinds of variables that it takes.
ESTIMATORS = {
    "Pathwise": (simply(estimators.Pathwise), KINDS[3:]),
    "ScoreFunction": (simply(estimators.ScoreFunction), KINDS),
    "ScoreFunction, constant": (
        lambda x, q: estimators.ScoreFunction(estimators.Constant(0.5)),
        KINDS,
    ),
    "ScoreFunction, average": (
        lambda x, q: estimators.ScoreFunction(estimators.MovingAverage()),
        KINDS,
    ),
    "ScoreFunction, others": (
        lambda x, q: estimators.ScoreFunction(estimators.LeaveOneOut()),
        KINDS,
    ),
    "ScoreFunction, learned": (with_baseline(estimators.Learned), KINDS),
    "ScoreFunction, NVIL": (with_baseline(estimators.NVIL), KINDS),
    "MeasureValued": (simply(estimators.MeasureValued), KINDS),
    "SPSA": (simply(estimators.SPSA), KINDS),
    "Enumeration": (simply(estimators.Enumeration), KINDS[:3]),
    "RaoBlackwell": (
        lambda x, q: estimators.RaoBlackwell(estimators.ScoreFunction(), [0]),
        KINDS[:3],
    ),
    "ARM": (simply(estimators.ARM), KINDS[:3]),
    "DisARM": (simply(estimators.DisARM), KINDS[:3]),
    "REBAR": (lambda x, q: estimators.REBAR().to(x.dtype), KINDS[:2]),
    "RELAX": (
        lambda x, q: estimators.RELAX(Surrogate(len(q.event_shape), x.dtype)),
        ("bits", "one-hot", "normals"),
    ),
    "GumbelSoftmax": (simply(estimators.GumbelSoftmax), KINDS[:2]),
    "GumbelSoftmax, hard": (simply(estimators.GumbelSoftmax, hard=True), KINDS[:2]),
    "GumbelRao": (simply(estimators.GumbelRao, conditional_samples=2), KINDS[:2]),
    "ReinMax": (simply(estimators.ReinMax), KINDS[:2]),
    "StraightThrough": (simply(estimators.StraightThrough), KINDS[:2]),
    "StraightThrough, identity": (simply(estimators.StraightThrough, "identity"), KINDS[:2]),
    "StraightThrough, argmax": (simply(estimators.StraightThrough, "argmax"), KINDS[:2]),
}
COVERED.update(f"estimators.{name.partition(',')[0]}" for name in ESTIMATORS)
each_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def problem(name: str, x: Inputs) -> tuple[Callable, Callable, Distribution, dict, int]:
    """An estimator, an f, a distribution with its leaves, and a number of samples."""
    make, kinds = ESTIMATORS[name]
    are_vectors = name == "RaoBlackwell" or x.choose(False, True)
    if name == "RaoBlackwell":
        x.sizes["D"] += 1
    q, leaves = variables(x.choose(*kinds), x, are_vectors)
    num_samples = x.choose(2, 3) if name.endswith("others") else x.choose(1, 3)
    return make(x, q), lambda z: torch.tanh(summed(z.to(x.dtype), q) - 0.3), q, leaves, num_samples


@each_estimator
@pytest.mark.parametrize("extreme", [False, True], ids=["ordinary", "extreme"])
@given(data=st.data())
@examples(12)
def test_value_and_gradient_of_an_estimator(name, extreme, data):
    x = Inputs(data, extreme)
    estimator, f, q, leaves, num_samples = problem(name, x)
    try:
        value = estimator(f, q, num_samples)
    except ValueError as error:  # where a density or its slope overflows
        assert extreme and re.search(r"is infinite or NaN|has no finite gradient", str(error))
        return
    assert value.shape == x.batch and value.dtype == x.dtype
    assert value.isfinite().all()
    assert value.requires_grad
    check_gradients(value, leaves)
    torch.default_generator.manual_seed(1)
    again = estimator(f, q, num_samples)
    torch.default_generator.manual_seed(1)
    assert torch.equal(again, estimator(f, q, num_samples))


FAULTS = {
    "NaN": (lambda f: lambda z: f(z) * torch.nan, "NaN"),
    "another shape": (lambda f: lambda z: f(z)[None], "shape"),
    "a number": (lambda f: lambda z: 1.0, "tensor"),
    "integers": (lambda f: lambda z: f(z).detach().long(), "floating-point"),
    "no function": (lambda f: 3, "function"),
}


@each_estimator
@given(data=st.data())
@examples(8)
def test_a_fault_of_an_estimators_f_is_named(name, data):
    x = Inputs(data)
    estimator, f, q, _, num_samples = problem(name, x)
    spoiled, says = FAULTS[x.choose(*FAULTS)]
    with pytest.raises((TypeError, ValueError), match=rf"(?s)(?=.*\bf\b)(?=.*{says})"):
        estimator(spoiled(f), q, num_samples)


@each_estimator
@given(data=st.data())
@examples(8)
def test_a_fault_of_an_estimators_distribution_or_count_is_named(name, data):
    x = Inputs(data)
    estimator, f, q, _, num_samples = problem(name, x)
    wrong, says = x.choose(
        ((f, q, 0), "num_samples must be at least 1, got 0"),
        ((f, q, -3), "num_samples must be at least 1, got -3"),
        ((f, q, True), "num_samples must be an int, got bool"),
        ((f, q, 1.5), "num_samples must be an int, got float"),
        ((f, None, num_samples), "distribution must be a .*, got NoneType"),
        ((f, q.expand((0, *q.batch_shape)), num_samples), "distribution is empty"),
    )
    with pytest.raises((TypeError, ValueError), match=says):
        estimator(*wrong)


@pytest.mark.parametrize(
    "name", [name for name, (_, kinds) in ESTIMATORS.items() if len(kinds) < 4 and name != "RELAX"]
)
@given(data=st.data())
@examples(10)
def test_variables_that_an_estimator_does_not_take_are_named(name, data):
    x = Inputs(data)
    make, kinds = ESTIMATORS[name]
    others = [kind for kind in KINDS if kind not in kinds]
    q, _ = variables(x.choose(*others), x, are_vectors=True)
    with pytest.raises((TypeError, ValueError), match=r"Normal|Categorical|Bernoulli"):
        make(x, q)(lambda z: torch.tanh(summed(z.to(x.dtype), q)), q, 2)


@covers("estimators.optimal_constant")
@given(data=st.data())
@examples(40)
def test_the_best_constant(data):
    x = Inputs(data, dtypes=WIDE)
    q, _ = variables(x.choose(*KINDS), x, x.choose(False, True))
    best = estimators.optimal_constant(
        lambda z: 2 + torch.tanh(summed(z.to(x.dtype), q)), q, num_samples=x.choose(None, 20)
    )
    assert best.shape == x.batch and best.dtype == x.dtype and not best.requires_grad
    assert ((best == 0) | ((best >= 1 - 1e-6) & (best <= 3 + 1e-6))).all()  # between those of f


# --- bounds --------------------------------------------------------------------------------------

BOUNDS = [
    *[(objectives.elbo, g) for g in ("pathwise", "stl", "score", "nvil")],
    *[
        (objectives.importance_weighted_bound, g)
        for g in ("pathwise", "stl", "dreg", "score", "nvil", "vimco", "disarm")
    ],
]


@covers("objectives.elbo", "objectives.importance_weighted_bound")
@pytest.mark.parametrize(("bound", "gradient"), BOUNDS)
@given(data=st.data())
@examples(12)
def test_value_and_gradient_of_a_bound(bound, gradient, data):
    x = Inputs(data)
    kind = {"score": x.choose(*KINDS), "vimco": x.choose(*KINDS), "disarm": "bits"}
    q, leaves = variables(kind.get(gradient, "normals"), x, x.choose(False, True))
    baseline = None
    if gradient == "nvil":
        network = nn.Linear(2, 1).to(x.dtype)
        baseline = estimators.NVIL(network).at(torch.ones(*x.batch, 2).to(x.dtype))

    def log_joint(z: Tensor) -> Tensor:
        return -torch.tanh(summed(z.to(x.dtype), q) - 0.3)

    value = bound(log_joint, q, x.choose(2, 3), gradient, baseline)
    assert value.shape == x.batch and value.dtype == x.dtype and value.isfinite().all()
    check_gradients(value, leaves)
    spoiled, says = x.choose(*[fault for name, fault in FAULTS.items() if name != "integers"])
    with pytest.raises((TypeError, ValueError), match=rf"(?s)(?=.*log_joint)(?=.*{says})"):
        bound(spoiled(log_joint), q, 2, gradient, baseline)


# --- measurements and checks ---------------------------------------------------------------------


@covers("measure.measure", "measure.exact_gradient", "measure.compare")
@given(data=st.data())
@examples(15)
def test_measurements_of_any_shape(data):
    x = Inputs(data, dtypes=WIDE)
    logits, target = x.real().detach(), 0.45
    if math.prod(x.batch) > 9:
        logits = logits.flatten()[:9]

    def f(z: Tensor) -> Tensor:
        return (z - target).square()

    def make(logits: Tensor) -> Bernoulli:
        return Bernoulli(logits=logits)

    truth = measure.exact_gradient(f, make, {"logits": logits})
    p = logits.double().sigmoid()
    torch.testing.assert_close(truth.gradient["logits"], p * (1 - p) * (1 - 2 * target))
    torch.testing.assert_close(truth.value, target**2 + p * (1 - 2 * target))
    estimator, replicates = estimators.ScoreFunction(), x.choose(2, 5)
    result = measure.measure(estimator, f, make, {"logits": logits}, x.choose(1, 3), replicates)
    for found in (result.mean, result.variance, result.standard_error):
        assert found["logits"].shape == logits.shape and found["logits"].isfinite().all()
    assert (result.variance["logits"] >= 0).all() and result.replicates == replicates
    table = measure.compare(
        {"exact": estimators.Enumeration()}, f, make, {"logits": logits}, replicates=replicates
    )
    assert not any(row.biased for row in table.totals)


@covers("checkup.check_gradients")
@given(data=st.data())
@examples(20)
def test_gradients_of_any_shape_are_checked(data):
    x = Inputs(data)
    good, lost = x.real(), x.real("D")
    loss = (good + 1).sum()
    assert checkup.check_gradients(loss, {"good": good}).ok
    report = checkup.check_gradients(loss, {"good": good, "lost": lost})
    assert not report.ok and "lost" in str(report)


@covers("checkup.check_encoder", "checkup.check_sampler", "checkup.check_kl")
@given(data=st.data())
@examples(8)
def test_what_is_right_passes_the_checks(data):
    x = Inputs(data, dtypes=[torch.float32])
    encoder = vae.GaussianEncoder(x.sizes["D"] + 1, 8, x.sizes["R"])
    images = torch.rand(x.choose(2, 3, 50), x.sizes["D"] + 1)
    assert checkup.check_encoder(encoder, images).ok
    assert checkup.check_sampler(reparameterize_gaussian, seed=x.choose(*range(1000))).ok
    assert checkup.check_kl(gaussian_kl).ok


# --- VAEs ----------------------------------------------------------------------------------------


PIXELS = 5


def faulty_or_short(tensor: Tensor) -> list[tuple[Tensor | object, str]]:
    return [*faulty(tensor, infinite=False).values(), (tensor[..., :-1], "shape|empty")]


def flow_encoder(x: Inputs, d: int) -> vae.FlowEncoder:
    return vae.FlowEncoder(PIXELS, 3, [flows.PlanarFlow(d, context_dim=x.choose(0, 3))])


#: How each is made with D latent variables and C classes, and the event shapes of what it returns.
ENCODERS = {
    "GaussianEncoder": lambda x, d, c: (vae.GaussianEncoder(PIXELS, 3, d), [(d,)]),
    "FullCovarianceEncoder": lambda x, d, c: (vae.FullCovarianceEncoder(PIXELS, 3, d), [(d,)]),
    "CategoricalEncoder": lambda x, d, c: (vae.CategoricalEncoder(PIXELS, 3, d, c), [(d, c)]),
    "FlowEncoder": lambda x, d, c: (flow_encoder(x, d), [(d,)]),
    "HybridEncoder": lambda x, d, c: (vae.HybridEncoder(PIXELS, 3, c, d), [(c,), (d,)]),
}
COVERED.update(f"vae.{name}" for name in ENCODERS)


@pytest.mark.parametrize("name", ENCODERS)
@given(data=st.data())
@examples(15)
def test_an_encoder(name, data):
    # torch solves no triangular system in 16 bits.
    x = Inputs(data, dtypes=WIDE if name == "FullCovarianceEncoder" else DTYPES)
    encoder, event_shapes = ENCODERS[name](x, x.sizes["D"], x.sizes["C"])
    images = dict(x=x.real(PIXELS))
    posteriors = encoder.to(x.dtype)(**images)
    posteriors = posteriors if isinstance(posteriors, tuple) else (posteriors,)
    for q, event_shape in zip(posteriors, event_shapes, strict=True):
        assert q.batch_shape == x.batch and q.event_shape == event_shape
        z = q.rsample() if q.has_rsample else q.sample()
        assert z.dtype == x.dtype and z.isfinite().all()
        check_gradients([z, q.log_prob(z)], {**images, **dict(encoder.named_parameters())})
    wrong, says = x.choose(*faulty_or_short(images["x"]))
    with pytest.raises((TypeError, ValueError), match=rf"(?s)(?=.*\bx\b)(?=.*({says}))"):
        encoder(wrong)


@covers("vae.BernoulliDecoder", "vae.CategoricalDecoder")
@given(data=st.data())
@examples(30)
def test_a_decoder(data):
    x = Inputs(data)
    d, c = x.sizes["D"], x.sizes["C"]
    decoder, z = x.choose(
        (vae.BernoulliDecoder(d, 3, PIXELS), x.real("D")),
        (vae.CategoricalDecoder(d, c, 3, PIXELS), x.real("D", "C")),
    )
    p = decoder.to(x.dtype)(z)
    assert p.batch_shape == x.batch and p.event_shape == (PIXELS,)
    assert p.mean.dtype == x.dtype and ((p.mean >= 0) & (p.mean <= 1)).all()
    check_gradients(p.mean, {"z": z, **dict(decoder.named_parameters())})
    wrong, says = x.choose(*faulty_or_short(z))
    with pytest.raises((TypeError, ValueError), match=rf"(?s)(?=.*\bz\b)(?=.*({says}))"):
        decoder(wrong)


@covers("vae.VectorQuantizer")
@given(data=st.data())
@examples(30)
def test_a_quantizer(data):
    x = Inputs(data)
    quantizer, z = vae.VectorQuantizer(x.sizes["C"], x.sizes["D"]).to(x.dtype), x.real("D")
    quantized = quantizer(z)
    assert quantized.code.shape == z.shape and quantized.code.dtype == x.dtype
    assert quantized.index.shape == quantized.loss.shape == x.batch
    assert torch.equal(quantized.code, quantizer.codebook[quantized.index])
    assert (quantized.loss >= 0).all()
    check_gradients([quantized.code, quantized.loss], {"z": z, "codebook": quantizer.codebook})
    assert 1 - 1e-6 <= quantizer.perplexity(quantized.index) <= x.sizes["C"] + 1e-6


#: Models by name, and the estimator that they want.
MODELS = {
    "digits_vae": (dict(latent_dim=3, hidden_dim=4), None),
    "full_covariance_digits_vae": (dict(latent_dim=3, hidden_dim=4), None),
    "flow_digits_vae": (dict(num_flows=2, latent_dim=3, hidden_dim=4), None),
    "discrete_digits_vae": (dict(variables=2, classes=3, hidden_dim=4), estimators.DisARM()),
    "hybrid_digits_vae": (dict(classes=3, continuous_dim=2, hidden_dim=4), None),
    "quantized_digits_vae": (dict(variables=2, codes=3, dim=2, hidden_dim=4), None),
}
COVERED.update(f"vae.{name}" for name in MODELS)


@covers("vae.VAE", "vae.FlowVAE", "vae.HybridVAE", "vae.QuantizedVAE")
@covers("vae.evaluate", "vae.log_likelihood", "vae.train")
@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
@examples(4)
def test_a_vae_of_any_number_of_images(name, data):
    x = Inputs(data, dtypes=WIDE)
    sizes, estimator = MODELS[name]
    model = getattr(vae, name)(**sizes).to(x.dtype)
    images = torch.randint(2, (x.choose(1, 2, 7), 64)).to(x.dtype)
    reconstruction, kl = model.terms(images, x.choose(1, 2), estimator=estimator)
    bound = model.importance_weighted(images, x.choose(1, 2))
    for term in (reconstruction, kl, bound):
        assert term.shape == images.shape[:1] and term.dtype == x.dtype and term.isfinite().all()
    check_gradients(reconstruction - kl, dict(model.named_parameters()))
    for held_out in (vae.evaluate, vae.log_likelihood):
        first, again = (held_out(model, images, 2, seed=3).each for _ in range(2))
        assert first.shape == images.shape[:1] and torch.equal(first, again)
    history = vae.train(
        model, images, epochs=1, batch_size=x.choose(1, 3), estimator=estimator, progress=False
    )
    assert history.elbo.shape == (1,) and history.elbo.isfinite().all()
    wrong, says = x.choose(*faulty_or_short(images))
    with pytest.raises((TypeError, ValueError), match=rf"(?s)(?=.*(\bx\b|images))(?=.*({says}))"):
        model.terms(wrong, estimator=estimator)


# --- pictures, explorers, quizzes ----------------------------------------------------------------


@covers("plots.learning_curves", "plots.many_learning_curves", "plots.gradient_histogram")
@given(data=st.data())
@examples(6)
def test_curves_of_any_shape(data):
    x = Inputs(data)
    curve = x.real()
    shown = dict(curves={"a": curve, "b": curve})
    places = dict(x=range(curve.shape[-1] if curve.ndim else 1))
    drawings = [
        lambda: plots.learning_curves(**shown),
        lambda: plots.many_learning_curves(**shown, **places, highlight=["a"], ylim=(-9, 9)),
    ]
    if curve.ndim in (1, 2):
        for draw in drawings:
            assert len(draw().lines) >= 2
        estimates = {"a": curve.flatten()}
        assert plots.gradient_histogram(estimates, 0.0, parameter="μ").collections
    else:
        for draw in drawings:
            with pytest.raises(ValueError, match=r"curves\['a'\] must have shape"):
                draw()
        with pytest.raises(ValueError, match=r"estimates\['a'\] must be a vector"):
            plots.gradient_histogram({"a": curve[None, None]}, 0.0, parameter="μ")
    plt.close("all")


@covers("plots.show_digits")
@given(data=st.data())
@examples(6)
def test_a_grid_of_digits(data):
    x = Inputs(data)
    rows, columns, pixels = x.choose(1, 2), x.choose(1, 3), x.choose((64,), (8, 8), (8, 7), ())
    images = torch.rand(rows * columns, *pixels).to(x.dtype).requires_grad_()
    if math.prod(pixels) == 64:
        assert len(plots.show_digits(images, rows=rows).axes) == rows
        with pytest.raises(ValueError, match="rows"):
            plots.show_digits(images, rows=rows * columns + 1)
    else:
        with pytest.raises(ValueError, match="shape"):
            plots.show_digits(images, rows=rows)
    plt.close("all")


@covers("plots.draw_backward_graph")
@given(data=st.data())
@examples(6)
def test_a_graph_of_any_leaves(data):
    x = Inputs(data)
    leaves = {name: x.real(part=True) for name in ("a", "b", "c")}
    texts = plots.draw_backward_graph(leaves["a"] * leaves["b"], leaves).texts
    assert {"a", "b", "c", "Mul"} <= {text.get_text() for text in texts}
    plt.close("all")


SEEDED = ("fresh_or_frozen", "latent_plane", "mu_sigma_epsilon", "raw_to_sigma", "simplex")


@covers(*(f"explorers.{name}" for name in (*SEEDED, "two_histograms")))
@pytest.mark.parametrize("name", [*SEEDED, "two_histograms"])
@given(seed=st.integers(0, 2**31 - 1), wrong=st.integers(max_value=-1) | st.integers(2**31))
@examples(4)
def test_an_explorer_of_any_seed(name, seed, wrong):
    explorer = getattr(explorers, name)
    noise = explorer(seed=seed).noise
    assert noise.isfinite().all() and torch.equal(noise, explorer(seed=seed).noise)
    with pytest.raises(ValueError, match=f"seed must be .*, got {wrong}"):
        explorer(seed=wrong)


@covers("explorers.fresh_noise")
@given(seed=st.integers(0, 2**31 - 1), draw=st.integers(0, 10**6), size=st.integers(0, 100))
@examples(50)
def test_fresh_noise(seed, draw, size):
    noise = explorers.fresh_noise(seed, draw, size)
    assert noise.shape == (size,) and noise.dtype == torch.float64 and noise.isfinite().all()
    assert torch.equal(noise * 4096, (noise * 4096).round())
    assert torch.equal(noise[: size // 2], explorers.fresh_noise(seed, draw, size // 2))
    for wrong in (-1 - size, 1.5, None):
        for arguments in ((seed, wrong, size), (seed, draw, wrong)):
            with pytest.raises((TypeError, ValueError), match=r"(draw|size) must be"):
                explorers.fresh_noise(*arguments)


@covers("explorers.decision_table")
@given(data=st.data())
@examples(40)
def test_every_fact_strikes_out_more(data):
    facts = {}
    struck_out = -1
    for fact, answers in data.draw(st.permutations(list(FACTS.items()))):
        facts[fact] = data.draw(st.sampled_from(answers))
        rows = explorers.decision_table(**facts)
        assert len(rows) == 15
        count = sum(bool(row["struck out"]) for row in rows)
        assert count >= struck_out
        struck_out = count
    with pytest.raises(ValueError, match=r"must be .* got 'both'"):
        explorers.decision_table(**{**facts, "z": "both"})


FACTS = {
    "z": ("continuous", "discrete"),
    "f": ("differentiable", "black"),
    "density": ("known", "unknown"),
    "support": ("few", "many"),
    "bias": ("none", "some"),
}

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.none())
)


@covers("quiz.check", "quiz.quiz", "quiz.vote", "quiz.on_paper")
@given(anything=ANYTHING)
@examples(60)
def test_a_quiz_takes_what_it_has_and_refuses_the_rest(anything):
    calls = [
        lambda: quiz.check(anything, "a"),
        lambda: quiz.check("1.2", anything),
        lambda: quiz.check("2.5", anything),
        lambda: quiz.quiz(anything),
        lambda: quiz.vote(anything),
        lambda: quiz.on_paper(anything),
    ]
    for call in calls:
        try:
            call()
        except ValueError as error:
            assert repr(anything) in str(error)
