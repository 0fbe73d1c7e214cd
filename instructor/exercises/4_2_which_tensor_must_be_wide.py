# %% about
"""
title = "Which tensor must be wide?"
kind = "measurement"
difficulty = 2
minutes = 20
points = 6
objective = "Measure what rounding one tensor to bfloat16 does to a sample's mean and spread, and decide which to keep in float32"
after = "Half precision"
"""

# %% imports
import torch

# %% given
MU = 2.002
SIGMA = 0.001  # or 0.0125, 0.04

# %% text
r"""
"Keep everything in float32" is safe. What is *needed*? In $z = \mu + \sigma\varepsilon$ there are four tensors: $\mu$, $\sigma$, $\varepsilon$ and the result $z$. *Predict first*: of which can we afford to keep only the eight bits of bfloat16, for $\mu$ = «MU» and $\sigma$ = «SIGMA»?

**1.** Write `stored`, which rounds exactly one of the four, with `rounded`, and computes everything else in float32.

**2.** With `epsilon` from the cell below measure, for each name, two numbers: `shift[name]` $= (\bar z - \mu)/\sigma$ and `spread[name]` $=$ standard deviation of $z$ divided by $\sigma$, where $\mu$ and $\sigma$ are the unrounded ones. Take means and deviations in float64 (`z.double()`). Both are dicts of floats with the four names as keys.

**3.** Call a tensor harmless if $|\text{shift}| < 0.1$ and $0.9 <$ spread $< 1.1$. `wide` is the list of those names that are not, `[]` if all are harmless.
"""

# %% code
names = ("mu", "sigma", "epsilon", "z")
epsilon = torch.randn(200_000, generator=torch.Generator().manual_seed(4))


def rounded(tensor):
    """To the nearest number of bfloat16, and back to float32."""
    return tensor.bfloat16().float()


# %% answer
def stored(name, mu, sigma, epsilon):
    """z = mu + sigma · epsilon in float32, only the tensor `name` rounded.

    mu and sigma are float32 tensors without dimensions, epsilon has any shape;
    name is "mu", "sigma", "epsilon" or "z".
    """
    ### BEGIN SOLUTION
    parts = {"mu": mu, "sigma": sigma, "epsilon": epsilon}
    if name in parts:
        parts[name] = rounded(parts[name])
    total = parts["mu"] + parts["sigma"] * parts["epsilon"]
    return rounded(total) if name == "z" else total
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
shift = {
    name: float(
        (
            stored(name, torch.tensor(MU), torch.tensor(SIGMA), epsilon)
            .double()
            .mean()
            - MU
        )
        / SIGMA
    )
    for name in names
}
spread = {
    name: float(
        stored(name, torch.tensor(MU), torch.tensor(SIGMA), epsilon)
        .double()
        .std()
        / SIGMA
    )
    for name in names
}
wide = [
    name
    for name in names
    if abs(shift[name]) >= 0.1 or abs(spread[name] - 1) >= 0.1
]
### END SOLUTION

# %% hint
r"""
For three of the names an argument is rounded before the formula, for the fourth the result after it.
"""

# %% hint
r"""
The two numbers see different damage. A rounded $\mu$ moves all samples by the same amount; a rounded $z$ moves each by its own. How far apart are bfloat16's neighbors near $\mu$, in units of $\sigma$?
"""

# %% hint
r"""
Rounding is relative. A relative error of 0.4 % in $\sigma$ or in $\varepsilon$ is an error of 0.4 % of the noise. In $\mu$ it is 0.4 % of $\mu$.
"""

# %% visible
import torch

from reparam.exercises import expect

NAMES = ("mu", "sigma", "epsilon", "z")


def table(value, what):
    """A dict of four numbers."""
    expect.that(
        isinstance(value, dict) and set(value) == set(NAMES),
        f"{what} should be a dict with the keys {', '.join(NAMES)}.",
    )
    return {
        name: expect.number(value[name], f"{what}[{name!r}]") for name in NAMES
    }


def test_stored(answer, rng):
    """One tensor is rounded, and only one."""
    g, h, k = 2.0**-9, 2.0**-10, 2.0**-11  # what bfloat16 cannot add to 1
    mu, sigma = torch.tensor(1 + g), torch.tensor(1 + h)
    sign = torch.tensor([1.0, -1.0])
    epsilon = sign * (1 + k)
    right = {
        "mu": 1 + sign * (1 + h) * (1 + k),
        "sigma": 1 + g + sign * (1 + k),
        "epsilon": 1 + g + sign * (1 + h),
        "z": torch.tensor([2.0, k]),  # next to 2, and g - h - k - hk = k - hk
    }
    for name, wanted in right.items():
        found = answer.stored(name, mu, sigma, epsilon)
        what = f"z with {name} rounded"
        expect.close(
            expect.tensor(found, (2,), what).float(), wanted, what, rtol=1e-6, atol=1e-6,
            mistakes={
                "nothing is rounded in it": torch.tensor([2 + g + h + k, k]),
                "the result is rounded, too": wanted.bfloat16().float(),
                "all of it is computed in bfloat16. A tensor that stays in bfloat16 takes "
                "the rest along; `rounded` brings it back": torch.tensor([2.0, 0.0]),
            },
        )  # fmt: skip


def test_units(answer, rng):
    """The measured numbers are in units of σ: a rounded σ does almost no harm."""
    shift, spread = table(answer.shift, "shift"), table(answer.spread, "spread")
    sigma = answer.given["SIGMA"]
    expect.close(
        spread["sigma"], 1.0, "spread['sigma']", rtol=0.03,
        mistakes={
            "divide the standard deviation by σ": sigma,
            "that is a ratio of variances": sigma**2,
        },
    )  # fmt: skip
    expect.close(
        shift["sigma"], 0.0, "shift['sigma']", atol=0.05,
        mistakes={"take μ away from the mean of z": answer.given["MU"] / sigma},
    )  # fmt: skip


def test_decision(answer, rng):
    """The decision follows from your own numbers."""
    shift, spread = table(answer.shift, "shift"), table(answer.spread, "spread")
    harmful = [
        n for n in NAMES if abs(shift[n]) >= 0.1 or not 0.9 < spread[n] < 1.1
    ]
    expect.that(
        isinstance(answer.wide, (list, tuple)) and set(answer.wide) <= set(NAMES),
        f"wide should be a list of some of {', '.join(NAMES)}.",
    )
    expect.that(
        set(answer.wide) == set(harmful),
        "`wide` does not agree with your `shift` and `spread`: a tensor is harmless "
        "only if both numbers are in their ranges.",
    )


# %% hidden
import math

from reparam.exercises import points


def bits(x):
    """bfloat16 by hand: half away is added to the last bit that stays; ties to even."""
    x = x.float()
    i = x.contiguous().view(torch.int32).long()
    i = (i + 0x7FFF + ((i >> 16) & 1)) >> 16 << 16
    i = torch.where(i >= 2**31, i - 2**32, i)
    return i.to(torch.int32).view(torch.float32).reshape(x.shape).double()


def in_double(name, mu, sigma, epsilon):
    """z in float64 with one tensor rounded, and where that rounding is not a toss-up."""
    mu, sigma, epsilon = (
        bits(t) if name == n else t.double()
        for n, t in (("mu", mu), ("sigma", sigma), ("epsilon", epsilon))
    )
    z = mu + sigma * epsilon
    if name != "z":
        return z, torch.ones_like(z, dtype=torch.bool)
    low, high = bits((z - 1e-6).float()), bits((z + 1e-6).float())
    return bits(z.float()), low == high


def compare(found, name, mu, sigma, epsilon, what):
    """The learner's z, where its rounding is not a toss-up."""
    right, sure = in_double(name, mu, sigma, epsilon)
    found = expect.tensor(found, right.shape, what)
    expect.close(
        found[sure].float(), right[sure].float(), what, rtol=1e-6, atol=1e-6
    )


def exactly(mu, sigma):
    """{name: (shift, spread)} without sampling: the law of the rounded z, cell by cell."""
    of_mu = (bits(torch.tensor(mu)).item() - mu) / sigma
    of_sigma = bits(torch.tensor(sigma)).item() / sigma
    e = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    weight = torch.exp(-(e**2) / 2)
    weight = weight / weight.sum()
    z = bits((mu + sigma * e).float())
    middle = (weight * z).sum()
    wide = (weight * (z - middle) ** 2).sum().sqrt()
    return {
        "mu": (of_mu, 1.0),
        "sigma": (0.0, of_sigma),
        "epsilon": (0.0, 1.0),
        "z": (float(middle - mu) / sigma, float(wide) / sigma),
    }


def inputs(rng):
    """A mean, a width and noise."""
    a, b = torch.rand(2, generator=rng).tolist()
    mu = torch.tensor((0.2 + a) * (1 if b < 0.5 else -1))
    return mu, torch.tensor(0.01 + 0.05 * b), torch.randn(3, 200, generator=rng)


@points(2)
def test_any_inputs(answer, rng):
    """Other means, widths and noise; shapes are kept."""
    for name in NAMES:
        mu, sigma, epsilon = inputs(rng)
        found = answer.stored(name, mu, sigma, epsilon)
        compare(found, name, mu, sigma, epsilon, f"z with {name} rounded")


@points(1)
def test_shift(answer, rng):
    """The measured shifts."""
    found = table(answer.shift, "shift")
    right = exactly(answer.given["MU"], answer.given["SIGMA"])
    for name in NAMES:
        expect.close(
            found[name], right[name][0], f"shift[{name!r}]", rtol=0.02, atol=0.02,
            mistakes={"its sign is that of μ - z": -right[name][0]},
        )  # fmt: skip


@points(1)
def test_spread(answer, rng):
    """The measured spreads."""
    found = table(answer.spread, "spread")
    right = exactly(answer.given["MU"], answer.given["SIGMA"])
    for name in NAMES:
        expect.close(
            found[name], right[name][1], f"spread[{name!r}]", rtol=0.02, atol=0.01
        )


@points(2)
def test_wide(answer, rng):
    """The tensors that must stay wide."""
    right = exactly(answer.given["MU"], answer.given["SIGMA"])
    harmful = {
        name
        for name, (a, b) in right.items()
        if abs(a) >= 0.1 or not 0.9 < b < 1.1
    }
    test_decision(answer, rng)
    expect.that(
        set(answer.wide) == harmful,
        "`wide` is not right yet: compare each shift and each spread with its range.",
    )


# %% right: four branches, and all in float64 afterwards
def stored(name, mu, sigma, epsilon):
    if name == "mu":
        return rounded(mu) + sigma * epsilon
    if name == "sigma":
        return mu + rounded(sigma) * epsilon
    if name == "epsilon":
        return mu + sigma * rounded(epsilon)
    return rounded(mu + sigma * epsilon)


mu_, sigma_ = torch.tensor(MU), torch.tensor(SIGMA)
draws = {name: stored(name, mu_, sigma_, epsilon).double() for name in names}
shift = {name: ((z - MU) / SIGMA).mean().item() for name, z in draws.items()}
spread = {name: ((z - MU) / SIGMA).std().item() for name, z in draws.items()}
bad = {n for n in names if not (abs(shift[n]) < 0.1 and 0.9 < spread[n] < 1.1)}
wide = sorted(bad)


# %% wrong: goes on in bfloat16
def stored(name, mu, sigma, epsilon):
    parts = {"mu": mu, "sigma": sigma, "epsilon": epsilon}
    if name in parts:
        parts[name] = parts[name].bfloat16()
    total = parts["mu"] + parts["sigma"] * parts["epsilon"]
    return total.bfloat16() if name == "z" else total


# %% wrong: rounds everything
def stored(name, mu, sigma, epsilon):
    short = [t.bfloat16() for t in (mu, sigma, epsilon)]
    return (short[0] + short[1] * short[2]).float()


# %% wrong: looks at the spread only
shift = {name: 0.0 for name in names}
wide = [name for name in names if abs(spread[name] - 1) >= 0.1]

# %% wrong: divides by nothing
shift = {
    n: float(
        (stored(n, torch.tensor(MU), torch.tensor(SIGMA), epsilon) - MU).mean()
    )
    for n in names
}
spread = {
    n: float(stored(n, torch.tensor(MU), torch.tensor(SIGMA), epsilon).std())
    for n in names
}
wide = [n for n in names if abs(spread[n] - 1) >= 0.1]

# %% wrong: keeps all four wide, to be safe
wide = list(names)

# %% wrong: blames the noise
wide = ["epsilon"]

# %% solution
r"""
Near 2 the numbers of bfloat16 are 1/64 apart (1/128 below 2). A rounded $\mu$ is off by 0.002 whatever $\sigma$ is: two standard deviations at $\sigma = 0.001$, a sixth of one at 0.0125, a twentieth at 0.04. A rounded $z$ collapses to one value at $\sigma = 0.001$; at 0.0125 the grid is as coarse as the noise and rounding *adds* variance, about $h^2/12$ for a grid of width $h$; at 0.04 it drowns. So `wide` is `["mu", "z"]`, `["mu"]` or `[]`.

$\sigma$ and $\varepsilon$ are harmless in every case, since rounding is relative, and their errors are a fraction of the noise. What must be wide are the tensors whose *size* has nothing to do with their *resolution*: the sum, and the mean that goes into it. (The KL is another matter, see (4.4).)

`torch` adds a trap of its own: a float32 tensor *without dimensions* does not promote a bfloat16 tensor that has some, so `mu + sigma * epsilon.bfloat16()` is bfloat16.
"""

# %% rubric
r"""
Two points for `stored`, one for each measured table, two for the decision. A decision that follows from wrong numbers gets one point if the reasoning is written down.
"""
