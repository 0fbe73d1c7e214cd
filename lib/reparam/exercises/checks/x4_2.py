"""Self-checks of exercise 4.2. Derived from the exercise's source; do not edit."""

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

TITLE = 'Which tensor must be wide?'
GIVEN = {'MU': 2.002, 'SIGMA': 0.001}
