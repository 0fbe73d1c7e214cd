"""Chapter 6's table of costs: sampling, density and a training step of every family of flows.

Run with `python -m reparam.long_runs.flow_costs` on a quiet machine (about two minutes on one
core).

Each time is the least of many, in float32 on one thread; the families take turns, so that whatever
else the machine does falls on all of them.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import trange

from reparam.flows import (
    AffineCouplingFlow,
    Flow,
    FlowSequence,
    InverseAutoregressiveFlow,
    MaskedAutoregressiveFlow,
    PlanarFlow,
    RadialFlow,
    SplineFlow,
    SylvesterFlow,
)
from reparam.long_runs import write

SEEDS = [0]
DIMS, LAYERS, BATCH, ROUNDS = [2, 8, 32], 8, 1024, 60
HIDDEN = (64, 64)


def _ordered(flow: type[Flow]) -> Callable[[int, int], Flow]:
    return lambda dim, i: flow(dim, hidden=HIDDEN, reverse=i % 2 == 1)


#: By name: makes layer i, and how often it runs its network, one time after the other, to sample
#: and to give a density. 0 is a formula; the inverse of planar and Sylvester layers solves one
#: monotone equation, and several, without a network.
FAMILIES: dict[str, tuple[Callable[[int, int], Flow], Callable[[int], list[int]]]] = {
    "planar": (lambda dim, i: PlanarFlow(dim), lambda dim: [0, 0]),
    "radial": (lambda dim, i: RadialFlow(dim), lambda dim: [0, 0]),
    "Sylvester": (lambda dim, i: SylvesterFlow(dim), lambda dim: [0, 0]),
    "affine coupling": (_ordered(AffineCouplingFlow), lambda dim: [1, 1]),
    "spline coupling": (_ordered(SplineFlow), lambda dim: [1, 1]),
    "masked autoregressive": (_ordered(MaskedAutoregressiveFlow), lambda dim: [dim, 1]),
    "inverse autoregressive": (_ordered(InverseAutoregressiveFlow), lambda dim: [1, dim]),
}


def flows(family: str, dim: int, seed: int = SEEDS[0]) -> FlowSequence:
    """A stack of the family, a little off the identity."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        stack = FlowSequence(FAMILIES[family][0](dim, i) for i in range(LAYERS))
        with torch.no_grad():
            for weights in stack.parameters():
                weights += 0.03 * torch.randn_like(weights)
    return stack


@torch.no_grad()
def sample(stack: FlowSequence, z: Tensor) -> None:
    stack(z)


@torch.no_grad()
def density(stack: FlowSequence, z: Tensor) -> None:
    stack.inverse(z)


def training_step(stack: FlowSequence, z: Tensor) -> None:
    """Samples and the gradient of a KL to the standard Gaussian."""
    moved, log_det = stack(z)
    (moved.square().sum(-1) / 2 - log_det).mean().backward()


TASKS = {"sample": sample, "density": density, "training_step": training_step}


def measure(dim: int, rounds: int = ROUNDS) -> dict:
    """By family and task: the least and the median time of a batch, in milliseconds."""
    stacks = {family: flows(family, dim) for family in FAMILIES}
    z = torch.randn(BATCH, dim, generator=torch.Generator().manual_seed(SEEDS[0]))
    times = {(family, task): [] for family in FAMILIES for task in TASKS}
    for lap in trange(-2, rounds, desc=f"D = {dim}"):
        for (family, task), known in times.items():
            start = time.perf_counter()
            TASKS[task](stacks[family], z)
            if lap >= 0:  # the first laps warm up
                known.append(1e3 * (time.perf_counter() - start))
    return {
        family: {
            "passes": FAMILIES[family][1](dim),
            "parameters": sum(weights.numel() for weights in stacks[family].parameters()),
            "least": {task: round(min(times[family, task]), 3) for task in TASKS},
            "median": {task: round(statistics.median(times[family, task]), 3) for task in TASKS},
        }
        for family in FAMILIES
    }


def main() -> None:
    torch.set_num_threads(1)
    data = {
        "dims": DIMS,
        "layers": LAYERS,
        "batch": BATCH,
        "hidden": list(HIDDEN),
        "times": {str(dim): measure(dim) for dim in DIMS},
    }
    print(write("flow_costs", data, SEEDS))


if __name__ == "__main__":
    main()
