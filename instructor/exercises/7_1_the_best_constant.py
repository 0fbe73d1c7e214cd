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
One bit, $b\sim\mathrm{Bernoulli}(\theta)$ with $\theta = \sigma(\lambda)$, and a function with the two values $f_0 = f(0)$ and $f_1 = f(1)$. The score by the logit is $s = b - \theta$, and the estimate of $\partial\,\mathbb E[f(b)]/\partial\lambda$ with a constant baseline is $(f(b) - \beta)\,s$.

> **Predict first.** Let $\theta = 0.9$. Is the best $\beta$ closer to $f_1$, the value that comes nine times in ten, or to $f_0$?

On paper, find the variance as a function of $\beta$, and the $\beta$ that makes it smallest. Then write both down as functions. All arguments are numbers or tensors of one shape.
"""


# %% answer
def variance(theta, f0, f1, beta):
    """The variance of (f(b) - beta)(b - theta), b ~ Bernoulli(theta)."""
    ### BEGIN SOLUTION
    return (
        theta
        * (1 - theta)
        * ((1 - theta) * (f1 - beta) + theta * (f0 - beta)) ** 2
    )
    ### END SOLUTION


def best_constant(theta, f0, f1):
    """The beta with the least variance."""
    ### BEGIN SOLUTION
    return (1 - theta) * f1 + theta * f0
    ### END SOLUTION


# %% hint
r"""
The estimate has only two values: $(f_1 - \beta)(1 - \theta)$ with probability $\theta$, and $-(f_0 - \beta)\,\theta$ with probability $1 - \theta$. The variance of a variable with two values is $\theta(1-\theta)$ times the square of their difference.
"""

# %% hint
r"""
The difference of the two values is linear in $\beta$. A square is smallest where it is 0, if it can be.
"""

# %% visible
import torch

from reparam.exercises import expect


def test_variance(answer, rng):
    """The variance without a baseline."""
    # The estimate is 3 · 0.1 in nine cases of ten, and 1 · (-0.9) in the tenth.
    mean = 0.9 * 0.3 - 0.1 * 0.9
    second = 0.9 * 0.3**2 + 0.1 * 0.9**2
    expect.close(
        answer.variance(0.9, 1.0, 3.0, 0.0), second - mean**2,
        "The variance at θ = 0.9, f0 = 1, f1 = 3, β = 0",
        mistakes={
            "this is the second moment: the square of the mean is still in it": second,
            "this is the variance of f, and the estimate is f times the score":
                0.9 * 0.1 * 2**2,
        },
    )  # fmt: skip


def test_constants(answer, rng):
    """The variance when f and the baseline are raised alike, and when f is the baseline."""
    expect.close(
        answer.variance(0.9, 11.0, 13.0, 10.0), answer.variance(0.9, 1.0, 3.0, 0.0),
        "The variance with 10 more in f and in β",
    )  # fmt: skip
    expect.close(
        answer.variance(0.7, 2.0, 2.0, 2.0), 0.0, "The variance where f is β"
    )


def test_best(answer, rng):
    """The best constant for a likely 1."""
    expect.close(
        answer.best_constant(0.9, 1.0, 3.0), 1.2,  # (3 - β) · 0.1 = (1 - β) · (-0.9)
        "The best constant at θ = 0.9, f0 = 1, f1 = 3",
        mistakes={
            "this is E[f], which weighs each value by how often it comes. The best constant also "
            "weighs it by the squared score, which is small for the likely value":
                0.9 * 3 + 0.1 * 1,
            "this is halfway between the two values, which is best for θ = 1/2 only": 2.0,
        },
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


def two_values(theta, f0, f1, beta):
    """The variance by summing over the two outcomes."""
    one, zero = (f1 - beta) * (1 - theta), -(f0 - beta) * theta
    mean = theta * one + (1 - theta) * zero
    return theta * (one - mean) ** 2 + (1 - theta) * (zero - mean) ** 2


def draw(rng, n=50):
    theta = 0.02 + 0.96 * torch.rand(n, generator=rng, dtype=torch.float64)
    f0, f1, beta = torch.randn(3, n, generator=rng, dtype=torch.float64)
    return theta, f0, f1, beta


@points(2)
def test_any_variance(answer, rng):
    """The variance for any θ, f and constant."""
    theta, f0, f1, beta = draw(rng)
    expect.close(
        answer.variance(theta, f0, f1, beta),
        two_values(theta, f0, f1, beta),
        "The variance",
    )


@points(2)
def test_any_best(answer, rng):
    """The best constant is the minimum, and not E[f]."""
    theta, f0, f1, _ = draw(rng)
    found = expect.tensor(
        answer.best_constant(theta, f0, f1), theta.shape, "The best constant"
    )
    grid = torch.linspace(-6, 6, 2401, dtype=torch.float64)[:, None]
    least = two_values(theta, f0, f1, grid).argmin(0)
    expect.that(
        bool(((found - grid[least, 0]).abs() < 0.006).all()),
        "Another constant gives less variance than yours.",
    )


@points(1)
def test_no_noise_left(answer, rng):
    """What is left of the variance at the best constant."""
    theta, f0, f1, _ = draw(rng)
    left = two_values(theta, f0, f1, answer.best_constant(theta, f0, f1))
    expect.close(
        left,
        torch.zeros_like(theta),
        "The variance left at your constant",
        atol=1e-9,
    )


# %% right: E[f s²]/E[s²], summed
def variance(theta, f0, f1, beta):
    second = (
        theta * ((f1 - beta) * (1 - theta)) ** 2
        + (1 - theta) * ((f0 - beta) * theta) ** 2
    )
    return second - (theta * (1 - theta) * (f1 - f0)) ** 2


def best_constant(theta, f0, f1):
    top = theta * f1 * (1 - theta) ** 2 + (1 - theta) * f0 * theta**2
    return top / (theta * (1 - theta) ** 2 + (1 - theta) * theta**2)


# %% wrong: E[f] for the best constant
def best_constant(theta, f0, f1):
    return theta * f1 + (1 - theta) * f0


# %% wrong: the second moment for the variance
def variance(theta, f0, f1, beta):
    return (
        theta * ((f1 - beta) * (1 - theta)) ** 2
        + (1 - theta) * ((f0 - beta) * theta) ** 2
    )


# %% wrong: the variance of f, the score forgotten
def variance(theta, f0, f1, beta):
    return theta * (1 - theta) * (f1 - f0) ** 2


# %% wrong: halfway
def best_constant(theta, f0, f1):
    return (f0 + f1) / 2


# %% solution
r"""
The two values differ by $(1-\theta)(f_1-\beta) + \theta(f_0-\beta)$, which is 0 at $\beta = (1-\theta)f_1 + \theta f_0$: the weights of $\mathbb E[f]$ with their places changed. The likely outcome has the small score, so it is the unlikely one whose height must be taken away. At that constant both outcomes give the same number, the exact gradient $\theta(1-\theta)(f_1-f_0)$: for one bit, one sample with the best constant has no variance at all. Finding that constant takes both values of $f$, with which we could have summed.
"""

# %% rubric
r"""
Two points for the variance, two for the constant, one for seeing that nothing is left. $\mathbb E[f]$ gets the two points of the variance only.
"""
