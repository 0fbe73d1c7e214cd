"""Chapter 8's latent plane: a VAE of the digits whose code has two dimensions.

Run with `python -m reparam.long_runs.latent_plane` (a minute on one core).

The explorer `latent_plane` decodes in the page. So that the page stays small, it has the decoder's
weights in 8 bits: whole numbers from -127 to 127, times one scale for each tensor. What rounding
costs is measured: `largest_difference` is the largest change of a pixel's probability on the
lattice `plane()`, and `test_elbo` has the ELBO with the weights as trained and as rounded.
"""

import base64
import struct

import torch
from torch import Tensor
from tqdm import tqdm

from reparam.data import load_digits
from reparam.long_runs import write
from reparam.vae import VAE, BernoulliDecoder, GaussianEncoder, evaluate, train

SEED, SHORT_SEEDS = 0, list(range(1, 5))
EPOCHS, SHORT_EPOCHS = 150, 10
HIDDEN = 24
#: The test image whose posterior is shown: a 6 whose posterior the encoder misses by a nat.
SHOWN = 193
#: How many test images of each class mark the plane, and how many steps their codes have to a unit.
MARKED, STEPS = 4, 32


def train_vae(seed: int, epochs: int = EPOCHS) -> VAE:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae = VAE(GaussianEncoder(64, 128, 2), BernoulliDecoder(2, HIDDEN, 64))
    train(vae, load_digits().train, epochs=epochs, seed=seed, progress=False)
    return vae


def plane() -> Tensor:
    """Codes z, shape `[161, 161, 2]`, a twentieth apart, from -4 to 4 in both directions."""
    line = torch.linspace(-4, 4, 161)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)


def as_trained(data: dict) -> BernoulliDecoder:
    """The decoder of the stored run, with its float32 weights."""
    numbers = base64.b64decode(data["trained"])
    return _decoder(torch.tensor(struct.unpack(f"<{len(numbers) // 4}f", numbers)))


def as_rounded(data: dict) -> BernoulliDecoder:
    """The decoder of the stored run, with the weights that the page has."""
    numbers = base64.b64decode(data["weights"])
    decoder = _decoder(torch.tensor(struct.unpack(f"<{len(numbers)}b", numbers)).float())
    with torch.no_grad():
        for weights, scale in zip(decoder.parameters(), data["scales"], strict=True):
            weights.mul_(scale)
    return decoder


def _decoder(numbers: Tensor) -> BernoulliDecoder:
    decoder = BernoulliDecoder(2, HIDDEN, 64)
    torch.nn.utils.vector_to_parameters(numbers, decoder.parameters())
    return decoder


@torch.no_grad()
def packed(decoder: BernoulliDecoder) -> dict:
    """Its weights in order, rounded to 8 bits and as they are, as little-endian base64."""
    scales = [float(f"{weights.abs().max() / 127:.4g}") for weights in decoder.parameters()]
    pairs = zip(decoder.parameters(), scales, strict=True)
    rounded = torch.cat(
        [(weights / scale).round().clamp(-127, 127).flatten() for weights, scale in pairs]
    )
    trained = torch.nn.utils.parameters_to_vector(decoder.parameters())
    return {
        "scales": scales,
        "weights": _base64(f"<{len(rounded)}b", rounded.int()),
        "trained": _base64(f"<{len(trained)}f", trained),
    }


def _base64(kinds: str, numbers: Tensor) -> str:
    return base64.b64encode(struct.pack(kinds, *numbers.tolist())).decode()


@torch.no_grad()
def marks(vae: VAE) -> dict:
    """The codes μ(x) of the first test images of each class, in 8 bits, and their classes."""
    digits = load_digits()
    chosen = torch.cat([(digits.test_labels == c).nonzero()[:MARKED, 0] for c in range(10)])
    codes = (vae.encoder(digits.test[chosen]).mean * STEPS).round().clamp(-127, 127)
    return {
        "codes": _base64(f"<{codes.numel()}b", codes.int().flatten()),
        "labels": "".join(str(label) for label in digits.test_labels[chosen].tolist()),
    }


@torch.no_grad()
def shown(vae: VAE) -> dict:
    """One test image, its class, and its posterior to two digits after the point."""
    digits = load_digits()
    posterior = vae.encoder(digits.test[SHOWN])
    return {
        "x": "".join(str(int(pixel)) for pixel in digits.test[SHOWN]),
        "label": digits.test_labels[SHOWN].item(),
        "mu": [round(v, 2) for v in posterior.mean.tolist()],
        "sigma": [round(v, 2) for v in posterior.stddev.tolist()],
    }


@torch.no_grad()
def largest_difference(one: BernoulliDecoder, other: BernoulliDecoder) -> float:
    """The largest difference of a pixel's probability between two decoders, on `plane()`."""
    return (one(plane()).mean - other(plane()).mean).abs().max().item()


def held_out_elbo(vae: VAE) -> float:
    return round(evaluate(vae, load_digits().test).mean, 4)


def main() -> None:
    torch.set_num_threads(1)
    vae = train_vae(SEED)
    data = packed(vae.decoder) | marks(vae) | {"shown": shown(vae)}
    rounded = as_rounded(data)
    data["largest_difference"] = largest_difference(vae.decoder, rounded)
    data["test_elbo"] = {
        "as trained": held_out_elbo(vae), "as rounded": held_out_elbo(VAE(vae.encoder, rounded)),
    }  # fmt: skip
    data["short_test_elbo"] = [
        held_out_elbo(train_vae(seed, SHORT_EPOCHS)) for seed in tqdm(SHORT_SEEDS, unit="seed")
    ]
    print(write("latent_plane", data, [SEED, *SHORT_SEEDS]))


if __name__ == "__main__":
    main()
