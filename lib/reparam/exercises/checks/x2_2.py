"""Self-checks of exercise 2.2. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect


def test_shapes(answer, rng):
    """Shapes in both modes."""
    layer = answer.ManySamples(5)
    mu, log_var = torch.randn(2, 3, 2, generator=rng)
    expect.tensor(layer(mu, log_var), (5, 3, 2), "What comes out in training")
    layer.eval()
    found = layer(mu, log_var)
    expect.close(expect.tensor(found, (1, 3, 2), "What comes out in evaluation"), mu[None],
                 "What comes out in evaluation")  # fmt: skip


def test_gradients(answer, rng):
    """Slopes by value."""
    layer = answer.ManySamples(4)
    mu = torch.randn(3, generator=rng, requires_grad=True)
    log_var = torch.randn(3, generator=rng, requires_grad=True)
    z = layer(mu, log_var)
    slopes = expect.gradients(z, mu=mu, log_var=log_var)
    expect.close(
        slopes["mu"],
        torch.full((3,), 4.0),
        "The slope by mu, summed over 4 samples",
    )
    wanted = ((z - mu) / 2).sum(0)
    expect.close(
        slopes["log_var"], wanted, "The slope by log_var, summed over 4 samples",
        rtol=1e-3, atol=1e-4,
        mistakes={"log_var is read as log σ": 2 * wanted},
    )  # fmt: skip


def test_samples_differ(answer, rng):
    """Every entry has noise of its own."""
    z = answer.ManySamples(3)(torch.zeros(4, 2), torch.zeros(4, 2))
    expect.that(
        bool((z[0] != z[1]).any()),
        "The K samples are one and the same: each needs noise of its own.",
    )
    expect.that(
        bool((z[:, 0] != z[:, 1]).any()),
        "The rows of a batch share their noise: its shape is too small and "
        "broadcasts.",
    )


def test_shapes_differ(answer, rng):
    """One variance for a batch of means is refused."""
    expect.raises(
        ValueError,
        lambda: answer.ManySamples(2)(torch.zeros(4, 2), torch.zeros(1, 2)),
        "log_var of shape [1, 2] beside mu of shape [4, 2], which would broadcast,",
    )

TITLE = 'K samples in training, none in evaluation'
GIVEN = {}
