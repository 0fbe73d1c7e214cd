"""Chapter 8's question of the gradient: a VAE trained on the bound of K samples, twice.

Run with `python -m reparam.long_runs.doubly_reparameterized` (a quarter of an
hour to an hour on one core).

The encoder gets the bound's ordinary gradient along the path, or the doubly reparameterized one;
the decoder gets the ordinary one in both. Same batches, steps and optimizer; the learning rate of
each is the best of a grid on the validation images, with a seed that the comparison does not use.
"""

import statistics
import time

import torch
from tqdm import tqdm

from reparam.data import load_digits
from reparam.long_runs import write
from reparam.long_runs.posteriors_on_digits import (
    CRITERIA,
    EPOCHS,
    GRID_SEED,
    IMPORTANCE_SAMPLES,
    LEARNING_RATES,
    SEEDS,
    best_rate,
    held_out,
    with_errors,
)
from reparam.vae import VAE, digits_vae, log_likelihood

GRADIENTS, SAMPLES = ["pathwise", "dreg"], [1, 8, 64]
BATCH = 64


def trained(
    gradient: str, num_samples: int, seed: int, learning_rate: float, epochs: int = EPOCHS
) -> VAE:
    """A Gaussian VAE, trained to maximize the importance-weighted bound."""
    images = load_digits().train
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae = digits_vae()
        optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate)
        for _ in range(epochs):
            for batch in images[torch.randperm(len(images))].split(BATCH):
                loss = -vae.importance_weighted(batch, num_samples, gradient).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return vae


def validation_bounds(gradient: str, num_samples: int) -> list[float]:
    """One for each learning rate."""
    images, bounds = load_digits().validation, []
    for rate in tqdm(LEARNING_RATES, desc=f"{gradient}, K = {num_samples}", leave=False):
        vae = trained(gradient, num_samples, GRID_SEED, rate)
        bound = log_likelihood(vae, images, IMPORTANCE_SAMPLES, GRID_SEED, progress=False)
        bounds.append(round(bound.mean, 3))
    return bounds


def main() -> None:
    torch.set_num_threads(1)
    images, results, alone = load_digits().test, {}, {}
    for num_samples in tqdm(SAMPLES):
        found, rows = {}, {}
        for gradient in GRADIENTS:
            grid = validation_bounds(gradient, num_samples)
            rate = best_rate(grid)
            seconds, runs = [], []
            for seed in SEEDS:
                start = time.process_time()
                vae = trained(gradient, num_samples, seed, rate)
                seconds.append(time.process_time() - start)
                runs.append(held_out(vae, images, seed))
            here = {key: torch.stack([run[key] for run in runs]).double() for key in CRITERIA}
            found[gradient] = here
            first = alone.setdefault(gradient, here)  # of one sample
            rows[gradient] = {
                "validation": grid,
                "learning_rate": rate,
                **{key: with_errors(here[key]) for key in CRITERIA},
                "over_one_sample": {key: with_errors(here[key] - first[key]) for key in CRITERIA},
                "cpu_seconds": round(statistics.mean(seconds), 2),
            }
        gains = {key: with_errors(found["dreg"][key] - found["pathwise"][key]) for key in CRITERIA}
        results[str(num_samples)] = {
            **rows,
            "gain": gains["log_likelihood"],
            "elbo_gain": gains["elbo"],
        }
    print(write("doubly_reparameterized", {"by_samples": results}, SEEDS))


if __name__ == "__main__":
    main()
