"""Chapter 8's picture of codes: where each posterior of the book puts the digits.

Run with `python -m reparam.long_runs.codes_on_digits` (five to fifteen minutes on two cores).

The models are those of `posteriors_on_digits`, at the learning rates that were chosen there by the
ELBO. Each image gives one code, drawn from its posterior, as the decoder takes it, and the average
of many such codes. What of a digit's kind is in them is measured by a reader that learns nothing: a
held-out digit counts as read if the training digit with the nearest code is of its kind.
"""

import multiprocessing

import torch
from torch import Tensor
from tqdm import tqdm

from reparam.data import load_digits
from reparam.long_runs import load, write
from reparam.long_runs.posteriors_on_digits import POSTERIORS, SEEDS, trained
from reparam.vae import VAE, QuantizedVAE

SHORT_EPOCHS = 10
#: Those of which a notebook trains one seed for a few epochs.
SHORT_POSTERIORS = ["Gaussian", "quantized"]
#: How many codes of each image are averaged.
AVERAGED = 64
#: How many held-out digits are drawn, by their first two principal components.
DRAWN = 100


@torch.no_grad()
def codes(vae: VAE, images: Tensor) -> Tensor:
    """One code of each image, shape `[n, inputs of the decoder]`, from the global generator."""
    q = vae.encoder(images)
    if isinstance(vae, QuantizedVAE):
        return vae.quantizer(q).code.flatten(1)
    if isinstance(q, tuple):
        return torch.cat([part.sample() for part in q], -1)
    return q.sample().flatten(1)


def average_codes(vae: VAE, images: Tensor) -> Tensor:
    return torch.stack([codes(vae, images) for _ in range(AVERAGED)]).mean(0)


def read(known: Tensor, known_labels: Tensor, new: Tensor, new_labels: Tensor) -> float:
    """The share of `new` whose nearest neighbor among `known` has the same label."""
    nearest = torch.cdist(new, known).argmin(1)
    return (known_labels[nearest] == new_labels).float().mean().item()


def plane(z: Tensor) -> tuple[Tensor, float]:
    """The first two principal components of each row, and their share of the variance."""
    centered = z - z.mean(0)
    _, lengths, axes = torch.linalg.svd(centered, full_matrices=False)
    share = lengths[:2].square().sum() / lengths.square().sum()
    return centered @ axes[:2].T, share.item()


def run(name: str, seed: int, epochs: int | None = None) -> tuple[Tensor, float, float]:
    """Train one VAE; codes of the test images, and the shares read from codes and averages."""
    digits = load_digits()
    rate = load("posteriors_on_digits")["posteriors"][name]["learning_rate"]["elbo"]
    vae = trained(name, seed, rate, epochs)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        both = [
            [of(vae, digits.train), digits.train_labels, of(vae, digits.test), digits.test_labels]
            for of in (codes, average_codes)
        ]
    return both[0][2], read(*both[0]), read(*both[1])


def runs(name: str) -> tuple[str, list[tuple[Tensor, float, float]]]:
    """One for each seed."""
    torch.set_num_threads(1)
    return name, [run(name, seed) for seed in SEEDS]


def main() -> None:
    torch.set_num_threads(1)
    with multiprocessing.get_context("spawn").Pool() as pool:
        done = dict(tqdm(pool.imap(runs, POSTERIORS), total=len(POSTERIORS)))
    digits, results, short = load_digits(), {}, {}
    for name, found in done.items():
        places, share = plane(found[0][0])
        results[name] = {
            "read": [round(of_codes, 4) for _, of_codes, _ in found],
            "read_from_averages": [round(of_averages, 4) for *_, of_averages in found],
            "plane": [[round(v, 2) for v in row] for row in places[:DRAWN].tolist()],
            "variance_in_plane": round(share, 4),
        }
    for name in SHORT_POSTERIORS:
        short[name] = round(run(name, SEEDS[0], SHORT_EPOCHS)[1], 4)
    pixels = read(digits.train, digits.train_labels, digits.test, digits.test_labels)
    data = {"posteriors": results, "short_read": short, "read_from_pixels": round(pixels, 4)}
    print(write("codes_on_digits", data, SEEDS))


if __name__ == "__main__":
    main()
