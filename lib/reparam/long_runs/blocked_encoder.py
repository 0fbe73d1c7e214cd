"""Chapter 1's encoder behind a blocked sample: with the KL, without it, and set free.

Run with `python -m reparam.long_runs.blocked_encoder` (about a minute on one core).
"""

import torch
from torch.nn.utils import parameters_to_vector
from tqdm import tqdm

from reparam.data import load_digits
from reparam.long_runs import write
from reparam.vae import digits_vae, evaluate, train

SEEDS = list(range(6))

#: By name: how z is drawn, and the weight of the KL in what is maximized.
VARIANTS = {
    "blocked, no KL": (lambda q: q.sample(), 0.0),
    "blocked, with KL": (lambda q: q.sample(), 1.0),
    "reparameterized": (lambda q: q.rsample(), 1.0),
}


def run(variant: str, seed: int, epochs: int = 100) -> dict:
    """Train one VAE; how far its encoder moved, and where its two terms end (nats per image)."""
    sample, kl_weight = VARIANTS[variant]
    digits = load_digits()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae = digits_vae()
    before = parameters_to_vector(vae.encoder.parameters()).detach().clone()
    train(
        vae,
        digits.train,
        epochs=epochs,
        sample=sample,
        kl_weight=kl_weight,
        seed=seed,
        progress=False,
    )
    after = parameters_to_vector(vae.encoder.parameters()).detach()
    with torch.no_grad():
        _, kl = vae.terms(digits.test)
    return {
        "encoder_moved": (after - before).norm().item(),
        "test_kl": kl.mean().item(),
        "test_elbo": round(evaluate(vae, digits.test).mean, 4),
    }


def main() -> None:
    torch.set_num_threads(1)
    data = {}
    for variant in VARIANTS:
        runs = [run(variant, seed) for seed in tqdm(SEEDS, desc=variant, unit="seed")]
        data[variant] = {key: [one[key] for one in runs] for key in runs[0]}
    print(write("blocked_encoder", data, SEEDS))


if __name__ == "__main__":
    main()
