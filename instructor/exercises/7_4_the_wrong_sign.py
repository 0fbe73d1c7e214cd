# %% about
"""
title = "The wrong sign"
kind = "measurement"
difficulty = 3
minutes = 20
points = 6
objective = "Measure where the straight-through gradient points the wrong way"
after = "Four that are called straight-through"
"""

# %% imports
import torch

# %% given
T = 0.35  # or 0.4, 0.6, 0.65

# %% text
r"""
The straight-through estimator of one bit draws $b\sim\mathrm{Bernoulli}(p)$, uses the hard bit forward, and backward pretends that $\partial b/\partial p = 1$. Here $f(b) = (b-t)^2$ with $t = «T»$.

> **Predict first.** Is its mean too large, too small, or can it have the wrong *sign*? For which $p$?

1. `straight_through(p, t, n)`: `n` straight-through gradients of $f$ by $p$, one for each of `n` independent bits, as a tensor `[n]`. `p` is a Python number.
2. `truth(p, t)`: the exact $\partial\,\mathbb E[f(b)]/\partial p$.
3. Measure on a grid of $p$; 20,000 bits for each $p$ are enough. `wrong_from, wrong_to`: the ends of the interval of $p$, within $[0, 1]$, on which the mean of the estimator has the wrong sign, to within 0.02.
4. `training`: where does gradient descent on $p$ with this estimator end, in the mean, if it starts at $p = 0.9$? `"minimum"` if at the $p$ that minimizes $\mathbb E[f]$, `"t"` if at $p = t$, `"other end"` if at the worst $p$.
"""


# %% answer
def straight_through(p, t, n):
    """[n] straight-through gradients of (b - t)**2 by p."""
    ### BEGIN SOLUTION
    p = torch.full((n,), float(p), requires_grad=True)
    b = torch.bernoulli(p.detach()) + p - p.detach()
    (slopes,) = torch.autograd.grad(((b - t) ** 2).sum(), p)
    return slopes
    ### END SOLUTION


def truth(p, t):
    """The exact derivative of E[(b - t)**2] by p."""
    ### BEGIN SOLUTION
    return (1 - t) ** 2 - t**2
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
_grid = [i / 100 for i in range(1, 100)]
_wrong = [
    p for p in _grid if straight_through(p, T, 20_000).mean() * truth(p, T) < 0
]
wrong_from, wrong_to = (
    (0.0, max(_wrong)) if min(_wrong) < 0.05 else (min(_wrong), 1.0)
)
training = "t"
### END SOLUTION

# %% hint
r"""
`hard + p - p.detach()` has the value of `hard` and the slope 1 by `p`. With `p` a tensor of `n` equal entries, one backward gives `n` gradients.
"""

# %% hint
r"""
$\mathbb E[f(b)] = p\,f(1) + (1-p)\,f(0)$ is linear in $p$: its slope does not depend on $p$ at all.
"""

# %% hint
r"""
For the last question look at where the *mean* of the estimator is 0, and on which side of it it is positive.
"""

# %% visible
import torch

from reparam.exercises import expect


def test_truth(answer, rng):
    """The exact derivative."""
    expect.close(
        answer.truth(0.25, 0.4), 0.2, "The truth at p = 0.25, t = 0.4",
        mistakes={
            "this is f at the mean of b; average f over the two values instead": 2 * (0.25 - 0.4),
            "the sign: f(1) - f(0), not f(0) - f(1)": -0.2,
        },
    )  # fmt: skip


def test_mean(answer, rng):
    """The mean of the straight-through gradients."""
    found = expect.tensor(
        answer.straight_through(0.25, 0.4, 20_000), (20_000,), "The gradients"
    )
    expect.mean(
        found, -0.3, "Your gradients at p = 0.25, t = 0.4", deviation=0.87,
        mistakes={
            "this is the exact gradient, and the straight-through one is asked for": 0.2,
            "this is by the logit; the chain rule has a factor p(1-p) too many":
                -0.3 * 0.25 * 0.75,
        },
    )  # fmt: skip
    expect.that(
        bool((found > 1).any()),
        "Every gradient is nearly the same: draw a hard bit for each.",
    )


def test_interval(answer, rng):
    """The ends of the interval are in order."""
    low = expect.number(answer.wrong_from, "wrong_from")
    high = expect.number(answer.wrong_to, "wrong_to")
    expect.that(
        0 <= low < high <= 1,
        "wrong_from should be below wrong_to, both in [0, 1].",
    )


# %% hidden
from reparam.exercises import points


@points(2)
def test_gradients(answer, rng):
    """Mean and values of the straight-through gradients."""
    p = 0.1 + 0.8 * torch.rand((), generator=rng).item()
    t = torch.rand((), generator=rng).item()
    found = expect.tensor(
        answer.straight_through(p, t, 40_000), (40_000,), "The gradients"
    )
    expect.mean(
        found, 2 * (p - t), "Your gradients", deviation=2 * (p * (1 - p)) ** 0.5
    )
    two = torch.tensor([-2 * t, 2 * (1 - t)])
    off = (found[:, None] - two).abs().amin(1)
    expect.that(
        bool((off < 1e-4).all()),
        "A gradient comes from neither of the two hard values.",
    )


@points(1)
def test_truths(answer, rng):
    """The exact derivative, anywhere."""
    for p, t in torch.rand(10, 2, generator=rng).tolist():
        expect.close(answer.truth(p, t), 1 - 2 * t, "The truth", atol=1e-5)


@points(2)
def test_where(answer, rng):
    """The interval with the wrong sign."""
    t = answer.given["T"]
    low, high = (0.0, t) if t < 0.5 else (t, 1.0)
    for name, wanted in (("wrong_from", low), ("wrong_to", high)):
        found = expect.number(getattr(answer, name), name)
        expect.that(
            abs(found - wanted) <= 0.021,
            "On your interval the two signs do not differ, or they differ beyond it.",
        )


@points(1)
def test_training(answer, rng):
    """Where training ends."""
    expect.equal(
        answer.training, "t", "Where training ends", options=("minimum", "t", "other end"),
        mistakes={
            "follow the mean of the estimator, not the truth": "minimum",
            "the mean of the estimator changes its sign on the way there": "other end",
        },
    )  # fmt: skip


# %% right: values written down
def straight_through(p, t, n):
    return 2 * ((torch.rand(n) < p).float() - t)


def truth(p, t):
    return 1 - 2 * t


wrong_from, wrong_to = (0.0, T) if T < 0.5 else (T, 1.0)


# %% wrong: differentiates f at the mean
def truth(p, t):
    return 2 * (p - t)


# %% wrong: nothing hard is drawn
def straight_through(p, t, n):
    return torch.full((n,), 2 * (p - t))


# %% wrong: by the logit
def straight_through(p, t, n):
    return 2 * (torch.bernoulli(torch.full((n,), p)) - t) * p * (1 - p)


# %% wrong: the interval on the other side
wrong_from, wrong_to = (T, 1.0) if T < 0.5 else (0.0, T)

# %% wrong: trusts that training finds the minimum
training = "minimum"

# %% solution
r"""
The truth is $f(1)-f(0) = 1-2t$, whatever $p$. The estimator's mean is $\mathbb E[f'(b)] = 2(p-t)$: it is the gradient of another objective, $(p-t)^2$, in which the bit is replaced by its mean. For $t<\tfrac12$ it has the wrong sign for $p<t$, for $t>\tfrac12$ for $p>t$. Descent on it ends at $p=t$, a compromise that no bit can take, while the best $p$ is 0 or 1.
"""

# %% rubric
r"""
Two points for the estimator (a deterministic $2(p-t)$ has the right mean and is not it), one for the truth, two for the interval, one for where training ends.
"""
