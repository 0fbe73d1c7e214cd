"""Posteriors made of flows: density, samples, what is recognized, and the library around them."""

import copy
import gc
import math
import pickle

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Categorical,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from reparam.distributions import Mixture
from reparam.estimators import Pathwise, ScoreFunction
from reparam.flows import (
    FlowSequence,
    MaskedAutoregressiveFlow,
    NormalizingFlowPosterior,
    PlanarFlow,
    RadialFlow,
)
from reparam.measure import measure
from reparam.objectives import elbo, importance_weighted_bound
from tests.lib.statistical import check_mean


def gaussian(*shape):
    zeros = torch.zeros(shape, dtype=torch.float64)
    return Independent(Normal(zeros, torch.ones_like(zeros)), 1)


def lively(*flows):
    sequence = FlowSequence(flows).double()
    with torch.no_grad():
        for parameter in sequence.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return sequence


def posterior(*batch, context_dim=0):
    flows = lively(PlanarFlow(2, context_dim), RadialFlow(2), PlanarFlow(2, context_dim))
    context = torch.randn(*batch, context_dim).double() if context_dim else None
    return NormalizingFlowPosterior(gaussian(*batch, 2), flows, context)


def refuse_inverse(monkeypatch, q):
    def refuse(*_):
        raise AssertionError("nothing is to be inverted here")

    monkeypatch.setattr(q.flows, "inverse", refuse)


# --- density and samples -------------------------------------------------------------------------


@pytest.mark.parametrize("context_dim", [0, 3])
def test_density_integrates_to_one_and_is_that_of_the_samples(context_dim):
    """On a grid: total mass, and the first two moments against 40,000 samples (z-tests)."""
    q = posterior(context_dim=context_dim)
    step = 0.05
    axis = torch.arange(-12 + step / 2, 12, step, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = q.log_prob(grid).exp() * step**2
    assert abs(mass.sum() - 1) < 1e-3
    z, n = q.sample((40_000,)), 40_000
    for f in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: z[:, 0] * z[:, 1]):
        mean = (mass * f(grid)).sum()
        variance = (mass * (f(grid) - mean) ** 2).sum()
        check_mean(f(z).mean(), mean, variance, n, catches=0.06 * variance.sqrt())


@pytest.mark.parametrize("context_dim", [0, 3])
@pytest.mark.parametrize("sample_shape", [(), (4,), (3, 2)])
@pytest.mark.parametrize("batch", [(), (5,)])
def test_shapes_and_log_prob_of_what_was_drawn(sample_shape, batch, context_dim):
    q = posterior(*batch, context_dim=context_dim)
    assert q.batch_shape == batch and q.event_shape == (2,)
    z, log_q = q.rsample_and_log_prob(sample_shape)
    assert z.shape == (*sample_shape, *batch, 2) and log_q.shape == (*sample_shape, *batch)
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-9, atol=1e-9)
    assert q.sample(sample_shape).shape == z.shape
    assert not q.sample(sample_shape).requires_grad


def test_without_flows_that_do_anything_it_is_the_base():
    flow = PlanarFlow(3).double()
    with torch.no_grad():
        flow.u.zero_()
    base = MultivariateNormal(torch.randn(4, 3).double(), torch.eye(3).double())
    q, z = NormalizingFlowPosterior(base, flow), torch.randn(7, 4, 3).double()
    torch.testing.assert_close(q.log_prob(z), base.log_prob(z))
    torch.manual_seed(0)
    expected = base.rsample((6,))
    torch.manual_seed(0)
    torch.testing.assert_close(q.rsample((6,)), expected)


def test_a_value_of_fewer_dimensions_meets_every_entry_of_the_batch():
    q, z = posterior(5, context_dim=3), torch.randn(2).double()
    log_q = q.log_prob(z)
    assert log_q.shape == (5,)
    torch.testing.assert_close(q.log_prob(z.expand(5, 2)), log_q)


@pytest.mark.parametrize("context_dim", [0, 3])
def test_expand(context_dim):
    q = posterior(5, context_dim=context_dim)
    wide = q.expand((4, 5))
    assert wide.batch_shape == (4, 5) and wide.event_shape == (2,)
    z = torch.randn(4, 5, 2).double()
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z))
    assert wide.rsample((3,)).shape == (3, 4, 5, 2)


def test_a_context_widens_the_batch_of_the_base():
    flows = lively(PlanarFlow(2, 3))
    q = NormalizingFlowPosterior(gaussian(2), flows, torch.randn(5, 3).double())
    assert q.batch_shape == (5,)
    z = q.sample()
    assert z.shape == (5, 2) and len(z.unique(dim=0)) == 5
    narrow = NormalizingFlowPosterior(gaussian(4, 5, 2), flows, torch.randn(3).double())
    assert narrow.batch_shape == (4, 5) and narrow.log_prob(narrow.sample()).shape == (4, 5)


def test_what_a_distribution_says_of_itself():
    q = posterior()
    assert q.has_rsample and not q.support.is_discrete and q.support.event_dim == 1
    for unknown in ("mean", "variance", "entropy"):
        with pytest.raises(NotImplementedError):
            getattr(q, unknown)()
    with pytest.raises(NotImplementedError):
        torch.distributions.kl_divergence(q, gaussian(2))
    copy.deepcopy(q).rsample()


# --- what is recognized --------------------------------------------------------------------------


def test_the_last_sample_is_recognized_and_nothing_is_inverted(monkeypatch):
    q = posterior(5)
    z = q.rsample((3,))
    expected = q.log_prob(z.detach().clone())
    refuse_inverse(monkeypatch, q)
    torch.testing.assert_close(q.log_prob(z), expected)
    with pytest.raises(AssertionError, match="nothing is to be inverted"):
        q.log_prob(z.detach())


def test_the_gradient_along_the_path_is_the_same_with_and_without_the_inverse():
    q = posterior(5, context_dim=3)
    parameters = list(q.flows.parameters())
    z = q.rsample((3,))
    recognized = torch.autograd.grad(q.log_prob(z).sum(), parameters, retain_graph=True)
    inverted = torch.autograd.grad(q.log_prob(z.clone()).sum(), parameters)
    for one, other in zip(recognized, inverted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("change", ["flow", "base", "sample"])
def test_what_was_changed_in_place_is_not_recognized(change):
    loc = torch.zeros(2, dtype=torch.float64)
    flows = lively(PlanarFlow(2))
    q = NormalizingFlowPosterior(Independent(Normal(loc, torch.ones_like(loc)), 1), flows)
    z = q.rsample()
    before = q.log_prob(z)
    with torch.no_grad():
        {"flow": flows.flows[0].b, "base": loc, "sample": z}[change].add_(0.5)
    after = q.log_prob(z)
    assert (after - before).abs() > 1e-3
    torch.testing.assert_close(after, q.log_prob(z.detach().clone()))


def test_what_was_changed_without_autograd_s_knowledge_is_not_recognized():
    """Other memory for the weights."""
    q = posterior()
    z = q.rsample((3,))
    weights = torch.nn.utils.parameters_to_vector(q.flows.parameters()).detach()
    torch.nn.utils.vector_to_parameters(weights + 0.5, q.flows.parameters())
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.detach().clone()))


class Learned(Independent):
    """A base whose mean lies in a module."""

    def __init__(self, mean: torch.nn.Linear):
        super().__init__(Normal(mean.bias * 1.0, torch.ones(2, dtype=torch.float64)), 1)
        self.layer = mean

    def rsample(self, sample_shape=()):
        return self.layer.bias + torch.randn(*sample_shape, 2, dtype=torch.float64)

    def log_prob(self, value):
        return Normal(self.layer.bias, 1.0).log_prob(value).sum(-1)


class Kept(Independent):
    """A base whose mean lies in a module in a dictionary."""

    def __init__(self, mean):
        super().__init__(Normal(mean.bias * 1.0, torch.ones(2, dtype=torch.float64)), 1)
        self.parts = {"mean": mean}

    layer = property(lambda self: self.parts["mean"])
    rsample, log_prob = Learned.rsample, Learned.log_prob


class Closed(Learned):
    """What it holds cannot be looked into."""

    def __init__(self, mean):
        super().__init__(mean)
        self.other = lambda: mean


@pytest.mark.parametrize("kind", ["transform", "mixture", "module", "dict", "closure"])
def test_a_parameter_that_lies_deep_is_watched_too(kind, monkeypatch):
    layer = torch.nn.Linear(1, 2).double().requires_grad_(False)
    loc = (
        layer.bias if kind in ("module", "dict", "closure") else torch.zeros(2, dtype=torch.float64)
    )
    base = {
        "transform": lambda: TransformedDistribution(
            gaussian(2), [AffineTransform(loc, 2.0, event_dim=1)]
        ),
        "mixture": lambda: Mixture(
            Categorical(logits=torch.zeros(2).double()),
            Independent(Normal(torch.stack([loc, loc + 1]), 1.0), 1),
        ),
        "module": lambda: Learned(layer),
        "dict": lambda: Kept(layer),
        "closure": lambda: Closed(layer),
    }[kind]()
    q = NormalizingFlowPosterior(base, lively(PlanarFlow(2)).requires_grad_(False))
    z = q.rsample((3,))
    inverted, inverse = [], q.flows.inverse
    monkeypatch.setattr(q.flows, "inverse", lambda *args: inverted.append(1) or inverse(*args))
    with torch.no_grad():  # as nothing here has a graph
        before = q.log_prob(z)
        assert bool(inverted) == (kind == "closure")  # what cannot be watched is computed anew
        watched = base.component_distribution.base_dist.loc if kind == "mixture" else loc
        watched += 0.5
        after = q.log_prob(z)
        torch.testing.assert_close(after, q.log_prob(z.clone()))
        assert (after - before).abs().max() > 1e-3


def test_weights_that_were_frozen_while_it_was_drawn_have_gradients_afterwards():
    loc = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    flows = lively(PlanarFlow(2)).requires_grad_(False)
    q = NormalizingFlowPosterior(Independent(Normal(loc, torch.ones_like(loc)), 1), flows)
    z = q.rsample((3,))
    flows.requires_grad_(True)
    assert all(
        slope.any() for slope in torch.autograd.grad(q.log_prob(z).sum(), flows.parameters())
    )


def test_it_can_be_stored_after_a_sample_was_drawn():
    q = posterior()
    z = q.rsample((3,))
    for again in (pickle.loads(pickle.dumps(q)), copy.deepcopy(q)):
        torch.testing.assert_close(again.log_prob(z), q.log_prob(z))


def test_without_a_graph_a_sample_is_recognized_only_where_none_is_asked_for(monkeypatch):
    q = posterior()
    with torch.no_grad():
        z = q.rsample((3,))
    assert q.log_prob(z).requires_grad
    assert q.log_prob(q.sample((3,))).requires_grad
    refuse_inverse(monkeypatch, q)
    with torch.no_grad():
        q.log_prob(z)


def test_a_sample_is_not_kept_alive():
    q = posterior()
    z = q.rsample()
    drawn = q._drawn[0]
    assert drawn() is z
    del z
    gc.collect()
    assert drawn() is None


def test_in_inference_mode():
    q = posterior()
    with torch.inference_mode():
        assert q.log_prob(q.rsample((3,))).shape == (3,)


# --- the library around it -----------------------------------------------------------------------


@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound])
def test_sticking_the_landing_has_no_noise_where_the_posterior_is_exact(bound):
    """`log p = log q` with parameters of its own: every sample gives zero."""
    q = posterior(5)
    target = copy.deepcopy(q)
    for parameter in target.flows.parameters():
        parameter.requires_grad_(False)
    parameters = list(q.flows.parameters())
    stl = torch.autograd.grad(bound(target.log_prob, q, 4, "stl").sum(), parameters)
    plain = torch.autograd.grad(bound(target.log_prob, q, 4, "pathwise").sum(), parameters)
    assert all(slope.abs().max() < 1e-10 for slope in stl)
    assert any(slope.abs().max() > 0.1 for slope in plain)


class AtNodes(Independent):
    """Standard Gaussians that "draw" the nodes of a quadrature."""

    def __init__(self, nodes):
        super().__init__(Normal(torch.zeros_like(nodes), torch.ones_like(nodes)), 1)
        self.nodes = nodes

    def rsample(self, sample_shape=()):
        return self.nodes.expand(*sample_shape, *self.nodes.shape)

    sample = rsample


@pytest.mark.parametrize("gradient", ["pathwise", "stl", "score"])
def test_every_gradient_of_an_elbo_has_the_right_mean(gradient):
    """In one dimension, by quadrature over the noise, against the derivative of the exact ELBO."""
    flows = lively(PlanarFlow(1), PlanarFlow(1))
    parameters = list(flows.parameters())
    nodes = torch.linspace(-10, 10, 2001, dtype=torch.float64)[:, None]
    density = torch.exp(-nodes[:, 0].square() / 2) / math.sqrt(math.tau)
    weights = density * 20 / 2000

    def log_p(z):
        return -((z[..., 0] - 0.4) ** 2) - 0.1 * z[..., 0] ** 4

    z, log_det = flows(nodes)
    bound = (weights * (log_p(z) + log_det - density.log())).sum()
    exact = torch.autograd.grad(bound, parameters)
    per_node = elbo(log_p, NormalizingFlowPosterior(AtNodes(nodes), flows), gradient=gradient)
    estimate = (weights * per_node).sum()
    torch.testing.assert_close(estimate, bound)
    for mean, truth in zip(torch.autograd.grad(estimate, parameters), exact, strict=True):
        torch.testing.assert_close(mean, truth, rtol=1e-7, atol=1e-7)


def test_estimators_take_it():
    q = posterior(5)
    for estimator in (Pathwise(), ScoreFunction()):
        value = estimator(lambda z: z.square().sum(-1), q, 7)
        assert value.shape == (5,)
        slopes = torch.autograd.grad(value.sum(), list(q.flows.parameters()))
        assert all(slope.isfinite().all() and slope.abs().max() > 0 for slope in slopes)


def test_an_entropy_along_the_path():
    """`f` is the density of the sample alone, whose graph the recognized one leads back to."""
    q = posterior()
    value = Pathwise()(lambda z: -q.log_prob(z), q, 50)
    assert torch.autograd.grad(value, q.flows.flows[0].u)[0].abs().max() > 0


def test_gradients_in_the_parameters_of_the_base_are_measured():
    flows = lively(PlanarFlow(2), RadialFlow(2))

    def make(loc):
        return NormalizingFlowPosterior(Independent(Normal(loc, torch.ones_like(loc)), 1), flows)

    parameters = {"loc": torch.zeros(2, dtype=torch.float64)}
    f = lambda z: z.square().sum(-1)  # noqa: E731
    pathwise = measure(Pathwise(), f, make, parameters, replicates=4000)
    score = measure(ScoreFunction(), f, make, parameters, replicates=4000)
    error = (pathwise.standard_error["loc"] ** 2 + score.standard_error["loc"] ** 2).sqrt()
    assert ((pathwise.mean["loc"] - score.mean["loc"]).abs() < 6.2 * error).all()


def test_any_flow_will_do():
    q = NormalizingFlowPosterior(gaussian(5, 2), lively(MaskedAutoregressiveFlow(2, (8,))))
    z, log_q = q.rsample_and_log_prob((3,))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=1e-8, atol=1e-8)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "flows", "context", "error", "message"),
    [
        ("N(0, 1)", PlanarFlow(2), None, TypeError, "base must be a torch.distributions"),
        (gaussian(3), PlanarFlow(2), None, ValueError, r"event_shape \[2\], which the flows take"),
        (Normal(torch.zeros(2), 1.0), PlanarFlow(2), None, ValueError, "Independent"),
        (
            Independent(Bernoulli(torch.full((2,), 0.5)), 1),
            PlanarFlow(2),
            None,
            ValueError,
            "is discrete",
        ),
        (gaussian(2), [], None, ValueError, "in 0 flows"),
        (gaussian(2), [torch.nn.Linear(2, 2)], None, TypeError, r"reparam\.flows, got Linear"),
        (gaussian(2), PlanarFlow(2, 3), None, ValueError, "got none"),
        (gaussian(2), PlanarFlow(2), torch.zeros(3), ValueError, "made without a context"),
        (gaussian(2), PlanarFlow(2, 3), torch.zeros(4), ValueError, r"\[\.\.\., 3\], got \[4\]"),
        (
            gaussian(5, 2),
            PlanarFlow(2, 3),
            torch.zeros(4, 3),
            ValueError,
            r"does not fit base, which has batch_shape \[5\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_made(base, flows, context, error, message):
    with pytest.raises(error, match=message):
        NormalizingFlowPosterior(base, flows, context)


def test_values_that_do_not_fit_are_refused():
    q = posterior(5)
    for value, error, message in (
        (1.0, TypeError, "value must be a tensor"),
        (torch.zeros(5, 3).double(), ValueError, r"shape \[\.\.\., 2\], got \[5, 3\]"),
        (torch.tensor(1.0).double(), ValueError, r"shape \[\.\.\., 2\], got \[\]"),
        (torch.zeros(4, 2).double(), ValueError, r"does not broadcast with batch_shape \[5\]"),
        (torch.full((5, 2), math.nan).double(), ValueError, "value holds NaN"),
        (torch.full((5, 2), math.inf).double(), ValueError, "infinite"),
        (torch.zeros(5, 2), ValueError, "must share dtype"),
    ):
        with pytest.raises(error, match=message):
            q.log_prob(value)


def test_a_layer_that_breaks_is_named():
    q = posterior()
    with torch.no_grad():
        q.flows.flows[1].center.fill_(math.nan)
    for call in (q.rsample, q.sample, lambda: q.log_prob(torch.zeros(2).double())):
        with pytest.raises(ValueError, match=r"layer 2 of 3 \(RadialFlow\)"):
            call()
