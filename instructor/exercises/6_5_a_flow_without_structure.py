# %% about
"""
title = "A flow without structure"
kind = "harder"
difficulty = 5
minutes = 45
points = 10
objective = "Invert a residual flow to a guaranteed accuracy, and estimate its log-determinant"
after = "Triangular Jacobians"
"""

# %% imports
import torch
from torch.distributions import Geometric

# %% text
r"""
Every family of the chapter buys a cheap determinant with structure. A *residual flow* (Chen et al. 2019) does without: $z' = z+g(z)$ with any $g$ for which $\lVert g(a)-g(b)\rVert\le L\,\lVert a-b\rVert$ and $L<1$.

**The inverse.** $z$ solves $z = y-g(z)$; start at $z = y$ and repeat. After a step of length $d$ the remaining error is at most $\frac{L}{1-L}\,d$ (why?). `invert(g, y, L, tolerance)` returns $z$ `[n, D]` with every row guaranteed within `tolerance` by this bound, and stops as soon as it is.

**The determinant.** With $G = \partial g/\partial z$,

$$\log\det(I+G) = \sum_{k\ge1}\frac{(-1)^{k+1}}{k}\,\mathrm{tr}(G^k),\qquad \mathrm{tr}(G^k) = \mathbb E[v^\top G^kv]$$

for random signs $v$. Infinitely many terms, yet an unbiased estimate needs few: stop at a random $N$, and make up for it. `log_det_estimates(jvp, v, stop, p)` returns `[n]` estimates, whose means are *exactly* the log-determinants. Row $i$ has signs `v[i]` and uses the terms $k\le N_i$ = `stop[i]`, with $P(N\ge k) = (1-p)^{k-1}$. `jvp(x)` multiplies each row of `x` `[n, D]` by its own $G$; call it at most `stop.max()` times.

> **Predict first.** If the sum is just cut at $N$, is the mean off a little, or is the noise only larger?
"""


# %% code
def signs_and_stops(n, dim, p):
    """Random signs [n, dim], and when to stop [n]: 1, 2, …"""
    signs = 2.0 * torch.randint(2, (n, dim)) - 1
    return signs, 1 + Geometric(torch.tensor(p)).sample((n,)).long()


# %% answer
def invert(g, y, L, tolerance):
    """[n, D]: the z with z + g(z) = y, each row within tolerance (Euclidean)."""
    ### BEGIN SOLUTION
    z, error = y, float("inf")
    while error > tolerance:
        new = y - g(z)
        error = L / (1 - L) * (new - z).norm(dim=-1).max().item()
        z = new
    return z
    ### END SOLUTION


def log_det_estimates(jvp, v, stop, p):
    """[n]: unbiased estimates of log det(I + G), one for each row."""
    ### BEGIN SOLUTION
    total, x = torch.zeros_like(v[:, 0]), v
    for k in range(1, int(stop.max()) + 1):
        x = jvp(x)
        term = (-1) ** (k + 1) / k * (v * x).sum(-1) / (1 - p) ** (k - 1)
        total = total + torch.where(stop >= k, term, 0.0)
    return total
    ### END SOLUTION


# %% hint
r"""
For the bound: the steps shrink at least by a factor of $L$ each time, so what is still to come is at most $d\,(L+L^2+\dots)$.
"""

# %% hint
r"""
$v^\top G^kv$ needs no matrix: multiply $v$ by $G$ again and again, and take the dot product with the *first* $v$ each time.
"""

# %% hint
r"""
Term $k$ is in the sum with probability $P(N\ge k)$. What must it be divided by so that its mean is the whole term? Use $P(N\ge1) = 1$ to check the exponent.
"""

# %% hint
r"""
Rows stop at different times. Go on until the last one stops, and add a term only where `stop >= k`.
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def counted(g, most):
    """g, a function of z alone, and the list that grows with each of its calls."""
    calls = []

    def counting(z):
        calls.append(1)
        expect.that(
            len(calls) < most,
            f"invert calls g {most} times, and goes on. When does it stop?",
        )
        return g(z)

    return counting, calls


def shrinking(rate):
    """The slowest case: every step is `rate` times the last."""
    return lambda z: -rate * z


def test_invert(answer, rng):
    """The inverse is as close as it promises, and does not work on."""
    y = torch.tensor([[1.0, 2.0], [0.0, 0.1]], dtype=torch.float64)
    for rate, tolerance, most in ((0.8, 1e-2, 40), (0.1, 1e-3, 8)):
        g, steps = counted(shrinking(rate), 1000)
        found = expect.tensor(
            answer.invert(g, y, rate, tolerance), (2, 2), "The inverse"
        )
        off = float((found - y / (1 - rate)).norm(dim=-1).max())
        expect.that(
            off <= 1.05 * tolerance,
            "The inverse is off by more than the tolerance. Is each row within it? And a "
            "small step does not mean a small error: with L = 0.8 four times the step may "
            "still be to come.",
        )
        expect.that(
            len(steps) <= most, "g is called more often than the bound asks for."
        )


def enumerated(p, dim, top=25):
    """All signs times all stops up to `top`, and the probability of each pair."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * dim).reshape(
        -1, dim
    )
    stop = torch.arange(1, top + 1)
    chance = p * (1 - p) ** (stop - 1.0).double()
    v = signs.double().repeat_interleave(top, 0)
    return v, stop.repeat(len(signs)), chance.repeat(len(signs)) / len(signs)


def slips(G, p, top=60):
    """{sentence: the mean of the estimates under this mistake}, from the traces."""
    traces, power = [], torch.eye(len(G), dtype=torch.float64)
    for _ in range(top):
        power = power @ G
        traces.append(power.trace())
    k = torch.arange(1, top + 1, dtype=torch.float64)
    right = torch.stack(traces) * -((-1.0) ** k) / k
    there = (1 - p) ** (k - 1)  # P(N ≥ k)
    means = {
        "the sum is cut off at N and nothing makes up for it. Term k is there with "
        "probability P(N ≥ k) only": right * there,
        "all is too large by 1/(1-p). With which probability is the first term there?":
            right / (1 - p),
        "the terms are divided by P(N = k), the chance to stop at k, and are there "
        "whenever N is k or more": right / p,
        "the signs do not alternate": right * -((-1.0) ** k),
        "1/k is missing": right * k,
        "the sign is that of -log det(I + G)": -right,
    }  # fmt: skip
    return {sentence: float(terms.sum()) for sentence, terms in means.items()}


def mean_estimate(answer, G, p):
    v, stop, chance = enumerated(p, len(G))
    found = answer.log_det_estimates(lambda x: x @ G.mT, v, stop, p)
    found = expect.tensor(found, (len(v),), "The estimates").detach().double()
    return float((found * chance).sum())


def test_unbiased(answer, rng):
    """The mean over all signs and all stops is the log-determinant."""
    G = torch.tensor([[0.3, 0.2], [-0.1, 0.25]], dtype=torch.float64)
    expect.close(
        mean_estimate(answer, G, 0.4), float(torch.logdet(torch.eye(2) + G)),
        "The mean of the estimates", atol=1e-4, mistakes=slips(G, 0.4),
    )  # fmt: skip


def test_two_terms(answer, rng):
    """Single estimates that stop after one and after two terms."""
    G = torch.tensor([[0.3, 0.2], [-0.1, 0.25]])
    v = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    found = answer.log_det_estimates(
        lambda x: x @ G.mT, v, torch.tensor([1, 2]), 0.5
    )
    first, second = float(v[0] @ G @ v[0]), float(v[0] @ G @ G @ v[0])
    expect.close(
        found, torch.tensor([first, first - second]), "The pair of estimates",
        mistakes={
            "the first has too many terms: it stops at N = 1":
                torch.tensor([first - second, first - second]),
            "(v·Gv)² is not v·G²v: multiply by G again before the dot product":
                torch.tensor([first, first - first**2]),
            "the dot product is with the last vector, not with the first v":
                torch.tensor([first, first - float((v[0] @ G.mT) @ G @ (G @ v[0]))]),
        },
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


def contraction(rng, n, dim, norm):
    """[n, dim, dim] matrices with that spectral norm."""
    G = torch.randn(n, dim, dim, generator=rng, dtype=torch.float64)
    return norm * G / torch.linalg.matrix_norm(G, 2)[:, None, None]


def reflection(rng, dim, rate):
    """(g, G): -rate times a mirror image. Steps shrink by no more than `rate`."""
    across = torch.randn(dim, generator=rng, dtype=torch.float64)
    across = across / across.norm()
    eye = torch.eye(dim, dtype=torch.float64)
    G = -rate * (eye - 2 * across[:, None] * across)
    return (lambda z: z @ G.mT), G


def inverted(answer, y, G, g, rate, tolerance):
    """Let the answer invert z + Gz = y, and check every row of what it finds."""
    found = expect.tensor(
        answer.invert(g, y, rate, tolerance), y.shape, "The inverse"
    )
    z = torch.linalg.solve(torch.eye(len(G)) + G, y.mT).mT
    off = (found - z).norm(dim=-1).max()
    expect.that(
        bool(off <= 1.01 * tolerance), "A row is off by more than the tolerance."
    )


@points(2)
def test_accuracy(answer, rng):
    """Every row of the inverse is within the tolerance, slow cases included."""
    for rate, tolerance in ((0.3, 1e-6), (0.9, 1e-1)):
        y = torch.randn(5, 8, generator=rng, dtype=torch.float64)
        y = y * torch.tensor([1.0, 1e-3, 1.0, 10.0, 0.1])[:, None]
        linear, G = reflection(rng, 8, rate)
        g, _ = counted(linear, 2000)
        inverted(answer, y, G, g, rate, tolerance)


@points(1)
def test_curved(answer, rng):
    """A layer that is not linear."""
    weight = contraction(rng, 1, 4, 0.7)[0]
    z = torch.randn(6, 4, generator=rng, dtype=torch.float64)
    y = z + torch.tanh(z @ weight)
    found = answer.invert(lambda z: torch.tanh(z @ weight), y, 0.7, 1e-5)
    off = (expect.tensor(found, (6, 4), "The inverse") - z).norm(dim=-1).max()
    expect.that(bool(off <= 1.01e-5), "A row is off by more than the tolerance.")


@points(1)
def test_stops(answer, rng):
    """No more steps than the bound asks for, to a result that is right."""
    for rate, tolerance in ((0.1, 1e-3), (0.5, 1e-5), (0.8, 1e-1)):
        y = torch.randn(4, 3, generator=rng, dtype=torch.float64)
        linear, G = reflection(rng, 3, rate)
        g, calls = counted(linear, 2000)
        inverted(answer, y, G, g, rate, tolerance)
        first = rate * float(y.norm())  # all rows together: more than any row's
        needed = math.log(tolerance * (1 - rate) / first) / math.log(rate)
        expect.that(
            len(calls) <= max(needed, 1) + 3,
            "g is called more often than the bound asks for.",
        )


@points(3)
def test_mean(answer, rng):
    """The estimates are unbiased, for several matrices and stopping rules."""
    for p, dim in ((0.4, 3), (0.6, 2), (0.45, 4)):
        G = contraction(rng, 1, dim, 0.35)[0]
        G = G + 0.02 * torch.eye(dim)  # keeps the traces from vanishing together
        found = mean_estimate(answer, G, p)
        wanted = float(torch.linalg.slogdet(torch.eye(dim) + G).logabsdet)
        mistakes = slips(G, p) if abs(found - wanted) > 1e-5 else None
        expect.close(
            found,
            wanted,
            "The mean of the estimates",
            atol=2e-5,
            mistakes=mistakes,
        )


def estimates(G, v, stop, p):
    """The estimates, term by term with powers of the matrices G [n, D, D]."""
    rows = []
    for of_row, signs, last in zip(G, v, stop.tolist(), strict=True):
        terms = [
            (-1) ** (k + 1) / k * signs @ torch.linalg.matrix_power(of_row, k) @ signs
            / (1 - p) ** (k - 1)
            for k in range(1, last + 1)
        ]  # fmt: skip
        rows.append(sum(terms))
    return torch.stack(rows)


@points(2)
def test_rows(answer, rng):
    """Each row has its own Jacobian and its own end."""
    G = contraction(rng, 6, 3, 0.8).float()
    v = (2.0 * torch.randint(2, (6, 3), generator=rng)) - 1
    stop, p = torch.tensor([1, 4, 2, 7, 1, 3]), 0.3
    found = answer.log_det_estimates(
        lambda x: (G @ x[..., None]).squeeze(-1), v, stop, p
    )
    expect.close(
        found, estimates(G, v, stop, p), "An estimate", rtol=1e-3, atol=1e-4
    )


@points(1)
def test_price(answer, rng):
    """The number of products with the Jacobian that right estimates take."""
    G = contraction(rng, 1, 3, 0.5)[0].float()
    v = (2.0 * torch.randint(2, (8, 3), generator=rng)) - 1
    stop = torch.tensor([1, 2, 5, 1, 3, 1, 1, 2])
    calls = []

    def jvp(x):
        calls.append(len(x))
        return x @ G.mT

    for rows in (slice(None), slice(1)):  # up to five terms, and one
        calls.clear()
        found = answer.log_det_estimates(jvp, v[rows], stop[rows], 0.5)
        expect.that(
            len(calls) <= stop[rows].max(),
            "jvp is called more than stop.max() times.",
        )
        wanted = estimates(G.expand(8, 3, 3)[rows], v[rows], stop[rows], 0.5)
        expect.close(found, wanted, "An estimate", rtol=1e-3, atol=1e-4)


# %% right: powers first, weights as a table
def invert(g, y, L, tolerance):
    z = y
    for _ in range(100_000):
        step = y - g(z) - z
        z = z + step
        if L * step.square().sum().sqrt() <= (1 - L) * tolerance:
            return z


def log_det_estimates(jvp, v, stop, p):
    powers = [v]
    while len(powers) <= stop.max():
        powers.append(jvp(powers[-1]))
    k = torch.arange(1, len(powers))
    products = torch.einsum("kni,ni->nk", torch.stack(powers[1:]), v)
    weights = -((-1.0) ** k) / (k * (1 - p) ** (k - 1)).to(v.dtype)
    return (products * weights * (k <= stop[:, None])).sum(1)


# %% wrong: stops when the step is small
def invert(g, y, L, tolerance):
    z = y
    while True:
        new = y - g(z)
        if (new - z).norm(dim=-1).max() <= tolerance:
            return new
        z = new


# %% wrong: a fixed number of steps
def invert(g, y, L, tolerance):
    z = y
    for _ in range(100):
        z = y - g(z)
    return z


# %% wrong: looks at the mean over rows
def invert(g, y, L, tolerance):
    z, error = y, float("inf")
    while error > tolerance:
        new = y - g(z)
        error = L / (1 - L) * (new - z).norm(dim=-1).mean().item()
        z = new
    return z


# %% wrong: cuts the sum without making up for it
def log_det_estimates(jvp, v, stop, p):
    total, x = torch.zeros_like(v[:, 0]), v
    for k in range(1, int(stop.max()) + 1):
        x = jvp(x)
        total = total + (stop >= k) * (-1) ** (k + 1) / k * (v * x).sum(-1)
    return total


# %% wrong: exponent off by one
def log_det_estimates(jvp, v, stop, p):
    total, x = torch.zeros_like(v[:, 0]), v
    for k in range(1, int(stop.max()) + 1):
        x = jvp(x)
        term = (-1) ** (k + 1) / k * (v * x).sum(-1) / (1 - p) ** k
        total = total + (stop >= k) * term
    return total


# %% wrong: divides by the chance to stop at k
def log_det_estimates(jvp, v, stop, p):
    total, x = torch.zeros_like(v[:, 0]), v
    for k in range(1, int(stop.max()) + 1):
        x = jvp(x)
        chance = p * (1 - p) ** (k - 1)
        total = (
            total + (stop >= k) * (-1) ** (k + 1) / k * (v * x).sum(-1) / chance
        )
    return total


# %% wrong: signs do not alternate
def log_det_estimates(jvp, v, stop, p):
    total, x = torch.zeros_like(v[:, 0]), v
    for k in range(1, int(stop.max()) + 1):
        x = jvp(x)
        total = total + (stop >= k) * (v * x).sum(-1) / (k * (1 - p) ** (k - 1))
    return total


# %% wrong: powers of the number instead of the matrix
def log_det_estimates(jvp, v, stop, p):
    total, once = torch.zeros_like(v[:, 0]), (v * jvp(v)).sum(-1)
    for k in range(1, int(stop.max()) + 1):
        term = (-1) ** (k + 1) / k * once**k / (1 - p) ** (k - 1)
        total = total + (stop >= k) * term
    return total


# %% wrong: every row runs to the last stop
def log_det_estimates(jvp, v, stop, p):
    total, x = torch.zeros_like(v[:, 0]), v
    for k in range(1, int(stop.max()) + 1):
        x = jvp(x)
        term = (-1) ** (k + 1) / k * (v * x).sum(-1) / (1 - p) ** (k - 1)
        total = total + term
    return total


# %% idle: no step of the iteration, one term of the sum
def invert(g, y, L, tolerance):
    return y - g(y)


def log_det_estimates(jvp, v, stop, p):
    return (v * jvp(v)).sum(-1)


# %% idle: takes g for -Lz, and never asks it
def invert(g, y, L, tolerance):
    return y / (1 - L)


def log_det_estimates(jvp, v, stop, p):
    return torch.zeros(len(v), dtype=v.dtype)


# %% solution
r"""
**Inverse.** $z\mapsto y-g(z)$ is a contraction, so each step is at most $L$ times the last, and after a step of length $d$ the way still to go is at most $d\,(L+L^2+\dots) = \frac{L}{1-L}d$. For $g(z) = -Lz$ it is exactly that, so "stop when the step is below the tolerance" is off by the factor $\frac L{1-L}$, nine at $L = 0.9$.

**Determinant.** Term $k$ is computed if $N\ge k$, an event of probability $(1-p)^{k-1}$ that does not depend on $v$. Divided by it, each term has the right mean, and so has the sum, for every $L<1$. (A finite variance asks for more: $L^2<1-p$.) The expected number of products is $1/p$. This is "Russian roulette", and the estimate is exact in the mean although it never sees more than a few terms. Cut off without weights, the mean is biased, and a biased $\log q$ makes an ELBO that is no bound.
"""

# %% rubric
r"""
Four points for the inverse (accuracy 2, a curved layer 1, cost 1), six for the estimate (mean 3, rows 2, price 1). An estimate with one wrong factor and a right structure deserves two of the three points for the mean.
"""
