"""Relaxed and straight-through estimators by hand, and relaxed samples beside those of torch.

By hand is what it is in test_by_hand.py, and at most 15 % may be lost to it. Of a relaxed sample
the work is a draw, its density and the gradient of both.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from reparam import estimators, relaxed
from tests.benchmarks.problems import many_bits
from tests.benchmarks.test_by_hand import (
    BATCH,
    BITS,
    SAMPLES,
    bits,
    classes,
    cleared,
    compare,
    leaf,
    logistic,
    logistic_with_tails,
    of_classes,
    through,
)
from tests.benchmarks.timing import interleaved, report

compare_relaxed = partial(compare, section="relaxations")


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_of_bits(hard):
    logits, temperature = leaf(BATCH, BITS), 0.7
    estimator = estimators.GumbelSoftmax(temperature, hard)

    def mine():
        estimator(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand(noise):
        z = logits + noise((SAMPLES, BATCH, BITS))
        y = (z / temperature).sigmoid()
        y = through((z > 0).float(), y) if hard else y
        many_bits(y).mean(0).sum().backward()

    # Ours draws noise in float64, so that its tails do not end, which takes half as long again as
    # the usual cut-off noise; and its slope does not vanish where the sigmoid rounds to 1.
    name = f"GumbelSoftmax{'(hard)' if hard else ''}, bits"
    cut_off, right = partial(by_hand, logistic), partial(by_hand, logistic_with_tails)
    compare_relaxed(f"{name}, noise cut off by hand", (logits,), mine, cut_off, target=None)
    compare_relaxed(name, (logits,), mine, right)


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_of_classes(hard):
    logits, temperature = leaf(BATCH, 20, 10), 0.7
    estimator = estimators.GumbelSoftmax(temperature, hard)

    def mine():
        estimator(of_classes, classes(logits), SAMPLES).sum().backward()

    def by_hand():
        y = F.gumbel_softmax(logits.expand(SAMPLES, -1, -1, -1), temperature, hard)
        of_classes(y).mean(0).sum().backward()

    compare_relaxed(f"GumbelSoftmax{'(hard)' if hard else ''}, classes", (logits,), mine, by_hand)


@pytest.mark.parametrize("way", ["probabilities", "identity", "argmax"])
def test_straight_through(way):
    logits = leaf(BATCH, BITS)
    estimator = estimators.StraightThrough(way)

    def mine():
        estimator(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand():
        q = bits(logits)
        if way == "argmax":
            z = through((logits > 0).float(), logits)[None]
        else:
            b = q.sample((SAMPLES,))
            z = through(b, logits.sigmoid() if way == "probabilities" else logits)
        many_bits(z).mean(0).sum().backward()

    compare_relaxed(f"StraightThrough({way})", (logits,), mine, by_hand)


def test_gumbel_rao():
    logits, temperature, draws = leaf(BATCH, BITS), 0.7, 10

    def mine():
        estimators.GumbelRao(temperature, draws)(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand():
        with torch.no_grad():
            p = logits.sigmoid()
            b = torch.bernoulli(p.expand(SAMPLES, -1, -1))
            v = torch.rand(draws, *b.shape)
            v = torch.where(b == 1, 1 - p + v * p, v * (1 - p))
            noise = v.log() - (-v).log1p()
        y = ((logits + noise) / temperature).sigmoid().mean(0)
        many_bits(through(b, y)).mean(0).sum().backward()

    compare_relaxed("GumbelRao, bits", (logits,), mine, by_hand, rounds=30)


def test_reinmax_of_bits():
    logits = leaf(BATCH, BITS)

    def mine():
        estimators.ReinMax()(many_bits, bits(logits), SAMPLES).sum().backward()

    def by_hand():
        p = logits.detach().sigmoid()
        b = torch.bernoulli(p.expand(SAMPLES, -1, -1))
        middle = (b + p) / 2
        slope = 2 * middle * (1 - middle) - p * (1 - p) / 2
        many_bits(b + slope * (logits - logits.detach())).mean(0).sum().backward()

    compare_relaxed("ReinMax, bits", (logits,), mine, by_hand)


def test_reinmax_of_classes():
    """By hand: algorithm 2 of the paper."""
    logits = leaf(BATCH, 20, 10)

    def mine():
        estimators.ReinMax()(of_classes, classes(logits), SAMPLES).sum().backward()

    def by_hand():
        p = logits.softmax(-1)
        b = classes(logits).sample((SAMPLES,))
        middle = (b + p) / 2
        middle = (middle.log() - logits).detach() + logits
        y = 2 * middle.softmax(-1) - p / 2
        of_classes(through(b, y)).mean(0).sum().backward()

    compare_relaxed("ReinMax, classes", (logits,), mine, by_hand)


# --- one relaxed sample, beside torch ------------------------------------------------------------


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_against_that_of_torch(hard):
    """Target: faster, forward and backward."""
    logits, slope = leaf(1024, 100), torch.randn(1024, 100)

    def way(function):
        return cleared([logits], lambda: function(logits, 0.7, hard).backward(slope))

    ways = {"ours": way(relaxed.gumbel_softmax), "torch": way(F.gumbel_softmax)}
    name = f"gumbel_softmax{'(hard)' if hard else ''} 1024 × 100"
    ratio = report("relaxations", name, interleaved(ways, rounds=200))["torch"]
    assert ratio > 1, f"gumbel_softmax takes {1 / ratio:.2f} times as long as that of torch"


@pytest.mark.parametrize("kind", ["bits", "classes"])
def test_a_relaxed_sample_and_its_density_against_those_of_torch(kind):
    """Stated, win or lose: ours draws noise in float64, whose tails do not end."""
    logits, temperature = leaf(1024, 100), torch.tensor(0.7)

    def ours_of_bits():
        x = relaxed.relaxed_logit(logits, temperature)
        return relaxed.relaxed_logit_log_prob(x, logits, temperature).sum()

    def ours_of_classes():
        log_y = relaxed.log_gumbel_softmax(logits, temperature)
        return relaxed.log_gumbel_softmax_log_prob(log_y, logits, temperature).sum()

    def torch_s(law):
        q = law(temperature, logits=logits, validate_args=False)
        return q.log_prob(q.rsample()).sum()

    def way(log_density):
        return cleared([logits], lambda: log_density().backward())

    mine, law = {
        "bits": (ours_of_bits, LogitRelaxedBernoulli),
        "classes": (ours_of_classes, ExpRelaxedCategorical),
    }[kind]
    ways = {"ours": way(mine), "torch": way(partial(torch_s, law))}
    name = f"relaxed {kind} and their density, 1024 × 100"
    report("relaxations", name, interleaved(ways, rounds=200))
