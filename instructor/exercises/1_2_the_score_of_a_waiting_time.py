# %% about
"""
title = "The score of a waiting time"
kind = "derivation"
difficulty = 2
minutes = 15
points = 5
objective = "Derive a score, and both terms of a gradient whose integrand depends on the parameter"
after = "The score function"
"""

# %% imports
import torch

# %% text
r"""
A waiting time $z$ is exponential with rate $\lambda = e^{\eta}$: $\log q_\eta(z) = \eta - e^{\eta} z$. We want the derivative by $\eta$ of

$$J(\eta) = \mathbb E_{q_\eta}\!\left[f(z;\eta)\right] \qquad\text{with}\qquad f(z;\eta) = z^2 + \eta z .$$

> **Predict first.** `f` itself contains $\eta$. A plain `backward()` through `f(z, eta)` with `z` from `sample()` finds one term of the derivative. Which of the two is larger in size at $\eta = 0$?

On paper: the score, then the two terms of $J'(\eta)$ apart. Moments: $\mathbb E[z^k] = k!\,e^{-k\eta}$. Each function takes `eta` as a tensor of any shape.
"""


# %% answer
def score(z, eta):
    """∂ log q(z) / ∂η."""
    ### BEGIN SOLUTION
    return 1 - z * torch.exp(torch.as_tensor(eta))
    ### END SOLUTION


def term_of_the_law(eta):
    """The term of J' that comes from the law: E[f · score]."""
    ### BEGIN SOLUTION
    eta = torch.as_tensor(eta)
    return -4 * torch.exp(-2 * eta) - eta * torch.exp(-eta)
    ### END SOLUTION


def term_of_the_integrand(eta):
    """The term of J' that comes from f: E[∂f/∂η]."""
    ### BEGIN SOLUTION
    return torch.exp(-torch.as_tensor(eta))
    ### END SOLUTION


# %% hint
r"""
For the term of the law there is a way without the score: hold the $\eta$ inside $f$ fixed, take the moments as functions of the rate, and differentiate those.
"""

# %% hint
r"""
The other term needs no score: differentiate $f(z;\eta)$ by $\eta$ with $z$ fixed, and take the mean.
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def test_score(answer, rng):
    """The score at one point."""
    found = answer.score(torch.tensor(0.5), torch.tensor(0.3))
    rate = math.exp(0.3)
    expect.close(
        found, torch.tensor(1 - 0.5 * rate), "The score at z = 0.5, η = 0.3",
        mistakes={
            "this is the derivative by λ; by η there is a factor λ more": torch.tensor(1 / rate - 0.5),
            "the normalization η of log q also depends on η": torch.tensor(-0.5 * rate),
            "this is the derivative by z": torch.tensor(-rate),
        },
    )  # fmt: skip


def test_terms(answer, rng):
    """The two terms at η = 0."""
    eta = torch.tensor(0.0)
    law = expect.number(answer.term_of_the_law(eta), "The term of the law")
    other = expect.number(
        answer.term_of_the_integrand(eta), "The term of the integrand"
    )
    expect.that(
        not (abs(law - 1) < 1e-3 and abs(other + 4) < 1e-3),
        "The two terms have changed places: what the law contributes goes through the score.",
    )
    expect.close(
        law, -4.0, "The term of the law",
        mistakes={
            "this is the whole derivative; leave out what f contributes": -3.0,
            "the factor η of f is missing: at η = 0 only z² is left": -5.0,
        },
    )  # fmt: skip
    expect.close(other, 1.0, "The term of the integrand")


# %% hidden
from reparam.exercises import points


def grid(rng):
    return torch.rand(5, generator=rng) * 2 - 1


def quadrature(function, eta):
    """E[function(z)] under the rate e^η, by a fine midpoint rule."""
    z = (torch.arange(200_000, dtype=torch.float64) + 0.5) * 4e-4
    eta = eta.double()[:, None]
    weights = torch.exp(eta - torch.exp(eta) * z) * 4e-4
    return (weights * function(z, eta)).sum(1).float()


@points(2)
def test_any_score(answer, rng):
    """The score by automatic differentiation."""
    eta = grid(rng).requires_grad_()
    z = torch.rand(5, generator=rng) * 3
    (wanted,) = torch.autograd.grad((eta - torch.exp(eta) * z).sum(), eta)
    expect.close(
        answer.score(z, eta.detach()), wanted, "The score", rtol=1e-3, atol=1e-4
    )


@points(2)
def test_law(answer, rng):
    """The term of the law, against quadrature."""
    eta = grid(rng)
    wanted = quadrature(lambda z, e: (z**2 + e * z) * (1 - z * torch.exp(e)), eta)
    expect.close(
        answer.term_of_the_law(eta),
        wanted,
        "The term of the law",
        rtol=1e-3,
        atol=1e-4,
    )


@points(1)
def test_integrand(answer, rng):
    """The term of the integrand, against quadrature."""
    eta = grid(rng)
    wanted = quadrature(lambda z, e: z + 0 * e, eta)
    found = answer.term_of_the_integrand(eta)
    expect.close(found, wanted, "The term of the integrand", rtol=1e-3, atol=1e-4)


# %% right: from the moments
def score(z, eta):
    with torch.enable_grad():
        eta = torch.as_tensor(eta).detach().clone().requires_grad_()
        return torch.autograd.grad((eta - torch.exp(eta) * z).sum(), eta)[0]


def term_of_the_law(eta):
    rate = torch.exp(torch.as_tensor(eta))
    return rate * (-4 / rate**3 - torch.log(rate) / rate**2)


def term_of_the_integrand(eta):
    return 1 / torch.exp(torch.as_tensor(eta))


# %% wrong: the score by the rate
def score(z, eta):
    return torch.exp(-torch.as_tensor(eta)) - z


# %% wrong: the normalization forgotten
def score(z, eta):
    return -z * torch.exp(torch.as_tensor(eta))


# %% wrong: the whole derivative for the term of the law
def term_of_the_law(eta):
    eta = torch.as_tensor(eta)
    return -4 * torch.exp(-2 * eta) - eta * torch.exp(-eta) + torch.exp(-eta)


# %% wrong: the terms have changed places
def term_of_the_law(eta):
    return torch.exp(-torch.as_tensor(eta))


def term_of_the_integrand(eta):
    eta = torch.as_tensor(eta)
    return -4 * torch.exp(-2 * eta) - eta * torch.exp(-eta)


# %% solution
r"""
The score is $1 - e^{\eta}z$; its mean is 0, as it must be. With the $\eta$ in $f$ held fixed, $\mathbb E[f] = 2e^{-2\eta} + \eta e^{-\eta}$ in which only the exponents move: $-4e^{-2\eta} - \eta e^{-\eta}$. The integrand adds $\mathbb E[z] = e^{-\eta}$. At $\eta = 0$ the terms are $-4$ and $+1$: `backward()` through a `sample()` finds the smaller one, with the opposite sign of the whole.
"""

# %% rubric
r"""
Two points for the score, two for the term of the law, one for that of the integrand.
"""
