# %% about
"""
title = "A mixture in the plane"
kind = "harder"
difficulty = 5
minutes = 40
points = 10
objective = "Reparameterize a two-dimensional mixture implicitly, one coordinate after the other, with its weights"
after = "Four laws that PyTorch lacks or leaves without a path"
"""

# %% imports
import torch
from torch import Tensor
from torch.distributions import Normal

from reparam.distributions import implicit_reparameterization

# %% text
r"""
`Mixture` gives a path to samples on the line. In the plane let

$$q(z) = \sum_k \pi_k\,N(z_1;\mu_{k1},\sigma_{k1}^2)\,N(z_2;\mu_{k2},\sigma_{k2}^2),\qquad \pi = \mathrm{softmax}(\ell).$$

Within a component the coordinates are independent; in the mixture they are not.

**1.** Write `planar(z, logits, means, scales)`: samples `z` `[n, 2]` from anywhere, `logits` `[C]`, `means` and `scales` `[C, 2]`, all of one dtype. The result equals `z` and carries the path by (5.3) to all three parameters, $z_1$ first and then $z_2$ given $z_1$, as at the chapter's correlated Gaussians. `implicit_reparameterization` may be used, and need not be.

**2.** *Predict first*: had we taken $z_2$ first and then $z_1$ given $z_2$, what would differ? `order_changes` is one of

- `"nothing"`: the slopes of every sample are the same;
- `"the slopes"`: those differ, the mean of the gradient estimate of $\mathbb E f(z)$ does not;
- `"the mean"`: the mean of the estimate differs, too.
"""


# %% answer
def planar(z: Tensor, logits: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """z [n, 2], unchanged, with a path to logits [C], means and scales [C, 2]."""
    ### BEGIN SOLUTION
    along = [Normal(means[:, i], scales[:, i]) for i in (0, 1)]

    def cdf(i, log_weights):
        share = log_weights.softmax(-1)
        return lambda x: (share * along[i].cdf(x.unsqueeze(-1))).sum(-1)

    first = implicit_reparameterization(z[:, 0], cdf(0, logits))
    informed = logits + along[0].log_prob(first.unsqueeze(-1))
    second = implicit_reparameterization(z[:, 1], cdf(1, informed))
    return torch.stack([first, second], -1)
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
order_changes = "the slopes"
### END SOLUTION

# %% hint
r"""
$z_1$ alone is a mixture on the line. So is $z_2$ given $z_1$. With which weights?
"""

# %% hint
r"""
Knowing $z_1$ says something about the component: by Bayes' rule the weights of $z_2\mid z_1$ are $\pi_k N(z_1;\mu_{k1},\sigma_{k1}^2)$, normalized. A softmax of sums of logarithms does it.
"""

# %% hint
r"""
When a parameter moves, $z_1$ moves, and with it those weights. So they are computed from the $z_1$ that has its path already, not from the plain number.
"""

# %% hint
r"""
For 2: both orders are maps of the theorem's kind, from two uniform numbers to the law. What does the theorem say of the mean of the estimate?
"""

# %% visible
import numpy as np
import torch
from scipy.special import ndtr

from reparam.exercises import expect

ORDERS = ("nothing", "the slopes", "the mean")


def unpacked(theta):
    C = len(theta) // 5
    return theta[:C], theta[C : 3 * C].reshape(C, 2), theta[3 * C :].reshape(C, 2)


def quantiles(z, theta, weights="given z_1", at=None):
    """u_1 = F(z_1) and u_2 = F(z_2 | z_1), [n] each, in NumPy."""
    logits, means, scales = unpacked(theta)
    prior = np.exp(logits - logits.max())
    prior = prior / prior.sum()
    d = (z[:, None, :] - means) / scales
    informed = at
    if at is None:
        informed = prior * np.exp(-(d[:, :, 0] ** 2) / 2) / scales[:, 0]
        informed = informed / informed.sum(-1, keepdims=True)
    if weights == "prior":
        informed = prior
    below = ndtr(d)
    return (prior * below[:, :, 0]).sum(-1), (informed * below[:, :, 1]).sum(-1)


def informed_weights(z, theta):
    logits, means, scales = unpacked(theta)
    d = (z[:, None, 0] - means[:, 0]) / scales[:, 0]
    mass = np.exp(logits - d**2 / 2) / scales[:, 0]
    return mass / mass.sum(-1, keepdims=True)


def slopes(z, theta, mistakes=False, h=1e-5):
    """dz/dθ, [n, 2, P], from differences of the quantiles; or what mistakes give."""

    def by(function, steps):
        return np.stack(
            [np.stack(function(s), 1) - np.stack(function(-s), 1) for s in steps],
            -1,
        ) / (2 * h)

    parameters, places = h * np.eye(len(theta)), h * np.eye(2)
    by_z = by(lambda s: quantiles(z + s, theta), places)
    by_theta = by(lambda s: quantiles(z, theta + s), parameters)
    first = -by_theta[:, 0] / by_z[:, 0, :1]
    own = by_z[:, 1, 1:]
    second = -(by_theta[:, 1] + by_z[:, 1, :1] * first) / own
    if not mistakes:
        return np.stack([first, second], 1)

    at = informed_weights(z, theta)
    plain = by(lambda s: quantiles(z, theta + s, "prior"), parameters)
    plain_z = by(lambda s: quantiles(z + s, theta, "prior"), places)
    frozen = by(lambda s: quantiles(z, theta + s, at=at), parameters)
    found = {
        "z_2 moves by its own mixture, as if z_1 were not known. It comes second, and "
        "given z_1 some components are likelier than others": -plain[:, 1]
        / plain_z[:, 1, 1:],
        "the weights given z_1 come from the plain number z_1. When a parameter "
        "moves, z_1 moves, and they with it": -by_theta[:, 1] / own,
        "the weights given z_1 are taken for constants. They depend on the "
        "parameters and on z_1": -frozen[:, 1] / own,
    }
    return {name: np.stack([first, second], 1) for name, second in found.items()}


def problem(rng, C, n):
    """Parameters, flat and as tensors, and samples."""
    logits = 0.7 * torch.randn(C, generator=rng, dtype=torch.float64)
    means = torch.randn(C, 2, generator=rng, dtype=torch.float64)
    scales = 0.7 + 0.6 * torch.rand(C, 2, generator=rng, dtype=torch.float64)
    k = torch.multinomial(logits.softmax(0), n, replacement=True, generator=rng)
    noise = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    z = means[k] + scales[k] * noise
    theta = torch.cat([x.flatten() for x in (logits, means, scales)]).numpy()
    return z, theta


def swapped(z, theta):
    """dz/dθ in the other order, z_2 first."""
    logits, means, scales = unpacked(theta)
    C = len(logits)
    other = np.concatenate(
        [logits, means[:, ::-1].ravel(), scales[:, ::-1].ravel()]
    )
    found = slopes(z[:, ::-1], other)[:, ::-1]
    pairs = found[:, :, C:].reshape(len(z), 2, 2 * C, 2)[..., ::-1]
    return np.concatenate([found[:, :, :C], pairs.reshape(len(z), 2, 4 * C)], -1)


NAMES = ("logits", "means", "scales")


def leaves_of(theta):
    return [torch.tensor(x).requires_grad_() for x in unpacked(theta)]


def held(answer, z, theta, cotangent, what):
    """The gradients of (planar · cotangent).sum() against the truth."""
    leaves = leaves_of(theta)
    result = answer.planar(z, *leaves)
    result = expect.tensor(result, tuple(z.shape), "What `planar` returns")
    found = expect.gradients(
        result * cotangent, **dict(zip(NAMES, leaves, strict=True))
    )

    def pulled(slope):
        total = np.einsum("ni,nip->p", cotangent.numpy(), slope)
        return [torch.tensor(part) for part in unpacked(total)]

    truth = pulled(slopes(z.numpy(), theta))
    tolerance = {"rtol": 1e-3, "atol": 1e-4 * len(z)}
    pairs = zip(found.values(), truth, strict=True)
    if all(torch.allclose(x, wanted, **tolerance) for x, wanted in pairs):
        return
    models = slopes(z.numpy(), theta, mistakes=True)
    models["z_2 came first. Take z_1 first, and then z_2 given z_1"] = swapped(
        z.numpy(), theta
    )
    models = {label: pulled(slope) for label, slope in models.items()}
    for i, name in enumerate(NAMES):
        expect.close(
            found[name], truth[i], f"{what} by {name}", **tolerance,
            mistakes={label: value[i] for label, value in models.items()},
        )  # fmt: skip


EXAMPLE = np.array([0.3, -0.4, -1.0, -0.8, 0.9, 1.1, 0.8, 1.0, 1.1, 0.7])
PLACES = torch.tensor([[-0.4, 0.6], [0.5, -0.7], [1.2, 1.5]], dtype=torch.float64)


def test_same(answer, rng):
    """The samples stay where they are."""
    found = answer.planar(PLACES, *leaves_of(EXAMPLE))
    expect.close(found, PLACES, "The samples")


def test_first(answer, rng):
    """The first coordinate, two components."""
    held(
        answer, PLACES, EXAMPLE, torch.tensor([1.0, 0.0]).double().expand(3, 2),
        "The slope of z_1",
    )  # fmt: skip


def test_second(answer, rng):
    """The second coordinate, two components."""
    held(
        answer, PLACES, EXAMPLE, torch.tensor([0.0, 1.0]).double().expand(3, 2),
        "The slope of z_2",
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


@points(2)
def test_first_slopes(answer, rng):
    """The first coordinate of other mixtures."""
    for C in (2, 4):
        z, theta = problem(rng, C, 20)
        c = torch.zeros(20, 2, dtype=torch.float64)
        c[:, 0] = torch.randn(20, generator=rng, dtype=torch.float64)
        held(answer, z, theta, c, "The slope of z_1")


@points(4)
def test_second_slopes(answer, rng):
    """The second coordinate of other mixtures."""
    for C in (2, 4):
        z, theta = problem(rng, C, 20)
        c = torch.zeros(20, 2, dtype=torch.float64)
        c[:, 1] = torch.randn(20, generator=rng, dtype=torch.float64)
        held(answer, z, theta, c, "The slope of z_2")


def grid(theta, *sides):
    """Places [n, 2] all over the mixture, and the probability of their cells."""
    _, means, scales = unpacked(theta)
    low, high = (means - 6 * scales).min(0), (means + 6 * scales).max(0)
    axes = [np.linspace(low[i], high[i], sides[i]) for i in (0, 1)]
    z = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    share = np.exp(theta[: len(means)])
    share = share / share.sum() / scales.prod(-1) / (2 * np.pi)
    d = (z[:, None, :] - means) / scales
    density = (share * np.exp(-(d**2).sum(-1) / 2)).sum(-1)
    cell = ((high - low) / (np.array(sides) - 1)).prod()
    return torch.tensor(z), torch.tensor(density * cell)


@points(3)
def test_mean(answer, rng):
    """The mean gradient of a wave, whose expectation has a formula."""
    _, theta = problem(rng, 3, 1)
    a = 0.4 + 0.6 * torch.rand(2, generator=rng, dtype=torch.float64)
    leaves = leaves_of(theta)
    places, chance = grid(theta, 72, 24)
    z = expect.tensor(
        answer.planar(places, *leaves), tuple(places.shape), "What you return"
    )
    names = dict(zip(NAMES, leaves, strict=True))
    found = expect.gradients(chance * torch.cos(z @ a + 0.5), **names)

    logits, means, scales = exact = leaves_of(theta)
    waves = torch.cos(means @ a + 0.5) * torch.exp(
        -((scales * a) ** 2).sum(-1) / 2
    )
    truth = torch.autograd.grad((logits.softmax(0) * waves).sum(), exact)
    for name, wanted in zip(NAMES, truth, strict=True):
        expect.close(
            found[name],
            wanted,
            f"The mean gradient by {name}",
            rtol=2e-3,
            atol=2e-4,
        )


@points(1)
def test_order(answer, rng):
    """What the order changes."""
    expect.equal(
        answer.order_changes, "the slopes", "Your choice", options=ORDERS,
        mistakes={
            "given z_2 first, z_2 moves by its own CDF alone, and z_1 has to make up. "
            "Compute a slope in both orders": "nothing",
            "both orders are maps from uniform noise to the same law, and the theorem "
            "gives both estimates the same mean": "the mean",
        },
    )  # fmt: skip


# %% right: by hand, densities and all
def planar(z, logits, means, scales):
    def normal(x, i):
        d = (x[:, None] - means[:, i]) / scales[:, i]
        log_density = -(d**2) / 2 - scales[:, i].log()
        return torch.special.ndtr(d), log_density - 0.9189385332046727

    def hung(x, share, i):
        below, log_density = normal(x, i)
        F = (share * below).sum(1)
        density = (share * log_density.exp()).sum(1)
        return x - (F - F.detach()) / density.detach()

    x = z.detach()
    first = hung(x[:, 0], logits.softmax(0), 0)
    share = torch.softmax(logits + normal(first, 0)[1], 1)
    return torch.stack([first, hung(x[:, 1], share, 1)], 1)


# %% right: both coordinates at once, by a triangular system
def planar(z, logits, means, scales):
    z = z.detach()
    pi = logits.softmax(0)

    def both(x):
        law = Normal(means, scales)
        below = law.cdf(x[:, None, :])
        density = pi * law.log_prob(x[:, None, :])[:, :, 0].exp()
        u_1 = (pi * below[:, :, 0]).sum(1)
        u_2 = (density * below[:, :, 1]).sum(1) / density.sum(1)
        return u_1, u_2

    x = z.clone().requires_grad_()
    slopes = [
        torch.autograd.grad(u.sum(), x, retain_graph=True)[0] for u in both(x)
    ]
    jacobian = torch.stack(slopes, 1)
    u = torch.stack(both(z), 1)
    step = torch.linalg.solve(jacobian, (u - u.detach())[:, :, None])
    return z - step[:, :, 0]


# %% wrong: each coordinate by its own mixture
def planar(z, logits, means, scales):
    share = logits.softmax(0)

    def cdf(i):
        law = Normal(means[:, i], scales[:, i])
        return lambda x: (share * law.cdf(x.unsqueeze(-1))).sum(-1)

    return torch.stack(
        [implicit_reparameterization(z[:, i], cdf(i)) for i in (0, 1)], 1
    )


# %% wrong: the weights from the plain number
def planar(z, logits, means, scales):
    along = [Normal(means[:, i], scales[:, i]) for i in (0, 1)]

    def cdf(i, log_weights):
        share = log_weights.softmax(-1)
        return lambda x: (share * along[i].cdf(x.unsqueeze(-1))).sum(-1)

    first = implicit_reparameterization(z[:, 0], cdf(0, logits))
    informed = logits + along[0].log_prob(z[:, :1])
    second = implicit_reparameterization(z[:, 1], cdf(1, informed))
    return torch.stack([first, second], -1)


# %% wrong: the weights as constants
def planar(z, logits, means, scales):
    along = [Normal(means[:, i], scales[:, i]) for i in (0, 1)]

    def cdf(i, log_weights):
        share = log_weights.softmax(-1)
        return lambda x: (share * along[i].cdf(x.unsqueeze(-1))).sum(-1)

    first = implicit_reparameterization(z[:, 0], cdf(0, logits))
    informed = (logits + along[0].log_prob(z[:, :1])).detach()
    second = implicit_reparameterization(z[:, 1], cdf(1, informed))
    return torch.stack([first, second], -1)


# %% wrong: the path of the likeliest component
def planar(z, logits, means, scales):
    log_prob = Normal(means, scales).log_prob(z[:, None, :]).sum(-1)
    k = (logits + log_prob).argmax(-1)
    noise = ((z - means[k]) / scales[k]).detach()
    return means[k] + scales[k] * noise


# %% wrong: the second coordinate first
def planar(z, logits, means, scales):
    along = [Normal(means[:, i], scales[:, i]) for i in (0, 1)]

    def cdf(i, log_weights):
        share = log_weights.softmax(-1)
        return lambda x: (share * along[i].cdf(x.unsqueeze(-1))).sum(-1)

    second = implicit_reparameterization(z[:, 1], cdf(1, logits))
    informed = logits + along[1].log_prob(second.unsqueeze(-1))
    first = implicit_reparameterization(z[:, 0], cdf(0, informed))
    return torch.stack([first, second], -1)


# %% wrong: the order is thought to bias
order_changes = "the mean"


# %% solution
r"""
The first coordinate is a mixture on the line with weights $\pi_k$. By Bayes' rule the second, given the first, is a mixture with weights

$$w_k(z_1) = \frac{\pi_k\,N(z_1;\mu_{k1},\sigma_{k1}^2)}{\sum_j\pi_j\,N(z_1;\mu_{j1},\sigma_{j1}^2)},\qquad F(z_2\mid z_1) = \sum_k w_k(z_1)\,\Phi\Big(\frac{z_2-\mu_{k2}}{\sigma_{k2}}\Big).$$

The total derivative of $F(z_2\mid z_1)$ along the path is 0, with three contributions: $\phi$ in the formula, $\phi$ through $z_1(\phi)$, and $z_2$ itself. The middle one comes by itself if the weights are computed from the $z_1$ that has its path. So $z_2$ moves with the *first* coordinates' means as well: when a component comes nearer in $z_1$, its share of $z_2\mid z_1$ grows.

The map from $(u_1, u_2)$ to $z$ is Rosenblatt's, and there is one for each order of the coordinates: other slopes, the same law. Since the theorem holds for each, so is the mean of the estimate; its variance is not. (It is one of many such velocity fields; Jankowiak and Obermeyer choose among them by their variance.) Graves (2016) has this construction for any number of dimensions.
"""

# %% rubric
r"""
Two points for $z_1$, four for $z_2$, three for the mean gradient, one for the order. Who takes the coordinates' own mixtures has the marginals right and gets the two points of $z_1$. Who takes $z_2$ first gets the points of the mean gradient.
"""
