"""Chapter 8's comparison: one VAE on the digits under every posterior of the book.

Run with `python -m reparam.long_runs.posteriors_on_digits` (about an hour on one core).

Everybody gets a decoder with one hidden layer of the same width, the same batches, optimizer and
epochs. Each posterior's learning rate is the best of three on the validation images, with a seed
that the comparison does not use. A run's seed is that of the Gaussian run beside it.
"""

import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from reparam.data import load_digits
from reparam.estimators import GumbelSoftmax
from reparam.long_runs import write
from reparam.vae import (
    VAE,
    Estimator,
    QuantizedVAE,
    digits_vae,
    discrete_digits_vae,
    evaluate,
    flow_digits_vae,
    full_covariance_digits_vae,
    hybrid_digits_vae,
    log_likelihood,
    quantized_digits_vae,
    train,
)

SEEDS = list(range(5))
GRID_SEED = 100
LEARNING_RATES = [5e-4, 2e-3, 5e-3]
EPOCHS, SHORT_EPOCHS = 100, 10
#: Of the bound on log p(x), for each test image.
IMPORTANCE_SAMPLES = 500
#: The pictures that are kept: this many held-out digits, and as many samples of the model.
PICTURES = 8

#: By name: makes the model.
POSTERIORS: dict[str, Callable[[], VAE]] = {
    "Gaussian": digits_vae,
    "full covariance": full_covariance_digits_vae,
    "planar": lambda: flow_digits_vae("planar", 8, amortized=True),
    "radial": lambda: flow_digits_vae("radial", 8, amortized=True),
    "inverse autoregressive": lambda: flow_digits_vae("iaf", 4, amortized=True, hidden=(64,)),
    "spline": lambda: flow_digits_vae("spline", 2, amortized=True, hidden=(64,)),
    "categorical": discrete_digits_vae,
    "quantized": quantized_digits_vae,
    "hybrid": lambda: hybrid_digits_vae(continuous_dim=8),
}
#: Whose gradient is not the model's own choice: chapter 7's quickest on this problem.
ESTIMATORS: dict[str, Callable[[], Estimator]] = {"categorical": lambda: GumbelSoftmax(hard=True)}
#: Those whose codes can be listed, all sixteen million of them.
DISCRETE = ["categorical", "quantized"]
#: Those of which a notebook trains one seed for a few epochs.
SHORT_POSTERIORS = ["Gaussian", "full covariance", "quantized"]


def trained(name: str, seed: int, learning_rate: float, epochs: int = EPOCHS) -> VAE:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae = POSTERIORS[name]()
    train(
        vae,
        load_digits().train,
        epochs=epochs,
        learning_rate=learning_rate,
        estimator=ESTIMATORS[name]() if name in ESTIMATORS else None,
        seed=seed,
        progress=False,
    )
    return vae


@torch.no_grad()
def exact_log_likelihood(vae: VAE, images: Tensor) -> Tensor:
    """`log p(x)` of each image, summed over all codes of a categorical or quantized model."""
    variables = vae.prior.event_shape[0]
    if isinstance(vae, QuantizedVAE):
        vectors = vae.quantizer.codebook
    else:
        vectors = torch.eye(vae.prior.event_shape[1])  # one-hot
    classes = len(vectors)
    # Codes are numbered; these are the weights of their digits.
    place = classes ** torch.arange(variables - 1, -1, -1)
    total = torch.full((len(images),), -math.inf, dtype=torch.float64)
    for block in torch.arange(classes**variables).split(classes**4):
        codes = vectors[block.unsqueeze(-1) // place % classes]
        if isinstance(vae, QuantizedVAE):
            codes = codes.flatten(-2)  # as its decoder takes them
        logits = vae.decoder(codes).base_dist.logits
        log_p = images @ logits.T - F.softplus(logits).sum(-1)
        total = torch.logaddexp(total, log_p.logsumexp(-1).double())
    return total - variables * math.log(classes)


@torch.no_grad()
def pictures(vae: VAE, images: Tensor, seed: int = 0) -> dict[str, list[list[int]]]:
    """Reconstructions of images and new samples: the pixels' probabilities, in percent."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        if isinstance(vae, QuantizedVAE):
            codes = vae.quantizer(vae.encoder(images)).code.flatten(-2)
            fresh = vae.quantizer.codebook[vae.prior.sample((len(images),))].flatten(-2)
        elif isinstance(vae.prior, tuple):
            codes = torch.cat([q.sample() for q in vae.encoder(images)], -1)
            fresh = torch.cat([p.sample((len(images),)) for p in vae.prior], -1)
        else:
            codes, fresh = vae.encoder(images).sample(), vae.prior.sample((len(images),))
    return {
        kind: (100 * vae.decoder(z).mean).round().int().tolist()
        for kind, z in (("reconstructions", codes), ("samples", fresh))
    }


def run(name: str, seed: int, learning_rate: float, epochs: int = EPOCHS) -> dict:
    """Train one VAE; its bounds on the test images, in nats."""
    digits = load_digits()
    start = time.process_time()
    vae = trained(name, seed, learning_rate, epochs)
    seconds = time.process_time() - start
    with torch.no_grad():
        _, kl = vae.terms(digits.test, num_samples=20, sample=lambda q: q.sample())
    return {
        "elbo": evaluate(vae, digits.test, seed=seed).each,
        "log_likelihood": log_likelihood(
            vae, digits.test, IMPORTANCE_SAMPLES, seed, progress=False
        ).each,
        "exact": exact_log_likelihood(vae, digits.test)
        if name in DISCRETE and epochs == EPOCHS
        else None,
        "kl": kl.mean().item(),
        "cpu_seconds": seconds,
        "parameters": sum(weights.numel() for weights in vae.parameters()),
        "pictures": pictures(vae, digits.test[:PICTURES]) if seed == SEEDS[0] else None,
    }


def validation_elbo(name: str, learning_rate: float) -> float:
    vae = trained(name, GRID_SEED, learning_rate)
    return evaluate(vae, load_digits().validation, seed=GRID_SEED).mean


def with_errors(bounds: Tensor) -> dict[str, float]:
    """Of `bounds[seed, image]`: the mean, and its error from the seeds and from the images.

    `s_seeds² / seeds + s_images² / images`, where what is particular to a seed and an image counts
    twice: rather a little too large than too small.
    """
    seeds, images = bounds.shape
    by_seed, by_image = bounds.mean(1).var() / seeds, bounds.mean(0).var() / images
    return {
        "mean": round(bounds.mean().item(), 4),
        "standard_error": round((by_seed + by_image).sqrt().item(), 4),
        "standard_error_of_seeds": round(by_seed.sqrt().item(), 4),
    }


def summary(runs: list[dict], beside: list[dict]) -> dict:
    """The runs of one posterior, one per seed, and what they gain over those `beside` them."""
    result: dict = {
        "parameters": runs[0]["parameters"],
        "kl": [round(one["kl"], 3) for one in runs],
        "cpu_seconds": [round(one["cpu_seconds"], 2) for one in runs],
    }
    for key in ("elbo", "log_likelihood", "exact"):
        if runs[0][key] is None:
            continue
        values = torch.stack([one[key].double() for one in runs])
        result[key] = with_errors(values)
        result[key]["by_seed"] = [round(value, 4) for value in values.mean(1).tolist()]
        other = torch.stack(
            [one["log_likelihood" if key == "exact" else key].double() for one in beside]
        )
        result[f"{key}_gain"] = with_errors(values - other)
    return result


def main() -> None:
    torch.set_num_threads(1)
    results: dict[str, dict] = {}
    shown, short = {}, {}
    for name in tqdm(POSTERIORS):
        grid = [round(validation_elbo(name, rate), 3) for rate in LEARNING_RATES]
        rate = LEARNING_RATES[grid.index(max(grid))]
        runs = [run(name, seed, rate) for seed in SEEDS]
        if name == "Gaussian":
            gaussian = runs
        results[name] = {
            "validation_elbo_by_learning_rate": grid,
            "learning_rate": rate,
            **summary(runs, gaussian),
        }
        shown[name] = runs[0]["pictures"]
        if name in SHORT_POSTERIORS:
            early = run(name, SEEDS[0], rate, SHORT_EPOCHS)
            short[name] = round(early["log_likelihood"].mean().item(), 4)
    data = {"posteriors": results, "pictures": shown, "short_log_likelihood": short}
    print(write("posteriors_on_digits", data, SEEDS))


if __name__ == "__main__":
    main()
