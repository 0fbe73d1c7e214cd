"""Self-checks of exercise 4.3. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def smooth(raw, low, high):
    """(4.2), typed from the chapter."""
    middle, reach = (low + high) / 2, (high - low) / 2
    t = (raw - middle) / reach
    return middle + reach * t / math.sqrt(1 + t * t)


def test_start(answer, rng):
    """σ starts at 0.1."""
    start = 0.1
    h = torch.randn(5, 4, generator=rng)
    mu, log_var = answer.GaussianHead(4, 3, start, -10.0, 10.0)(h)
    expect.tensor(mu, (5, 3), "mu")
    wanted, raw = torch.full((5, 3), start), 2 * math.log(start)
    named = {
        "the raw output is log σ², and the bound has moved it: the start is wanted behind "
        "the bound, so invert it": smooth(raw, -10.0, 10.0),
        "a factor 2 is missing: log σ² is twice log σ": raw / 2,
        "a factor 2 is missing, and the bound has moved it": smooth(
            raw / 2, -10, 10
        ),
        "it is where a bias of zero starts": 0.0,
    }
    expect.close(
        (log_var / 2).exp(), wanted, "σ at the start", rtol=1e-3,
        mistakes={k: torch.full((5, 3), math.exp(v / 2)) for k, v in named.items()},
    )  # fmt: skip


def test_scale(answer, rng):
    """The scale of the features does not matter."""
    head = answer.GaussianHead(4, 3, 0.5, -10.0, 10.0)
    h = torch.rand(6, 4, generator=rng)
    small, large = head(h)[1], head(255 * h)[1]
    expect.that(
        bool((large - small).abs().max() < 1e-3),
        "σ depends on the scale of the features at the start: what feeds them into it?",
        f"log σ² moves by {(large - small).abs().max().item():.2g}",
    )


def test_learns(answer, rng):
    """Every parameter gets a gradient at the first step."""
    head = answer.GaussianHead(4, 3, 0.5, -10.0, 10.0)
    mu, log_var = head(torch.rand(6, 4, generator=rng))
    (mu.square().sum() + log_var.square().sum()).backward()
    for name, slope in answer.parameter_gradients(head).items():
        expect.that(
            slope is not None and bool((slope != 0).any()),
            f"The parameter {name} gets no gradient: it will stay where it started.",
        )
    state = {name: value + 0.3 for name, value in head.state_dict().items()}
    head.load_state_dict(state)
    log_var = head(torch.randn(6, 4, generator=rng))[1]
    expect.that(
        (log_var - log_var[:1]).abs().max().item() > 1e-3,
        "After a step σ is still the same for every input: it should be linear in h "
        "before the bound.",
    )

TITLE = 'A head that starts where we want'
GIVEN = {}
