# %% about
"""
title = "A test that passes too much"
kind = "bug"
difficulty = 3
minutes = 25
points = 7
objective = "Mend a test of a sampler so that it tells a right one from three faulty ones"
after = "The same law"
"""

# %% imports
import torch

# %% text
r"""
Three samplers, each with one fault, and a colleague's test, which all three pass. A sampler takes `mu` and `log_var` of one shape `[B, D]` and returns samples of that shape.
"""

# %% code
samplers = {
    "A": lambda mu, log_var: mu + log_var.exp() * torch.randn_like(mu),
    "B": lambda mu, log_var: torch.normal(mu, (log_var / 2).exp()),
    "C": lambda mu, log_var: mu + (log_var / 2).exp() * torch.randn(mu.shape[-1]),
}


def passes(sampler):
    """What a colleague calls a test."""
    mu = torch.zeros(1, 10_000, requires_grad=True)
    log_var = torch.zeros(1, 10_000, requires_grad=True)
    z = sampler(mu, log_var)
    z.sum().backward()
    reached = mu.grad is not None and log_var.grad is not None
    return reached and abs(z.std().item() - 1) < 0.05


for name, sampler in samplers.items():
    print(name, passes(sampler))

# %% text
r"""
> **Predict first.** Why does each of the three pass? Three details of the test are to blame, one for each.

Write the test that should have been: `diagnose(sampler)`, which returns

- `"blocked"` if `mu` or `log_var` gets no gradient, or one of zeros only;
- `"scale"` if the standard deviation is not $e^{\frac12\log\sigma^2}$ (faults of scale are 30 % or more where $|\log\sigma^2|\ge 1$);
- `"shared"` if all rows of a batch have the same noise;
- `"right"` otherwise.

Of several faults, name the first in this list. At most three calls of the sampler, with at most 100,000 numbers each. It may err once in a million runs, so choose sizes and thresholds with care.
"""


# %% answer
def diagnose(sampler):
    """ "blocked", "scale", "shared" or "right"."""
    ### BEGIN SOLUTION
    mu = torch.zeros(2, 4_000, requires_grad=True)
    log_var = torch.full((2, 4_000), 2.0, requires_grad=True)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    slopes = torch.autograd.grad(z.sum(), (mu, log_var), allow_unused=True)
    if any(slope is None or not slope.any() for slope in slopes):
        return "blocked"
    z = z.detach()
    if abs(z[0].std() / torch.tensor(1.0).exp() - 1) > 0.15:
        return "scale"
    return "shared" if torch.equal(z[0], z[1]) else "right"
    ### END SOLUTION


# %% hint
r"""
At `log_var` = 0, what is the standard deviation of sampler A, and what should it be?
"""

# %% hint
r"""
`torch.normal` has a graph, and its gradients are there. Look at their values.
"""

# %% hint
r"""
Two rows with the same `mu` and `log_var` and shared noise are equal. And a standard deviation needs many draws that are independent even then: along a row, or down a column?
"""

# %% visible
import torch

from reparam.exercises import expect

OPTIONS = ("right", "blocked", "scale", "shared")


def right(mu, log_var):
    return mu + torch.exp(log_var / 2) * torch.randn_like(mu)


def shared(mu, log_var):
    return mu + torch.exp(log_var / 2) * torch.randn(mu.shape[-1])


def verdict(answer, sampler, wanted, what, mistakes=None):
    """One diagnosis, with the calls counted."""
    sizes = []

    def counted(mu, log_var):
        sizes.append(mu.numel())
        return sampler(mu, log_var)

    found = answer.diagnose(counted)
    expect.that(bool(sizes), "The sampler is never called.")
    expect.that(len(sizes) <= 3, "The sampler is called more than three times.")
    expect.that(max(sizes) <= 100_000, "A call is larger than allowed.")
    expect.equal(found, wanted, what, options=OPTIONS, mistakes=mistakes)


def test_right(answer, rng):
    """A right sampler is let through."""
    mistakes = {
        "its draws scatter as they should: how many of them does your threshold "
        "need?": "scale"
    }
    verdict(answer, right, "right", "What you say of a right one", mistakes)


def test_scale(answer, rng):
    """Sampler A is found out."""
    mistakes = {
        "at log σ² = 0, where encoders start, exp(log σ²) and σ are both 1; look "
        "elsewhere": "right",
        "its noise is not shared": "shared",
    }
    verdict(
        answer,
        lambda mu, log_var: mu + log_var.exp() * torch.randn_like(mu),
        "scale",
        "What you say of A",
        mistakes,
    )


def test_blocked(answer, rng):
    """Sampler B is found out."""
    mistakes = {
        "both gradients are there, and all their entries are 0: `is not None` cannot "
        "see that": "right"
    }
    verdict(
        answer,
        lambda mu, log_var: torch.normal(mu, torch.exp(log_var / 2)),
        "blocked",
        "What you say of B",
        mistakes,
    )


def test_half_blocked(answer, rng):
    """A sampler that cuts log_var off is found out."""
    mistakes = {
        "mu gets its gradient and log_var gets none. Both must be asked": "right"
    }
    verdict(
        answer,
        lambda mu, log_var: right(mu, log_var.detach()),
        "blocked",
        "What you say of it",
        mistakes,
    )


def test_shared(answer, rng):
    """Sampler C is found out."""
    mistakes = {
        "each row by itself is a right draw; only two rows side by side show "
        "it": "right",
        "its scale is right. With shared noise all rows are one draw, so a column "
        "has no scatter to measure; which direction has?": "scale",
    }
    verdict(answer, shared, "shared", "What you say of C", mistakes)


# %% hidden
from reparam.exercises import points


def say(answer, rng, wanted, *ways):
    """Faulty samplers among right ones, in an order that nobody knows."""
    picked = torch.randint(2 * len(ways), (16,), generator=rng).tolist()
    among = [ways[at] if at < len(ways) else None for at in picked]
    cases = [*ways, *among]
    for at in torch.randperm(len(cases), generator=rng).tolist():
        if cases[at]:
            verdict(answer, cases[at], wanted, "What you say of a faulty one")
        else:
            verdict(answer, right, "right", "What you say of a right one")


@points(1)
def test_other_right_ones(answer, rng):
    """Right samplers that are written otherwise pass, a faulty one does not."""

    def through_torch(mu, log_var):
        return torch.distributions.Normal(mu, (0.5 * log_var).exp()).rsample()

    def mirrored(mu, log_var):
        return mu - torch.exp(log_var).sqrt() * torch.randn(mu.shape)

    for sampler in (through_torch, mirrored):
        verdict(answer, sampler, "right", "What you say of a right one")
    say(answer, rng, "shared", shared)


@points(2)
def test_blocked_ways(answer, rng):
    """Gradients that are missing or zero, of either parameter."""
    say(
        answer,
        rng,
        "blocked",
        lambda mu, log_var: right(mu, log_var).detach(),
        lambda mu, log_var: right(mu.detach(), log_var) + 0 * mu,
        lambda mu, log_var: right(mu, log_var.detach()) + 0 * log_var,
    )


@points(2)
def test_scales(answer, rng):
    """Other wrong scales."""
    say(
        answer,
        rng,
        "scale",
        lambda mu, log_var: mu + log_var.exp() * torch.randn_like(mu),
        lambda mu, log_var: mu + (-log_var / 2).exp() * torch.randn_like(mu),
        lambda mu, log_var: mu + 1.5 * (right(mu, log_var) - mu),
    )


@points(1)
def test_shared_ways(answer, rng):
    """Noise that rows share."""

    def first_row(mu, log_var):
        return mu + torch.exp(log_var / 2) * torch.randn_like(mu[:1])

    say(answer, rng, "shared", first_row)


@points(1)
def test_two_faults(answer, rng):
    """Of two faults the first is named."""

    def scale_and_shared(mu, log_var):
        return mu + log_var.exp() * torch.randn(mu.shape[-1])

    say(answer, rng, "scale", scale_and_shared)
    say(answer, rng, "blocked", lambda mu, log_var: shared(mu, log_var).detach())


# %% right: rows of different means, many of them
def diagnose(sampler):
    mu = torch.arange(5.0)[:, None].repeat(1, 4_000).requires_grad_()
    log_var = torch.full((5, 4_000), -2.0).requires_grad_()
    z = sampler(mu, log_var)
    try:
        z.square().sum().backward()
    except RuntimeError:
        return "blocked"
    for leaf in (mu, log_var):
        if leaf.grad is None or leaf.grad.abs().max() == 0:
            return "blocked"
    noise = (z - mu).detach() * torch.tensor(1.0).exp()
    if not 0.8 < noise[3].square().mean().sqrt() < 1.2:
        return "scale"
    gap = (noise - noise.mean(0)).abs().max()
    return "shared" if gap < 1e-3 else "right"


# %% idle: the words in turn, a right one first
from itertools import cycle

_words = cycle(["right", "blocked", "right", "scale", "right", "shared"])


def diagnose(sampler):
    sampler(torch.zeros(2, 10), torch.ones(2, 10))
    return next(_words)


# %% idle: right and shared in turn
from itertools import cycle

_words = cycle(["right", "shared"])


def diagnose(sampler):
    sampler(torch.zeros(2, 10), torch.ones(2, 10))
    return next(_words)


# %% wrong: tests at log σ² = 0
def diagnose(sampler):
    mu = torch.zeros(2, 4_000, requires_grad=True)
    log_var = torch.zeros(2, 4_000, requires_grad=True)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    slopes = torch.autograd.grad(z.sum(), (mu, log_var), allow_unused=True)
    if any(slope is None or not slope.any() for slope in slopes):
        return "blocked"
    if not 0.85 < z[0].std() < 1.15:
        return "scale"
    return "shared" if torch.equal(z[0], z[1]) else "right"


# %% wrong: asks whether gradients are there
def diagnose(sampler):
    mu = torch.zeros(2, 4_000, requires_grad=True)
    log_var = torch.full((2, 4_000), 2.0, requires_grad=True)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    slopes = torch.autograd.grad(z.sum(), (mu, log_var), allow_unused=True)
    if any(slope is None for slope in slopes):
        return "blocked"
    if not 0.85 < z[0].std() / 2.71828 < 1.15:
        return "scale"
    return "shared" if torch.equal(z[0], z[1]) else "right"


# %% wrong: has one row only
def diagnose(sampler):
    mu = torch.zeros(1, 4_000, requires_grad=True)
    log_var = torch.full((1, 4_000), 2.0, requires_grad=True)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    slopes = torch.autograd.grad(z.sum(), (mu, log_var), allow_unused=True)
    if any(slope is None or not slope.any() for slope in slopes):
        return "blocked"
    return "right" if 0.85 < z.std() / 2.71828 < 1.15 else "scale"


# %% wrong: measures the scale down a column
def diagnose(sampler):
    mu = torch.zeros(4_000, 1, requires_grad=True)
    log_var = torch.full((4_000, 1), 2.0, requires_grad=True)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    slopes = torch.autograd.grad(z.sum(), (mu, log_var), allow_unused=True)
    if any(slope is None or not slope.any() for slope in slopes):
        return "blocked"
    if not 0.85 < z.std() / 2.71828 < 1.15:
        return "scale"
    return "shared" if torch.equal(z[0], z[1]) else "right"


# %% wrong: looks at mu alone
def diagnose(sampler):
    mu = torch.zeros(2, 4_000, requires_grad=True)
    log_var = torch.full((2, 4_000), 2.0)
    z = sampler(mu, log_var)
    if not z.requires_grad:
        return "blocked"
    (slope,) = torch.autograd.grad(z.sum(), mu, allow_unused=True)
    if slope is None or not slope.any():
        return "blocked"
    if not 0.85 < z[0].std() / 2.71828 < 1.15:
        return "scale"
    return "shared" if torch.equal(z[0], z[1]) else "right"


# %% solution
r"""
A passes because at $\log\sigma^2 = 0$ the scale $e^{\log\sigma^2}$ equals $e^{\frac12\log\sigma^2}$, and 0 is where encoders start. B passes because its gradients exist, as zeros. C passes because a batch of one row has nobody to share noise with. The mended test moves `log_var` away from 0, looks at values, and has two rows. It measures the scale along a row: with shared noise a column holds a single draw. With 4,000 draws a standard deviation is known to 1.1 %, so a threshold of 15 % is thirteen of its errors from 1 and as far from a fault of 30 %.
"""

# %% rubric
r"""
One point for right samplers in other dress, two for gradients, two for scales, one for shared noise, one for the order of faults. A solution that fails once in some hundred runs has too few draws: take off one point.
"""
