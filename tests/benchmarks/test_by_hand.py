"""Each estimator against the same thing written by hand in plain torch: at most 15 % slower.

By hand is what somebody writes who knows the formula and needs it once: nothing is checked, no
second derivative is kept, and the distribution is used where it is the shortest way (`sample`,
`log_prob`), its logits elsewhere. Both get the same distribution, made anew at each step without
validation, and the same `f`; both leave the gradient in `.grad`.
"""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    OneHotCategorical,
)

from reparam import estimators as ours
from tests.benchmarks.problems import many_bits
from tests.benchmarks.timing import interleaved, report

SAMPLES, BATCH, BITS = 8, 64, 200
ALLOWED = 1.15


def compare(name, parameters, mine, by_hand, rounds=80, target=ALLOWED, section="by hand"):
    """Time both; the by-hand way is what the ratio is about."""
    ways = {"ours": cleared(parameters, mine), "by hand": cleared(parameters, by_hand)}
    summary = interleaved(ways, rounds)
    ratio = 1 / report(section, name, summary)["by hand"]
    assert target is None or ratio <= target, f"{name} takes {ratio:.2f} times as long as by hand"


def cleared(parameters, way):
    """The way, without what the step before has left in the gradients."""

    def step():
        for parameter in parameters:
            parameter.grad = None
        way()

    return step


def leaf(*shape):
    return torch.randn(*shape).requires_grad_()


def bits(logits):
    return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


def classes(logits):
    base = OneHotCategorical(logits=logits, validate_args=False)
    return Independent(base, 1, validate_args=False)


def of_classes(z):
    """The function of 200 bits, of 20 variables with 10 classes."""
    return many_bits(z.flatten(-2))


def logistic(shape):
    """As torch's RelaxedBernoulli draws it: cut off at ±16, 1 - u rounded to 2**-24."""
    u = torch.rand(shape).clamp(1e-7, 1 - 1e-7)
    return u.log() - (-u).log1p()


def logistic_with_tails(shape):
    """With both tails right, as ours are, by the shortest way there."""
    u = torch.rand(shape, dtype=torch.float64)
    return (u.log() - (-u).log1p()).float()


def through(hard, soft):
    return hard + soft - soft.detach()


# --- pathwise ----------------------------------------------------------------------------------


def test_pathwise():
    loc, log_scale = leaf(BATCH, BITS), leaf(BATCH, BITS)

    def q():
        return Independent(Normal(loc, log_scale.exp(), validate_args=False), 1)

    def mine():
        ours.Pathwise()(many_bits, q(), SAMPLES).sum().backward()

    def by_hand():
        many_bits(q().rsample((SAMPLES,))).mean(0).sum().backward()

    compare("Pathwise", (loc, log_scale), mine, by_hand)


def test_pathwise_implicit():
    logits, loc, log_scale = (leaf(BATCH, 20, 3) for _ in range(3))

    def q():
        mixture = MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            Normal(loc, log_scale.exp(), validate_args=False),
            validate_args=False,
        )
        return mixture, Independent(mixture, 1, validate_args=False)

    def mine():
        ours.Pathwise(implicit=True)(_square, q()[1], SAMPLES).sum().backward()

    def by_hand():
        mixture, _ = q()
        z = mixture.sample((SAMPLES,))
        quantile = mixture.cdf(z)
        density = mixture.log_prob(z).detach().exp()
        _square(z - (quantile - quantile.detach()) / density).mean(0).sum().backward()

    # Ours has the second derivative right, too, which takes a second look at the cdf.
    compare("Pathwise(implicit), first order", (logits, loc, log_scale), mine, by_hand, target=None)

    def twice():
        mixture, _ = q()
        z = mixture.sample((SAMPLES,))
        quantile = mixture.cdf(z)
        density = mixture.log_prob(z).detach().exp()
        path = z - (quantile - quantile.detach()) / density
        path = path - (mixture.cdf(path) - quantile.detach()) / density
        _square(path).mean(0).sum().backward()

    compare("Pathwise(implicit)", (logits, loc, log_scale), mine, twice)


def _square(z):
    return z.square().sum(-1)


# --- score function ----------------------------------------------------------------------------


def score_by_hand(q, b):
    """`b` maps the values to their baseline."""
    z = q.sample((SAMPLES,))
    values = many_bits(z)
    return ((values - b(values)) * q.log_prob(z)).mean(0).sum()


class Average:
    value = torch.zeros(())

    def __call__(self, values):
        before = self.value
        self.value = 0.9 * before + 0.1 * values.mean()
        return before


@pytest.mark.parametrize(
    ("name", "estimator", "b"),
    [
        ("ScoreFunction", lambda: ours.ScoreFunction(), lambda: lambda values: 0.0),
        (
            "ScoreFunction(Constant)",
            lambda: ours.ScoreFunction(ours.Constant(0.3)),
            lambda: lambda values: 0.3,
        ),
        (
            "ScoreFunction(MovingAverage)",
            lambda: ours.ScoreFunction(ours.MovingAverage()),
            lambda: Average(),
        ),
        (
            "ScoreFunction(LeaveOneOut)",
            lambda: ours.ScoreFunction(ours.LeaveOneOut()),
            lambda: lambda values: (values.sum(0) - values) / (len(values) - 1),
        ),
    ],
)
def test_score_function(name, estimator, b):
    logits, estimator, b = leaf(BATCH, BITS), estimator(), b()
    compare(
        name,
        (logits,),
        lambda: estimator(many_bits, bits(logits), SAMPLES).sum().backward(),
        lambda: score_by_hand(bits(logits), b).backward(),
    )


def network():
    return nn.Sequential(nn.Linear(50, 64), nn.ReLU(), nn.Linear(64, 1))


def test_learned():
    logits, x, learned = leaf(BATCH, BITS), torch.randn(BATCH, 50), ours.Learned(network())
    net = learned.network

    def mine():
        ours.ScoreFunction(learned.at(x))(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand():
        q = bits(logits)
        z = q.sample((SAMPLES,))
        signal = many_bits(z) - net(x).squeeze(-1)
        loss = (signal.detach() * q.log_prob(z)).mean(0).sum() + signal.square().mean()
        loss.backward()

    compare("ScoreFunction(Learned)", (logits, *net.parameters()), mine, by_hand)


def test_nvil():
    logits, x, nvil = leaf(BATCH, BITS), torch.randn(BATCH, 50), ours.NVIL(network())
    net, mean, variance = nvil.network, Average(), Average()

    def mine():
        ours.ScoreFunction(nvil.at(x))(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand():
        q = bits(logits)
        z = q.sample((SAMPLES,))
        signal = many_bits(z) - net(x).squeeze(-1)
        left = signal.detach()
        center = mean(left)
        scale = variance(left.var()).sqrt().clamp(min=1)
        loss = ((left - center) / scale * q.log_prob(z)).mean(0).sum()
        (loss + (signal - center).square().mean()).backward()

    compare("ScoreFunction(NVIL)", (logits, *net.parameters()), mine, by_hand)


# --- exact sums --------------------------------------------------------------------------------


def _ten_bits(b):
    return (b - 0.45).square().mean(-1) + b.sum(-1).square() / 10


def test_enumeration():
    logits = leaf(BATCH, 10)
    points = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 10)[:, None]

    def mine():
        ours.Enumeration()(_ten_bits, bits(logits)).sum().backward()

    def by_hand():
        weights = bits(logits).log_prob(points).exp()
        (weights * _ten_bits(points)).sum().backward()

    # By hand `f` sees each point once for the whole batch, which `f` must allow: not the same work.
    compare("Enumeration, points once", (logits,), mine, by_hand, target=None)

    def the_same():
        z = points.expand(-1, BATCH, -1)
        (bits(logits).log_prob(z).exp() * _ten_bits(z)).sum().backward()

    compare("Enumeration", (logits,), mine, the_same)


def test_rao_blackwell():
    logits = leaf(BATCH, BITS)
    estimator = ours.RaoBlackwell(ours.ScoreFunction(), enumerate=[0])

    def mine():
        estimator(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand():
        rest = bits(logits[..., 1:])
        z = rest.sample((SAMPLES,))
        first = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1).expand(2, SAMPLES, BATCH, 1)
        both = torch.cat([first, z.expand(2, *z.shape)], -1)
        one, zero = many_bits(both)
        p = logits[..., 0].sigmoid()
        inner = p * one + (1 - p) * zero
        (inner + inner.detach() * rest.log_prob(z)).mean(0).sum().backward()

    compare("RaoBlackwell", (logits,), mine, by_hand)


# --- differences -------------------------------------------------------------------------------


def test_measure_valued():
    loc, log_scale, variables = leaf(BATCH, 20), leaf(BATCH, 20), 20
    this = torch.eye(variables, dtype=torch.bool)[:, None, None]

    def q():
        return Independent(Normal(loc, log_scale.exp(), validate_args=False), 1)

    def mine():
        ours.MeasureValued()(_square, q(), SAMPLES).sum().backward()

    def by_hand():
        scale = log_scale.exp()
        with torch.no_grad():
            n = torch.randn(SAMPLES, BATCH, variables)
            w, m = ((2 * torch.empty_like(n).exponential_()).sqrt() for _ in range(2))
            m = (n.square() + m.square()).sqrt().copysign(n)
            z = loc + scale * n
            moved = torch.stack([loc + scale * w, loc - scale * w, loc + scale * m])
            points = torch.where(this, moved[:, None], z)
            up, down, wide = _square(points).movedim(1, -1)
            of_loc = (up - down) / (scale * math.sqrt(2 * math.pi))
            of_scale = (wide - _square(z)[..., None]) / scale
        (of_loc.mean(0) * loc + of_scale.mean(0) * scale).sum().backward()

    compare("MeasureValued", (loc, log_scale), mine, by_hand)


def test_spsa():
    loc, log_scale, step = leaf(BATCH, BITS), leaf(BATCH, BITS), 0.1

    def mine():
        q = Normal(loc, log_scale.exp(), validate_args=False)
        ours.SPSA(step)(_square, Independent(q, 1), SAMPLES).sum().backward()

    def by_hand():
        with torch.no_grad():
            first, second = 2 * torch.randint(2, (2, SAMPLES, BATCH, BITS)).float() - 1
            noise = torch.randn(SAMPLES, BATCH, BITS)
            z = [
                loc + side * first + (log_scale + side * second).exp() * noise
                for side in (step, -step)
            ]
            above, below = _square(torch.stack(z))
            slope = ((above - below) / (2 * step))[..., None]
            of_loc, of_log_scale = (slope * first).mean(0), (slope * second).mean(0)
        (of_loc * loc + of_log_scale * log_scale).sum().backward()

    compare("SPSA", (loc, log_scale), mine, by_hand)


def test_spsa_of_bits():
    """By hand a bit is `u < probability`, which is faster than `sample`, which SPSA asks."""
    logits, step = leaf(BATCH, BITS), 0.1

    def mine():
        ours.SPSA(step)(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand():
        with torch.no_grad():
            sign = 2 * torch.randint(2, (SAMPLES, BATCH, BITS)).float() - 1
            u = torch.rand(SAMPLES, BATCH, BITS)
            z = [(u < (logits + side * sign).sigmoid()).float() for side in (step, -step)]
            above, below = many_bits(torch.stack(z))
            gradient = ((above - below) / (2 * step))[..., None] * sign
        (gradient.mean(0) * logits).sum().backward()

    compare("SPSA, bits", (logits,), mine, by_hand, target=None)


@pytest.mark.parametrize("name", ["ARM", "DisARM"])
def test_antithetic(name):
    logits = leaf(BATCH, BITS)
    estimator = getattr(ours, name)()

    def mine():
        estimator(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand():
        with torch.no_grad():
            u, p = torch.rand(SAMPLES, BATCH, BITS), logits.sigmoid()
            b, other = (u > 1 - p).float(), (u < p).float()
            first, second = many_bits(torch.stack([b, other]))
            weight = u - 0.5 if name == "ARM" else (b - other) * logits.abs().sigmoid() / 2
            gradient = ((first - second)[..., None] * weight).mean(0)
        (gradient * logits).sum().backward()

    compare(name, (logits,), mine, by_hand)


# --- control variates --------------------------------------------------------------------------


def surrogate():
    return nn.Sequential(nn.Linear(BITS, 50), nn.ReLU(), nn.Linear(50, 1), nn.Flatten(-2))


@pytest.mark.parametrize("name", ["REBAR", "RELAX", "RELAX(eta=None)"])
def test_control_variates(name):
    logits, net = leaf(BATCH, BITS), surrogate()
    log_temperature = torch.tensor(0.5).log().requires_grad_()
    eta = torch.tensor(1.0, requires_grad=True)
    estimator = {
        "REBAR": lambda: ours.REBAR(),
        "RELAX": lambda: ours.RELAX(net),
        "RELAX(eta=None)": lambda: ours.RELAX(net, eta=None),
    }[name]()
    own = [] if name == "REBAR" else list(net.parameters())
    own += [] if name == "RELAX(eta=None)" else [eta, log_temperature]

    def control(z):
        value = 0.0
        if name != "RELAX(eta=None)":
            value = eta * many_bits((z / log_temperature.exp()).sigmoid())
        return value if name == "REBAR" else value + net(z)

    def mine():
        estimator(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand():
        phi = logits.detach().expand(SAMPLES, -1, -1).clone().requires_grad_()
        z = phi + logistic(phi.shape)
        b, p, v = (z > 0).float(), phi.sigmoid(), torch.rand_like(phi)
        v = torch.where(b == 1, 1 - p + v * p, v * (1 - p)).clamp(1e-7, 1 - 1e-7)
        given = control(phi + v.log() - (-v).log1p())
        path = torch.autograd.grad((control(z) - given).sum(), phi, create_graph=True)[0]
        gradient = (many_bits(b) - given)[..., None] * (b - p).detach() + path
        slopes = torch.autograd.grad(gradient.square().mean(0).sum(), own)
        for parameter, slope in zip(own, slopes, strict=True):
            parameter.grad = slope
        (gradient.mean(0).detach() * logits).sum().backward()

    parameters = (logits, *own, *estimator.parameters())
    compare(name, parameters, mine, by_hand, rounds=40)
