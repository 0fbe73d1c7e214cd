"""`elbo` and `importance_weighted_bound`: expected gradients by quadrature over the noise and by
summation over all tuples of samples, per-sample formulas, what is exactly zero, and bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Categorical,
    Independent,
    Kumaraswamy,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    TransformedDistribution,
    Uniform,
)

from reparam.estimators import (
    NVIL,
    REBAR,
    Constant,
    DisARM,
    Enumeration,
    Learned,
    LeaveOneOut,
    MovingAverage,
    antithetic,
)
from reparam.objectives import elbo, importance_weighted_bound
from tests.lib.statistical import check_mean

F64 = torch.float64


def T(x):
    return torch.tensor(x, dtype=F64, requires_grad=True)


def grads(value, at):
    return torch.autograd.grad(value, at, retain_graph=True)


def close(got, wanted, atol=1e-9):
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=atol)


def bound_of(kind, num_samples):
    """The objective as a function of `log_joint`, posterior, gradient and baseline."""
    if kind == "elbo":
        return lambda *a, **k: elbo(*a, num_samples=num_samples, **k)
    return lambda *a, **k: importance_weighted_bound(*a, num_samples=num_samples, **k)


# --- a linear Gaussian model ---------------------------------------------------------------------

X = 1.3
POINTS = 181


def grid(num_samples):
    """Noise `[num_samples, points]` and the mass of each point, for a standard normal law."""
    points = torch.linspace(-8.5, 8.5, POINTS, dtype=F64)
    eps = torch.cartesian_prod(*[points] * num_samples).reshape(-1, num_samples).T
    return eps, Normal(0.0, 1.0).log_prob(eps).exp().prod(0) * (17 / (POINTS - 1)) ** num_samples


class OnGrid(Normal):
    """A normal distribution whose noise is given: `eps`, shape `[num_samples, points]`."""

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.eps.reshape(*sample_shape, *self.batch_shape)

    def sample(self, sample_shape=()):
        return self.rsample(sample_shape).detach()

    def on(self, eps):
        self.eps = eps
        return self


class Linear:
    """`z ~ N(0, 1)`, `x ~ N(a z + b, s²)`: decoder parameters a, b, s and posterior ones m, t."""

    def __init__(self, m=0.4, t=0.8):
        self.a, self.b, self.s = T(1.2), T(-0.3), T(0.7)
        self.m, self.t = T(m), T(t)
        self.all = [self.m, self.t, self.a, self.b, self.s]

    def log_joint(self, z):
        return Normal(0.0, 1.0).log_prob(z) + Normal(self.a * z + self.b, self.s).log_prob(T(X))

    def log_evidence(self):
        return Normal(self.b, (self.a**2 + self.s**2).sqrt()).log_prob(T(X))

    def exact_elbo(self):
        m, t, a, b, s = self.all
        fit = -(s * math.sqrt(math.tau)).log() - ((X - a * m - b) ** 2 + (a * t) ** 2) / (2 * s**2)
        return fit - (m**2 + t**2 - 1) / 2 + t.log()

    def exact_bound(self, num_samples):
        """By the trapezoid rule on fixed points, where the density carries the derivative."""
        points = torch.linspace(-9, 9, 241, dtype=F64)
        z = torch.cartesian_prod(*[points] * num_samples).reshape(-1, num_samples).T
        log_q = Normal(self.m, self.t).log_prob(z)
        mass = log_q.sum(0).exp() * (points[1] - points[0]) ** num_samples
        log_w = self.log_joint(z) - log_q
        return (mass * (log_w.logsumexp(0) - math.log(num_samples))).sum()

    def posterior(self):
        """Mean and scale of the exact posterior."""
        precision = 1 + (self.a / self.s) ** 2
        return self.a * (X - self.b) / self.s**2 / precision, precision.rsqrt()

    def expected(self, objective, num_samples, **options):
        """The objective's estimate, integrated over its noise by the trapezoid rule.

        For analytic functions that fall to zero its error falls exponentially with the spacing.
        """
        eps, weight = grid(num_samples)
        q = OnGrid(self.m.expand(len(weight)), self.t.expand(len(weight)))
        q.on(eps)
        return (weight * objective(self.log_joint, q, **options)).sum()


def nvil(scale=1.0, features=1):
    """A frozen NVIL whose network gives constants, with a center of 0.3 and a given scale."""
    torch.manual_seed(1)
    made = NVIL(nn.Linear(features, 1, dtype=F64), decay=0.0).eval()
    made.mean.update(torch.tensor(0.3))
    made.variance.update(torch.tensor(scale**2))
    return made


def baseline_for(gradient, batch):
    return {"baseline": nvil().at(torch.ones(batch, 1, dtype=F64))} if gradient == "nvil" else {}


@pytest.mark.parametrize("gradient", ["pathwise", "stl", "score", "nvil"])
@pytest.mark.parametrize("num_samples", [1, 2])
def test_the_expected_gradient_of_the_elbo_is_its_gradient(gradient, num_samples):
    model = Linear()
    options = baseline_for(gradient, POINTS**num_samples)
    estimate = model.expected(
        bound_of("elbo", num_samples), num_samples, gradient=gradient, **options
    )
    close([estimate], [model.exact_elbo()])
    close(grads(estimate, model.all), grads(model.exact_elbo(), model.all))
    close([model.exact_bound(1)], [model.exact_elbo()])  # the other truth of this file


@pytest.mark.parametrize("gradient", ["pathwise", "dreg", "score", "nvil", "vimco"])
def test_the_expected_gradient_of_two_samples_is_that_of_their_bound(gradient):
    model = Linear()
    truth = model.exact_bound(2)
    assert model.exact_elbo() + 0.05 < truth < model.log_evidence() - 0.05
    options = baseline_for(gradient, POINTS**2)
    estimate = model.expected(bound_of("iw", 2), 2, gradient=gradient, **options)
    close([estimate], [truth])
    close(grads(estimate, model.all), grads(truth, model.all), atol=1e-9)


@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg", "score", "nvil"])
def test_one_sample_of_the_importance_weighted_bound_is_an_elbo(gradient):
    """Sample by sample; dreg is then stl."""
    model = Linear()
    torch.manual_seed(0)
    q = OnGrid(model.m.expand(50), model.t.expand(50)).on(torch.randn(1, 50, dtype=F64))
    options = baseline_for(gradient, 50)
    weighted = importance_weighted_bound(model.log_joint, q, 1, gradient=gradient, **options)
    single = elbo(model.log_joint, q, gradient="stl" if gradient == "dreg" else gradient, **options)
    close([weighted], [single])
    slopes = torch.rand(50, dtype=F64)
    close(grads((weighted * slopes).sum(), model.all), grads((single * slopes).sum(), model.all))


def test_sticking_the_landing_is_biased_for_more_than_one_sample_by_what_it_leaves_out():
    """`E[Σ v_k path_k]` on the same grid by hand, 0.1 and more away from the gradient."""
    model = Linear()
    estimate = model.expected(bound_of("iw", 2), 2, gradient="stl")
    got, truth = grads(estimate, model.all), grads(model.exact_bound(2), model.all)

    e, weight = (part.numpy() for part in grid(2))
    a, b, s, m, t = (p.item() for p in (model.a, model.b, model.s, model.m, model.t))
    z = m + t * e
    log_w = -(z**2) / 2 - (X - a * z - b) ** 2 / (2 * s**2) + e**2 / 2
    v = np.exp(log_w) / np.exp(log_w).sum(0)
    path = -z + a * (X - a * z - b) / s**2 + e / t
    wanted = [(weight * (v * path * factor).sum(0)).sum() for factor in (1, e)]
    assert got[0].item() == pytest.approx(wanted[0], abs=1e-8)
    assert got[1].item() == pytest.approx(wanted[1], abs=1e-8)
    assert abs(got[0] - truth[0]) > 0.1
    close(got[2:], truth[2:], atol=1e-7)  # the decoder does not notice


def test_formulas_of_one_draw():
    """Five samples by hand: paths weighted by 1/K, v and v²; the score by VIMCO's differences."""
    model, K = Linear(), 5
    torch.manual_seed(3)
    eps = torch.randn(K, 1, dtype=F64)
    q = OnGrid(model.m.expand(1), model.t.expand(1)).on(eps)
    a, b, s, m, t = (p.item() for p in (model.a, model.b, model.s, model.m, model.t))
    e = eps[:, 0].numpy()
    z = m + t * e
    log_q = -(e**2) / 2 - math.log(t) - math.log(math.tau) / 2
    log_p = -(z**2) / 2 - (X - a * z - b) ** 2 / (2 * s**2) - math.log(s) - math.log(math.tau)
    log_w = log_p - log_q
    w = np.exp(log_w)
    v, L = w / w.sum(), math.log(w.mean())
    path = -z + a * (X - a * z - b) / s**2 + e / t
    by_a = (X - a * z - b) * z / s**2
    score = [e / t, (e**2 - 1) / t]
    swapped = [
        math.log((w.sum() - w[k] + math.exp((log_w.sum() - log_w[k]) / (K - 1))) / K)
        for k in range(K)
    ]
    coefficients = {
        "vimco": L - np.array(swapped) - v,
        "score": L - 0.7 - v + 1 / K,
        "nvil": (L - nvil(2.5).at(torch.ones(1, 1, dtype=F64))(None).item() - v + 1 / K) / 2.5,
    }
    paths = {"stl": v * path, "dreg": v**2 * path}
    baselines = {
        "score": Constant(0.7),
        "nvil": nvil(2.5).at(torch.ones(1, 1, dtype=F64)),
    }
    for kind in (*paths, *coefficients):
        bound = importance_weighted_bound(
            model.log_joint, q, K, gradient=kind, baseline=baselines.get(kind)
        )
        assert bound.item() == pytest.approx(L, abs=1e-12)
        got = [g.item() for g in grads(bound.sum(), [model.m, model.t, model.a])]
        if kind in paths:
            wanted = [paths[kind].sum(), (paths[kind] * e).sum()]
        else:
            wanted = [(coefficients[kind] * part).sum() for part in score]
        assert got == pytest.approx([*wanted, (v * by_a).sum()], abs=1e-10), kind
    for kind in ("stl", "score"):
        bound = elbo(model.log_joint, q, K, gradient=kind, baseline=baselines.get(kind))
        assert bound.item() == pytest.approx(log_w.mean(), abs=1e-12)
        got = [g.item() for g in grads(bound.sum(), [model.m, model.t, model.a])]
        if kind == "stl":
            wanted = [path.mean(), (path * e).mean()]
        else:
            wanted = [((log_w - 0.7) * part).mean() for part in score]
        assert got == pytest.approx([*wanted, by_a.mean()], abs=1e-10), kind


@pytest.mark.parametrize(("kind", "num_samples"), [("elbo", 1), ("iw", 1), ("iw", 5)])
def test_the_landing(kind, num_samples):
    """Where the posterior is exact every sample's gradient is zero, and nowhere else."""
    gradients = ["stl"] if kind == "elbo" else ["stl", "dreg"]
    for gradient, exact in itertools.product(gradients, (True, False)):
        model = Linear()
        mean, scale = (p.detach() for p in model.posterior())
        m = mean.expand(1000).clone().requires_grad_()
        t = (scale if exact else 1.1 * scale).expand(1000).clone().requires_grad_()
        estimate = bound_of(kind, num_samples)(model.log_joint, Normal(m, t), gradient=gradient)
        by_m, by_t, by_a = grads(estimate.sum(), [m, t, model.a])
        assert by_a != 0
        if exact:
            close([estimate], [model.log_evidence().expand(1000)], atol=1e-12)
            close([by_m, by_t], [torch.zeros(1000, dtype=F64)] * 2, atol=1e-12)
        else:
            assert by_m.std() > 0.01 and by_t.std() > 0.01


def test_others_at_the_landing():
    """Pathwise keeps the score's noise there; the score function with the evidence as baseline
    is silent, one sample or many; VIMCO keeps the mean score."""
    model = Linear()
    mean, scale = (p.detach() for p in model.posterior())
    m = mean.expand(1000).clone().requires_grad_()
    q = Normal(m, scale)
    best = Constant(model.log_evidence().detach())
    for K in (1, 4):
        silent = importance_weighted_bound(model.log_joint, q, K, gradient="score", baseline=best)
        close(grads(silent.sum(), [m]), [torch.zeros(1000, dtype=F64)], atol=1e-12)
    silent = elbo(model.log_joint, q, 3, gradient="score", baseline=best)
    close(grads(silent.sum(), [m]), [torch.zeros(1000, dtype=F64)], atol=1e-12)
    information = 1 / scale.item() ** 2
    for kind, K in (("pathwise", 1), ("pathwise", 4), ("vimco", 4)):
        (noisy,) = grads(importance_weighted_bound(model.log_joint, q, K, gradient=kind).sum(), [m])
        # a mean of K scores, normal with variance information / K; that of a squared one is 2
        check_mean(noisy.square().mean() * K / information, 1.0, 2.0, 1000, catches=0.5)


def test_signal_to_noise():
    """Ratios at K = 64 over those at K = 4: 1/4 for pathwise, 4 for doubly reparameterized.

    20,000 replicates leave a ratio of mean to deviation uncertain by 0.007 (for ratios below 1)
    to 0.02 (near 2): each of the four is 20 of these errors away from where the other law, or
    none, would put it.
    """
    n, ratios = 20_000, {}
    for gradient, K in itertools.product(("pathwise", "dreg"), (4, 64)):
        model = Linear()
        m = model.m.detach().expand(n).clone().requires_grad_()
        bound = importance_weighted_bound(
            model.log_joint, Normal(m, model.t.detach()), K, gradient=gradient
        )
        (by_m,) = grads(bound.sum(), [m])
        ratios[gradient, K] = (by_m.mean() / by_m.std()).abs().item()
    assert 0.15 < ratios["pathwise", 64] / ratios["pathwise", 4] < 0.4, ratios
    assert 2.5 < ratios["dreg", 64] / ratios["dreg", 4] < 6, ratios


# --- models that can be summed -------------------------------------------------------------------


class Tuples:
    """All `K`-tuples of samples of a discrete posterior, given where it should draw."""

    def __init__(self, monkeypatch, q, num_samples):
        points = points_of(q)
        index = torch.tensor(list(itertools.product(range(len(points)), repeat=num_samples)))
        self.z = points[index].movedim(0, 1)  # [K, tuples, *event]
        self.probability = q.log_prob(self.z).sum(0).exp()
        self.q = q.expand((len(index),))
        monkeypatch.setattr(
            type(self.q), "sample", lambda q, shape: self.z.reshape(*shape, *self.z.shape[1:])
        )

    def expected(self, estimates):
        return (self.probability.detach() * estimates).sum()

    def truth(self, log_joint, one, kind):
        log_w = log_joint(self.z) - one.log_prob(self.z)
        if kind == "elbo":
            return (self.probability * log_w.mean(0)).sum()
        return (self.probability * (log_w.logsumexp(0) - math.log(len(log_w)))).sum()


def points_of(q):
    if isinstance(q, Independent):
        return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 2)
    return torch.arange(3) if q.event_shape == () else torch.eye(3, dtype=F64)


def binary():
    """Two Bernoulli variables that the model mixes, and all of its parameters."""
    alpha, theta = T([0.4, -0.9]), T([0.5, -1.0, 0.8])

    def log_joint(z):
        return Normal(
            theta[0] * z[..., 0] + theta[1] * z[..., 1] + theta[2] * z.prod(-1), 0.6
        ).log_prob(T(0.9)) + Bernoulli(logits=theta[:2]).log_prob(z).sum(-1)

    return Independent(Bernoulli(logits=alpha), 1), log_joint, [alpha, theta]


def classes():
    """A variable of three classes."""
    alpha, theta = T([0.4, -0.9, 0.1]), T([0.5, -1.0, 1.8])

    def log_joint(z):
        return Normal((theta * z).sum(-1), 0.6).log_prob(T(0.9)) - math.log(3)

    return OneHotCategorical(logits=alpha), log_joint, [alpha, theta]


def indices():
    _, log_joint, at = classes()
    return (
        Categorical(logits=at[0]),
        lambda k: log_joint(nn.functional.one_hot(k, 3).to(F64)),
        at,
    )


DISCRETE = [
    (kind, gradient, K)
    for kind, gradient, K in itertools.product(
        ("elbo", "iw"), ("score", "loo", "nvil", "nvil scaled", "vimco"), (1, 2, 3)
    )
    if not (gradient == "vimco" and (kind == "elbo" or K == 1))
    and not (gradient == "loo" and (kind == "iw" or K == 1))
]


@pytest.mark.parametrize("make", [binary, classes, indices])
@pytest.mark.parametrize(("kind", "gradient", "num_samples"), DISCRETE)
def test_discrete_posteriors_by_summing_over_all_tuples(
    monkeypatch, make, kind, gradient, num_samples
):
    q, log_joint, at = make()
    tuples = Tuples(monkeypatch, q, num_samples)
    options, scale, name = {}, 1.0, gradient
    if gradient == "loo":
        name, options = "score", {"baseline": LeaveOneOut()}
    elif gradient.startswith("nvil"):
        scale = 3.0 if gradient.endswith("scaled") else 1.0
        x = torch.ones(len(tuples.probability), 1, dtype=F64)
        name, options = "nvil", {"baseline": nvil(scale).at(x)}
    estimate = tuples.expected(
        bound_of(kind, num_samples)(log_joint, tuples.q, gradient=name, **options)
    )
    truth = tuples.truth(log_joint, q, kind)
    close([estimate], [truth], atol=1e-12)
    by_alpha, by_theta = grads(truth, at)
    close(grads(estimate, at), [by_alpha / scale, by_theta], atol=1e-7 if scale > 1 else 1e-12)


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_pairs_by_integrating_their_noise(monkeypatch, num_samples):
    """Each uniform number matters only by which of three intervals it falls in."""
    q, log_joint, at = binary()
    alpha = at[0].detach()
    edges = torch.stack([0 * alpha, *torch.stack([alpha, -alpha]).sigmoid().sort(0).values])
    edges = torch.cat([edges, torch.ones(1, 2, dtype=F64)])
    middle, length = (edges[1:] + edges[:-1]) / 2, edges[1:] - edges[:-1]  # [3, 2]
    index = torch.tensor(list(itertools.product(range(3), repeat=2 * num_samples)))
    index = index.reshape(-1, num_samples, 2)
    u = torch.stack([middle[index[..., d], d] for d in (0, 1)], -1).movedim(0, 1)
    weight = torch.stack([length[index[..., d], d] for d in (0, 1)], -1).prod(-1).prod(-1)
    monkeypatch.setattr(antithetic, "uniform_noise", lambda *a, **k: u)
    estimate = importance_weighted_bound(
        log_joint, q.expand((len(index),)), num_samples, gradient="disarm"
    )
    points = points_of(q)
    tuples = torch.tensor(list(itertools.product(range(4), repeat=num_samples)))
    z = points[tuples].movedim(0, 1)
    log_q = q.log_prob(z)
    truth = (log_q.sum(0).exp() * ((log_joint(z) - log_q).logsumexp(0) - math.log(len(z)))).sum()
    estimate = (weight * estimate).sum()
    close([estimate], [truth], atol=1e-12)
    close(grads(estimate, at), grads(truth, at), atol=1e-12)


def test_one_pair_is_disarm():
    """Up to the score, whose mean is zero and which an ELBO leaves out."""
    q, log_joint, (alpha, theta) = binary()
    torch.manual_seed(5)
    bound = importance_weighted_bound(log_joint, q, 1, gradient="disarm")
    torch.manual_seed(5)
    plain = DisARM()(lambda z: log_joint(z) - q.log_prob(z).detach(), q)
    torch.manual_seed(5)
    _, *pair = antithetic._antithetic_bits(alpha, 1)
    score = grads(q.log_prob(torch.cat(pair)).mean(), [alpha])[0]
    close([bound], [plain], atol=1e-12)
    (by_alpha, by_theta), (plain_alpha, plain_theta) = (
        grads(value, [alpha, theta]) for value in (bound, plain)
    )
    close([by_alpha, by_theta], [plain_alpha - score, plain_theta], atol=1e-12)


def test_the_bound_rises_with_every_sample_to_the_evidence():
    q, log_joint, _ = binary()
    points = points_of(q)
    evidence = log_joint(points).logsumexp(0)
    bounds = []
    for K in range(1, 6):
        z = points[torch.tensor(list(itertools.product(range(4), repeat=K)))].movedim(0, 1)

        class All(Bernoulli):
            def sample(self, shape, z=z):
                return z.reshape(*shape, *z.shape[1:])

        every = Independent(All(logits=q.base_dist.logits.expand(z.shape[1], 2)), 1)
        every.sample = every.base_dist.sample
        bound = importance_weighted_bound(log_joint, every, K, gradient="score")
        bounds.append((q.log_prob(z).sum(0).exp() * bound).sum().item())
    assert bounds == sorted(bounds)
    assert all(high - low > 1e-3 for low, high in itertools.pairwise(bounds))
    assert bounds[-1] < evidence.item()
    close(
        [torch.tensor(bounds[0], dtype=F64)],
        [Enumeration()(lambda z: log_joint(z) - q.log_prob(z), q)],
        atol=1e-12,
    )


def test_vimco_where_one_weight_dwarfs_the_others():
    """`log Σ_{j≠k} w_j` without cancellation: exp(-800) of the largest in float64."""
    offsets = torch.tensor([0.0, -800.0, -801.0], dtype=F64)
    logits = T([0.0])

    class Given(Bernoulli):
        def sample(self, shape):
            return torch.tensor([[1.0], [0.0], [1.0]], dtype=F64)

    bound = importance_weighted_bound(
        lambda z: offsets.unsqueeze(-1) + 0 * z, Given(logits=logits), 3, gradient="vimco"
    )
    (got,) = grads(bound.sum(), [logits])
    # by hand: L = ln(2/3) (weights are doubled by q = 1/2); without the first, log weights of
    # -800 and -801 and their mean; in place of the others, means that vanish beside it
    rest = np.logaddexp.reduce([-800.0, -801.0, -800.5])
    signal = np.array([0.0 - rest, 0.0, 0.0])
    weights = np.array([1.0, 0.0, 0.0])
    wanted = ((signal - weights) * np.array([0.5, -0.5, 0.5])).sum()
    assert got.item() == pytest.approx(wanted, rel=1e-12)


# --- any posterior -------------------------------------------------------------------------------


def normal(m, t):
    return Normal(m, t.exp())


def flow(m, t):
    return TransformedDistribution(
        Normal(0.0 * m, 1.0), [AffineTransform(m, t.exp())], validate_args=False
    )


POSTERIORS = {
    "normal": normal,
    "flow": flow,
    "log-normal": lambda m, t: LogNormal(m, t.exp()),
    "beta": lambda m, t: Beta(m.exp(), t.exp()),
    "events": lambda m, t: Independent(Normal(m.unsqueeze(-1), t.exp().unsqueeze(-1)), 1),
    "full": lambda m, t: MultivariateNormal(
        torch.stack([m, t], -1), torch.eye(2, dtype=m.dtype) * (1 + t**2)[..., None, None]
    ),
}


@pytest.mark.parametrize("make", POSTERIORS.values(), ids=POSTERIORS)
def test_the_score_is_taken_off_without_a_look_inside(make):
    """Against a posterior built again from detached parameters, on the same draws."""
    theta = T(0.6)

    def log_joint(z):
        z = z.sum(-1) if z.ndim > 2 else z
        return (theta * z).sin() - z.square()

    for gradient, K in (("stl", 1), ("stl", 3), ("dreg", 3)):
        m, t = T([0.3, -0.2]), T([0.1, 0.4])
        torch.manual_seed(7)
        bound = importance_weighted_bound(log_joint, make(m, t), K, gradient=gradient)
        got = grads(bound.sum(), [m, t, theta])
        torch.manual_seed(7)
        z = make(m, t).rsample((K,))
        log_w = log_joint(z) - make(m.detach(), t.detach()).log_prob(z)
        v = log_w.detach().softmax(0)
        by_path = grads(((v if gradient == "stl" else v**2) * log_w).sum(), [m, t])
        (by_theta,) = grads((v * log_joint(z)).sum(), [theta])
        close(got, [*by_path, by_theta], atol=1e-11)


def test_a_mixture_by_its_score():
    """A posterior without rsample; unbiased, by a z-test with the variance of the draws."""
    logits = T([0.2, -0.4]).detach().expand(200_000, 2).clone().requires_grad_()
    q = MixtureSameFamily(
        Categorical(logits=logits),
        Normal(torch.tensor([-1.0, 1.0], dtype=F64).expand(200_000, 2), 0.7),
    )

    def log_joint(z):
        return Normal(0.3, 1.0).log_prob(z.to(F64))

    (by_logits,) = grads(
        importance_weighted_bound(log_joint, q, 2, gradient="vimco").sum(), [logits]
    )
    one = T([0.2, -0.4])
    points = torch.linspace(-7, 7, 401, dtype=F64)
    z = torch.cartesian_prod(points, points).T
    log_q = MixtureSameFamily(
        Categorical(logits=one), Normal(torch.tensor([-1.0, 1.0], dtype=F64), 0.7)
    ).log_prob(z)
    mass = log_q.sum(0).exp() * (points[1] - points[0]) ** 2
    (truth,) = grads((mass * ((log_joint(z) - log_q).logsumexp(0) - math.log(2))).sum(), [one])
    check_mean(by_logits[:, 0].mean(), truth[0], by_logits[:, 0].var(), 200_000, catches=0.02)
    with pytest.raises(ValueError, match="has none: use gradient='score' or gradient='vimco'"):
        importance_weighted_bound(log_joint, q, 2)


# --- derivatives of derivatives, transforms, dtypes ----------------------------------------------


@pytest.mark.parametrize(("kind", "num_samples"), [("elbo", 1), ("iw", 2)])
def test_second_derivatives_are_right_or_refused(kind, num_samples):
    model = Linear()
    truth = model.exact_bound(num_samples)

    def hessian(value):
        first = torch.autograd.grad(value, [model.m, model.t], create_graph=True)
        return [
            second for g in first for second in torch.autograd.grad(g, model.all, retain_graph=True)
        ]

    objective = bound_of(kind, num_samples)
    close(hessian(model.expected(objective, num_samples)), hessian(truth), atol=1e-6)
    names = ("stl", "score") if kind == "elbo" else ("stl", "dreg", "score", "vimco")
    for gradient in names:
        with pytest.raises(NotImplementedError, match=f"gradient='{gradient}' has first deriv"):
            hessian(model.expected(objective, num_samples, gradient=gradient))
    q, log_joint, (alpha, _) = binary()
    (g,) = torch.autograd.grad(
        importance_weighted_bound(log_joint, q, 2, gradient="disarm"), alpha, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="gradient='disarm' has first deriv"):
        torch.autograd.grad(g.sum(), alpha)


@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg", "score", "vimco"])
def test_under_torch_func(gradient):
    model = Linear()
    eps = torch.randn(3, 4, dtype=F64)

    def estimate(m):
        q = OnGrid(m.expand(4), model.t.detach().expand(4)).on(eps)
        return importance_weighted_bound(model.log_joint, q, 3, gradient=gradient).sum()

    got = torch.func.grad(estimate)(model.m.detach())
    close([got], grads(estimate(model.m), [model.m]), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg", "score", "nvil", "vimco"])
def test_dtypes_devices_and_batches(gradient, dtype, device):
    options = dict(dtype=dtype, device=device)
    m = torch.zeros(3, 2, **options).requires_grad_()
    q = Independent(Normal(m, torch.ones((), **options)), 1)
    net = NVIL(nn.Linear(4, 1, **options)).to(device)
    baseline = net.at(torch.ones(3, 4, **options)) if gradient == "nvil" else None
    bound = importance_weighted_bound(
        lambda z: -(z**2).sum(-1), q, 5, gradient=gradient, baseline=baseline
    )
    assert (bound.shape, bound.dtype, bound.device.type) == ((3,), dtype, device)
    bound.sum().backward()
    assert m.grad.dtype == dtype and (m.grad != 0).all()
    with torch.no_grad():
        assert not elbo(lambda z: -(z**2).sum(-1), q).requires_grad


@pytest.mark.parametrize("gradient", ["stl", "dreg", "score", "nvil", "vimco", "disarm"])
def test_a_batch_in_two_dimensions_is_a_long_one(gradient):
    m = torch.randn(2, 3, dtype=F64)
    got = []
    for shape in ((2, 3), (6,)):
        at = m.reshape(shape).clone().requires_grad_()
        q = Bernoulli(logits=at) if gradient == "disarm" else Normal(at, 0.7)
        x = torch.arange(6, dtype=F64).reshape(*shape, 1)
        baseline = nvil(2.0).at(x) if gradient == "nvil" else None
        torch.manual_seed(0)
        bound = importance_weighted_bound(
            lambda z, at=at: -((z - at.detach() ** 2) ** 2),
            q,
            4,
            gradient=gradient,
            baseline=baseline,
        )
        got.append([part.flatten() for part in (bound, *grads(bound.sum(), [at]))])
    close(*got, atol=1e-12)


@pytest.mark.parametrize("gradient", ["stl", "dreg", "score", "vimco"])
def test_a_posterior_that_wants_nothing(gradient):
    theta = T(0.5)
    bound = importance_weighted_bound(
        lambda z: -theta * z**2, Normal(torch.zeros(2, dtype=F64), 1.0), 4, gradient=gradient
    )
    bound.sum().backward()
    assert theta.grad < 0


def test_compiled():
    model = Linear()
    eps = torch.randn(3, 4, dtype=F64)
    for gradient in ("pathwise", "stl", "vimco"):

        def estimate(m, gradient=gradient):
            q = Normal(m.expand(4), model.t.detach().expand(4), validate_args=False)
            q = OnGrid(q.loc, q.scale, validate_args=False).on(eps)
            return importance_weighted_bound(model.log_joint, q, 3, gradient=gradient).sum()

        compiled = torch.compile(estimate, backend="aot_eager")
        close(grads(compiled(model.m), [model.m]), grads(estimate(model.m), [model.m]), 1e-12)


# --- baselines -----------------------------------------------------------------------------------


def test_a_learned_baseline_learns_the_bound_whatever_the_sign_of_the_loss():
    torch.manual_seed(0)
    q, log_joint, _ = binary()
    q = q.expand((6,))
    x = torch.ones(6, 2, dtype=F64)
    for make, gradient in ((Learned, "score"), (NVIL, "nvil")):
        seen = []
        for loss in (lambda b: b.sum(), lambda b: -7 * b.sum()):
            torch.manual_seed(1)
            baseline = make(nn.Linear(2, 1, dtype=F64))
            bound = importance_weighted_bound(
                log_joint, q, 3, gradient=gradient, baseline=baseline.at(x)
            )
            loss(bound).backward()
            prediction = baseline.network(x).squeeze(-1)
            wanted = torch.autograd.grad(
                (bound.detach() - prediction).square().mean(), baseline.network.weight
            )
            close([baseline.network.weight.grad], wanted, atol=1e-12)
            seen.append(baseline.network.weight.grad)
        close(seen[:1], seen[1:])


def test_a_moving_average_follows_the_bound():
    q, log_joint, _ = binary()
    average = MovingAverage(decay=0.5)
    torch.manual_seed(0)
    bounds = [
        importance_weighted_bound(log_joint, q, 4, gradient="score", baseline=average).item()
        for _ in range(2)
    ]
    assert average.average().item() == pytest.approx((bounds[0] / 2 + bounds[1]) / 1.5, rel=1e-6)


def test_log_q_is_computed_once(monkeypatch):
    q, _, _ = binary()
    calls = []
    monkeypatch.setattr(
        Bernoulli, "log_prob", lambda q, z, old=Bernoulli.log_prob: (calls.append(1), old(q, z))[1]
    )
    importance_weighted_bound(lambda z: 0 * z.sum(-1), q, 4, gradient="score")
    assert len(calls) == 1


# --- bad input -----------------------------------------------------------------------------------

UNIT = Normal(T([0.0, 0.0]), 1.0)
COINS = Bernoulli(logits=T([0.0]))


@pytest.mark.parametrize("kind", ["elbo", "iw"])
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"gradient": "reinforce"}, ValueError, "knows the gradients 'pathwise', 'stl', .*'score'"),
        ({"gradient": None}, ValueError, "knows the gradients 'pathwise'.*got None"),
        ({"log_joint": 3}, TypeError, "log_joint must be a function of z, got int"),
        ({"posterior": 3}, TypeError, "torch.distributions.Distribution, got int"),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
        ({"num_samples": 2.0}, TypeError, "num_samples must be an int"),
        ({"posterior": COINS}, ValueError, "'pathwise' needs a posterior with rsample, and Bern"),
        ({"posterior": COINS, "gradient": "stl"}, ValueError, "has none: use gradient='score'"),
        ({"log_joint": lambda z: z.sum()}, ValueError, r"log_joint must return one value .*\(4, 2"),
        ({"log_joint": lambda z: 1.0}, TypeError, "log_joint must return a tensor.* got float"),
        ({"log_joint": lambda z: z.long()}, TypeError, "log_joint must return floating-point"),
        ({"log_joint": lambda z: z * math.nan}, ValueError, "log_joint returned NaN for 8 of 8"),
        (
            {"log_joint": lambda z: z.detach()},
            ValueError,
            "the value of log_joint does not depend on the sample .* use gradient='score'",
        ),
        (
            {"log_joint": lambda z: torch.zeros(4, 2), "gradient": "stl"},
            ValueError,
            "so gradient='stl' has no gradient to follow",
        ),
        ({"gradient": "nvil"}, ValueError, r"needs baseline=NVIL\(network\).at\(x\), got None"),
        (
            {"gradient": "nvil", "baseline": Learned(nn.Linear(1, 1)).at(torch.ones(2, 1))},
            ValueError,
            r"needs baseline=NVIL",
        ),
        (
            {"gradient": "nvil", "baseline": NVIL(nn.Linear(1, 1))},
            ValueError,
            "needs baseline=NVIL",
        ),
        (
            {"gradient": "stl", "baseline": Constant(0.0)},
            ValueError,
            "'stl' has no use for a basel",
        ),
        ({"gradient": "score", "baseline": 0.5}, TypeError, r"for a number use Constant\(0.5\)"),
        (
            {"gradient": "score", "posterior": Uniform(T([0.0]) - 1, T([1.0]))},
            ValueError,
            "'score' can be biased where the support moves .* Uniform does: use .*'pathwise'",
        ),
        (
            {"gradient": "score", "log_joint": lambda z: z - math.inf},
            ValueError,
            "infinite signal: log_joint is infinite at a sample",
        ),
    ],
)
def test_bad_calls(kind, change, error, says):
    arguments = {"log_joint": lambda z: -(z**2), "posterior": UNIT, "num_samples": 4} | change
    objective = elbo if kind == "elbo" else importance_weighted_bound
    with pytest.raises(error, match=says):
        objective(**arguments)


@pytest.mark.parametrize(
    ("posterior", "num_samples", "gradient", "baseline", "says"),
    [
        (COINS, 1, "vimco", None, "at least 2, as it compares .* use gradient='score'"),
        (COINS, 2, "score", LeaveOneOut(), "use gradient='vimco'"),
        (COINS, 2, "vimco", LeaveOneOut(), "has no use for a baseline"),
        (UNIT, 2, "disarm", None, "needs Bernoulli variables.* got Normal: use gradient='vimco'"),
        (COINS, 2, "dreg", None, "needs a posterior with rsample"),
    ],
)
def test_bad_calls_of_the_importance_weighted_bound(
    posterior, num_samples, gradient, baseline, says
):
    with pytest.raises(ValueError, match=says):
        importance_weighted_bound(
            lambda z: -(z**2), posterior, num_samples, gradient=gradient, baseline=baseline
        )


def test_bad_calls_of_the_elbo():
    with pytest.raises(ValueError, match="'pathwise', 'stl', 'score', 'nvil', got 'vimco'"):
        elbo(lambda z: -(z**2), COINS, 2, gradient="vimco")
    with pytest.raises(ValueError, match="LeaveOneOut needs num_samples of at least 2"):
        elbo(lambda z: -(z**2), COINS, gradient="score", baseline=LeaveOneOut())


@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound])
def test_log_joint_must_leave_its_samples_alone(bound):
    q = Normal(torch.zeros(3, requires_grad=True), 1.0)
    kinds = ("pathwise", "stl", "score") + (("vimco",) if bound is not elbo else ())
    for gradient in kinds:

        def log_joint(z):
            with torch.no_grad():
                z.mul_(2)
            return -(z**2)

        with pytest.raises(ValueError, match="log_joint changes its samples in place"):
            bound(log_joint, q, 3, gradient=gradient)


@pytest.mark.parametrize("gradient", ["stl", "dreg", "score", "vimco"])
def test_what_leaves_out_the_edges_refuses_a_support_that_moves(gradient):
    p = T(0.3)
    for q in (
        Uniform(torch.zeros((), dtype=F64), p + 2),
        TransformedDistribution(
            Uniform(torch.zeros((), dtype=F64), 1.0), [AffineTransform(0.0, p + 2)]
        ),
    ):
        with pytest.raises(ValueError, match=r"support moves .*use gradient='pathwise'"):
            importance_weighted_bound(lambda z: -(z**2), q, 3, gradient=gradient)
        importance_weighted_bound(lambda z: -(z**2), q, 3).backward()


def test_a_transform_that_caches_does_not_hide_the_density():
    for gradient in ("score", "vimco", "stl", "dreg", "pathwise"):
        slopes = []
        for size in (0, 1):
            p = T(0.3)
            torch.manual_seed(0)
            q = TransformedDistribution(
                Normal(torch.zeros(2, dtype=F64), 1.0), [AffineTransform(p, 1.0, cache_size=size)]
            )
            bound = importance_weighted_bound(lambda z: -(z**4), q, 3, gradient=gradient)
            slopes += torch.autograd.grad(bound.sum(), p)
        torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("gradient", ["score", "vimco", "stl", "pathwise"])
def test_an_infinite_density_is_named(gradient):
    a = torch.full((5000,), 0.1, requires_grad=True)
    with pytest.raises(ValueError, match=r"log q of Kumaraswamy is infinite or NaN at \d+ of"):
        importance_weighted_bound(lambda z: -(z**2), Kumaraswamy(a, a), 2, gradient=gradient)


def test_a_relaxation_of_the_bound_as_the_docstring_has_it():
    logits = T([0.4, -1.0])
    q = Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)
    prior = Independent(Bernoulli(probs=torch.full((2,), 0.5), validate_args=False), 1)
    bound = REBAR()(lambda z: prior.log_prob(z) - q.log_prob(z), q, 4)
    assert torch.autograd.grad(bound, logits)[0].isfinite().all()


def test_discrete_samples_have_no_path_even_with_rsample():
    q = OneHotCategoricalStraightThrough(logits=T([0.4, -1.0]))
    with pytest.raises(ValueError, match="discrete: use gradient='score'"):
        elbo(lambda z: z.sum(-1), q)


@pytest.mark.parametrize("gradient", ["stl", "dreg", "score", "vimco"])
def test_forward_mode_is_refused_where_it_would_be_wrong(gradient):
    def bound(loc, gradient):
        posterior = Normal(loc, 1.0)
        return importance_weighted_bound(lambda z: -(z**2), posterior, 5, gradient)

    def slope(gradient):
        at, one = torch.tensor(0.3), torch.tensor(1.0)
        return torch.func.jvp(lambda loc: bound(loc, gradient), (at,), (one,))[1]

    with pytest.raises(NotImplementedError, match=f"gradient='{gradient}' has no derivatives in"):
        slope(gradient)
    torch.manual_seed(0)
    forward = slope("pathwise")
    torch.manual_seed(0)
    backward = torch.func.grad(lambda loc: bound(loc, "pathwise"))(torch.tensor(0.3))
    torch.testing.assert_close(forward, backward, check_dtype=False)


@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg"])
def test_gradients_of_a_batch_by_vmap(gradient):
    noise = torch.randn(6)

    def bound(loc):
        posterior = Frozen(loc, noise)
        return importance_weighted_bound(lambda z: -((z - 0.4) ** 2), posterior, 6, gradient)

    at = torch.tensor([-1.0, 0.0, 0.5])
    together = torch.func.vmap(torch.func.grad(bound))(at)
    alone = torch.stack([torch.func.grad(bound)(loc) for loc in at])
    torch.testing.assert_close(together, alone)


class Frozen(Normal):
    """Its samples come from the noise that it is given."""

    def __init__(self, loc, noise):
        super().__init__(loc, 1.0, validate_args=False)
        self.noise = noise

    def rsample(self, sample_shape=()):
        return self.loc + self.noise


@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg"])
def test_weights_that_are_all_zero_have_no_gradient(gradient):
    """Of one entry of the batch; where a single weight is left there is one."""
    loc = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    q = Normal(loc, 1.0)

    def nowhere(z):
        return torch.where(z > 50, -z.square(), -math.inf)

    with pytest.raises(ValueError, match="no finite gradient"):
        importance_weighted_bound(nowhere, q, 4, gradient)
    with torch.no_grad():
        assert (importance_weighted_bound(nowhere, q, 4, gradient) == -math.inf).all()
    half = importance_weighted_bound(
        lambda z: torch.where(z > 0, -z.square(), -math.inf), q, 64, gradient
    )
    assert torch.autograd.grad(half.sum(), loc)[0].isfinite().all()
