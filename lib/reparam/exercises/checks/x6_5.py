"""Self-checks of exercise 6.5. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def counted(g, most):
    """g, a function of z alone, and the list that grows with each of its calls."""
    calls = []

    def counting(z):
        calls.append(1)
        expect.that(
            len(calls) < most,
            f"invert calls g {most} times, and goes on. When does it stop?",
        )
        return g(z)

    return counting, calls


def shrinking(rate):
    """The slowest case: every step is `rate` times the last."""
    return lambda z: -rate * z


def test_invert(answer, rng):
    """The inverse is as close as it promises, and does not work on."""
    y = torch.tensor([[1.0, 2.0], [0.0, 0.1]], dtype=torch.float64)
    for rate, tolerance, most in ((0.8, 1e-2, 40), (0.1, 1e-3, 8)):
        g, steps = counted(shrinking(rate), 1000)
        found = expect.tensor(
            answer.invert(g, y, rate, tolerance), (2, 2), "The inverse"
        )
        off = float((found - y / (1 - rate)).norm(dim=-1).max())
        expect.that(
            off <= 1.05 * tolerance,
            "The inverse is off by more than the tolerance. Is each row within it? And a "
            "small step does not mean a small error: with L = 0.8 four times the step may "
            "still be to come.",
        )
        expect.that(
            len(steps) <= most, "g is called more often than the bound asks for."
        )


def enumerated(p, dim, top=25):
    """All signs times all stops up to `top`, and the probability of each pair."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * dim).reshape(
        -1, dim
    )
    stop = torch.arange(1, top + 1)
    chance = p * (1 - p) ** (stop - 1.0).double()
    v = signs.double().repeat_interleave(top, 0)
    return v, stop.repeat(len(signs)), chance.repeat(len(signs)) / len(signs)


def slips(G, p, top=60):
    """{sentence: the mean of the estimates under this mistake}, from the traces."""
    traces, power = [], torch.eye(len(G), dtype=torch.float64)
    for _ in range(top):
        power = power @ G
        traces.append(power.trace())
    k = torch.arange(1, top + 1, dtype=torch.float64)
    right = torch.stack(traces) * -((-1.0) ** k) / k
    there = (1 - p) ** (k - 1)  # P(N ≥ k)
    means = {
        "the sum is cut off at N and nothing makes up for it. Term k is there with "
        "probability P(N ≥ k) only": right * there,
        "all is too large by 1/(1-p). With which probability is the first term there?":
            right / (1 - p),
        "the terms are divided by P(N = k), the chance to stop at k, and are there "
        "whenever N is k or more": right / p,
        "the signs do not alternate": right * -((-1.0) ** k),
        "1/k is missing": right * k,
        "the sign is that of -log det(I + G)": -right,
    }  # fmt: skip
    return {sentence: float(terms.sum()) for sentence, terms in means.items()}


def mean_estimate(answer, G, p):
    v, stop, chance = enumerated(p, len(G))
    found = answer.log_det_estimates(lambda x: x @ G.mT, v, stop, p)
    found = expect.tensor(found, (len(v),), "The estimates").detach().double()
    return float((found * chance).sum())


def test_unbiased(answer, rng):
    """The mean over all signs and all stops is the log-determinant."""
    G = torch.tensor([[0.3, 0.2], [-0.1, 0.25]], dtype=torch.float64)
    expect.close(
        mean_estimate(answer, G, 0.4), float(torch.logdet(torch.eye(2) + G)),
        "The mean of the estimates", atol=1e-4, mistakes=slips(G, 0.4),
    )  # fmt: skip


def test_two_terms(answer, rng):
    """Single estimates that stop after one and after two terms."""
    G = torch.tensor([[0.3, 0.2], [-0.1, 0.25]])
    v = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    found = answer.log_det_estimates(
        lambda x: x @ G.mT, v, torch.tensor([1, 2]), 0.5
    )
    first, second = float(v[0] @ G @ v[0]), float(v[0] @ G @ G @ v[0])
    expect.close(
        found, torch.tensor([first, first - second]), "The pair of estimates",
        mistakes={
            "the first has too many terms: it stops at N = 1":
                torch.tensor([first - second, first - second]),
            "(v·Gv)² is not v·G²v: multiply by G again before the dot product":
                torch.tensor([first, first - first**2]),
            "the dot product is with the last vector, not with the first v":
                torch.tensor([first, first - float((v[0] @ G.mT) @ G @ (G @ v[0]))]),
        },
    )  # fmt: skip

TITLE = 'A flow without structure'
GIVEN = {}
