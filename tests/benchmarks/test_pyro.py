"""Against Pyro 1.9.2: seconds of one step, and whose gradients are right.

Pyro estimates the gradient of an ELBO, so the work is that: bits with a uniform prior, a factor
`-f(z)`, and a guide that is Bernoulli in every bit. Samples are vectorized, as its documentation
advises. TraceEnum_ELBO wants a site for each variable that it enumerates.
"""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent

from reparam import estimators
from tests.benchmarks.problems import ONE_BIT, THREE_BITS, Problem, bias, many_bits
from tests.benchmarks.timing import interleaved, report

pyro = pytest.importorskip("pyro", reason="make benchmarks installs it")
from pyro import distributions as dist  # noqa: E402
from pyro import infer  # noqa: E402

SAMPLES = 8
DECAYING = {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}


def program(f, logits, t, options=None, relaxed=False):
    """Model and guide of the ELBO."""

    def prior(logits):
        if relaxed:
            return dist.RelaxedBernoulliStraightThrough(torch.tensor(1.0), logits=logits)
        return dist.Bernoulli(logits=logits)

    def model():
        z = pyro.sample("z", prior(torch.zeros_like(logits)).to_event(1))
        pyro.factor("f", -f(z, t))

    def guide():
        # Only parameters that stand in its store are trained.
        phi = pyro.param("logits", logits)
        q = prior(phi).to_event(1)
        pyro.sample("z", q, infer={"baseline": options} if options else {})

    return model, guide


def enumerated(f, logits, t):
    """The same, with a site for each bit."""

    def sites(logits, infer=None):
        bits = [
            pyro.sample(f"z{i}", dist.Bernoulli(logits=logits[i]), infer=infer)
            for i in range(len(logits))
        ]
        return torch.stack(torch.broadcast_tensors(*bits), -1)

    def model():
        pyro.factor("f", -f(sites(torch.zeros_like(logits)), t))

    def guide():
        sites(pyro.param("logits", logits), {"enumerate": "parallel"})

    return model, guide


def vectorized(elbo, n, **more):
    return elbo(num_particles=n, vectorize_particles=n > 1, max_plate_nesting=0, **more)


def our_elbo(estimator, f, logits, t, samples):
    """`-ELBO` for the estimators that take any function."""
    q = Independent(Bernoulli(logits=logits), 1)
    bits = logits.shape[-1]

    def loss(z):
        return f(z, t) + bits * math.log(2) + q.log_prob(z)

    return estimator(loss, q, samples)


class Network(nn.Module):
    """A baseline without inputs that vary: one learned number for each sample."""

    def __init__(self, inputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 50), nn.ReLU(), nn.Linear(50, 1))

    def forward(self, x):
        return self.layers(x).squeeze(-1)


# --- seconds of a step -----------------------------------------------------------------------

STEPS = [
    ("score function", lambda: estimators.ScoreFunction(), infer.Trace_ELBO, None),
    ("score function, graph", lambda: estimators.ScoreFunction(), infer.TraceGraph_ELBO, None),
    (
        "moving average",
        lambda: estimators.ScoreFunction(estimators.MovingAverage(0.9)),
        infer.TraceGraph_ELBO,
        DECAYING,
    ),
]


@pytest.mark.parametrize(("name", "make", "elbo", "options"), STEPS)
def test_a_step_on_200_bits(name, make, elbo, options):
    """Forward and backward of -ELBO, 8 samples; both validate the distribution."""
    pyro.clear_param_store()
    logits = torch.linspace(-2, 2, 200).requires_grad_()
    estimator, loss = make(), vectorized(elbo, SAMPLES)
    model, guide = program(many_bits, logits, 0.45, options)

    def ours():
        logits.grad = None
        our_elbo(estimator, many_bits, logits, 0.45, SAMPLES).backward()

    def theirs():
        logits.grad = None
        loss.loss_and_grads(model, guide)

    report("pyro", name, interleaved({"ours": ours, "pyro": theirs}, rounds=300))


def test_a_step_of_enumeration_of_10_bits():
    pyro.clear_param_store()
    logits = torch.linspace(-2, 2, 10).requires_grad_()
    model, guide = enumerated(_ten_bits, logits, 0.45)
    loss = infer.TraceEnum_ELBO(max_plate_nesting=0)

    def ours():
        logits.grad = None
        our_elbo(estimators.Enumeration(), _ten_bits, logits, 0.45, 1).backward()

    def theirs():
        logits.grad = None
        loss.loss_and_grads(model, guide)

    report("pyro", "enumeration, 10 bits", interleaved({"ours": ours, "pyro": theirs}, rounds=100))


def _ten_bits(b, t):
    return (b - t).square().mean(-1) + b.sum(-1).square() / 10


# --- whose gradients are right ----------------------------------------------------------------

REPLICATES = 2_000
BITS = (ONE_BIT, THREE_BITS)


def _negative_elbo(problem: Problem):
    bits = problem.logits.numel()
    return lambda z, q, t: problem.f(z, t) + bits * math.log(2) + q.log_prob(z)


def _negative_bound(problem: Problem):
    """The importance-weighted bound of two samples, by all pairs of values."""
    logits, t = problem.leaves(torch.float64)
    q, z = problem.distribution(logits), problem.points().double()
    log_q = q.log_prob(z)
    log_w = -_negative_elbo(problem)(z, q, t)
    pairs = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
    bound = ((log_q[:, None] + log_q[None]).exp() * pairs).sum()
    return torch.autograd.grad(-bound, (logits, t))


def _loss(elbo, problem, options=None, relaxed=False, build=program):
    """A step of Pyro's: a fresh parameter each time, so that its store holds nothing old."""

    def step(logits, t):
        if "logits" in pyro.get_param_store():
            del pyro.get_param_store()["logits"]
        more = () if build is enumerated else (options, relaxed)
        elbo.loss_and_grads(*build(problem.f, logits, t, *more))

    return step


THEIRS = [
    ("Trace_ELBO", lambda: vectorized(infer.Trace_ELBO, 2), {}, False, ""),
    ("TraceGraph_ELBO", lambda: vectorized(infer.TraceGraph_ELBO, 2), {}, False, ""),
    (
        "TraceGraph_ELBO(decaying average)",
        lambda: vectorized(infer.TraceGraph_ELBO, 2),
        {"options": DECAYING},
        False,
        "",
    ),
    (
        "TraceEnum_ELBO",
        lambda: infer.TraceEnum_ELBO(max_plate_nesting=0),
        {"build": enumerated},
        False,
        "",
    ),
    (
        "Trace_ELBO(RelaxedBernoulliStraightThrough)",
        lambda: vectorized(infer.Trace_ELBO, 2),
        {"relaxed": True},
        True,
        "",
    ),
]


@pytest.mark.parametrize(("name", "make", "more", "by_design", "cause"), THEIRS)
def test_gradients_of_pyro(name, make, more, by_design, cause):
    """Reported, not asserted: they are its own."""
    for problem in BITS:
        pyro.clear_param_store()
        bias(
            "gradients: pyro",
            name,
            problem,
            _loss(make(), problem, **more),
            replicates=REPLICATES,
            by_design=by_design,
            cause=cause,
            exact=problem.exact(_negative_elbo(problem)),
        )


def test_gradients_of_the_importance_weighted_bound_of_pyro():
    """Its RenyiELBO with alpha 0 and two samples, for a guide that cannot be reparameterized."""
    for problem in BITS:
        pyro.clear_param_store()
        bias(
            "gradients: pyro",
            "RenyiELBO(alpha=0)",
            problem,
            _loss(vectorized(infer.RenyiELBO, 2, alpha=0), problem),
            replicates=REPLICATES,
            cause="renyi_elbo.py: the term of a guide that cannot be reparameterized is "
            "alpha / (1 - alpha) log q, which is right for infinitely many samples only; with "
            "alpha 0 the guide gets no gradient at all",
            exact=_negative_bound(problem),
        )


def _ours():
    from reparam.objectives import importance_weighted_bound

    def elbo(estimator, samples):
        return lambda problem: partial(_our_step, estimator, problem, samples), "elbo"

    def bound(gradient):
        def make(problem):
            def step(logits, t):
                q = problem.distribution(logits)

                def log_joint(z):
                    return -problem.f(z, t) - logits.numel() * math.log(2)

                (-importance_weighted_bound(log_joint, q, 2, gradient=gradient)).backward()

            return step

        return make, "bound"

    return {
        "ScoreFunction": elbo(estimators.ScoreFunction(), 2),
        "ScoreFunction(MovingAverage)": elbo(
            estimators.ScoreFunction(estimators.MovingAverage(0.9)), 2
        ),
        "Enumeration": elbo(estimators.Enumeration(), 1),
        "importance_weighted_bound(score)": bound("score"),
        "importance_weighted_bound(vimco)": bound("vimco"),
    }


def _our_step(estimator, problem, samples, logits, t):
    our_elbo(estimator, problem.f, logits, t, samples).backward()


@pytest.mark.parametrize(
    "name",
    [
        "ScoreFunction",
        "ScoreFunction(MovingAverage)",
        "Enumeration",
        "importance_weighted_bound(score)",
        "importance_weighted_bound(vimco)",
    ],
)
def test_our_gradients_of_the_same(name):
    for problem in BITS:
        make, kind = _ours()[name]
        exact = (
            _negative_bound(problem) if kind == "bound" else problem.exact(_negative_elbo(problem))
        )
        verdict = bias(
            "gradients: ours, ELBO",
            name,
            problem,
            make(problem),
            replicates=REPLICATES,
            exact=exact,
        )
        assert verdict == "right"
