"""The speeds that the book states. Not part of `make test`: run `make benchmarks`."""

import statistics
import time

import pytest
import torch
from torch.distributions import Normal

from reparam.estimators import Pathwise, ScoreFunction
from reparam.measure import measure


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(ours, theirs, rounds: int) -> tuple[list[float], list[float]]:
    """Both, in turn, after one warm-up, so that a busy machine slows them alike."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def report(name: str, ours: list[float], theirs: list[float]) -> float:
    """Print minima, medians and spread (interquartile range over median); the ratio of minima."""

    def shown(times):
        low, middle, high = statistics.quantiles(times, n=4)
        return (
            f"{min(times) * 1e3:9.3f} ms (median {middle * 1e3:.3f}, {(high - low) / middle:.0%})"
        )

    ratio = min(ours) / min(theirs)
    print(f"\n{name:32s} ours {shown(ours)}  by hand {shown(theirs)}  ratio {ratio:.4g}")
    return ratio


@pytest.mark.parametrize(("replicates", "target"), [(1_000, None), (10_000, 100)])
def test_measure_against_a_loop_of_backward_calls(replicates, target):
    """A gradient in two parameters. The probes of `measure` cost a millisecond or two whatever
    the number of replicates, so that 1,000 are reported, and 10,000 held to the target."""

    def batch():
        parameters = {"loc": torch.tensor(1.0), "scale": torch.tensor(2.0)}
        measure(Pathwise(), torch.square, Normal, parameters, replicates=replicates)

    def loop():
        loc = torch.tensor(1.0, requires_grad=True)
        scale = torch.tensor(2.0, requires_grad=True)
        gradients = []
        for _ in range(replicates):
            loc.grad = scale.grad = None
            Pathwise()(torch.square, Normal(loc, scale)).backward()
            gradients.append((loc.grad, scale.grad))
        columns = [torch.stack(column) for column in zip(*gradients, strict=True)]
        [(c.mean(), c.var()) for c in columns]

    ratio = report(f"measure {replicates}", *interleaved(batch, loop, rounds=4))
    assert target is None or 1 / ratio >= target, f"measure is {1 / ratio:.0f} times faster"


def by_hand_pathwise(q):
    return q.rsample((1,)).square().mean(0)


def by_hand_score(q):
    z = q.sample((1,))
    log_prob = q.log_prob(z)
    return (z.square() * torch.exp(log_prob - log_prob.detach())).mean(0)


def arithmetic_pathwise(q):
    return (q.loc + q.scale * torch.randn_like(q.loc)).square()


def arithmetic_score(q):
    with torch.no_grad():
        z = q.loc + q.scale * torch.randn_like(q.loc)
    log_prob = -((z - q.loc) ** 2) / (2 * q.scale**2) - q.scale.log()
    return z.square() * (log_prob - log_prob.detach() + 1)


@pytest.mark.parametrize(
    ("name", "estimator", "by_hand", "target"),
    [
        ("Pathwise", Pathwise(), by_hand_pathwise, 1.1),
        ("ScoreFunction", ScoreFunction(), by_hand_score, 1.1),
        # Without torch.distributions: what the generality of `distribution` costs.
        ("Pathwise / bare arithmetic", Pathwise(), arithmetic_pathwise, None),
        ("ScoreFunction / bare arithmetic", ScoreFunction(), arithmetic_score, None),
    ],
)
def test_estimators_against_the_same_lines_by_hand(name, estimator, by_hand, target):
    """10⁵ elements, forward and backward; target: within 10 % of the same lines on the same
    distribution. Against bare arithmetic the ratio is reported."""
    loc = torch.randn(100_000, requires_grad=True)
    scale = torch.rand(100_000).add(0.5).requires_grad_()

    def ours():
        distribution = Normal(loc, scale, validate_args=False)
        torch.autograd.grad(estimator(torch.square, distribution).sum(), (loc, scale))

    def theirs():
        torch.autograd.grad(by_hand(Normal(loc, scale, validate_args=False)).sum(), (loc, scale))

    ratio = report(name, *interleaved(ours, theirs, rounds=200))
    assert target is None or ratio <= target, f"{name} takes {ratio:.2f} times as long as by hand"


def test_the_vae_of_chapter_2_trains_in_time():
    """Target: the held-out ELBO of the stored runs, in under 30 s."""
    from reparam import long_runs
    from reparam.data import load_digits
    from reparam.vae import digits_vae, evaluate, train

    torch.set_num_threads(2)
    stored = long_runs.load("vae_seeds")
    stated = stored["test_elbo_mean"] - 4 * stored["test_elbo_standard_deviation"]
    digits = load_digits()
    torch.manual_seed(0)
    vae = digits_vae()
    took = seconds(lambda: train(vae, digits.train, progress=False))
    elbo = evaluate(vae, digits.test)
    print(f"\nVAE            {took:.1f} s to {elbo}, stated {stated:.2f}")
    assert elbo.mean >= stated
    assert took < 30
