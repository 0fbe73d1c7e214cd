"""Chapter 2's VAE from twelve seeds: how well it does, and how much that depends on luck.

Run with `python -m reparam.long_runs.vae_seeds` (about a minute on one core).
"""

import statistics

import torch
from tqdm import tqdm

from reparam.data import load_digits
from reparam.long_runs import write
from reparam.vae import digits_vae, evaluate, train

SEEDS = list(range(12))
CURVE_EPOCHS = [1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100]


def run(seed: int, epochs: int = 100) -> dict:
    """Train one VAE; its ELBO on the test images, its learning curves and the seconds it took."""
    digits = load_digits()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae = digits_vae()
    history = train(
        vae, digits.train, epochs=epochs, validation=digits.validation, seed=seed, progress=False
    )
    shown = [epoch - 1 for epoch in CURVE_EPOCHS if epoch <= epochs]
    return {
        "train_curve": [round(value, 3) for value in history.elbo[shown].tolist()],
        "held_out_curve": [round(value, 3) for value in history.held_out[shown].tolist()],
        "test_elbo": round(evaluate(vae, digits.test).mean, 4),
        "kl": round(history.kl[-1].item(), 4),
        "seconds": round(history.seconds, 2),
    }


def main() -> None:
    torch.set_num_threads(1)
    runs = [run(seed) for seed in tqdm(SEEDS, unit="seed")]
    elbos = [one["test_elbo"] for one in runs]
    data = {
        "test_elbo": elbos,
        "test_elbo_mean": statistics.mean(elbos),
        "test_elbo_standard_error": statistics.stdev(elbos) / len(elbos) ** 0.5,
        "test_elbo_standard_deviation": statistics.stdev(elbos),
        "kl": [one["kl"] for one in runs],
        "curve_epochs": CURVE_EPOCHS,
        "train_curves": [one["train_curve"] for one in runs],
        "held_out_curves": [one["held_out_curve"] for one in runs],
        "seconds": [one["seconds"] for one in runs],
    }
    print(write("vae_seeds", data, SEEDS))


if __name__ == "__main__":
    main()
