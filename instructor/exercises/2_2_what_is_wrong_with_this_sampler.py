# %% about
"""
title = "What is wrong with this sampler?"
kind = "bug"
difficulty = 3
minutes = 25
points = 6
objective = "Write a test that tells a right sampler from three that look right"
after = "The same law"
"""

# %% imports
import torch

# %% text
r"""
Three faults that every reviewer has passed at least once, beside a right sampler. Each takes `mu` and `log_var`, of one shape `[B, D]`, and returns samples of that shape.
"""

# %% code
samplers = {
    "right": lambda mu, log_var: (
        mu + torch.exp(log_var / 2) * torch.randn_like(mu)
    ),
    "scale": lambda mu, log_var: mu + torch.exp(log_var) * torch.randn_like(mu),
    "shared": lambda mu, log_var: (
        mu + torch.exp(log_var / 2) * torch.randn(mu.shape[-1])
    ),
    "blocked": lambda mu, log_var: torch.normal(mu, torch.exp(log_var / 2)),
}

# %% text
r"""
Write `diagnose(sampler)`, which calls a sampler with inputs of your choice, up to a hundred times or so, and says

- `"blocked"` if no right gradient reaches `mu`,
- `"scale"` if the standard deviation is not $e^{\ell/2}$,
- `"shared"` if rows of a batch do not have noise of their own,
- `"right"` otherwise.

If several faults are there, name the first in this list. It must be right practically always: about one error in a million runs is allowed, so choose sizes and thresholds with care.

> **Predict first.** One of the three faults cannot be seen at $\log\sigma^2 = 0$. Which, and why is that where most tests are made?
"""


# %% answer
def diagnose(sampler):
    """ "right", "blocked", "scale" or "shared"."""
    ### BEGIN SOLUTION
    mu = torch.zeros(50, 100, requires_grad=True)
    log_var = torch.full((50, 100), 1.5)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    (slope,) = torch.autograd.grad(z.sum(), mu, allow_unused=True)
    if slope is None or not torch.allclose(slope, torch.ones_like(slope)):
        return "blocked"
    with torch.no_grad():
        many = torch.stack([sampler(mu, log_var) for _ in range(40)])
    if abs(many.std() / torch.exp(torch.tensor(0.75)) - 1) > 0.1:
        return "scale"
    return "shared" if torch.unique(z[:, 0].detach()).numel() < 25 else "right"
    ### END SOLUTION


# %% hint
r"""
Look at gradients first: their values are exact, one call is enough.
"""

# %% hint
r"""
If rows share noise, one large batch says nothing about the standard deviation: it is one draw a column. Pool many calls, or test for shared rows in a way that does not depend on the scale.
"""

# %% hint
r"""
With equal `mu` and `log_var` in all rows, shared noise makes the rows equal.
"""

# %% visible
import torch

from reparam.exercises import expect

OPTIONS = ("right", "blocked", "scale", "shared")


def right(mu, log_var):
    return mu + torch.exp(log_var / 2) * torch.randn_like(mu)


def test_right(answer, rng):
    """A right sampler is let through."""
    expect.equal(
        answer.diagnose(right),
        "right",
        "What you say of a right one",
        options=OPTIONS,
    )


def test_scale(answer, rng):
    """exp(log σ²) for σ."""
    found = answer.diagnose(
        lambda mu, log_var: mu + torch.exp(log_var) * torch.randn_like(mu)
    )
    expect.equal(
        found, "scale", "What you say of exp(log σ²)", options=OPTIONS,
        mistakes={
            "at log σ² = 0 both scales are 1; test at another value": "right",
            "its noise is not shared": "shared",
        },
    )  # fmt: skip


def test_blocked(answer, rng):
    """torch.normal."""
    found = answer.diagnose(
        lambda mu, log_var: torch.normal(mu, torch.exp(log_var / 2))
    )
    expect.equal(
        found, "blocked", "What you say of torch.normal", options=OPTIONS,
        mistakes={"it has a graph and gradients, all of them 0: look at their values": "right"},
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


def say(answer, sampler, wanted):
    # A right sampler beside each, so that no constant answer passes.
    expect.equal(
        answer.diagnose(right),
        "right",
        "What you say of a right one",
        options=OPTIONS,
    )
    what = "What you say of a faulty one"
    expect.equal(answer.diagnose(sampler), wanted, what, options=OPTIONS)


@points(1)
def test_other_right_ones(answer, rng):
    """A right sampler that is written otherwise, and one with a fault."""
    twin = lambda mu, log_var: torch.distributions.Normal(
        mu, (0.5 * log_var).exp()
    ).rsample()
    expect.equal(
        answer.diagnose(twin), "right", "What you say of rsample", options=OPTIONS
    )
    say(answer, lambda mu, log_var: right(mu, log_var).detach(), "blocked")


@points(2)
def test_scales(answer, rng):
    """Other wrong scales."""
    for scale in (
        lambda t: torch.exp(t),
        lambda t: torch.exp(t / 4),
        torch.nn.functional.softplus,
    ):
        sampler = lambda mu, log_var, scale=scale: (
            mu + scale(log_var) * torch.randn_like(mu)
        )
        say(answer, sampler, "scale")


@points(2)
def test_shared(answer, rng):
    """Noise that rows share."""
    rows = lambda mu, log_var: (
        mu + torch.exp(log_var / 2) * torch.randn(1, mu.shape[-1])
    )
    say(answer, rows, "shared")


@points(1)
def test_silent_zero(answer, rng):
    """Gradients that are there and wrong."""
    say(
        answer,
        lambda mu, log_var: right(mu.detach(), log_var) + 0 * mu,
        "blocked",
    )


# %% right: rows first, then the standard deviation of one row
def diagnose(sampler):
    mu = torch.ones(3, 40, requires_grad=True)
    log_var = torch.full((3, 40), 2.0)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    z.sum().backward()
    if mu.grad is None or (mu.grad - 1).abs().max() > 1e-4:
        return "blocked"
    with torch.no_grad():
        draws = torch.stack([sampler(mu, log_var) for _ in range(100)])
    if abs(draws[:, 0].std() / torch.tensor(1.0).exp() - 1) > 0.12:
        return "scale"
    same = (draws[:, 0] - draws[:, 1]).abs().max() < 1e-6
    return "shared" if same else "right"


# %% wrong: tests at log σ² = 0
def diagnose(sampler):
    mu = torch.zeros(4000, 2, requires_grad=True)
    log_var = torch.zeros(4000, 2)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    (slope,) = torch.autograd.grad(z.sum(), mu)
    if (slope - 1).abs().max() > 1e-4:
        return "blocked"
    if torch.unique(z[:, 0]).numel() < 2000:
        return "shared"
    return "right" if 0.9 < z.std() < 1.1 else "scale"


# %% wrong: asks only for a graph
def diagnose(sampler):
    mu = torch.zeros(4000, 2, requires_grad=True)
    log_var = torch.ones(4000, 2)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    if torch.unique(z[:, 0]).numel() < 2000:
        return "shared"
    return "right" if abs(z.std() / 1.6487 - 1) < 0.1 else "scale"


# %% wrong: never looks at rows
def diagnose(sampler):
    mu = torch.zeros(50, 2, requires_grad=True)
    log_var = torch.ones(50, 2)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    (slope,) = torch.autograd.grad(z.sum(), mu)
    if (slope - 1).abs().max() > 1e-4:
        return "blocked"
    many = torch.cat([sampler(mu, log_var).detach() for _ in range(100)])
    return "right" if abs(many.std() / 1.6487 - 1) < 0.1 else "scale"


# %% wrong: says right to all
def diagnose(sampler):
    return "right"


# %% solution
r"""
At $\log\sigma^2 = 0$ the scale $e^{\ell}$ equals $e^{\ell/2}$, and 0 is where encoders start, so a test on a fresh encoder passes. Gradients are checked by value, since `torch.normal` has a graph with zeros. Shared noise leaves mean and variance of each entry right; only two rows side by side show it. The threshold of 10 % on a standard deviation from thousands of draws is some ten standard errors wide: false alarms and misses are both far below one in a million.
"""

# %% rubric
r"""
One point for right samplers and blocked ones, two for scales, two for shared noise, one for gradients that are there and wrong.
"""
