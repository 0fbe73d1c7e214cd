"""Self-checks of exercise 3.5. Derived from the exercise's source; do not edit."""

import math

import numpy as np
import torch

from reparam.exercises import expect


def test_ends(answer, rng):
    """The two ends, at μ = 1, σ = 2."""
    eps = torch.tensor([0.5, -1.0])
    log_p = lambda z: -(z**2) / 2
    full = -(1 + 2 * eps)
    found = answer.gradients(log_p, 1.0, 2.0, eps, 0.0)
    expect.close(
        found, full, "Your mixture at a = 0",
        mistakes={
            "this is the one without the score term: the weights are the other way round":
                full + eps / 2,
            "the score term is counted twice; along the path log q does not move": full - eps / 2,
        },
    )  # fmt: skip
    found = answer.gradients(log_p, 1.0, 2.0, eps, 1.0)
    expect.close(
        found, full + eps / 2, "Your mixture at a = 1",
        mistakes={
            "the sign of the path through log q: minus log q is in the ELBO": full - eps / 2,
            "the score is (z - μ)/σ² = ε/σ; a factor σ is off": full + eps,
            "nothing has changed against a = 0": full,
        },
    )  # fmt: skip


def test_landing(answer, rng):
    """Where q is the posterior no variance is left; elsewhere the weight is another."""
    expect.close(
        answer.best_a(1.0), 1.0, "The best weight at σ = 1",
        mistakes={"this keeps the whole score term": 0.0},
    )  # fmt: skip
    found = expect.number(answer.best_a(2.0), "The best weight at σ = 2")
    expect.that(
        abs(found - 1) > 0.01,
        "best_a: at σ = 2 the width of q is not the posterior's, and dropping the term, no more "
        "and no less, leaves noise.",
    )
    border = expect.number(answer.quieter_from, "quieter_from")
    expect.that(
        abs(border - 1) > 0.01,
        "quieter_from: at σ = 1 dropping the term leaves no noise at all, so that the border "
        "is elsewhere.",
    )


def test_mixer(answer, rng):
    """The first two batches of a mixer."""
    mixer = answer.Mixer()
    full, dropped = torch.tensor([3.0, 1.0]), torch.tensor([-2.0, 4.0])
    expect.close(
        mixer(full, dropped), full, "The first batch",
        mistakes={
            "its weight comes from this very batch, and that is biased": torch.full((2,), 1.75),
            "the weight begins at 0, which is the full gradient": dropped,
        },
    )  # fmt: skip
    found = mixer(torch.tensor([2.0]), torch.tensor([-2.0]))
    expect.close(
        found, torch.tensor([1.0]), "The second batch",
        mistakes={
            "the first batch is not remembered": torch.tensor([2.0]),
            "the weights are the other way round": torch.tensor([-1.0]),
            "the weight has the wrong sign": torch.tensor([3.0]),
            "the sums are not centered: a sample variance is about the sample mean, and the "
            "estimates' own mean must not count": torch.tensor([2 - 4 * 12 / 34]),
        },
    )  # fmt: skip


def test_memory(answer, rng):
    """Two batches, then evaluation, then a copy."""
    mixer, copy = answer.Mixer(), answer.Mixer()
    probe = torch.tensor([2.0]), torch.tensor([-2.0])
    mixer(torch.tensor([3.0, 1.0]), torch.tensor([-2.0, 4.0]))
    mixer(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]))
    mixer.eval()
    mixer(torch.tensor([9.0, 1.0]), torch.tensor([0.0, 7.0]))
    wanted = torch.tensor([2 - 4 * 9 / 32.75])
    expect.close(
        mixer(*probe), wanted, "A batch in evaluation",
        mistakes={
            "a batch met in evaluation was taken in": torch.tensor([2 - 840 / 436]),
            "the last training batch alone counts": torch.tensor([-6.0]),
            "the weights of the batches are averaged; take their samples together":
                torch.tensor([-2.5]),
        },
    )  # fmt: skip
    copy.load_state_dict(mixer.state_dict())
    expect.close(
        copy(*probe), wanted, "The same batch in a copy with this state",
        mistakes={"the memory did not travel in state_dict": torch.tensor([2.0])},
    )  # fmt: skip

TITLE = 'How much of the score?'
GIVEN = {}
