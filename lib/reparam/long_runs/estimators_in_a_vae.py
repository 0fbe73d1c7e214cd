"""Chapter 3's gradients inside a real VAE: their variance per layer, before and after training.

Run with `python -m reparam.long_runs.estimators_in_a_vae` (about two minutes on one core).
"""

import statistics

import torch
from torch import Tensor
from tqdm import tqdm

from reparam import objectives
from reparam.data import load_digits
from reparam.estimators import LeaveOneOut, Pathwise, ScoreFunction
from reparam.long_runs import write
from reparam.vae import VAE, digits_vae, train

SEEDS = list(range(8))
EPOCHS = [0, 10, 100]
REPLICATES = 400
BATCH = 64
LAYERS = ["encoder.hidden", "encoder.mu", "encoder.log_var", "decoder.hidden", "decoder.logits"]


def whole_bound(gradient: str):
    """The ELBO with its KL sampled, too, so that there is a score term to leave out."""

    def estimate(vae: VAE, x: Tensor) -> Tensor:
        return objectives.elbo(
            lambda z: vae.decoder(z).log_prob(x) + vae.prior.log_prob(z),
            vae.encoder(x),
            gradient=gradient,
        )

    return estimate


#: By name: an estimate of each image's ELBO, and how many times it runs the decoder.
ESTIMATORS = {
    "pathwise": (lambda vae, x: vae.elbo(x, estimator=Pathwise()), 1),
    "pathwise, KL sampled": (whole_bound("pathwise"), 1),
    "sticking the landing": (whole_bound("stl"), 1),
    "score function": (lambda vae, x: vae.elbo(x, estimator=ScoreFunction()), 1),
    "score function, leave-one-out": (
        lambda vae, x: vae.elbo(x, 2, estimator=ScoreFunction(LeaveOneOut())),
        2,
    ),
}


def gradients(vae: VAE, x: Tensor, name: str, replicates: int) -> dict[str, Tensor]:
    """By layer, independent estimates of the gradient of the batch's mean ELBO, one per row."""
    estimate, _ = ESTIMATORS[name]
    weights = dict(vae.named_parameters())
    rows = {layer: [] for layer in LAYERS}
    for _ in range(replicates):
        slopes = torch.autograd.grad(estimate(vae, x).mean(), list(weights.values()))
        for layer in LAYERS:
            own = [s for w, s in zip(weights, slopes, strict=True) if w.startswith(f"{layer}.")]
            rows[layer].append(torch.cat([slope.flatten() for slope in own]))
    return {layer: torch.stack(row).double() for layer, row in rows.items()}


def run(seed: int, epochs: int, replicates: int = REPLICATES) -> dict:
    """Train one VAE as chapter 2 does, then measure each estimator at the weights it has.

    By estimator and layer: the gradient's variance, summed over the layer's entries; that times the
    runs of the decoder; the norm of the expected gradient over the root of the variance; and the
    squared distance of the mean from pathwise's mean in units of what chance alone would give (1).
    """
    digits = load_digits()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae = digits_vae()
    if epochs:
        train(vae, digits.train, epochs=epochs, seed=seed, progress=False)
    result, pathwise = {}, {}
    with torch.random.fork_rng([]):
        torch.manual_seed(1000 + seed)
        for name, (_, evaluations) in ESTIMATORS.items():
            result[name] = {}
            for layer, rows in gradients(vae, digits.train[:BATCH], name, replicates).items():
                mean, variance = rows.mean(0), rows.var(0).sum().item()
                # All of them have one expectation; the quietest estimate of it serves for all.
                quiet, quiet_variance = pathwise.setdefault(layer, (mean, variance))
                signal = max(quiet.square().sum().item() - quiet_variance / replicates, 0.0)
                chance = (variance + quiet_variance) / replicates
                result[name][layer] = {
                    "variance": variance,
                    "variance_times_evaluations": variance * evaluations,
                    "signal_to_noise": (signal / variance) ** 0.5,
                    "distance": (mean - quiet).square().sum().item() / chance,
                }
    return result


def summary(values: list[float]) -> dict:
    """One number per seed, their mean and its standard error, to five digits."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return {
        "seeds": [float(f"{value:.5g}") for value in values],
        "mean": float(f"{statistics.mean(values):.5g}"),
        "standard_error": float(f"{error:.5g}"),
    }


def main() -> None:
    torch.set_num_threads(1)
    data = {}
    for epochs in EPOCHS:
        runs = [run(seed, epochs) for seed in tqdm(SEEDS, desc=f"{epochs} epochs", unit="seed")]
        data[f"{epochs} epochs"] = {
            name: {
                layer: {
                    key: summary([one[name][layer][key] for one in runs])
                    for key in runs[0][name][layer]
                }
                for layer in LAYERS
            }
            for name in ESTIMATORS
        }
    print(write("estimators_in_a_vae", data, SEEDS))


if __name__ == "__main__":
    main()
