"""Chapter 7's race: one categorical VAE on the digits, every estimator, equal CPU time.

Run with `python -m reparam.long_runs.estimators_on_digits` (about twenty minutes on one core).

Everybody gets the same model, batches, optimizer and seconds of one core's own time, in which the
held-out evaluations do not count. Each estimator's learning rate is the best of three on the
validation images, with a seed that the race does not use; the race is judged on the test images,
with codes drawn exactly, whatever the training relaxed.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reparam.data import load_digits
from reparam.estimators import (
    ARM,
    NVIL,
    REBAR,
    RELAX,
    SPSA,
    DisARM,
    GumbelRao,
    GumbelSoftmax,
    Learned,
    LeaveOneOut,
    MeasureValued,
    MovingAverage,
    ReinMax,
    ScoreFunction,
    StraightThrough,
)
from reparam.long_runs import write
from reparam.relaxed import annealed_temperature
from reparam.vae import VAE, Estimator, discrete_digits_vae, evaluate

SEEDS = list(range(5))
GRID_SEED = 100
LEARNING_RATES = [5e-4, 2e-3, 5e-3]
SECONDS = 8.0
#: When the held-out ELBO is looked at: seconds of CPU time, and one number of steps, which any
#: computer can repeat in any time.
CPU_SECONDS = [0.1, 0.2, 0.4, 0.7, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8]
EARLY_STEPS = 100
VARIABLES, CLASSES, BATCH = 8, 8, 64


class Annealed:
    """Gumbel-Softmax whose temperature falls from 1 to 0.3 within the first 1,200 steps."""

    def __init__(self):
        self.step = 0

    def __call__(self, f, distribution, num_samples: int = 1) -> Tensor:
        temperature = annealed_temperature(self.step, start=1.0, end=0.3, rate=1e-3)
        self.step += 1
        return GumbelSoftmax(temperature)(f, distribution, num_samples)


class Surrogate(nn.Module):
    """RELAX's control variate: a small network of the relaxed code."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Flatten(-2), nn.Linear(VARIABLES * CLASSES, 50), nn.Tanh(), nn.Linear(50, 1)
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z).squeeze(-1)


def baseline_network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 50), nn.Tanh(), nn.Linear(50, 1))


#: By name: makes the estimator, and how many samples each step takes.
ESTIMATORS: dict[str, tuple[Callable[[], Estimator], int]] = {
    "score function": (ScoreFunction, 1),
    "moving average": (lambda: ScoreFunction(MovingAverage()), 1),
    "leave-one-out": (lambda: ScoreFunction(LeaveOneOut()), 4),
    "learned baseline": (lambda: Learned(baseline_network()), 1),
    "NVIL": (lambda: NVIL(baseline_network()), 1),
    "measure-valued": (MeasureValued, 1),
    "ARM": (ARM, 1),
    "DisARM": (DisARM, 1),
    "REBAR": (REBAR, 1),
    "RELAX": (lambda: RELAX(Surrogate()), 1),
    "Gumbel-Softmax": (GumbelSoftmax, 1),
    "Gumbel-Softmax, annealed": (Annealed, 1),
    "Gumbel-Softmax, hard": (lambda: GumbelSoftmax(hard=True), 1),
    "straight-through": (StraightThrough, 1),
    "Gumbel-Rao": (GumbelRao, 1),
    "ReinMax": (ReinMax, 1),
    "SPSA": (SPSA, 1),
}


def training(name: str, learning_rate: float) -> Iterator[tuple[VAE, float]]:
    """Train for ever; after each step the model, and the CPU seconds that the steps took so far."""
    images = load_digits().train
    make, num_samples = ESTIMATORS[name]
    vae, estimator = discrete_digits_vae(VARIABLES, CLASSES), make()
    own = estimator.parameters() if isinstance(estimator, nn.Module) else []
    optimizer = torch.optim.Adam([*vae.parameters(), *own], lr=learning_rate)
    used = 0.0
    while True:
        start = time.process_time()
        batch = images[torch.randint(len(images), (BATCH,))]
        loss = -vae.elbo(batch, num_samples, estimator=estimator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        used += time.process_time() - start
        yield vae, used


def run(name: str, seed: int, learning_rate: float, seconds: float = SECONDS) -> dict:
    """One estimator for so many CPU seconds: its held-out curve (nats per image), steps and end."""
    digits, curve, steps = load_digits(), [], 0
    marks = [mark for mark in CPU_SECONDS if mark <= seconds]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for vae, used in training(name, learning_rate):
            steps += 1
            while len(curve) < len(marks) and used >= marks[len(curve)]:
                curve.append(evaluate(vae, digits.validation, num_samples=10).mean)
            if len(curve) == len(marks):
                break
        test_elbo = evaluate(vae, digits.test).mean
    return {
        "curve": [round(value, 3) for value in curve],
        "steps": steps,
        "test_elbo": round(test_elbo, 4),
    }


def after(steps: int, name: str, seed: int, learning_rate: float) -> float:
    """The validation ELBO after so many steps: what any computer can repeat, however fast it is."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        *_, (vae, _) = islice(training(name, learning_rate), steps)
        return round(evaluate(vae, load_digits().validation, num_samples=10).mean, 4)


def main() -> None:
    torch.set_num_threads(1)
    data = {"cpu_seconds": CPU_SECONDS, "early_steps": [EARLY_STEPS], "estimators": {}}
    for name in tqdm(ESTIMATORS, desc="learning rates"):
        ends = [run(name, GRID_SEED, rate)["curve"][-1] for rate in LEARNING_RATES]
        data["estimators"][name] = {
            "learning_rates": LEARNING_RATES,
            "validation_elbo_by_learning_rate": ends,
            "learning_rate": LEARNING_RATES[ends.index(max(ends))],
            "num_samples": ESTIMATORS[name][1],
            "curves": [],
            "steps": [],
            "test_elbo": [],
            "early_elbo": [],
        }
    for seed in tqdm(SEEDS, desc="the race", unit="seed"):
        for name, one in data["estimators"].items():
            result = run(name, seed, one["learning_rate"])
            one["curves"].append(result["curve"])
            one["steps"].append(result["steps"])
            one["test_elbo"].append(result["test_elbo"])
            one["early_elbo"].append(after(EARLY_STEPS, name, seed, one["learning_rate"]))
    for one in data["estimators"].values():
        one["test_elbo_mean"] = statistics.mean(one["test_elbo"])
        one["test_elbo_standard_error"] = statistics.stdev(one["test_elbo"]) / len(SEEDS) ** 0.5
    print(write("estimators_on_digits", data, SEEDS))


if __name__ == "__main__":
    main()
