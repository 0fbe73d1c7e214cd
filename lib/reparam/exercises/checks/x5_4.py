"""Self-checks of exercise 5.4. Derived from the exercise's source; do not edit."""

import torch
from torch.nn.functional import logsigmoid

from reparam.exercises import expect

SENTENCES = {
    "path": "it is the path alone. Whether a sample is kept depends on the parameters, "
    "too: a kept sample with a graph is not yet a path",
    "no center": "the share that is kept, Z, depends on the parameters, and its term is "
    "missing: add 10 to f, and the gradient changes",
    "own mean": "it is short by a factor (K - 1)/K in the new term. A sample has a part "
    "in the mean that is taken off it",
    "sign": "the new term has the wrong sign",
    "gate": "the gate was differentiated, where its logarithm should be",
    "no path": "the new term is there, and the path is gone",
}


def gate(z):
    return logsigmoid(3.0 * z - 3)


def test_true_slope(answer, rng):
    """The true slope of the mean of z is not 1."""
    found = expect.number(answer.true_slope, "`true_slope`")
    expect.that(
        abs(found - 1) > 0.01,
        "1 is what the graph says: it moves the samples that were kept, and keeps "
        "them. Move μ, and others are kept.",
    )
    expect.that(
        0 < found < 1,
        "Kept samples avoid the left. With μ their mean rises, and more slowly.",
    )


def test_values(answer, rng):
    """The values are the row means of f."""
    z = torch.randn(6, 4, generator=rng).requires_grad_()
    found = answer.mended(torch.sin, z, gate)
    values = z.detach().sin()
    centered = values - values.mean(-1, keepdim=True)
    hung = (centered * gate(z.detach())).sum(-1)
    sentence = (
        "a term that is there for its gradient changes the value, too. Take its "
        "own value off it"
    )
    expect.close(
        found, values.mean(-1), "The values of `mended`", rtol=1e-3, atol=1e-5,
        mistakes={sentence: values.mean(-1) + hung / 3, f"{sentence}.":
                  values.mean(-1) + hung / 4},
    )  # fmt: skip


def hill(z):
    """The logarithm of a gate behind which N(μ, σ²) stays normal."""
    return -((z - 1) ** 2) / 2


def behind_the_hill(mu, sigma):
    """Mean and variance of the kept samples: the exponent's square completed."""
    variance = 1 / (1 / sigma**2 + 1)
    return variance * (mu / sigma**2 + 1), variance


def slips(z, mu, sigma):
    """{sentence: slopes of E[z² + 3] by (μ, σ) under this mistake}, from many kept z."""
    by = torch.stack([torch.ones_like(z), (z - mu) / sigma], -1)  # of z
    f, by_f, by_log = (
        (z**2 + 3)[:, None],
        2 * z[:, None] * by,
        (1 - z)[:, None] * by,
    )
    path, centered = by_f.mean(0), f - f.mean()
    lacking = (centered * by_log).mean(0)
    means = {
        "path": path,
        "no center": path + (f * by_log).mean(0),
        "own mean": path + lacking / 2,
        "sign": path - lacking,
        "gate": path + (centered * hill(z).exp()[:, None] * by_log).mean(0),
        "no path": lacking,
    }
    return {SENTENCES[name]: mean for name, mean in means.items()}


def test_pairs(answer, rng):
    """The mean gradient of f(z) = z² + 3, by μ and σ, with rows of two."""
    n, mu, sigma = 4000, torch.tensor(0.5), torch.tensor(0.8)
    center, variance = behind_the_hill(mu, sigma)
    kept = center + variance.sqrt() * torch.randn(n, 2, generator=rng)
    leaves = [x.expand(n, 1).clone().requires_grad_() for x in (mu, sigma)]
    z = leaves[0] + leaves[1] * (kept - mu) / sigma
    result = answer.mended(lambda z: z**2 + 3, z, hill)
    result = expect.tensor(result, (n,), "What `mended` returns")
    found = expect.gradients(result, mu=leaves[0], sigma=leaves[1])

    at = mu.clone().requires_grad_(), sigma.clone().requires_grad_()
    center, variance = behind_the_hill(*at)
    truth = torch.autograd.grad(center**2 + variance + 3, at)  # of E[z² + 3]
    many = center + variance.sqrt() * torch.randn(400_000, generator=rng)
    expect.mean(
        torch.cat(list(found.values()), -1), torch.stack(truth),
        "The mean gradient for K = 2", deviation=5.0,
        mistakes=slips(many.detach(), mu, sigma),
    )  # fmt: skip

TITLE = 'Kept, and biased'
GIVEN = {'STEEP': 3.0}
