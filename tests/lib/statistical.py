"""Statistical checks that say how often they cry wolf and what they would catch.

Each check has a false-alarm rate of `ALARM` = 1e-9 (two-sided). The suite makes fewer than 1,000
of them, so that a correct library fails less than one run in a million, whatever the seeds; and as
each test is seeded by its name, a run that passes passes again.
"""

import math

from scipy import stats

ALARM = 1e-9
_Z = float(stats.norm.isf(ALARM / 2))  # 6.11
_POWER = float(
    stats.norm.isf(1e-3)
)  # a bias of (_Z + _POWER) standard errors is caught by 999 of 1,000


def check_mean(mean, truth, variance, count, catches):
    """A z-test of `mean`, over `count` independent draws of *known* `variance`, against `truth`.

    `catches` is the smallest bias that the test must find in 999 runs of 1,000: where `count` is
    too small for that, the test itself is at fault and says so.
    """
    error = math.sqrt(float(variance) / count)
    weakest = (_Z + _POWER) * error
    assert weakest <= catches, f"this test sees biases from {weakest:.2g} on, not from {catches}"
    z = (float(mean) - float(truth)) / error
    assert abs(z) < _Z, f"mean {float(mean):.6g} for {float(truth):.6g}: {z:.1f} standard errors"


def check_count(hits, count, probability):
    """An exact binomial test of `hits` in `count` draws against `probability`."""
    p = stats.binomtest(int(hits), count, float(probability)).pvalue
    expected = count * float(probability)
    assert p > ALARM, f"{int(hits)} draws where {expected:.1f} are expected (p = {p:.1g})"
