"""Chapter 6's VAE on the digits: what a flow posterior gains over the Gaussian one.

Run with `python -m reparam.long_runs.flows_on_digits` (about half an hour on one core).

Everybody gets the same decoder, base posterior, batches, optimizer and epochs; a run's seed is that
of the Gaussian run beside it, and the gain is the mean of the differences.
"""

import statistics
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from tqdm import tqdm

from reparam.data import load_digits
from reparam.long_runs import write
from reparam.objectives import importance_weighted_bound
from reparam.vae import VAE, digits_vae, evaluate, flow_digits_vae, train

SEEDS = list(range(5))
EPOCHS, SHORT_EPOCHS = 100, 10
#: Of the bound on log p(x), for each test image.
IMPORTANCE_SAMPLES = 500

#: By name: makes the model.
POSTERIORS: dict[str, Callable[[], VAE]] = {
    "Gaussian": digits_vae,
    "planar": lambda: flow_digits_vae("planar", 8),
    "planar, amortized": lambda: flow_digits_vae("planar", 8, amortized=True),
    "radial, amortized": lambda: flow_digits_vae("radial", 8, amortized=True),
    "Sylvester, amortized": lambda: flow_digits_vae("sylvester", 4, amortized=True),
    "affine coupling": lambda: flow_digits_vae("coupling", 4, hidden=(64,)),
    "affine coupling, amortized": lambda: flow_digits_vae(
        "coupling", 4, amortized=True, hidden=(64,)
    ),
    "inverse autoregressive, amortized": lambda: flow_digits_vae(
        "iaf", 4, amortized=True, hidden=(64,)
    ),
    "spline, amortized": lambda: flow_digits_vae("spline", 2, amortized=True, hidden=(64,)),
}
#: Other weights of the KL in what is maximized, and the posteriors that are trained with them.
BETAS, BETA_POSTERIORS = [0.5, 2.0], ["Gaussian", "affine coupling, amortized"]


#: Those of which a notebook trains one seed for a few epochs.
SHORT_POSTERIORS = ["Gaussian", "affine coupling, amortized"]


def log_likelihood(vae: VAE, images: Tensor, num_samples: int, seed: int = 0) -> Tensor:
    """The importance-weighted bound on `log p(x)` of each image, in nats."""
    bounds = []
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for x in images.split(20):

            def log_joint(z: Tensor, x: Tensor = x) -> Tensor:
                return vae.decoder(z).log_prob(x) + vae.prior.log_prob(z)

            bound = importance_weighted_bound(log_joint, vae.encoder(x), num_samples)
            bounds.append(bound.detach())
    return torch.cat(bounds)


def run(name: str, seed: int, epochs: int = EPOCHS, kl_weight: float = 1.0) -> dict:
    """Train one VAE; bounds and the ELBO's two terms on the test images, in nats per image."""
    digits = load_digits()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae = POSTERIORS[name]()
    start = time.process_time()
    train(vae, digits.train, epochs=epochs, kl_weight=kl_weight, seed=seed, progress=False)
    seconds = time.process_time() - start
    with torch.no_grad():
        _, kl = vae.terms(digits.test, num_samples=100)
    return {
        "elbo": evaluate(vae, digits.test, seed=seed).mean,
        "log_likelihood": log_likelihood(vae, digits.test, IMPORTANCE_SAMPLES, seed).mean().item(),
        "kl": kl.mean().item(),
        "cpu_seconds": seconds,
        "parameters": sum(weights.numel() for weights in vae.parameters()),
    }


def summary(runs: list[dict], beside: list[dict]) -> dict:
    """The runs of one posterior, one per seed, and what they gain over those `beside` them."""
    result = {
        key: [round(one[key], 4) for one in runs]
        for key in ("elbo", "log_likelihood", "kl", "cpu_seconds")
    }
    result["parameters"] = runs[0]["parameters"]
    for key in ("elbo", "log_likelihood"):
        gains = [one[key] - other[key] for one, other in zip(runs, beside, strict=True)]
        for name, values in ((key, result[key]), (f"{key}_gain", gains)):
            result[f"{name}_mean"] = round(statistics.mean(values), 4)
            result[f"{name}_standard_error"] = round(
                statistics.stdev(values) / len(values) ** 0.5, 4
            )
    return result


def collect(runs: Callable[..., dict]) -> dict:
    """All that the chapter shows, from `runs(name, seed, epochs, kl_weight)`."""

    def of(name: str, epochs: int = EPOCHS, kl_weight: float = 1.0) -> list[dict]:
        return [runs(name, seed, epochs, kl_weight) for seed in tqdm(SEEDS, desc=name)]

    gaussian, early = of("Gaussian"), of("Gaussian", SHORT_EPOCHS)
    data = {
        "posteriors": {name: summary(of(name), gaussian) for name in POSTERIORS},
        "short": {name: summary(of(name, SHORT_EPOCHS), early) for name in SHORT_POSTERIORS},
    }
    data["betas"] = {
        f"{beta:g}": {
            name: summary(of(name, kl_weight=beta), of("Gaussian", kl_weight=beta))
            for name in BETA_POSTERIORS
        }
        for beta in BETAS
    }
    return data


def main() -> None:
    torch.set_num_threads(1)
    print(write("flows_on_digits", collect(cache(run)), SEEDS))


if __name__ == "__main__":
    main()
