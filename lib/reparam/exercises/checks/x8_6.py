"""Self-checks of exercise 8.6. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def both(answer, name, *arguments):
    """What `ordinary` or `doubly` returns, after a look at its form."""
    fresh = (a.clone() if isinstance(a, torch.Tensor) else a for a in arguments)
    found = getattr(answer, name)(*fresh)
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        f"`{name}` should return a tuple of two tensors, (by_mu, by_log_var).",
    )
    return found


def small(z):
    """log p(x, z) for p(z) = N(0, I), p(x|z) = N(z, I) and x = 1, without its constant."""
    return -(z**2 + (z - 1) ** 2).sum(-1) / 2


MU = torch.tensor([[0.2, -0.4], [1.0, 0.0]])
LOG_VAR = torch.tensor([[0.0, -1.0], [0.5, -0.5]])
EPS = torch.tensor(
    [
        [[0.5, -1.0], [1.2, 0.3]],
        [[-0.7, 0.4], [0.1, -1.5]],
        [[1.5, 0.8], [-0.6, 0.9]],
    ]
)


def parts(slope, log_joint, mu, log_var, eps):
    """The pieces of (8.5) by hand: v, the slope of log w along z, dz by log_var."""
    sigma = torch.exp(log_var / 2)
    z = mu + sigma * eps
    log_w = log_joint(z) + (eps**2 / 2 + log_var / 2).sum(-1)
    return log_w.softmax(0).unsqueeze(-1), slope(z) + eps / sigma, sigma * eps / 2


def test_three_samples(answer, rng):
    """Three samples of two images, beside the formulas by hand."""
    v, along, by = parts(lambda z: 1 - 2 * z, small, MU, LOG_VAR, EPS)
    score_mu, score_var = EPS / torch.exp(LOG_VAR / 2), (EPS**2 - 1) / 2
    found = both(answer, "ordinary", small, MU, LOG_VAR, EPS)
    without = (v * along).sum(0), (v * along * by).sum(0)
    wanted = (
        (v * (along - score_mu)).sum(0),
        (v * (along * by - score_var)).sum(0),
    )
    for value, truth, path, name in zip(
        found, wanted, without, ("μ", "log σ²"), strict=True
    ):
        expect.close(
            value, truth, f"The ordinary gradient by {name}", rtol=1e-3, atol=1e-5,
            mistakes={"the score is missing: q's parameters stand in its density, too": path},
        )  # fmt: skip
    found = both(answer, "doubly", small, MU, LOG_VAR, EPS)
    wanted = (v**2 * along).sum(0), (v**2 * along * by).sum(0)
    scores = (v**2 * score_mu).sum(0), (v**2 * score_var).sum(0)
    for value, truth, path, score, name in zip(
        found, wanted, without, scores, ("μ", "log σ²"), strict=True
    ):
        expect.close(
            value, truth, f"The doubly reparameterized gradient by {name}", rtol=1e-3, atol=1e-5,
            mistakes={
                "each path has its weight v; (8.7) has the square of it": path,
                "a score is still there; only z may move": truth - score,
                "this is its average over samples; (8.7) is a sum": truth / 3,
            },
        )  # fmt: skip


def test_one_sample(answer, rng):
    """With one sample its weight is one, and (8.7) is (8.5) without the score."""
    _, along, by = parts(lambda z: 1 - 2 * z, small, MU, LOG_VAR, EPS[:1])
    found = both(answer, "doubly", small, MU, LOG_VAR, EPS[:1])
    for value, truth in zip(found, (along[0], (along * by)[0]), strict=True):
        expect.close(
            value,
            truth,
            "The doubly reparameterized gradient, K = 1",
            rtol=1e-3,
            atol=1e-5,
        )


def test_scale_of_weights(answer, rng):
    """Joint densities too small for a float change no share."""
    for name in ("ordinary", "doubly"):
        found = both(answer, name, lambda z: small(z) - 4096.0, MU, LOG_VAR, EPS)
        usual = both(answer, name, small, MU, LOG_VAR, EPS)
        for value, truth in zip(found, usual, strict=True):
            expect.that(
                bool(value.isfinite().all()),
                f"With log p(x, z) around -4000 `{name}` is not finite: a weight was formed.",
            )
            expect.close(
                value, truth, f"`{name}` on another scale", rtol=1e-2, atol=1e-2
            )


def test_noise(answer, rng):
    """Four samples of three variables whose variances are 1, 2 and 1/2."""
    log_var = torch.tensor([[0.0, math.log(2), -math.log(2)]])
    found = both(answer, "noise_left", log_var, 4)
    expect.close(
        found[0], torch.tensor([[0.25, 0.125, 0.5]]), "The variance by μ",
        mistakes={
            "this is the variance of a single sample": torch.tensor([[1.0, 0.5, 2.0]]),
            "this is its square root, the standard deviation": torch.tensor([[0.5, 0.3535534, 0.7071068]]),
            "the score is ε/σ: its variance falls with σ": torch.tensor([[0.25, 0.5, 0.125]]),
        },
    )  # fmt: skip
    expect.close(
        found[1], torch.full((1, 3), 0.125), "The variance by log σ²",
        mistakes={"this is the variance of a single sample": torch.full((1, 3), 0.5)},
    )  # fmt: skip

TITLE = 'Once more along the path'
GIVEN = {}
