# %% about
"""
title = "The best constant"
kind = "derivation"
difficulty = 2
minutes = 15
points = 5
objective = "Derive the baseline with the least variance for one bit, and its variance"
after = "The best constant"
"""

# %% imports
import torch

# %% text
r"""
One bit, $b\sim\mathrm{Bernoulli}(p)$ with $p = \mathrm{sigmoid}(\ell)$, and a function with the two values $f_0 = f(0)$ and $f_1 = f(1)$. The score by the logit is $s = b - p$, and the estimate of $\partial\,\mathbb E[f(b)]/\partial\ell$ with a constant baseline is $(f(b) - c)\,s$.

> **Predict first.** Let $p = 0.9$. Is the best $c$ closer to $f_1$, the value that comes nine times in ten, or to $f_0$?

On paper, find the variance as a function of $c$, and the $c$ that makes it smallest. Then write both down as functions. All arguments are numbers or tensors of one shape.
"""


# %% answer
def variance(p, f0, f1, c):
    """The variance of (f(b) - c)(b - p), b ~ Bernoulli(p)."""
    ### BEGIN SOLUTION
    return p * (1 - p) * ((1 - p) * (f1 - c) + p * (f0 - c)) ** 2
    ### END SOLUTION


def best_constant(p, f0, f1):
    """The c with the least variance."""
    ### BEGIN SOLUTION
    return (1 - p) * f1 + p * f0
    ### END SOLUTION


# %% hint
r"""
The estimate has only two values: $(f_1 - c)(1 - p)$ with probability $p$, and $-(f_0 - c)\,p$ with probability $1 - p$. The variance of a variable with two values is $p(1-p)$ times the square of their difference.
"""

# %% hint
r"""
The difference of the two values is linear in $c$. A square is smallest where it is 0, if it can be.
"""

# %% visible
import torch

from reparam.exercises import expect


def two_values(p, f0, f1, c):
    """The variance by summing over the two outcomes."""
    one, zero = (f1 - c) * (1 - p), -(f0 - c) * p
    mean = p * one + (1 - p) * zero
    return p * (one - mean) ** 2 + (1 - p) * (zero - mean) ** 2


def test_variance(answer, rng):
    """The variance without a baseline."""
    p, f0, f1 = 0.9, 1.0, 3.0
    expect.close(
        answer.variance(p, f0, f1, 0.0),
        two_values(p, f0, f1, 0.0),
        "The variance at p = 0.9, f0 = 1, f1 = 3, c = 0",
        mistakes={
            "this is the second moment: the square of the mean is still in it":
                p * (f1 * (1 - p)) ** 2 + (1 - p) * (f0 * p) ** 2,
            "this is the variance of f, and the estimate is f times the score":
                p * (1 - p) * (f1 - f0) ** 2,
        },
    )  # fmt: skip


def test_best(answer, rng):
    """The best constant for a likely 1."""
    p, f0, f1 = 0.9, 1.0, 3.0
    expect.close(
        answer.best_constant(p, f0, f1),
        1.2,
        "The best constant at p = 0.9, f0 = 1, f1 = 3",
        mistakes={
            "this is E[f]. It weighs f by how often a value comes; the variance weighs it by the "
            "square of the score, too, which is small for the likely value": p * f1 + (1 - p) * f0,
            "this is halfway between the two values, which is best for p = 1/2 only": 2.0,
        },
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


def draw(rng, n=50):
    p = 0.02 + 0.96 * torch.rand(n, generator=rng, dtype=torch.float64)
    f0, f1, c = torch.randn(3, n, generator=rng, dtype=torch.float64)
    return p, f0, f1, c


@points(2)
def test_any_variance(answer, rng):
    """The variance for any p, f and constant."""
    p, f0, f1, c = draw(rng)
    expect.close(
        answer.variance(p, f0, f1, c), two_values(p, f0, f1, c), "The variance"
    )


@points(2)
def test_any_best(answer, rng):
    """The best constant is the minimum, and not E[f]."""
    p, f0, f1, _ = draw(rng)
    found = expect.tensor(
        answer.best_constant(p, f0, f1), p.shape, "The best constant"
    )
    grid = torch.linspace(-6, 6, 2401, dtype=torch.float64)[:, None]
    least = two_values(p, f0, f1, grid).argmin(0)
    expect.that(
        bool(((found - grid[least, 0]).abs() < 0.006).all()),
        "Another constant gives less variance than yours.",
    )


@points(1)
def test_no_noise_left(answer, rng):
    """What is left of the variance at the best constant."""
    p, f0, f1, _ = draw(rng)
    left = two_values(p, f0, f1, answer.best_constant(p, f0, f1))
    expect.close(
        left, torch.zeros_like(p), "The variance left at your constant", atol=1e-9
    )


# %% right: E[f s²]/E[s²], summed
def variance(p, f0, f1, c):
    second = p * ((f1 - c) * (1 - p)) ** 2 + (1 - p) * ((f0 - c) * p) ** 2
    return second - (p * (1 - p) * (f1 - f0)) ** 2


def best_constant(p, f0, f1):
    top = p * f1 * (1 - p) ** 2 + (1 - p) * f0 * p**2
    return top / (p * (1 - p) ** 2 + (1 - p) * p**2)


# %% wrong: E[f] for the best constant
def best_constant(p, f0, f1):
    return p * f1 + (1 - p) * f0


# %% wrong: the second moment for the variance
def variance(p, f0, f1, c):
    return p * ((f1 - c) * (1 - p)) ** 2 + (1 - p) * ((f0 - c) * p) ** 2


# %% wrong: the variance of f, the score forgotten
def variance(p, f0, f1, c):
    return p * (1 - p) * (f1 - f0) ** 2


# %% wrong: halfway
def best_constant(p, f0, f1):
    return (f0 + f1) / 2


# %% solution
r"""
The two values differ by $(1-p)(f_1-c) + p(f_0-c)$, which is 0 at $c = (1-p)f_1 + pf_0$: the weights of $\mathbb E[f]$ with their places changed. The likely outcome has the small score, so it is the unlikely one whose height must be taken away. At that constant both outcomes give the same number, the exact gradient $p(1-p)(f_1-f_0)$: for one bit, one sample with the best constant has no variance at all. Finding that constant takes both values of $f$, with which we could have summed.
"""

# %% rubric
r"""
Two points for the variance, two for the constant, one for seeing that nothing is left. $\mathbb E[f]$ gets the two points of the variance only.
"""
