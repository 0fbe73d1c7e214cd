"""The speeds that the book states. Not part of `make test`: run `make benchmarks`."""

import pytest
import torch
from torch.distributions import Distribution, Normal

from reparam.estimators import Pathwise
from reparam.measure import measure
from tests.benchmarks.timing import interleaved, keep, report, seconds

ALLOWED_SECONDS = 30


@pytest.mark.parametrize(("replicates", "target"), [(1_000, None), (10_000, 100)])
def test_measure_against_a_loop_of_backward_calls(monkeypatch, replicates, target):
    """A gradient in two parameters. The probes of `measure` cost a millisecond or two whatever
    the number of replicates, so that 1,000 are reported, and 10,000 held to the target.

    Without validation, which the loop would pay for at each step, and which is off anyway once
    another file has imported storchastic.
    """
    monkeypatch.setattr(Distribution, "_validate_args", False)

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

    summary = interleaved({"ours": batch, "loop": loop}, rounds=4)
    ratio = report("measure", f"{replicates} replicates", summary)["loop"]
    assert target is None or ratio >= target, f"measure is {ratio:.0f} times faster"


def test_the_vae_of_chapter_2_trains_in_time():
    """Target: the held-out ELBO of the stored runs, in under half a minute."""
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
    row = {"name": "VAE of chapter 2", "took": took, "allowed": ALLOWED_SECONDS}
    keep("training", row | {"held-out ELBO": elbo.mean, "at least": stated})
    assert elbo.mean >= stated
    assert took < ALLOWED_SECONDS
