"""Self-checks of exercise 5.2. Derived from the exercise's source; do not edit."""

import numpy as np
import torch

from reparam.exercises import expect

KINDS = ("complete", "partial", "missing")
EDGES = torch.tensor([-1.0, 0.0, 0.5, 3.0])


def inverse(u, edges, logits):
    """F⁻¹ by NumPy's interpolation."""
    share = np.exp(logits - logits.max())
    limits = np.concatenate([[0.0], np.cumsum(share / share.sum())])
    return np.interp(u, limits, edges)


def law(answer, edges, logits):
    """The answer's module with these logits."""
    module = answer.Histogram(edges)
    state = module.state_dict()
    expect.that(
        "logits" in answer.parameters(module) and "logits" in state,
        "The module has no parameter called `logits`.",
    )
    state["logits"] = logits
    module.load_state_dict(state)
    return module


def slopes(answer, module, result, cotangent):
    """The gradient of (result · cotangent).sum() by the logits."""
    expect.that(
        isinstance(result, torch.Tensor) and result.requires_grad,
        "The result has no graph: the logits must reach it through "
        "differentiable steps.",
    )
    (result * cotangent).sum().backward()
    found = answer.parameter_gradients(module)["logits"]
    expect.that(found is not None, "No gradient arrives at the logits.")
    return found


def differences(u, edges, logits, cotangent, h=1e-5):
    """The same by differences of the inverse CDF."""
    u, edges, logits = (x.double().numpy() for x in (u, edges, logits))
    rows = [
        (inverse(u, edges, logits + step) - inverse(u, edges, logits - step))
        for step in h * np.eye(len(logits))
    ]
    total = np.stack(rows) @ cotangent.double().numpy() / (2 * h)
    return torch.tensor(total)


def partial(u, edges, logits, cotangent, through):
    """The gradient where only one of C and π has a graph."""
    logits = logits.double().requires_grad_()
    share = logits.softmax(0)
    below = share.cumsum(0) - share
    k = torch.searchsorted((below + share)[:-1].detach(), u.double())
    if through == "share":
        below = below.detach()
    else:
        share = share.detach()
    z = edges.double()[k] + edges.double().diff()[k] * (u - below[k]) / share[k]
    return torch.autograd.grad((z * cotangent).sum(), logits)[0]


def clear_of_limits(u, logits):
    """u moved away from the limits of bins, where slopes jump."""
    limits = logits.double().softmax(0).cumsum(0)
    for limit in limits:
        near = (u - limit).abs() < 1e-4
        u = torch.where(near, (limit - 3e-4).to(u.dtype), u)
    return u


def test_start(answer, rng):
    """At the start every bin is equally likely."""
    u = torch.tensor([0.1, 0.4, 0.6, 0.9])
    wanted = torch.tensor([-0.7, 0.1, 0.4, 2.25])
    expect.close(
        answer.Histogram(EDGES)(u), wanted, "F⁻¹(u) with equal shares",
        mistakes={
            "the shares follow the widths of the bins, as for a uniform law. They "
            "are the softmax of the logits, whatever the widths": -1 + 4 * u,
            "u chose the bin, and the place in it comes from u itself. Within the "
            "bin, u runs from C_k to C_k + π_k only":
                torch.tensor([-0.9, 0.2, 0.3, 2.75]),
        },
    )  # fmt: skip


def test_same(answer, rng):
    """The same u gives the same z."""
    module = answer.Histogram(EDGES)
    u = torch.rand(20, generator=rng)
    expect.that(
        torch.equal(module(u), module(u)),
        "The same u gives two different results: there is another draw inside. "
        "Then z jumps wherever the bin does, and the path is lost.",
    )


def test_density(answer, rng):
    """The density is the share by the width."""
    z = torch.tensor([-0.2, 0.3, 2.0, 4.0])
    wanted = torch.tensor([1 / 3, 2 / 3, 1 / 7.5, 0.0])
    found = answer.Histogram(EDGES).log_prob(z)
    found = expect.tensor(found, (4,), "The log-density")
    expect.close(
        found.exp(), wanted, "The density at four places, the last outside",
        mistakes={
            "it is the share of the bin. A density is a share by a width":
                torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]),
            "outside it goes on. Beyond the outer edges it is 0, its logarithm -inf":
                torch.tensor([1 / 3, 2 / 3, 1 / 7.5, 1 / 7.5]),
        },
    )  # fmt: skip


def test_path(answer, rng):
    """The slope of one sample."""
    logits = torch.tensor([0.2, -0.5, 0.4])
    u, one = torch.tensor([0.8]), torch.ones(1)
    module = law(answer, EDGES, logits)
    found = slopes(answer, module, module(u), one)
    expect.close(
        found, differences(u, EDGES, logits, one), "∂z/∂logits of one sample",
        rtol=1e-3,
        mistakes={
            "the path through C_k is missing: bins to the left push a sample, too":
                partial(u, EDGES, logits, one, "share"),
            "the path through π_k is missing: a sample's own bin grows or shrinks":
                partial(u, EDGES, logits, one, "below"),
            "the gradient is 0. The index of a bin has none; the place within it has":
                torch.zeros(3),
        },
    )  # fmt: skip

TITLE = 'A histogram that can learn'
GIVEN = {}
