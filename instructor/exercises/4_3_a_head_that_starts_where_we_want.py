# %% about
"""
title = "A head that starts where we want"
kind = "implementation"
difficulty = 3
minutes = 20
points = 6
objective = "Implement an encoder's head whose standard deviation starts at a given value for every input, behind a smooth bound"
after = "Starting the heads"
"""

# %% imports
import math

import torch
from torch import Tensor, nn

from reparam.gaussian import bound_log_var

# %% text
r"""
A latent that is to carry detail learns faster from $\sigma = 0.1$ than from 1. Write a head that starts there: `GaussianHead(in_features, latent_dim, start, low, high)` maps features `h` of shape `[..., in_features]` to `(mu, log_var)`, each `[..., latent_dim]`.

- `mu` is linear in `h` (with a bias) and starts as `nn.Linear` starts it.
- `log_var` is `bound_log_var(raw, low, high)` with another linear `raw`.
- Before the first step $\sigma$ equals `start`, **for every `h` of any scale**, as exactly as float32 allows.
- Nothing is frozen: in the first backward pass every parameter gets a gradient that is not zero.
- A `start` that the bounds do not allow raises a `ValueError`.

> **Predict first.** Is a bias of `2 * math.log(start)` right? Solve (4.2) for $r$.
"""


# %% answer
class GaussianHead(nn.Module):
    """Features to (mu, log_var); sigma starts at `start` for every input."""

    def __init__(
        self,
        in_features: int,
        latent_dim: int,
        start: float = 1.0,
        low: float = -10.0,
        high: float = 10.0,
    ):
        super().__init__()
        ### BEGIN SOLUTION
        middle, reach = (low + high) / 2, (high - low) / 2
        share = (2 * math.log(start) - middle) / reach
        if not -1 < share < 1:
            raise ValueError(f"start={start} is outside what the bounds allow")
        self.low, self.high = low, high
        self.mean_head = nn.Linear(in_features, latent_dim)
        self.raw_head = nn.Linear(in_features, latent_dim)
        nn.init.zeros_(self.raw_head.weight)
        self.raw_head.bias.data.fill_(
            middle + reach * share / math.sqrt(1 - share**2)
        )
        ### END SOLUTION

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var) for features h."""
        ### BEGIN SOLUTION
        bounded = bound_log_var(self.raw_head(h), self.low, self.high)
        return self.mean_head(h), bounded
        ### END SOLUTION


# %% hint
r"""
If $\sigma$ must not depend on `h` at the start, what must the weights of `raw` be? Does a weight of that value still get a gradient? (Its gradient is `h` times what arrives at `raw`.)
"""

# %% hint
r"""
Let $s$ be the bounded value relative to the range: less its center, divided by half its width. Then (4.2) says $s = t/\sqrt{1+t^2}$. Square it and solve for $t$; the sign is that of $s$.
"""

# %% hint
r"""
A standard deviation of `start` means a log-variance of `2 * math.log(start)`. It has to lie between `low` and `high`, strictly.
"""

# %% visible
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


# %% hidden
from reparam.exercises import points


@points(2)
def test_any_start(answer, rng):
    """Other starts and bounds, also unsymmetric ones, for features of any scale."""
    for start, low, high in (
        (0.05, -7.0, 1.0),
        (0.3, -4.0, 6.0),
        (1.0, -10.0, 5.0),
        (6.0, -3.0, 5.0),
    ):
        scale = 10 ** float(3 * torch.rand((), generator=rng))
        h = scale * torch.randn(2, 3, 5, generator=rng)
        mu, log_var = answer.GaussianHead(5, 4, start, low, high)(h)
        expect.tensor(mu, (2, 3, 4), "mu")
        expect.close(
            (log_var / 2).exp(), torch.full((2, 3, 4), start), "σ at the start",
            rtol=1e-3,
        )  # fmt: skip


@points(1)
def test_mu(answer, rng):
    """μ starts as a linear layer of torch does."""
    head = answer.GaussianHead(50, 200, 0.7, -9.0, 9.0)
    h = torch.randn(4, 50, generator=rng)
    zero, one, two = (head(c * h)[0] for c in (0.0, 1.0, 2.0))
    expect.close(two + zero, 2 * one, "μ, which should be linear in h", atol=1e-4)
    scatter = (one - zero).std()  # weights of variance 1/150
    norm = h.square().sum().div(4 * 50).sqrt()
    expect.close(
        (scatter / norm).item(),
        3**-0.5,
        "the scatter of μ at the start",
        rtol=0.25,
    )


@points(2)
def test_not_frozen(answer, rng):
    """All parameters learn, and far outside a slope is left."""
    head = answer.GaussianHead(6, 2, 0.2, -8.0, 3.0)
    mu, log_var = head(torch.rand(3, 6, generator=rng))
    (mu.square().sum() + log_var.square().sum()).backward()
    slopes = answer.parameter_gradients(head)
    missing = [
        k for k, s in slopes.items() if s is None or not bool((s != 0).any())
    ]
    expect.that(
        slopes and not missing, "A parameter gets no gradient at the first step."
    )
    start = head.state_dict()
    h = torch.randn(40, 6, generator=rng, requires_grad=True)

    def after(size):
        steps = {k: torch.randn(v.shape, generator=rng) for k, v in start.items()}
        head.load_state_dict({k: v + size * steps[k] for k, v in start.items()})
        return head(h)[1]

    log_var = after(1.0)
    expect.that(
        (log_var - log_var[:1]).abs().max().item() > 0.1,
        "After a step log σ² is still the same for every input.",
    )
    log_var = after(300.0)
    expect.that(
        bool(((log_var >= -8) & (log_var <= 3)).all()),
        "After large steps log σ² is out of its bounds.",
    )
    slope = expect.gradients(log_var, h=h)["h"]
    expect.that(
        bool((slope != 0).any(-1).all()),
        "Far outside the bounds the slope is 0: such a unit is dead.",
    )


@points(1)
def test_refuses(answer, rng):
    """A start that the bounds do not allow is refused."""
    answer.GaussianHead(3, 2, 2.0, -4.0, 4.0)
    for start, low, high in ((0.1, -4.0, 4.0), (8.0, -4.0, 4.0)):
        expect.raises(
            ValueError,
            lambda: answer.GaussianHead(3, 2, start, low, high),
            "A start outside the bounds",
        )


# %% right: one layer for both, the inverse as a tangent of an arcsine
class GaussianHead(nn.Module):
    def __init__(self, in_features, latent_dim, start=1.0, low=-10.0, high=10.0):
        super().__init__()
        if not math.exp(low / 2) < start < math.exp(high / 2):
            raise ValueError("start must lie between the bounds")
        self.bounds = low, high
        middle, half = (high + low) / 2, (high - low) / 2
        angle = math.asin((math.log(start**2) - middle) / half)
        self.both = nn.Linear(in_features, 2 * latent_dim)
        with torch.no_grad():
            self.both.weight[latent_dim:] = 0
            self.both.bias[latent_dim:] = middle + half * math.tan(angle)

    def forward(self, h):
        mu, raw = self.both(h).chunk(2, dim=-1)
        return mu, bound_log_var(raw, *self.bounds)


# %% wrong: does not invert the bound
class GaussianHead(nn.Module):
    def __init__(self, in_features, latent_dim, start=1.0, low=-10.0, high=10.0):
        super().__init__()
        if not low < 2 * math.log(start) < high:
            raise ValueError("start is outside the bounds")
        self.low, self.high = low, high
        self.mean_head = nn.Linear(in_features, latent_dim)
        self.raw_head = nn.Linear(in_features, latent_dim)
        nn.init.zeros_(self.raw_head.weight)
        nn.init.constant_(self.raw_head.bias, 2 * math.log(start))

    def forward(self, h):
        return self.mean_head(h), bound_log_var(
            self.raw_head(h), self.low, self.high
        )


# %% wrong: takes the raw output for log σ
class GaussianHead(GaussianHead):
    def __init__(self, in_features, latent_dim, start=1.0, low=-10.0, high=10.0):
        super().__init__(in_features, latent_dim, start**0.5, low, high)


# %% wrong: small weights instead of none
class GaussianHead(GaussianHead):
    def __init__(self, *sizes_and_bounds):
        super().__init__(*sizes_and_bounds)
        nn.init.normal_(self.raw_head.weight, std=0.01)


# %% wrong: a clamp
class GaussianHead(GaussianHead):
    def __init__(self, in_features, latent_dim, start=1.0, low=-10.0, high=10.0):
        super().__init__(in_features, latent_dim, start, low, high)
        nn.init.constant_(self.raw_head.bias, 2 * math.log(start))

    def forward(self, h):
        return self.mean_head(h), self.raw_head(h).clamp(self.low, self.high)


# %% wrong: one σ for all inputs, forever
class GaussianHead(nn.Module):
    def __init__(self, in_features, latent_dim, start=1.0, low=-10.0, high=10.0):
        super().__init__()
        if not low < 2 * math.log(start) < high:
            raise ValueError("start is outside the bounds")
        self.mean_head = nn.Linear(in_features, latent_dim)
        self.log_var = nn.Parameter(
            torch.full((latent_dim,), 2 * math.log(start))
        )

    def forward(self, h):
        mu = self.mean_head(h)
        return mu, self.log_var.expand_as(mu)


# %% wrong: both heads start at zero
class GaussianHead(GaussianHead):
    def __init__(self, *sizes_and_bounds):
        super().__init__(*sizes_and_bounds)
        nn.init.zeros_(self.mean_head.weight)


# %% wrong: multiplies by zero instead of starting there
class GaussianHead(GaussianHead):
    def forward(self, h):
        return self.mean_head(h), bound_log_var(
            self.raw_head(0 * h), self.low, self.high
        )


# %% solution
r"""
$s = t/\sqrt{1+t^2}$ gives $t = s/\sqrt{1-s^2}$, so with the center $c$ and half the width, $a$, the bias is $c + a\,s/\sqrt{1-s^2}$ with $s = (2\log\text{start}-c)/a$. Without the inverse the start is off wherever the bound bends: for `start=0.1` in $(-10, 10)$ it is 0.12, and near the ends it is off by orders of magnitude.

Weights of exactly zero are fine in *this* layer. Zero is a problem where layers above and below are zero, too, or where units with the same input must come apart; here the gradient of a weight is its input times the slope at `raw`, and both are there. The document's 0.01 makes a start that depends on the pixels' scale; a zero does not.
"""

# %% rubric
r"""
Two points for the start, one for μ, two for gradients and bounds, one for the refused start. A head that only misses the inverse loses the first two.
"""
