"""ARM and DisARM: exactly over their noise, their variances, their couplings, and bad input."""

import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
)

from reparam.estimators import ARM, DisARM, Enumeration, antithetic
from reparam.estimators.antithetic import _swaps

F64 = torch.float64
BOTH = pytest.mark.parametrize("estimator", [ARM(), DisARM()], ids=str)
LOGITS = [0.0, 0.4, -0.9, 2.5, -3.0]


def T(values):
    return torch.tensor(values, dtype=F64, requires_grad=True)


def table(*sizes):
    """A function of one-hot or 0/1 variables that mixes them without any pattern."""
    values = torch.randn(*sizes, dtype=F64, generator=torch.Generator().manual_seed(3))
    return lambda indices: values[tuple(indices.long().unbind(-1))]


# --- all of the noise ----------------------------------------------------------------------------


def bit_nodes(logits):
    """Points and weights that integrate over the uniform noise of each bit of a vector.

    The estimates are polynomials of degree 1 in each `u` between the steps at `σ(±φ)`, and their
    squares of degree 2: two Gauss–Legendre points in each of the three cells are exact.
    """
    points, weights = [], []
    for logit in logits.detach().flatten():
        small = (-logit.abs()).sigmoid()
        edges = torch.stack([torch.zeros_like(small), small, 1 - small, torch.ones_like(small)])
        half, middle = edges.diff() / 2, (edges[1:] + edges[:-1]) / 2
        half, middle = half[half > 0], middle[half > 0]  # at logit 0 there are two cells
        points.append(torch.cat([middle + half / 3**0.5, middle - half / 3**0.5]))
        weights.append(torch.cat([half, half]))
    grid = torch.cartesian_prod(*points).reshape(-1, len(points))
    return grid, torch.cartesian_prod(*weights).reshape(-1, len(points)).prod(-1)


def over_noise(monkeypatch, estimator, f, logits, make, name, noise):
    """Value, gradient and what `f` was handed, for every point of the noise as one batch."""
    monkeypatch.setattr(antithetic, name, lambda shape, **_: noise.reshape(shape))
    copies = logits.detach().expand(len(noise), *logits.shape).clone().requires_grad_()
    seen = []
    estimate = estimator(lambda z: (seen.append(z), f(z))[1], make(copies))
    (gradient,) = torch.autograd.grad(estimate.sum(), copies)
    return estimate.detach(), gradient, seen[0]


def moments(gradient, weights):
    weights = weights.reshape(-1, *(1,) * (gradient.ndim - 1))
    mean = (weights * gradient).sum(0)
    return mean, (weights * gradient**2).sum(0) - mean**2


def exact(f, logits, make):
    value = Enumeration()(f, make(logits))
    return value, torch.autograd.grad(value, logits)[0]


def bits(logits):
    return Independent(Bernoulli(logits=logits), 1)


@BOTH
@pytest.mark.parametrize("logits", [[0.3], [0.4, -1.2], [2.0, 0.0, -0.7]], ids=len)
def test_exact_for_bits(monkeypatch, estimator, logits):
    logits, f = T(logits), table(*[2] * len(logits))
    u, weights = bit_nodes(logits)
    value, gradient, _ = over_noise(monkeypatch, estimator, f, logits, bits, "uniform_noise", u)
    truth, slope = exact(f, logits, bits)
    torch.testing.assert_close((weights * value).sum(), truth, rtol=0, atol=1e-12)
    torch.testing.assert_close(moments(gradient, weights)[0], slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("logit", LOGITS)
def test_variances_for_one_bit(monkeypatch, logit):
    """With `m = min(θ, 1 - θ)`, in closed form; DisARM's is 0 at θ = 1/2."""
    logits, c = T([logit]), 1.7
    u, weights = bit_nodes(logits)
    m = torch.sigmoid(torch.tensor(-abs(logit), dtype=F64)).item()
    closed = {
        ARM(): c**2 * (1 / 12 - 2 / 3 * (0.5 - m) ** 3 - (m * (1 - m)) ** 2),
        DisARM(): c**2 * m * (1 - m) ** 2 * (0.5 - m),
    }
    for estimator, variance in closed.items():
        _, gradient, _ = over_noise(
            monkeypatch,
            estimator,
            lambda b: c * b.sum(-1) + 5,
            logits,
            bits,
            "uniform_noise",
            u,
        )
        assert moments(gradient, weights)[1].item() == pytest.approx(variance, abs=1e-14)


def test_disarm_is_the_mean_of_arm_given_its_samples(monkeypatch):
    """So that its variance is never above ARM's; both exactly, on a grid of two logits."""
    f, strictly = table(2, 2), 0
    for first in LOGITS:
        for second in LOGITS:
            logits = T([first, second])
            u, weights = bit_nodes(logits)
            of = {}
            for estimator in (ARM(), DisARM()):
                _, of[estimator], z = over_noise(
                    monkeypatch, estimator, f, logits, bits, "uniform_noise", u
                )
            pairs = torch.cat(z.chunk(2), -1).flatten(0, -2)  # b and b~ of each point
            for pair in pairs.unique(dim=0):
                here = (pairs == pair).all(-1)
                share = weights[here] / weights[here].sum()
                mean = (share[:, None] * of[ARM()][here]).sum(0)
                torch.testing.assert_close(of[DisARM()][here], mean.expand(len(share), 2))
            arm, disarm = (moments(of[e], weights)[1] for e in (ARM(), DisARM()))
            assert (disarm <= arm + 1e-15).all()
            strictly += int((disarm < 0.99 * arm).sum())
    assert strictly > 40


def triangles(logits):
    """The simplex of three weights, cut into pieces on which no swapped choice changes.

    A choice changes where `ϖ_a exp(-φ_i) = ϖ_b exp(-φ_j)`. Returns convex polygons, each of shape
    `[corners, 3]`.
    """
    logits = logits.detach()
    lines = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for i in range(3):
            for j in range(3):
                if i != j:
                    line = torch.zeros(3, dtype=F64)
                    line[a], line[b] = (-logits[i]).exp(), -(-logits[j]).exp()
                    lines.append(line)
    pieces = [torch.eye(3, dtype=F64)]
    for line in lines:
        pieces = [
            half for p in pieces for half in (cut(p, line), cut(p, -line)) if half is not None
        ]
    return pieces


def cut(polygon, line):
    """The part of a convex polygon where `line · x >= 0`, or None if it has no area."""
    side, corners = polygon @ line, []
    for k in range(len(polygon)):
        p, q, s, t = polygon[k - 1], polygon[k], side[k - 1], side[k]
        if s * t < 0:
            corners.append((p * t - q * s) / (t - s))
        if t >= 0:
            corners.append(q)
    if len(corners) < 3:
        return None
    corners = torch.stack(corners)
    return corners if area(corners).sum() > 1e-13 else None


def area(polygon):
    """Areas of the triangles of a fan, relative to the simplex."""
    fan = torch.stack([polygon[:1].expand(len(polygon) - 2, 3), polygon[1:-1], polygon[2:]], 1)
    return torch.linalg.det(fan).abs()


def dirichlet_nodes(logits, degree):
    """Points and weights for polynomials of degree 1 or 2 on each piece."""
    points, weights = [], []
    for polygon in triangles(logits):
        for k, size in enumerate(area(polygon), start=1):
            if size < 1e-12:
                continue  # a sliver between two lines that meet: rounding decides what is chosen
            corners = polygon[[0, k, k + 1]]
            if degree == 1:
                points.append(corners.mean(0, keepdim=True))
            else:
                points.append((torch.eye(3, dtype=F64) / 2 + 1 / 6) @ corners)
            weights += [size / len(points[-1])] * len(points[-1])
    weights = torch.stack(weights)
    assert weights.sum().item() == pytest.approx(1, abs=1e-9)
    return torch.cat(points), weights


KINDS = pytest.mark.parametrize("kind", [OneHotCategorical, Categorical], ids=lambda k: k.__name__)


def classes(kind, layers):
    return lambda logits: (
        Independent(kind(logits=logits), layers) if layers else kind(logits=logits)
    )


def of_kind(kind, variables, sizes):
    """The same table for samples of either kind."""
    f = table(*sizes)

    def integrand(z):
        z = z.argmax(-1) if kind is OneHotCategorical else z
        return f(z if variables else z[..., None])

    return integrand


@KINDS
def test_arm_is_exact_for_three_classes(monkeypatch, kind):
    """ARSM over the whole Dirichlet distribution: mean, and variance by a second formula."""
    logits = T([0.5, -0.3, 0.1])
    make, f = classes(kind, 0), of_kind(kind, 0, [3])
    noise, weights = dirichlet_nodes(logits, 2)
    value, gradient, _ = over_noise(monkeypatch, ARM(), f, logits, make, "exponential_noise", noise)
    truth, slope = exact(f, logits, make)
    torch.testing.assert_close((weights * value).sum(), truth, rtol=0, atol=1e-9)
    torch.testing.assert_close(moments(gradient, weights)[0], slope, rtol=0, atol=1e-9)
    by_hand = torch.stack([swapped_by_hand(f, w, logits, kind) for w in noise])
    torch.testing.assert_close(gradient, by_hand)


def swapped_by_hand(f, weights, logits, kind):
    """ARSM's formula for one variable, with loops."""
    count = len(logits)
    choice = torch.empty(count, count, dtype=F64)
    for c in range(count):
        for j in range(count):
            w = weights.clone()
            w[c], w[j] = weights[j], weights[c]
            k = (w * (-logits.detach()).exp()).argmin()
            z = torch.eye(count, dtype=F64)[k] if kind is OneHotCategorical else k
            choice[c, j] = f(z[None])[0]
    return torch.stack(
        [
            sum(
                (choice[c, j] - choice[:, j].mean()) * (1 / count - weights[j])
                for j in range(count)
            )
            for c in range(count)
        ]
    )


def test_arm_is_exact_for_two_variables_of_three_classes(monkeypatch):
    """The swaps are joint: both variables at once."""
    logits = T([[0.4, -0.2, 0.0], [0.0, 0.7, -0.5]])
    make, f = classes(OneHotCategorical, 1), of_kind(OneHotCategorical, 2, [3, 3])
    (first, v), (second, w) = (dirichlet_nodes(x, 1) for x in logits)
    pairs = torch.cartesian_prod(torch.arange(len(v)), torch.arange(len(w))).unbind(-1)
    noise = torch.stack([first[pairs[0]], second[pairs[1]]], 1)
    value, gradient, z = over_noise(monkeypatch, ARM(), f, logits, make, "exponential_noise", noise)
    assert len(z) == 4  # no swap, and three
    weights = v[pairs[0]] * w[pairs[1]]
    truth, slope = exact(f, logits, make)
    torch.testing.assert_close((weights * value).sum(), truth, rtol=0, atol=1e-9)
    torch.testing.assert_close(moments(gradient, weights)[0], slope, rtol=0, atol=1e-9)


@KINDS
@pytest.mark.parametrize("shape", [(4,), (2, 3), (3, 2)], ids=str)
def test_disarm_is_exact_for_classes(monkeypatch, kind, shape):
    """Over the noise of all bits of all sticks."""
    logits = T(torch.randn(shape, dtype=F64).tolist())
    variables = len(shape) - 1
    f = of_kind(kind, variables, [shape[-1]] * (shape[0] if variables else 1))
    make = classes(kind, variables)
    u, weights = bit_nodes(sticks(logits))
    value, gradient, _ = over_noise(monkeypatch, DisARM(), f, logits, make, "uniform_noise", u)
    truth, slope = exact(f, logits, make)
    torch.testing.assert_close((weights * value).sum(), truth, rtol=0, atol=1e-12)
    torch.testing.assert_close(moments(gradient, weights)[0], slope, rtol=0, atol=1e-12)


def sticks(logits):
    """`log p_i - log Σ_{j>i} p_j`."""
    p = logits.detach().softmax(-1)
    after = p.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    return (p[..., :-1] / after).log()


def test_disarm_for_classes_per_sample(monkeypatch):
    """The table of the paper for both, one and none of two samples that reach a bit."""
    logits = T([0.2, -0.4, 0.3, 0.1])
    fixed, f = sticks(logits), table(4)
    sigma, large = fixed.sigmoid(), fixed.abs().sigmoid()
    u = torch.rand(200, 3, dtype=F64)
    copies = sticks(logits).expand(200, 3)
    value, gradient, z = over_noise(
        monkeypatch,
        DisARM(),
        of_kind(Categorical, 0, [4]),
        logits,
        classes(Categorical, 0),
        "uniform_noise",
        u,
    )
    b, other = (u > (-copies).sigmoid()).double(), (u < copies.sigmoid()).double()
    seen = set()
    for k in range(200):
        first = next((i for i in range(3) if b[k, i]), 3)
        second = next((i for i in range(3) if other[k, i]), 3)
        assert z[:, k].tolist() == [first, second]
        difference = float(f(torch.tensor([first])) - f(torch.tensor([second])))
        on_bits = torch.zeros(3, dtype=F64)
        for i in range(3):
            seen.add((i <= first, i <= second))
            if i <= first and i <= second:
                on_bits[i] = difference / 2 * (b[k, i] - other[k, i]) * large[i]
            elif i <= first:
                on_bits[i] = difference / 2 * (b[k, i] - sigma[i])
            elif i <= second:
                on_bits[i] = -difference / 2 * (other[k, i] - sigma[i])
        jacobian = torch.autograd.functional.jacobian(
            lambda x: x[:-1] - x.flip(0).logcumsumexp(0).flip(0)[1:], logits.detach()
        )
        torch.testing.assert_close(gradient[k], on_bits @ jacobian)
        assert value[k].item() == pytest.approx(
            float(f(torch.tensor([first])) + f(torch.tensor([second]))) / 2
        )
    assert len(seen) == 4


@BOTH
def test_two_classes_are_one_bit(monkeypatch, estimator):
    """With logit `φ_0 - φ_1` and, for the Dirichlet weights, `(1 - u, u)`; sample by sample."""
    logits, u = T([0.8, -0.1]), torch.rand(50, 1, dtype=F64)
    f = table(2)
    _, bit, b = over_noise(
        monkeypatch,
        estimator,
        f,
        (logits[:1] - logits[1:]).detach(),
        bits,
        "uniform_noise",
        u,
    )
    name = "exponential_noise" if estimator == ARM() else "uniform_noise"
    noise = torch.cat([1 - u, u], -1) if estimator == ARM() else u
    _, both, h = over_noise(
        monkeypatch,
        estimator,
        lambda h: f(h[..., :1]),
        logits,
        classes(OneHotCategorical, 0),
        name,
        noise,
    )
    torch.testing.assert_close(both, torch.cat([bit, -bit], -1))
    torch.testing.assert_close(h[..., 0], b[..., 0])


# --- couplings -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_are_antithetic(estimator, dtype):
    """Each is a threshold of one uniform number, from its two ends."""
    logits = torch.tensor([-50.0, -2.0, 0.0, 2.0, 50.0], dtype=dtype)
    seen = []
    estimator(lambda z: (seen.append(z), z.sum(-1))[1], bits(logits), num_samples=1000)
    (z,) = seen
    assert z.shape == (2000, 5)
    assert z.dtype == dtype
    b, other = z.chunk(2)
    assert not (b * other)[:, :2].any()  # below 1/2 never both
    assert (b + other)[:, 3:].all()  # above 1/2 one at least
    assert (b + other == 1)[:, 2].all()
    assert (z[:, 0] == 0).all() and (z[:, 4] == 1).all()
    assert 0 < (b - other).abs()[:, 1].mean() < 0.5


def test_swaps():
    swaps, which = _swaps(4, torch.device("cpu"))
    assert len(swaps) == 7
    for c in range(4):
        for j in range(4):
            order = [0, 1, 2, 3]
            order[c], order[j] = j, c
            assert swaps[which[c, j]].tolist() == order


@pytest.mark.parametrize(
    ("estimator", "q", "evaluations"),
    [
        (ARM(), bits(torch.zeros(3)), 2),
        (DisARM(), bits(torch.zeros(3)), 2),
        (ARM(), OneHotCategorical(logits=torch.zeros(5)), 11),
        (DisARM(), OneHotCategorical(logits=torch.zeros(5)), 2),
        (ARM(), OneHotCategorical(logits=torch.zeros(1)), 1),
    ],
    ids=str,
)
def test_evaluations(estimator, q, evaluations):
    shapes = []
    estimator(lambda z: (shapes.append(z.shape), z.sum(-1))[1], q, num_samples=7)
    assert shapes == [(7 * evaluations, *q.event_shape)]


# --- the contract --------------------------------------------------------------------------------

DISTRIBUTIONS = [
    lambda x: Bernoulli(logits=x),
    lambda x: Independent(Bernoulli(logits=x), 1),
    lambda x: Independent(Bernoulli(logits=x), 2),
    lambda x: Categorical(logits=x),
    lambda x: Independent(Categorical(logits=x), 1),
    lambda x: OneHotCategorical(logits=x),
    lambda x: Independent(OneHotCategorical(logits=x), 1),
]


def total(q):
    """A function of `[n, *batch, *event]` with a weight of its own."""
    w = T(0.7)

    def f(z):
        z = w * z.to(F64)
        return z.flatten(1 + len(q.batch_shape)).sum(-1) ** 2 if q.event_shape else z**2

    return f, w


@BOTH
@pytest.mark.parametrize("make", DISTRIBUTIONS)
def test_samples_are_averaged(monkeypatch, estimator, make):
    """Seven samples are the mean of seven estimates, in value and in both gradients."""
    logits = T([[0.3, -0.5, 0.1], [1.0, 0.0, -2.0]])
    draws = {name: getattr(antithetic, name) for name in ("uniform_noise", "exponential_noise")}
    used = []

    def keep(name):
        def drawn(*args, **kwargs):
            used.append((name, draws[name](*args, **kwargs)))
            return used[-1][1]

        return drawn

    for name in draws:
        monkeypatch.setattr(antithetic, name, keep(name))
    f, w = total(make(logits))
    together = estimator(f, make(logits), num_samples=7)
    assert together.shape == make(logits).batch_shape
    slopes = torch.autograd.grad(together.sum(), (logits, w))
    ((name, noise),) = used
    alone, sums = 0, [0, 0]
    for k in range(7):
        monkeypatch.setattr(antithetic, name, lambda *_, k=k, **__: noise[k : k + 1].clone())
        estimate = estimator(f, make(logits))
        alone = alone + estimate / 7
        parts = torch.autograd.grad(estimate.sum(), (logits, w))
        sums = [s + p / 7 for s, p in zip(sums, parts, strict=True)]
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(slopes, tuple(sums))


@BOTH
def test_gradient_reaches_probabilities(monkeypatch, estimator):
    """Through `logits = log(θ / (1 - θ))`, exactly."""
    theta = T([0.3, 0.8])
    f = table(2, 2)
    u, weights = bit_nodes(theta.logit())
    monkeypatch.setattr(antithetic, "uniform_noise", lambda shape, **_: u.reshape(shape))
    q = Independent(Bernoulli(theta.expand(len(u), 2)), 1)
    (got,) = torch.autograd.grad((weights * estimator(f, q)).sum(), theta)
    (truth,) = torch.autograd.grad(Enumeration()(f, Independent(Bernoulli(theta), 1)), theta)
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("size", [50.0, 1000.0])
@pytest.mark.parametrize("make", DISTRIBUTIONS)
def test_extreme_logits(estimator, make, size):
    logits = torch.tensor([[size, -size, 0.0], [-size, -size, size]], requires_grad=True)
    estimate = estimator(lambda z: total(make(logits))[0](z).float(), make(logits), 20)
    (gradient,) = torch.autograd.grad(estimate.sum(), logits)
    assert estimate.isfinite().all()
    assert gradient.isfinite().all()


@BOTH
@pytest.mark.parametrize("make", [DISTRIBUTIONS[1], DISTRIBUTIONS[6]])
def test_first_derivatives_only(estimator, make):
    logits = T([[0.3, -0.5, 0.1]])
    estimate = estimator(total(make(logits))[0], make(logits))
    (gradient,) = torch.autograd.grad(estimate.sum(), logits, create_graph=True)
    name = type(estimator).__name__
    with pytest.raises(NotImplementedError, match=f"{name} has first derivatives only"):
        gradient.sum().backward()


@BOTH
def test_without_a_gradient(estimator):
    logits = torch.zeros(3, requires_grad=True)
    with torch.no_grad():
        assert not estimator(lambda b: b.sum(-1), bits(logits)).requires_grad
    assert not estimator(lambda b: b.sum(-1), bits(torch.zeros(3))).requires_grad


@BOTH
def test_under_torch_func(estimator):
    def loss(logits):
        return estimator(
            lambda b: b.sum(-1) ** 2,
            Independent(Bernoulli(logits=logits, validate_args=False), 1),
            5,
        )

    torch.manual_seed(0)
    got = torch.func.grad(loss)(torch.ones(3))
    torch.manual_seed(0)
    logits = torch.ones(3, requires_grad=True)
    torch.testing.assert_close(got, torch.autograd.grad(loss(logits), logits)[0])


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("kind", [Bernoulli, OneHotCategorical])
def test_under_torch_compile(estimator, kind):
    def loss(logits):
        q = Independent(kind(logits=logits, validate_args=False), 1, validate_args=False)
        return estimator(lambda z: z.flatten(1).cumsum(-1).sum(-1) ** 2, q, 5)

    logits = torch.randn((4,) if kind is Bernoulli else (2, 3), requires_grad=True)
    torch.manual_seed(0)
    expected = torch.autograd.grad(loss(logits), logits)[0]
    torch.manual_seed(0)
    compiled = torch.compile(loss, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(logits), logits)[0], expected)


@BOTH
@pytest.mark.parametrize("make", DISTRIBUTIONS)
def test_devices_and_dtypes(estimator, make, device):
    logits = torch.zeros(2, 3, device=device, requires_grad=True)
    estimate = estimator(lambda z: total_on(z, make(logits)), make(logits), 3)
    estimate.sum().backward()
    assert estimate.dtype == logits.grad.dtype == torch.float32
    assert logits.grad.device == logits.device


def total_on(z, q):
    return z.float().flatten(1 + len(q.batch_shape)).sum(-1) if q.event_shape else z.float()


# --- bad input -----------------------------------------------------------------------------------


@BOTH
def test_other_variables(estimator):
    name = type(estimator).__name__
    for q in (Normal(torch.zeros(2), 1.0), Poisson(torch.ones(2))):
        with pytest.raises(
            ValueError,
            match=rf"{name} needs Bernoulli, .* got Independent\({type(q).__name__}\): use ",
        ):
            estimator(lambda z: z.sum(-1), Independent(q, 1))


@BOTH
def test_bad_calls(estimator):
    q = bits(torch.zeros(3, requires_grad=True))
    with pytest.raises(ValueError, match="f returned NaN for"):
        estimator(lambda b: b.sum(-1) * math.nan, q)
    with pytest.raises(ValueError, match="one value for each sample"):
        estimator(lambda b: b, q)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        estimator(lambda b: b.sum(-1), q, 0)
    with pytest.raises(TypeError, match="f must be a function"):
        estimator(3, q)
