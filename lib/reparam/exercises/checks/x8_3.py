"""Self-checks of exercise 8.3. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect

LOG_W = torch.tensor([[0.0, 2.0, -1.0], [1.0, -2.0, 0.5]])
LOG_Q = torch.tensor([[-3.0, -2.5, -4.0], [-2.0, -3.5, -1.0]])


def test_mended(answer, rng):
    """Two samples of three images."""
    joint = LOG_W + LOG_Q
    w = LOG_W.exp()
    whole = LOG_W.sum(1)
    expect.close(
        answer.mended(joint, LOG_Q), w.mean(0).log().mean(), "The bound",
        mistakes={
            "this is what the given function returns":
                (whole.logsumexp(0) - math.log(2)) / 3,
            "this is the ELBO: average the weights of an image before the logarithm":
                LOG_W.mean(),
            "the weights of different images are averaged; an image's logarithm comes first":
                w.mean().log(),
            "it is the sum over the images, not their mean": w.mean(0).log().sum(),
            "log K is missing": w.sum(0).log().mean(),
            "the weights are averaged over the images, and the logarithms over samples":
                w.mean(1).log().mean(),
        },
    )  # fmt: skip


def test_one_image(answer, rng):
    """One image: both functions agree."""
    joint = (LOG_W + LOG_Q)[:, :1]
    expect.close(
        answer.mended(joint, LOG_Q[:, :1]), LOG_W[:, 0].exp().mean().log(),
        "The bound of one image",
    )  # fmt: skip


def test_needed(answer, rng):
    """s = 1/2 and one image, or ten."""
    one = math.expm1(0.25)
    for N in (1, 10):
        found = answer.needed(0.5, N)
        expect.that(
            isinstance(found, (tuple, list)) and len(found) == 2,
            "`needed` should return a tuple of two numbers, (mended, given).",
        )
        expect.close(
            found[0], one, "The samples that the mended bound needs at s = 1/2",
            mistakes={
                "this is E[w²]; the variance has the squared mean taken away": one + 1,
                "this is Var(log w); the variance of w is asked for": 0.25,
                "s is the standard deviation of log w, its variance is s²": math.expm1(0.5),
            },
        )  # fmt: skip
    expect.close(
        found[1], math.expm1(2.5), "The samples that the given bound needs at s = 1/2, N = 10",
        mistakes={
            "this is ten times those of one image; a product's relative variance does not add up":
                10 * one,
            "this is the relative variance of one image, to the tenth power; take the 1 away last":
                one**10,
            "the variances of independent variables add up to N s², not (N s)²":
                math.expm1(25.0),
        },
    )  # fmt: skip

TITLE = 'One bound for all'
GIVEN = {}
