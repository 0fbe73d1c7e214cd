"""Chapter 8's comparison: one VAE on the digits under every posterior of the book.

Run with `python -m reparam.long_runs.posteriors_on_digits` (twenty minutes to
an hour on two cores).

Everybody gets a decoder with one hidden layer of the same width, the same batches, optimizer and
epochs. Learning rates are the best of a grid on the validation images, with a seed that the
comparison does not use: one by the ELBO, one by the bound with many samples, and each number of the
comparison comes from runs at the rate that was chosen by it. A run's seed is that of the Gaussian
run beside it. Controls have more samples in each step, or more epochs, and rates of their own.
"""

import math
import multiprocessing
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import kl_divergence
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
LEARNING_RATES = [5e-4, 2e-3, 5e-3, 1e-2, 2e-2]
EPOCHS, SHORT_EPOCHS = 100, 10
#: Of the bound on log p(x), for each image that is held out.
IMPORTANCE_SAMPLES = 2000
#: The pictures that are kept: this many held-out digits, and as many samples of the model.
PICTURES = 8
#: What a learning rate is chosen by, on the validation images.
CRITERIA = ["elbo", "log_likelihood"]


class Contender(NamedTuple):
    """How to make a model, and how to train it."""

    make: Callable[[], VAE]
    estimator: Callable[[], Estimator] | None = None
    num_samples: int = 1
    epochs: int = EPOCHS


CATEGORICAL = Contender(discrete_digits_vae, lambda: GumbelSoftmax(hard=True))
POSTERIORS = {
    "Gaussian": Contender(digits_vae),
    "full covariance": Contender(full_covariance_digits_vae),
    "planar": Contender(lambda: flow_digits_vae("planar", 8, amortized=True)),
    "radial": Contender(lambda: flow_digits_vae("radial", 8, amortized=True)),
    "inverse autoregressive": Contender(
        lambda: flow_digits_vae("iaf", 4, amortized=True, hidden=(64,))
    ),
    "spline": Contender(lambda: flow_digits_vae("spline", 2, amortized=True, hidden=(64,))),
    "categorical": CATEGORICAL,  # with chapter 7's quickest estimator on this problem
    "quantized": Contender(quantized_digits_vae),
    "hybrid": Contender(lambda: hybrid_digits_vae(continuous_dim=8)),
}
CONTROLS = {
    "Gaussian, ten samples": Contender(digits_vae, num_samples=10),  # as the hybrid's sum draws
    "Gaussian, longer": Contender(digits_vae, epochs=4 * EPOCHS),
    "categorical, longer": CATEGORICAL._replace(epochs=4 * EPOCHS),
}
#: Those whose codes can be listed, all sixteen million of them.
DISCRETE = ["categorical", "quantized"]
#: Those of which a notebook trains one seed for a few epochs.
SHORT_POSTERIORS = ["Gaussian", "full covariance", "quantized"]


def trained(name: str, seed: int, learning_rate: float, epochs: int | None = None) -> VAE:
    contender = (POSTERIORS | CONTROLS)[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae = contender.make()
    train(
        vae,
        load_digits().train,
        epochs=epochs or contender.epochs,
        learning_rate=learning_rate,
        estimator=contender.estimator() if contender.estimator else None,
        num_samples=contender.num_samples,
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


def held_out(vae: VAE, images: Tensor, seed: int) -> dict[str, Tensor]:
    """The bounds of each image, by criterion, in nats."""
    many = log_likelihood(vae, images, IMPORTANCE_SAMPLES, seed, progress=False)
    return {"elbo": evaluate(vae, images, seed=seed).each, "log_likelihood": many.each}


def run(name: str, seed: int, learning_rate: float, epochs: int | None = None) -> dict:
    """Train one VAE; its bounds on the test images, in nats."""
    images = load_digits().test
    start = time.process_time()
    vae = trained(name, seed, learning_rate, epochs)
    seconds = time.process_time() - start
    with torch.no_grad():
        _, kl = vae.terms(images, num_samples=20, sample=lambda q: q.sample())
        is_pair = isinstance(vae.prior, tuple)
        of_class = kl_divergence(vae.encoder(images)[0], vae.prior[0]) if is_pair else None
    return {
        **held_out(vae, images, seed),
        "kl": kl.mean().item(),
        "kl_of_class": of_class.mean().item() if is_pair else None,
        "cpu_seconds": seconds,
        "parameters": sum(weights.numel() for weights in vae.parameters()),
        "pictures": pictures(vae, images[:PICTURES]) if seed == SEEDS[0] else None,
        "exact": exact_log_likelihood(vae, images) if name in DISCRETE and not epochs else None,
    }


def contend(name: str) -> tuple[str, dict, dict]:
    """Its validation bounds by criterion, one for each rate; and its runs by rate."""
    torch.set_num_threads(1)
    images = load_digits().validation
    grids = {key: [] for key in CRITERIA}
    for rate in LEARNING_RATES:
        try:
            bounds = held_out(trained(name, GRID_SEED, rate), images, GRID_SEED)
            means = {key: round(bounds[key].mean().item(), 3) for key in CRITERIA}
        except FloatingPointError:  # training diverged
            means = dict.fromkeys(CRITERIA)
        for key, mean in means.items():
            grids[key].append(mean)
    rates = {best_rate(grid) for grid in grids.values()}
    return name, grids, {rate: [run(name, seed, rate) for seed in SEEDS] for rate in rates}


def best_rate(grid: list[float | None]) -> float:
    """The rate of the largest bound; None stands where training diverged."""
    return LEARNING_RATES[grid.index(max(bound for bound in grid if bound is not None))]


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
    """The runs of one posterior, one per seed, and what they gain over those `beside` them.

    `tightness_gain` is that of the bound's distance from the ELBO: how much nearer they are.
    """

    def of(key: str, runs: list[dict]) -> Tensor:
        return torch.stack([one[key].double() for one in runs])

    result: dict = {
        "parameters": runs[0]["parameters"],
        "kl": [round(one["kl"], 3) for one in runs],
        "cpu_seconds": [round(one["cpu_seconds"], 2) for one in runs],
    }
    if runs[0]["kl_of_class"] is not None:
        result["kl_of_class"] = [round(one["kl_of_class"], 5) for one in runs]
    for key in (*CRITERIA, "exact"):
        if runs[0][key] is None:
            continue
        values = of(key, runs)
        result[key] = with_errors(values)
        result[key]["by_seed"] = [round(value, 4) for value in values.mean(1).tolist()]
        other = of("log_likelihood" if key == "exact" else key, beside)
        result[f"{key}_gain"] = with_errors(values - other)
    apart, other = (of("log_likelihood", r) - of("elbo", r) for r in (runs, beside))
    result["tightness_gain"] = with_errors(other - apart)
    return result


def main() -> None:
    names = [*POSTERIORS, *CONTROLS]
    with multiprocessing.get_context("spawn").Pool() as pool:
        done = {name: rest for name, *rest in tqdm(pool.imap(contend, names), total=len(names))}
    results, shown, short = {}, {}, {}
    for name, (grids, runs) in done.items():
        chosen = {key: best_rate(grid) for key, grid in grids.items()}
        results[name] = {"validation": grids, "learning_rate": chosen, "chosen_by": {}}
        gaussian_grids, gaussian = done["Gaussian"]
        for key, rate in chosen.items():
            beside = gaussian[best_rate(gaussian_grids[key])]
            results[name]["chosen_by"][key] = summary(runs[rate], beside)
        if name in POSTERIORS:
            shown[name] = runs[chosen["elbo"]][0]["pictures"]
        if name in SHORT_POSTERIORS:
            early = run(name, SEEDS[0], chosen["elbo"], SHORT_EPOCHS)
            short[name] = round(early["log_likelihood"].mean().item(), 4)
    data = {"posteriors": results, "pictures": shown, "short_log_likelihood": short}
    print(write("posteriors_on_digits", data, SEEDS))


if __name__ == "__main__":
    main()
