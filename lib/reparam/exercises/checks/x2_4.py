"""Self-checks of exercise 2.4. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def test_slopes(answer, rng):
    """The draws (1, 0) and (0, 1), with w = 1."""
    rho, weight = answer.given["RHO"], answer.given["WEIGHT"]
    s = (1 - rho**2) ** 0.5
    # With a the angle, (1, 0) goes to (cos a, ρ cos a + s sin a) and (0, 1) to
    # (-sin a, s cos a - ρ sin a). By ρ, a has the slope w = 1 and s has -ρ/s.
    seen = torch.tensor([1 + weight * rho, weight * s])
    by_turn = torch.tensor([weight * s, -1 - weight * rho])
    by_root = torch.tensor([weight, -weight * rho / s])
    right = 2 * seen * (by_root + by_turn)
    expect.close(
        answer.slopes(1.0, torch.eye(2)), right, "What slopes returns for w = 1",
        rtol=1e-3, atol=1e-4,
        mistakes={
            "each is divided by n: differentiate the sum, not the mean": right / 2,
            "the turn is missing; it moves the samples as ρ moves, though its angle is 0":
                2 * seen * by_root,
        },
    )  # fmt: skip


def test_mean(answer, rng):
    """E[f] = 1 + A² + 2Aρ, with A the weight of z₂: its slope knows no w."""
    weight = answer.given["WEIGHT"]
    eps = torch.randn(20_000, 2, generator=rng)
    for w in (0.0, 1.0):
        found = answer.slopes(w, eps)
        what = f"The mean of the slopes for w = {w:g}"
        expect.mean(found, 2 * weight, what, deviation=6 * (1 + weight) ** 2)


def test_bottom(answer, rng):
    """best_w beside its neighbors."""
    w = expect.number(answer.best_w, "best_w")
    eps = torch.randn(20_000, 2, generator=rng)
    here, left, right = (
        answer.slopes(v, eps).var() for v in (w, w - 0.2, w + 0.2)
    )
    for side, there in (("smaller", left), ("larger", right)):
        expect.that(
            bool(there > here),
            f"A {side} w has less variance than your best_w: go on that way. "
            "Neither root of the chapter need be the best.",
        )


def test_decision(answer, rng):
    """Choice and gain follow from your own slopes."""
    eps = torch.randn(20_000, 2, generator=rng)
    of_symmetric = -0.5 / (1 - answer.given["RHO"] ** 2) ** 0.5
    turns = (0.0, of_symmetric, answer.best_w)
    of_cholesky, of_symmetric, least = (
        float(answer.slopes(w, eps).var()) for w in turns
    )
    quieter = "cholesky" if of_cholesky < of_symmetric else "symmetric"
    sentence = (
        "with your own slopes and fresh noise the other root is the quieter"
    )
    expect.equal(
        answer.quieter, quieter, "quieter",
        options=("cholesky", "symmetric"),
        mistakes={sentence: {"cholesky": "symmetric"}.get(quieter, "cholesky")},
    )  # fmt: skip
    ratio = of_cholesky / least
    expect.close(
        answer.gain, ratio, "gain, compared with your own slopes and best_w",
        rtol=0.2, atol=0,
        mistakes={
            "this is its inverse; Cholesky's variance is divided by the least": 1 / ratio,
            "this is a ratio of standard deviations": ratio**0.5,
        },
    )  # fmt: skip

TITLE = 'Same samples, other slopes'
GIVEN = {'RHO': 0.6, 'WEIGHT': 0.3}
