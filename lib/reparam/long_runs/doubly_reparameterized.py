"""Chapter 8's question of the gradient: a VAE trained on the bound of K samples, twice.

Run with `python -m reparam.long_runs.doubly_reparameterized` (about half an hour on one core).

The encoder gets the bound's ordinary gradient along the path, or the doubly reparameterized one;
the decoder gets the ordinary one in both. Same batches, steps and optimizer; the learning rate of
each is the best of three on the validation images, with a seed that the comparison does not use.
"""

import statistics
import time

import torch
from tqdm import tqdm

from reparam.data import load_digits
from reparam.long_runs import write
from reparam.long_runs.posteriors_on_digits import IMPORTANCE_SAMPLES, with_errors
from reparam.vae import VAE, digits_vae, evaluate, log_likelihood

SEEDS = list(range(5))
GRID_SEED = 100
LEARNING_RATES = [5e-4, 2e-3, 5e-3]
GRADIENTS, SAMPLES = ["pathwise", "dreg"], [1, 8, 64]
EPOCHS, BATCH = 100, 64


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


def chosen_rate(gradient: str, num_samples: int) -> float:
    def held_out(rate: float) -> float:
        vae = trained(gradient, num_samples, GRID_SEED, rate)
        images = load_digits().validation
        return log_likelihood(vae, images, IMPORTANCE_SAMPLES, GRID_SEED, progress=False).mean

    return max(LEARNING_RATES, key=held_out)


def main() -> None:
    torch.set_num_threads(1)
    images, results, first = load_digits().test, {}, {}
    for num_samples in tqdm(SAMPLES):
        bounds, elbos, rows = {}, {}, {}
        for gradient in GRADIENTS:
            rate = chosen_rate(gradient, num_samples)
            seconds, several, single = [], [], []
            for seed in SEEDS:
                start = time.process_time()
                vae = trained(gradient, num_samples, seed, rate)
                seconds.append(time.process_time() - start)
                single.append(evaluate(vae, images, seed=seed).each)
                many = log_likelihood(vae, images, IMPORTANCE_SAMPLES, seed, progress=False)
                several.append(many.each)
            elbos[gradient] = torch.stack(single).double()
            bounds[gradient] = torch.stack(several).double()
            here = {"elbo": elbos[gradient], "log_likelihood": bounds[gradient]}
            alone = first.setdefault(gradient, here)
            rows[gradient] = {
                "learning_rate": rate,
                **{key: with_errors(values) for key, values in here.items()},
                "over_one_sample": {k: with_errors(v - alone[k]) for k, v in here.items()},
                "cpu_seconds": round(statistics.mean(seconds), 2),
            }
        gain, elbo_gain = (of["dreg"] - of["pathwise"] for of in (bounds, elbos))
        results[str(num_samples)] = {
            **rows,
            "gain": with_errors(gain),
            "elbo_gain": with_errors(elbo_gain),
        }
    print(write("doubly_reparameterized", {"by_samples": results}, SEEDS))


if __name__ == "__main__":
    main()
