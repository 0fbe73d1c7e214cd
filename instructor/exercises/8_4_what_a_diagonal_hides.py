# %% about
"""
title = "What a diagonal hides"
kind = "measurement"
difficulty = 3
minutes = 25
points = 7
objective = "Measure how much of the gap of a diagonal posterior a bound with several samples closes, and find the direction that keeps it open"
after = "What an ELBO mixes"
"""

# %% imports
import math

import torch
from torch.distributions import Normal

# %% given
S = 0.5  # or 0.45, 0.55, 0.6

# %% text
r"""
A model whose posterior is known: a code of two numbers, $z\sim N(0, I)$, and one pixel, $x\mid z\sim N(z_1+z_2, s^2)$ with $s = «S»$. The true posterior is Gaussian, and its two numbers are correlated: only their sum is observed. We approximate it with independent numbers.

> **Predict first.** The best diagonal posterior has a gap of some tenths of a nat. What do sixteen samples leave of it: a sixteenth, a third, or nearly all?

1. `best_diagonal(x, s)`: the independent Gaussians whose ELBO is highest. Both variables have the same mean and the same standard deviation; return these two numbers as a tuple.
2. `gap_1` and `gap_16`: $\log p(x) - \mathbb E[L_K]$ for $K = 1$ and $K = 16$ with that posterior, at $x = 1.5$ and $s$ = `S`. Measure both, with at least 50,000 draws of $L_K$. (Tolerance 0.02. Draw all of them at once, in one tensor `[K, draws, 2]`: a loop over draws takes minutes, and graded cells have seconds.)
3. `heavy`: along which direction does the weight have the heavy tail that keeps the gap open? `"the sum"` for $z_1+z_2$, `"the difference"` for $z_1-z_2$, `"both"` or `"neither"`.
"""


# %% answer
def best_diagonal(x, s):
    """(mean, standard deviation) of each of the two numbers."""
    ### BEGIN SOLUTION
    return x / (2 + s**2), s / math.sqrt(1 + s**2)
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
def _gap(x, s, K, draws=200_000):
    mean, deviation = best_diagonal(x, s)
    q = Normal(mean, deviation)
    z = q.sample((K, draws, 2))
    log_p = Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(z.sum(-1), s).log_prob(
        torch.tensor(x)
    )
    bound = (log_p - q.log_prob(z).sum(-1)).logsumexp(0) - math.log(K)
    exact = Normal(0.0, math.sqrt(2 + s**2)).log_prob(torch.tensor(x))
    return float(exact - bound.mean())


gap_1, gap_16 = _gap(1.5, S, 1), _gap(1.5, S, 16)
heavy = "the difference"
### END SOLUTION

# %% hint
r"""
As a function of $z$, $\log p(x,z)$ is quadratic, with the matrix $\Lambda = I + \frac1{s^2}\begin{pmatrix}1&1\\1&1\end{pmatrix}$. In the ELBO of independent Gaussians, what do entries beside the diagonal of $\Lambda$ contribute?
"""

# %% hint
r"""
$x$ is the sum of three independent Gaussians, so that $\log p(x)$ is known exactly. And $L_K$ is $\log\frac1K\sum_k w_k$ for one set of $K$ samples: average it over many sets.
"""

# %% hint
r"""
Write $\log w$ with the sum and the difference of the two numbers: it is quadratic in each. Exercise 8.1 says when a weight has no variance. Which precision has the true posterior along each direction, and which has $q$?
"""

# %% visible
import math

import torch
from torch.distributions import Normal

from reparam.exercises import expect

OPTIONS = ("the sum", "the difference", "both", "neither")


def gap_of(x, s, mean, deviation, K, rng, draws=40_000):
    """log p(x) - E[L_K], estimated, for a diagonal posterior."""
    noise = torch.randn(K, draws, 2, generator=rng)
    z = mean + deviation * noise
    log_p = -(z**2).sum(-1) / 2 - ((x - z.sum(-1)) / s) ** 2 / 2 - math.log(s)
    log_q = -(noise**2).sum(-1) / 2 - 2 * math.log(deviation)
    bound = (log_p - log_q).logsumexp(0) - math.log(K) - math.log(2 * math.pi) / 2
    exact = -(x**2) / (2 + s**2) / 2 - math.log(2 * math.pi * (2 + s**2)) / 2
    return exact - float(bound.mean())


def pair(found):
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        "`best_diagonal` should return a tuple of two, (mean, standard deviation).",
    )
    return [
        expect.number(value, "A number of `best_diagonal`") for value in found
    ]


def test_diagonal(answer, rng):
    """The best diagonal posterior at x = 4.5, s = 1/2."""
    mean, deviation = pair(answer.best_diagonal(4.5, 0.5))
    expect.close(
        mean, 2.0, "The mean at x = 4.5, s = 1/2",
        mistakes={
            "this is what one number alone would have to be; two of them share x": 3.6,
            "the variance of x given z is s², not s": 1.8,
        },
    )  # fmt: skip
    expect.close(
        deviation, math.sqrt(0.2), "The standard deviation at x = 4.5, s = 1/2",
        mistakes={
            "this is the variance": 0.2,
            "this is the true posterior's own deviation; the best independent one is narrower":
                math.sqrt(1.25 / 2.25),
            "this is the precision's root: take its inverse": math.sqrt(5.0),
        },
    )  # fmt: skip


def test_numbers(answer, rng):
    """The gaps are possible."""
    one = expect.number(answer.gap_1, "gap_1")
    many = expect.number(answer.gap_16, "gap_16")
    expect.that(
        one > 0 and many > 0,
        "A bound lies below log p(x), so that a gap is positive.",
    )
    expect.that(many < one, "With more samples the gap is smaller.")


def test_gaps(answer, rng):
    """Both gaps, compared with a measurement with your own posterior."""
    s = answer.given["S"]
    mean, deviation = pair(answer.best_diagonal(1.5, s))
    expect.that(deviation > 0, "A standard deviation is positive.")
    for K, name in ((1, "gap_1"), (16, "gap_16")):
        apart = getattr(answer, name) - gap_of(1.5, s, mean, deviation, K, rng)
        expect.that(
            abs(expect.number(apart, f"`{name}`")) < 0.035,
            f"`{name}` is not the gap that your own posterior has at K = {K}.",
        )


def test_choice(answer, rng):
    """The direction is one of four."""
    expect.that(
        answer.heavy in OPTIONS,
        f"`heavy` should be one of {', '.join(map(repr, OPTIONS))}.",
    )


# %% hidden
from reparam.exercises import points


def best(x, s):
    """Coordinate by coordinate: the minimum of KL(q, p) for Gaussians, from the matrix."""
    precision = torch.eye(2, dtype=torch.float64) + 1 / s**2
    mean = torch.linalg.solve(precision, torch.full((2,), x / s**2).double())
    return float(mean[0]), float(precision[0, 0]) ** -0.5


def exact_gap(s):
    """Of the best diagonal posterior's ELBO, from both determinants."""
    return math.log((1 + 1 / s**2) ** 2 / (1 + 2 / s**2)) / 2


@points(2)
def test_any_diagonal(answer, rng):
    """The best diagonal posterior for any pixel and noise."""
    for _ in range(4):
        x = float(4 * torch.rand((), generator=rng) - 2)
        s = float(0.2 + 1.5 * torch.rand((), generator=rng))
        mean, deviation = pair(answer.best_diagonal(x, s))
        wanted = best(x, s)
        expect.close(mean, wanted[0], "The mean")
        expect.close(deviation, wanted[1], "The standard deviation")


@points(2)
def test_gap_of_one(answer, rng):
    """The gap of the ELBO, which has a closed form."""
    exact = exact_gap(answer.given["S"])
    expect.close(answer.gap_1, exact, "`gap_1`", atol=0.02, rtol=0)


@points(2)
def test_gap_of_many(answer, rng):
    """The gap that sixteen samples leave."""
    s = answer.given["S"]
    found = gap_of(1.5, s, *best(1.5, s), 16, rng, draws=100_000)
    expect.close(answer.gap_16, found, "`gap_16`", atol=0.02, rtol=0)


@points(1)
def test_heavy(answer, rng):
    """The direction, if the gaps show that something was measured."""
    s = answer.given["S"]
    expect.close(answer.gap_1, exact_gap(s), "`gap_1`", atol=0.1, rtol=0)
    # Twice the true precision against that of q, along each direction.
    precision = {"the sum": 1 + 2 / s**2, "the difference": 1.0}
    open_ends = [name for name, p in precision.items() if 2 * p <= 1 + 1 / s**2]
    expect.equal(
        answer.heavy, open_ends[0] if len(open_ends) == 1 else "neither", "`heavy`",
        options=OPTIONS,
        mistakes={
            "along the sum q is wider than the true posterior, and a weight cannot be huge far "
            "out": "the sum",
        },
    )  # fmt: skip


# %% right: sum and difference, each with its own noise
def best_diagonal(x, s):
    precision = 1 + 1 / s**2
    return x / s**2 / (1 + 2 / s**2), precision**-0.5


def _gap(K, x=1.5, s=S, draws=200_000):
    mean, deviation = best_diagonal(x, s)
    total = 2 * mean + deviation * math.sqrt(2) * torch.randn(K, draws)
    apart = deviation * math.sqrt(2) * torch.randn(K, draws)
    v = 2 * deviation**2
    log_w = Normal(total, s).log_prob(torch.tensor(x))
    for value, center in ((total, 2 * mean), (apart, 0.0)):
        log_w = log_w + Normal(0.0, math.sqrt(2)).log_prob(value)
        log_w = log_w - Normal(center, math.sqrt(v)).log_prob(value)
    bound = log_w.logsumexp(0) - math.log(K)
    exact = Normal(0.0, math.sqrt(2 + s**2)).log_prob(torch.tensor(x))
    return float(exact - bound.mean())


gap_1, gap_16, heavy = _gap(1), _gap(16), "the difference"


# %% wrong: the true posterior's deviations
def best_diagonal(x, s):
    return x / (2 + s**2), math.sqrt((1 + s**2) / (2 + s**2))


# %% wrong: each number as if it were alone
def best_diagonal(x, s):
    return x / (1 + s**2), s / math.sqrt(1 + s**2)


# %% wrong: a sixteenth of the gap
gap_16 = gap_1 / 16

# %% wrong: the same gap for sixteen
gap_16 = gap_1

# %% wrong: the bounds themselves
gap_1, gap_16 = -2.0, -1.7

# %% wrong: the direction that is observed
heavy = "the sum"


# %% idle: round numbers
def best_diagonal(x, s):
    return 0.0, 1.0


gap_1, gap_16, heavy = 1.0, 1 / 16, "the difference"

# %% solution
r"""
In the ELBO of independent Gaussians the matrix $\Lambda$ of the true posterior appears only by its diagonal: the best variance is $1/\Lambda_{11} = s^2/(1+s^2)$, the best mean the true one. That is narrower than the true posterior's own deviation of a number, $\sqrt{(1+s^2)/(2+s^2)}$, since $\mathrm{KL}(q\,\|\,p)$ punishes mass off the ridge. The gap is $\frac12\log\frac{(1+1/s^2)^2}{1+2/s^2}$, 0.51 nats at $s = \frac12$.

Sixteen samples leave 0.19 nats, 36 percent (40, 33 and 30 percent at $s$ = 0.45, 0.55 and 0.6). Along the difference the true posterior is the prior, with precision 1, and $q$ has $1+1/s^2$: for $s<1$ that is more than twice as much, and by exercise 8.1 the weight has no variance. So the gap does not fall like $1/K$. A bound with many samples measures the model well if the posterior is wide enough; a posterior that is too narrow in one direction lets it down.
"""

# %% rubric
r"""
Two points for the posterior, two for each gap, one for the direction. Gaps that are measured rightly with a wrong posterior get the self-check's word, and points only where they are within the tolerance all the same.
"""
