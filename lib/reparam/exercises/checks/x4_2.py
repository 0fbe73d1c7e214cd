"""Self-checks of exercise 4.2. Derived from the exercise's source; do not edit."""

import torch

from reparam.exercises import expect

NAMES = ("mu", "sigma", "epsilon", "z")


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


def compare(found, name, mu, sigma, epsilon, what, named=False):
    """The learner's z, where its rounding is not a toss-up; mistakes by name if wanted."""
    right, sure = in_double(name, mu, sigma, epsilon)
    found = expect.tensor(found, right.shape, what)
    short = [t.bfloat16() for t in (mu, sigma, epsilon)]
    mistakes = {
        "nothing is rounded in it": in_double("", mu, sigma, epsilon)[0],
        "the result is rounded, too": bits(right.float()),
        "all of it is computed in bfloat16. A tensor that stays in bfloat16 takes the "
        "rest along; `rounded` brings it back":
            (short[0] + short[1] * short[2]).double(),
    }  # fmt: skip
    expect.close(
        found[sure].float(), right[sure].float(), what, rtol=1e-6, atol=1e-6,
        mistakes={s: w[sure].float() for s, w in mistakes.items()} if named else {},
    )  # fmt: skip


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
    mu, sigma = torch.tensor(0.3), torch.tensor(0.37)
    epsilon = torch.linspace(-2.1, 1.7, 50)
    for name in NAMES:
        found = answer.stored(name, mu, sigma, epsilon)
        what = f"z with {name} rounded"
        compare(found, name, mu, sigma, epsilon, what, named=True)


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

TITLE = 'Which tensor must be wide?'
GIVEN = {'MU': 2.002, 'SIGMA': 0.001}
