"""Self-checks of exercise 5.5. Derived from the exercise's source; do not edit."""

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

TITLE = 'A mixture in the plane'
GIVEN = {}
