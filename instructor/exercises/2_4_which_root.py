# %% about
"""
title = "Which root?"
kind = "measurement"
difficulty = 3
minutes = 25
points = 6
objective = "Measure which of two maps to one law has the quieter gradient, for a given f"
after = "The map is not unique"
"""

# %% imports
import torch

# %% given
RHO = 0.5  # or 0.8, -0.6

# %% text
r"""
Two variables with mean 0, variance 1 and correlation $\rho$. Any $L$ with $LL^\top = \Sigma$ gives the law, $z = L\varepsilon$, and each gives an estimate of $\partial\,\mathbb E[f(z)]/\partial\rho$ with the same mean. Compare the lower triangular root (Cholesky) with the symmetric one, at $\rho = «RHO»$.

1. `cholesky(rho, eps)` and `symmetric(rho, eps)`: samples `[n, 2]` for `rho` of shape `[n]` and noise `[n, 2]`, differentiable in `rho`. The symmetric root of $\Sigma$ has the eigenvectors $(1, \pm1)/\sqrt2$ and the eigenvalues $\sqrt{1\pm\rho}$.
2. Measure the variance of the two gradient estimates for $f = z_1^2$, $f = z_2^2$ and $f = z_1z_2$. `quieter`: for these three, in this order, a list of `"cholesky"` or `"symmetric"`.
3. `ratio`: for $f = z_1z_2$, the variance with Cholesky divided by that with the symmetric root, to 10 %.

> **Predict first.** For $f = z_1^2$, what does the Cholesky estimate look like, before you compute anything?
"""


# %% answer
def cholesky(rho, eps):
    """[n, 2] samples through the lower triangular root."""
    ### BEGIN SOLUTION
    first, second = eps.unbind(-1)
    return torch.stack([first, rho * first + torch.sqrt(1 - rho**2) * second], -1)
    ### END SOLUTION


def symmetric(rho, eps):
    """[n, 2] samples through the symmetric root."""
    ### BEGIN SOLUTION
    first, second = eps.unbind(-1)
    along, across = torch.sqrt(1 + rho), torch.sqrt(1 - rho)
    a, b = (along + across) / 2, (along - across) / 2
    return torch.stack([a * first + b * second, b * first + a * second], -1)
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
def _variance(root, f, n=200_000):
    rho = torch.full((n,), RHO, requires_grad=True)
    eps = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    (slopes,) = torch.autograd.grad(
        f(root(rho, eps)).sum(), rho, allow_unused=True
    )
    return 0.0 if slopes is None else slopes.var().item()


_costs = [
    lambda z: z[:, 0] ** 2,
    lambda z: z[:, 1] ** 2,
    lambda z: z[:, 0] * z[:, 1],
]
_pairs = [(_variance(cholesky, f), _variance(symmetric, f)) for f in _costs]
quieter = ["cholesky" if c < s else "symmetric" for c, s in _pairs]
ratio = _pairs[2][0] / _pairs[2][1]
### END SOLUTION

# %% hint
r"""
With `rho` a tensor of `n` equal entries, one backward through `f(z).sum()` gives `n` gradient estimates. For $z_1^2$ and Cholesky there may be no path at all: `allow_unused=True`.
"""

# %% hint
r"""
The symmetric root is $\begin{pmatrix}a&b\\b&a\end{pmatrix}$ with $a, b = (\sqrt{1+\rho}\pm\sqrt{1-\rho})/2$.
"""

# %% visible
import torch

from reparam.exercises import expect


def root_of(function, rho):
    """The matrix that a linear sampler multiplies the noise with."""
    rows = function(torch.full((2,), rho), torch.eye(2))
    return expect.tensor(rows, (2, 2), "The samples").detach().mT


def covariance(rho):
    return torch.tensor([[1.0, rho], [rho, 1.0]])


def test_law(answer, rng):
    """Both roots give the law."""
    for name in ("cholesky", "symmetric"):
        L = root_of(getattr(answer, name), 0.3)
        what = f"L Lᵀ of {name}, at ρ = 0.3"
        expect.close(
            L @ L.mT, covariance(0.3), what,
            mistakes={"this multiplies the noise with Σ itself, not with a root of it":
                      covariance(0.3) @ covariance(0.3)},
        )  # fmt: skip


def test_form(answer, rng):
    """One is triangular, the other symmetric."""
    L, S = root_of(answer.cholesky, 0.3), root_of(answer.symmetric, 0.3)
    expect.that(
        abs(float(L[0, 1])) < 1e-6,
        "The Cholesky root is lower triangular; yours is not.",
    )
    expect.that(
        bool((S - S.mT).abs().max() < 1e-6),
        "The symmetric root is not symmetric.",
    )


def test_answers(answer, rng):
    """Three words and a number."""
    words = answer.quieter
    expect.that(
        isinstance(words, (list, tuple)) and len(words) == 3,
        "quieter has three words.",
    )
    for word in words:
        expect.that(
            word in ("cholesky", "symmetric"), "quieter holds other words."
        )
    expect.number(answer.ratio, "ratio")


# %% hidden
from reparam.exercises import points


@points(2)
def test_roots(answer, rng):
    """The roots, anywhere, and their slopes."""
    for rho in (torch.rand(3, generator=rng) * 1.6 - 0.8).tolist():
        for name in ("cholesky", "symmetric"):
            L = root_of(getattr(answer, name), rho)
            expect.close(L @ L.mT, covariance(rho), f"L Lᵀ of {name}", atol=1e-5)
        S = root_of(answer.symmetric, rho)
        expect.close(S, S.mT.contiguous(), "The symmetric root", atol=1e-5)
        expect.that(
            float(torch.linalg.eigvalsh(S)[0]) > 0,
            "The symmetric root is not positive.",
        )
    n = 20_000
    eps = torch.randn(n, 2, generator=rng)
    for name in ("cholesky", "symmetric"):
        rho = torch.full((n,), 0.4, requires_grad=True)
        z = getattr(answer, name)(rho, eps)
        slopes = expect.gradients(z[:, 0] * z[:, 1], rho=rho)["rho"]
        expect.mean(
            slopes, 1.0, f"The slope of E[z₁z₂] through {name}", deviation=1.6
        )


@points(2)
def test_choice(answer, rng):
    """Which root is quieter, for each f."""
    expect.that(
        list(answer.quieter) == ["cholesky", "symmetric", "symmetric"],
        "For at least one f the other root is quieter: measure both with the same noise.",
    )


@points(2)
def test_ratio(answer, rng):
    """The ratio of the variances."""
    rho = answer.given["RHO"]
    right = 2 + rho**2 / (1 - rho**2)
    expect.close(
        answer.ratio,
        right,
        "The ratio",
        rtol=0.12,
        mistakes={"its inverse": 1 / right},
    )


# %% right: torch's Cholesky, and eigenvectors
def cholesky(rho, eps):
    one = torch.ones_like(rho)
    matrix = torch.stack(
        [torch.stack([one, rho], -1), torch.stack([rho, one], -1)], -2
    )
    return (torch.linalg.cholesky(matrix) @ eps.unsqueeze(-1)).squeeze(-1)


def symmetric(rho, eps):
    plus = (eps[:, 0] + eps[:, 1]) / 2 * torch.sqrt(1 + rho)
    minus = (eps[:, 0] - eps[:, 1]) / 2 * torch.sqrt(1 - rho)
    return torch.stack([plus + minus, plus - minus], -1)


quieter = ["cholesky", "symmetric", "symmetric"]
ratio = 2 + RHO**2 / (1 - RHO**2)


# %% wrong: multiplies with Σ
def symmetric(rho, eps):
    first, second = eps.unbind(-1)
    return torch.stack([first + rho * second, rho * first + second], -1)


# %% wrong: forgets what is left of the variance
def cholesky(rho, eps):
    first, second = eps.unbind(-1)
    return torch.stack([first, rho * first + (1 - rho) * second], -1)


# %% wrong: one root for all
quieter = ["symmetric", "symmetric", "symmetric"]

# %% wrong: the ratio upside down
ratio = 1 / (2 + RHO**2 / (1 - RHO**2))

# %% solution
r"""
In the triangular root $z_1 = \varepsilon_1$ does not depend on $\rho$ at all: for $f = z_1^2$ its estimate is exactly 0, the truth, without noise, and no symmetric root can beat that. For $z_2^2$ the triangular root carries the whole dependence and is the louder one. For $z_1z_2$ the symmetric estimate is $(\varepsilon_1^2+\varepsilon_2^2)/2$ with variance 1, the triangular one $\varepsilon_1^2 - \frac{\rho}{\sqrt{1-\rho^2}}\varepsilon_1\varepsilon_2$ with variance $2 + \rho^2/(1-\rho^2)$. Neither root is always better; the law does not say which to take, $f$ does.
"""

# %% rubric
r"""
Two points for the roots, two for the three choices together, two for the ratio at the cohort's own $\rho$.
"""
