# %% about
"""
title = "Same samples, other slopes"
kind = "measurement"
difficulty = 3
minutes = 25
points = 7
objective = "Measure which map to a law gives the quietest gradient for a given f"
after = "The map is not unique"
"""

# %% imports
import torch

# %% given
RHO = 0.6
WEIGHT = 0.3  # or 0.2, 2.0

# %% text
r"""
Turned noise is noise of the same law. So, for $z\sim N(0,\Sigma)$ with variances 1 and correlation $\rho$, we may turn $\varepsilon$ before the Cholesky root, by an angle that depends on $\rho$: here by $w\,(\rho - «RHO»)$. Each number $w$ is a map to the same law. At $\rho = «RHO»$ the angle is 0, so that *the samples are the same for every* $w$. Two maps of the chapter are among them: $w = 0$ is Cholesky, and $w = -\tfrac12/\sqrt{1-\rho^2}$ has, at $\rho = «RHO»$, the gradient estimates of the symmetric root (for turned noise).

Take $f(z) = (z_1 + «WEIGHT»\,z_2)^2$.
"""


# %% code
def turned(rho, eps, w):
    """[n, 2] samples for rho [n] and noise [n, 2]: turn, then Cholesky."""
    angle = w * (rho - RHO)
    x = torch.cos(angle) * eps[:, 0] - torch.sin(angle) * eps[:, 1]
    y = torch.sin(angle) * eps[:, 0] + torch.cos(angle) * eps[:, 1]
    return torch.stack([x, rho * x + torch.sqrt(1 - rho**2) * y], -1)


def f_of_two(z):
    return (z[:, 0] + WEIGHT * z[:, 1]) ** 2


# %% text
r"""
> **Predict first.** The samples do not depend on $w$. Does the mean of the gradient estimates? Does their variance?

1. `slopes(w, eps)`: for noise `[n, 2]` the `n` pathwise estimates of $\partial\,\mathbb E[f(z)]/\partial\rho$ at $\rho = «RHO»$.
2. Measure their variance for several $w$, with 100,000 draws or more. `quieter`: `"cholesky"` or `"symmetric"`; `best_w`: the $w$ with the least variance, to 0.03; `gain`: the variance of Cholesky divided by the least one, to 10 %.
"""


# %% answer
def slopes(w, eps):
    """[n] estimates of the derivative by ρ, at ρ = RHO."""
    ### BEGIN SOLUTION
    rho = torch.full((len(eps),), RHO, requires_grad=True)
    total = f_of_two(turned(rho, eps, w)).sum()
    return torch.autograd.grad(total, rho)[0]
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
_noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
_grid = torch.linspace(-2, 1, 7)
_variances = torch.stack([slopes(w, _noise).var() for w in _grid])
_powers = torch.stack([torch.ones(7), _grid, _grid**2], -1)
_a, _b, _c = torch.linalg.lstsq(_powers, _variances[:, None]).solution[:, 0]
best_w = (-_b / (2 * _c)).item()
_of_symmetric = slopes(-0.5 / (1 - RHO**2) ** 0.5, _noise).var()
quieter = "cholesky" if _variances[4] < _of_symmetric else "symmetric"
gain = (_variances[4] / slopes(best_w, _noise).var()).item()
### END SOLUTION

# %% hint
r"""
With `rho` a tensor of `n` equal entries, one backward through `f_of_two(…).sum()` gives `n` separate estimates.
"""

# %% hint
r"""
The slope of the angle is $w$, so that an estimate is $g_0 + w\,g_1$, and its variance a parabola in $w$. Three values of $w$ determine it. Use the same noise for all of them.
"""

# %% hint
r"""
The bottom of the parabola is at $w = -\mathrm{Cov}(g_0, g_1)/\mathrm{Var}(g_1)$.
"""

# %% visible
import torch

from reparam.exercises import expect


def test_slopes(answer, rng):
    """The draws (1, 0) and (0, 1), with w = 1."""
    rho, weight = answer.given["RHO"], answer.given["WEIGHT"]
    s = (1 - rho**2) ** 0.5
    # With a the angle, (1, 0) goes to (cos a, ρ cos a + s sin a) and (0, 1) to
    # (-sin a, s cos a - ρ sin a). By ρ, a has the slope w = 1 and s has -ρ/s.
    seen = torch.tensor([1 + weight * rho, weight * s])
    by_turn = torch.tensor([weight * s, -1 - weight * rho])
    by_root = torch.tensor([weight, -weight * rho / s])
    right = 2 * seen * (by_root + by_turn)
    expect.close(
        answer.slopes(1.0, torch.eye(2)), right, "What slopes returns for w = 1",
        rtol=1e-3, atol=1e-4,
        mistakes={
            "each is divided by n: differentiate the sum, not the mean": right / 2,
            "the turn is missing; it moves the samples as ρ moves, though its angle is 0":
                2 * seen * by_root,
        },
    )  # fmt: skip


def test_mean(answer, rng):
    """E[f] = 1 + A² + 2Aρ, with A the weight of z₂: its slope knows no w."""
    weight = answer.given["WEIGHT"]
    eps = torch.randn(20_000, 2, generator=rng)
    for w in (0.0, 1.0):
        found = answer.slopes(w, eps)
        what = f"The mean of the slopes for w = {w:g}"
        expect.mean(found, 2 * weight, what, deviation=6 * (1 + weight) ** 2)


def test_bottom(answer, rng):
    """best_w beside its neighbors."""
    w = expect.number(answer.best_w, "best_w")
    eps = torch.randn(20_000, 2, generator=rng)
    here, left, right = (
        answer.slopes(v, eps).var() for v in (w, w - 0.2, w + 0.2)
    )
    for side, there in (("smaller", left), ("larger", right)):
        expect.that(
            bool(there > here),
            f"A {side} w has less variance than your best_w: go on that way. "
            "Neither root of the chapter need be the best.",
        )


def test_decision(answer, rng):
    """Choice and gain follow from your own slopes."""
    eps = torch.randn(20_000, 2, generator=rng)
    of_symmetric = -0.5 / (1 - answer.given["RHO"] ** 2) ** 0.5
    turns = (0.0, of_symmetric, answer.best_w)
    of_cholesky, of_symmetric, least = (
        float(answer.slopes(w, eps).var()) for w in turns
    )
    quieter = "cholesky" if of_cholesky < of_symmetric else "symmetric"
    sentence = (
        "with your own slopes and fresh noise the other root is the quieter"
    )
    expect.equal(
        answer.quieter, quieter, "quieter",
        options=("cholesky", "symmetric"),
        mistakes={sentence: {"cholesky": "symmetric"}.get(quieter, "cholesky")},
    )  # fmt: skip
    ratio = of_cholesky / least
    expect.close(
        answer.gain, ratio, "gain, compared with your own slopes and best_w",
        rtol=0.2, atol=0,
        mistakes={
            "this is its inverse; Cholesky's variance is divided by the least": 1 / ratio,
            "this is a ratio of standard deviations": ratio**0.5,
        },
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


def by_hand(w, eps, rho, weight):
    """The estimates, from the derivatives of root and turn written out."""
    root = torch.tensor([[1.0, 0.0], [rho, (1 - rho**2) ** 0.5]])
    moved = torch.tensor([[0.0, 0.0], [1.0, -rho / (1 - rho**2) ** 0.5]])
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    seen = torch.tensor([1.0, weight])
    z, dz = eps @ root.T, eps @ (moved + w * root @ turn).T
    return 2 * (z @ seen) * (dz @ seen)


def parabola(rho, weight):
    """(best w, least variance, curvature) by traces: Var[εᵀBε] = 2 tr(B²), B symmetric."""
    s = (1 - rho**2) ** 0.5
    root = torch.tensor([[1.0, 0.0], [rho, s]], dtype=torch.float64)
    moved = torch.tensor([[0.0, 0.0], [1.0, -rho / s]], dtype=torch.float64)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    seen = torch.tensor([1.0, weight], dtype=torch.float64)
    inner = root.T @ torch.outer(seen, seen)
    parts = [inner @ moved, inner @ root @ turn]
    first, second = (part + part.T for part in parts)
    best = -float((first * second).sum() / (second * second).sum())
    least = 2 * float(((first + best * second) ** 2).sum())
    return best, least, 2 * float((second**2).sum())


@points(2)
def test_any_slopes(answer, rng):
    """The estimates, for any w and any noise."""
    rho, weight = answer.given["RHO"], answer.given["WEIGHT"]
    for w in (2 * torch.randn(3, generator=rng)).tolist():
        eps = torch.randn(50, 2, generator=rng)
        right = by_hand(w, eps, rho, weight)
        expect.close(
            answer.slopes(w, eps),
            right,
            "What slopes returns",
            rtol=1e-3,
            atol=1e-3,
        )


@points(1)
def test_choice(answer, rng):
    """The quieter of the chapter's two roots, by the answer's own slopes too."""
    best, _, _ = parabola(answer.given["RHO"], answer.given["WEIGHT"])
    of_symmetric = -0.5 / (1 - answer.given["RHO"] ** 2) ** 0.5
    nearer = "cholesky" if abs(best) < abs(best - of_symmetric) else "symmetric"
    options = ("cholesky", "symmetric")
    expect.equal(answer.quieter, nearer, "The quieter root", options=options)
    eps = torch.randn(20_000, 2, generator=rng)
    variances = [float(answer.slopes(w, eps).var()) for w in (0.0, of_symmetric)]
    expect.that(
        variances[options.index(nearer)] < 0.8 * max(variances),
        "By the variances of your own slopes it is not the quieter root.",
    )


@points(2)
def test_best(answer, rng):
    """The turn with the least variance."""
    rho, weight = answer.given["RHO"], answer.given["WEIGHT"]
    best, _, _ = parabola(rho, weight)
    expect.close(
        answer.best_w, best, "best_w", rtol=0, atol=0.04,
        mistakes={
            "the sign": -best,
            "this is the symmetric root, and another map is quieter":
                -0.5 / (1 - rho**2) ** 0.5,
            "this is Cholesky, and another map is quieter": 0.0,
        },
    )  # fmt: skip


@points(2)
def test_any_gain(answer, rng):
    """The gain over Cholesky."""
    best, least, curvature = parabola(answer.given["RHO"], answer.given["WEIGHT"])
    right = 1 + curvature * best**2 / least
    expect.close(
        answer.gain, right, "gain", rtol=0.12, atol=0,
        mistakes={
            "this is its inverse": 1 / right,
            "this is a ratio of standard deviations": right**0.5,
        },
    )  # fmt: skip


# %% right: the slope of the angle as a control variate
def slopes(w, eps):
    x, y = eps[:, 0], eps[:, 1]
    s = (1 - RHO**2) ** 0.5
    along = x + WEIGHT * (RHO * x + s * y)
    by_root = WEIGHT * (x - RHO / s * y)
    by_turn = -y + WEIGHT * (s * x - RHO * y)
    return 2 * along * (by_root + w * by_turn)


_draws = torch.randn(300_000, 2)
_plain = slopes(0.0, _draws)
_both = torch.cov(torch.stack([_plain, slopes(1.0, _draws) - _plain]))
best_w = -_both[0, 1] / _both[1, 1]
gain = _both[0, 0] / (_both[0, 0] - _both[0, 1] ** 2 / _both[1, 1])
quieter = (
    "symmetric"
    if slopes(-0.5 / (1 - RHO**2) ** 0.5, _draws).var() < _both[0, 0]
    else "cholesky"
)


# %% idle: slopes without f, and guesses
def slopes(w, eps):
    return eps[:, 0] + 0 * w


quieter, best_w, gain = "cholesky", 0.0, 1.0


# %% idle: slopes without f, and the other guesses
def slopes(w, eps):
    return 0 * eps[:, 0]


quieter, best_w, gain = "symmetric", -0.5 / (1 - RHO**2) ** 0.5, 2.0


# %% wrong: differentiates the mean
def slopes(w, eps):
    rho = torch.full((len(eps),), RHO, requires_grad=True)
    average = f_of_two(turned(rho, eps, w)).mean()
    return torch.autograd.grad(average, rho)[0]


# %% wrong: drops the turn, since its angle is 0
def slopes(w, eps):
    rho = torch.full((len(eps),), RHO, requires_grad=True)
    total = f_of_two(turned(rho, eps, 0.0)).sum()
    return torch.autograd.grad(total, rho)[0]


# %% wrong: takes the better of two roots for the best map
best_w = 0.0 if quieter == "cholesky" else -0.5 / (1 - RHO**2) ** 0.5

# %% wrong: a ratio of standard deviations
gain = gain**0.5

# %% wrong: the other root
quieter = {"cholesky": "symmetric", "symmetric": "cholesky"}[quieter]

# %% solution
r"""
The mean does not depend on $w$, since the law does not; the variance does. An estimate is $g_0 + w\,g_1$, where $g_1$ is what turning alone does to $f$. Turning leaves the law as it is, so $\mathbb E[g_1] = 0$: the choice of the map is a control variate. With $P = 1 + A\rho$ and $Q = A\sqrt{1-\rho^2}$, where $A$ is the weight of $z_2$, the variance is least at

$$w^\ast = -\frac{A\,(Q + P\rho/\sqrt{1-\rho^2})}{P^2+Q^2},$$

where it is $8A^2$. At $\rho = 0.6$ and $A = 0.2, 0.3, 2$: $w^\ast = -0.156, -0.233, -0.878$ and gains 1.50, 1.63, 6.28. The symmetric root ($w = -0.625$) is the quieter of the two only where $w^\ast$ is beyond half of that, here for $A = 2$. What the best map does: $f$ sees $z$ along one direction, and the map moves the samples along it by stretching alone, as in one dimension.
"""

# %% rubric
r"""
Two points for the estimates, one for the choice, two for the best turn, two for the gain, all at the cohort's own weight. A coarse grid of $w$ (steps of 0.25) with a right procedure: one of two for the best turn.
"""
