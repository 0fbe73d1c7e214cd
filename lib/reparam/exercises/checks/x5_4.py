"""Self-checks of exercise 5.4. Derived from the exercise's source; do not edit."""

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from reparam.exercises import expect

E = np.linspace(-9.0, 9.0, 3001)  # noise, for quadrature


def as_numpy(function):
    return lambda z: function(torch.from_numpy(z)).numpy()


def models(f, log_gate, mu, sigma, K):
    """Gradients by (μ, σ): the truth by differences of quadratures, and mistakes'."""
    f, log_gate = as_numpy(f), as_numpy(log_gate)

    def parts(mu, sigma):
        z = mu + sigma * E
        mass = np.exp(-(E**2) / 2 + log_gate(z))
        return f(z), log_gate(z), mass / mass.sum()

    def mean(mu, sigma):
        values, _, share = parts(mu, sigma)
        return (values * share).sum()

    values, _, share = parts(mu, sigma)
    h, rows = 1e-4, []
    for d_mu, d_sigma in ((h, 0), (0, h)):
        up, down = (mu + d_mu, sigma + d_sigma), (mu - d_mu, sigma - d_sigma)
        (f_up, a_up, _), (f_down, a_down, _) = parts(*up), parts(*down)
        by_f, by_a = (f_up - f_down) / (2 * h), (a_up - a_down) / (2 * h)
        by_gate = (np.exp(a_up) - np.exp(a_down)) / (2 * h)
        path, product = (share * by_f).sum(), (share * values * by_a).sum()
        covariance = product - (share * values).sum() * (share * by_a).sum()
        gate = ((values - (share * values).sum()) * share * by_gate).sum()
        truth = (mean(*up) - mean(*down)) / (2 * h)
        rows.append(
            [truth, path, path + product, path + covariance * (K - 1) / K,
             path - covariance, path + gate, covariance]
        )  # fmt: skip
    names = (
        "truth",
        "it is the path alone. Whether a sample is kept depends on the "
        "parameters, too: a kept sample with a graph is not yet a path",
        "the share that is kept, Z, depends on the parameters, and its term is "
        "missing: add 10 to f, and the gradient changes",
        "it is short by a factor (K - 1)/K in the new term. A sample has a part in "
        "the mean that is taken off it",
        "the new term has the wrong sign",
        "the gate was differentiated, where its logarithm should be",
        "the new term is there, and the path is gone",
    )
    return dict(zip(names, torch.tensor(rows).T, strict=True))


def kept_noise(rng, shape, log_gate, mu, sigma):
    """Kept noise, by the inverse of its CDF, tabulated."""
    mass = np.exp(-(E**2) / 2 + as_numpy(log_gate)(mu + sigma * E))
    limits = np.concatenate([[0.0], np.cumsum(mass / mass.sum())])
    edges = np.append(E, 2 * E[-1] - E[-2]) - (E[1] - E[0]) / 2
    u = torch.rand(shape, generator=rng).double().numpy()
    return torch.from_numpy(np.interp(u, limits, edges)).float()


def deviations(f, log_gate, mu, sigma, K):
    """Bound on the standard deviations of one row's gradient, generously."""
    f, log_gate = as_numpy(f), as_numpy(log_gate)
    z = mu + sigma * E
    share = np.exp(-(E**2) / 2 + log_gate(z))
    share = share / share.sum()
    by_f, by_a = np.gradient(f(z), z), np.gradient(log_gate(z), z)
    found = []
    for by in (1.0, E):
        centered = f(z) - (share * f(z)).sum()
        slope = by_a * by - (share * by_a * by).sum()
        covariance = (share * centered * slope).sum()
        path = (share * (by_f * by) ** 2).sum()
        square = (share * (centered * slope) ** 2).sum()
        both = (share * centered**2).sum() * (share * slope**2).sum()
        total = path + 2 * square + 2 * both + covariance**2
        found.append(2 * np.sqrt(total / K))
    return torch.tensor(found)


def held(answer, rng, f, log_gate, mu, sigma, R, K, what):
    """Gradients of `mended` in R independent rows, against the truth."""
    z, leaves = rows(rng, log_gate, mu, sigma, R, K)
    result = answer.mended(f, z, log_gate)
    result = expect.tensor(result, (R,), "What `mended` returns")
    slopes = expect.gradients(result, mu=leaves[0], sigma=leaves[1])
    named = models(f, log_gate, mu, sigma, K)
    expect.mean(
        torch.cat(list(slopes.values()), -1), named.pop("truth"), what,
        deviation=deviations(f, log_gate, mu, sigma, K), mistakes=named,
    )  # fmt: skip


def rows(rng, log_gate, mu, sigma, R, K):
    """Kept samples [R, K], each row with parameters of its own, and these."""
    leaves = [torch.full((R, 1), x).requires_grad_() for x in (mu, sigma)]
    noise = kept_noise(rng, (R, K), log_gate, mu, sigma)
    return leaves[0] + leaves[1] * noise, leaves


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
    z, _ = rows(rng, gate, 0.5, 1.0, 6, 4)
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


def test_pairs(answer, rng):
    """The mean gradient of f(z) = z² + 3, by μ and σ, with rows of two."""
    f = lambda z: z**2 + 3
    held(answer, rng, f, gate, 0.5, 0.8, 4000, 2, "The mean gradient for K = 2")

TITLE = 'Kept, and biased'
GIVEN = {'STEEP': 3.0}
