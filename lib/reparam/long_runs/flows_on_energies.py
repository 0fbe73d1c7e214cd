"""Chapter 6's four published energies, fitted with flows; and what the wrong objective does.

Run with `python -m reparam.long_runs.flows_on_energies` (about a quarter of an hour on one core).

The target is `p(z) = exp(-U(z)) / Z` on the plane. Each fit minimizes `KL(q ‖ p)` by Adam, with the
energy let in slowly, as in the paper; all seeds and energies of a family are trained side by side.
The KL reported has no Monte Carlo in it: it is a sum over a grid of the noise.
"""

import copy
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.func import functional_call, stack_module_state, vmap
from tqdm import tqdm, trange

from reparam.flows import (
    AffineCouplingFlow,
    Flow,
    FlowSequence,
    NormalizingFlowPosterior,
    PlanarFlow,
    SplineFlow,
)
from reparam.long_runs import write

Energy = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor, Tensor, Tensor, float], Tensor]

SEEDS = list(range(5))
STEPS, BATCH, LEARNING_RATE = 4000, 256, 1e-2
#: Where the wall begins that makes the last three energies proper, and how soft it is.
WALL, SOFTNESS = 4.0, 0.5
#: The square that the pictures show, and points along each side of it.
PICTURE, PIXELS = 5.0, 60


def _wave(z: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * z[..., 0] / 4)


def _bump(z: Tensor) -> Tensor:
    return 3 * torch.exp(-(((z[..., 0] - 1) / 0.6) ** 2) / 2)


def _step(z: Tensor) -> Tensor:
    return 3 * torch.sigmoid((z[..., 0] - 1) / 0.3)


def _well(distance: Tensor, width: float) -> Tensor:
    return (distance / width) ** 2 / 2


def _either(one: Tensor, other: Tensor) -> Tensor:
    """The energy of the sum of two densities, from theirs."""
    return -torch.logaddexp(-one, -other)


def _wall(z: Tensor) -> Tensor:
    """0 for `|z_1| ≤ 4`, and quadratic beyond."""
    return _well((z[..., 0].abs() - WALL).clamp(min=0), SOFTNESS)


def ring(z: Tensor) -> Tensor:
    radius = torch.linalg.vector_norm(z, dim=-1)
    ends = _either(_well(z[..., 0] - 2, 0.6), _well(z[..., 0] + 2, 0.6))
    return _well(radius - 2, 0.4) + ends


def wave(z: Tensor) -> Tensor:
    return _well(z[..., 1] - _wave(z), 0.4) + _wall(z)


def wave_with_a_bump(z: Tensor) -> Tensor:
    away = z[..., 1] - _wave(z)
    return _either(_well(away, 0.35), _well(away + _bump(z), 0.35)) + _wall(z)


def wave_with_a_fork(z: Tensor) -> Tensor:
    away = z[..., 1] - _wave(z)
    return _either(_well(away, 0.4), _well(away + _step(z), 0.35)) + _wall(z)


#: The energies of Rezende and Mohamed (2015), table 1, https://arxiv.org/abs/1505.05770, shape
#: `[..., 2]` to `[...]`. As printed, all but the first are the same for every multiple of a period
#: along z_1, so that `exp(-U)` has no finite integral: they get a soft wall at `|z_1| = 4`.
ENERGIES: dict[str, Energy] = {
    "U1": ring,
    "U2": wave,
    "U3": wave_with_a_bump,
    "U4": wave_with_a_fork,
}


def _alternating(flow: type[Flow], count: int, **options) -> list[Flow]:
    return [flow(2, reverse=bool(i % 2), **options) for i in range(count)]


#: By name: makes the flows.
FAMILIES: dict[str, Callable[[], list[Flow]]] = {
    "Gaussian": list,
    "planar, 2": lambda: [PlanarFlow(2) for _ in range(2)],
    "planar, 4": lambda: [PlanarFlow(2) for _ in range(4)],
    "planar, 8": lambda: [PlanarFlow(2) for _ in range(8)],
    "planar, 32": lambda: [PlanarFlow(2) for _ in range(32)],
    "affine coupling, 8": lambda: _alternating(AffineCouplingFlow, 8, hidden=(32,)),
    "spline, 4": lambda: _alternating(SplineFlow, 4, hidden=(32,), bound=5.0),
}

#: Those fitted to the energies; four planar flows show what the wrong objective does.
FITTED = [family for family in FAMILIES if family != "planar, 4"]
#: A notebook's version, seconds long.
SHORT_FAMILY, SHORT_STEPS = "planar, 8", 500


class Approximation(nn.Module):
    """Flows behind a Gaussian whose means and scales are learned with them.

    Calling it with noise, shape `[..., 2]`, returns `z_0` and `z`, both `[..., 2]`, and `log q(z)`.
    """

    def __init__(self, flows: list[Flow]):
        super().__init__()
        self.mu, self.log_sigma = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.flows = FlowSequence(flows) if flows else None

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_0 = self.mu + self.log_sigma.exp() * eps
        log_q = log_normal(eps) - self.log_sigma.sum(-1)
        if self.flows is None:
            return z_0, z_0, log_q
        z, log_det = self.flows(z_0)
        return z_0, z, log_q - log_det

    def posterior(self) -> Distribution:
        base = Independent(Normal(self.mu, self.log_sigma.exp()), 1)
        return base if self.flows is None else NormalizingFlowPosterior(base, self.flows)


def log_normal(z: Tensor) -> Tensor:
    """`log N(z; 0, I)` on the plane."""
    return -z.square().sum(-1) / 2 - math.log(2 * math.pi)


def grid(half_side: float, points: int) -> tuple[Tensor, float]:
    """`points²` points of a square around 0, shape `[points², 2]` in float64; a cell's area."""
    axis = torch.linspace(-half_side, half_side, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]).item() ** 2


def log_partition(energy: Energy) -> float:
    """`log Z`, by quadrature over a square of side 24."""
    z, cell = grid(12.0, 1201)
    return torch.logsumexp(-energy(z), 0).item() + math.log(cell)


@torch.no_grad()
def exact_kl(model: Approximation, energy: Energy, points: int = 801) -> float:
    """`KL(q ‖ p)` in nats: the sum of `q_0 (log q(z) + U(z) + log Z)` over a grid of the noise.

    No inverse is needed. The error falls faster than any power of the grid's spacing once that
    resolves the flow: compare two numbers of points.
    """
    eps, cell = grid(7.0, points)
    _, z, log_q = copy.deepcopy(model).double()(eps)
    weights = log_normal(eps).exp() * cell
    return (weights * (log_q + energy(z))).sum().item() + log_partition(energy)


def train(models: list[Approximation], objective: Objective, seed: int, steps: int) -> None:
    """Train models of one family side by side, in place, each on noise of its own.

    `objective(z_0, z, log_q, progress)` maps `[models, batch, ...]` to `[models, batch]`, where
    progress runs from 0 to 1. In the second half the learning rate falls to 0.
    """
    weights, _ = stack_module_state(models)
    optimizer = torch.optim.Adam(weights.values(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 2 - 2 * step / steps)
    )
    run = vmap(lambda weights, eps: functional_call(models[0], weights, (eps,)))
    noise = torch.Generator().manual_seed(seed)
    for step in trange(steps, leave=False):
        eps = torch.randn(len(models), BATCH, 2, generator=noise)
        loss = objective(*run(weights, eps), step / steps).mean(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if not loss.isfinite():
        raise FloatingPointError(f"training diverged: the loss is {loss.item():g}")
    with torch.no_grad():
        for name, own in weights.items():
            for model, weight in zip(models, own, strict=True):
                model.get_parameter(name).copy_(weight)


def make(family: str, seeds: list[int]) -> list[Approximation]:
    models = []
    with torch.random.fork_rng([]):
        for seed in seeds:
            torch.manual_seed(seed)
            models.append(Approximation(FAMILIES[family]()))
    return models


def fit(family: str, energies: list[str], seeds: list[int], steps: int = STEPS) -> dict:
    """By energy, one approximation for each seed, trained by `KL(q ‖ p)`.

    The energy is multiplied by a number that rises from 0.01 to 1 in the first half of the steps,
    so that q finds all modes while they are shallow.
    """
    models = make(family, seeds * len(energies))

    def kl(z_0: Tensor, z: Tensor, log_q: Tensor, progress: float) -> Tensor:
        groups = zip(energies, z.split(len(seeds)), strict=True)
        u = torch.cat([ENERGIES[name](own) for name, own in groups])
        return log_q + min(1.0, 0.01 + 2 * progress) * u

    train(models, kl, seeds[0], steps)
    return {name: models[i * len(seeds) : (i + 1) * len(seeds)] for i, name in enumerate(energies)}


def collapse(at: str, seeds: list[int], steps: int = 3000) -> dict:
    """What becomes of `KL(q ‖ N(0, I))` if `log p` is taken `at` `"z_0"`, or rightly at `"z_K"`.

    By name, one number for each seed, both without Monte Carlo: the objective that was minimized,
    and the KL.
    """
    models = make("planar, 4", seeds)

    def objective(z_0: Tensor, z: Tensor, log_q: Tensor, progress: float = 1.0) -> Tensor:
        return log_q - log_normal(z_0 if at == "z_0" else z)

    train(models, objective, seeds[0], steps)
    eps, cell = grid(7.0, 801)
    weights = log_normal(eps).exp() * cell
    with torch.no_grad():
        reached = [objective(*copy.deepcopy(model).double()(eps)) for model in models]
    return {
        "objective": [round((weights * values).sum().item(), 4) for values in reached],
        "kl": [round(exact_kl(model, lambda z: z.square().sum(-1) / 2), 4) for model in models],
    }


@torch.no_grad()
def picture(model: Approximation) -> list[str]:
    """`q(z)` on the square that the pictures show, one string of hexadecimal bytes for each z_2.

    A byte is the density over its maximum, times 255; `density` turns it back.
    """
    z, _ = grid(PICTURE, PIXELS)
    q = copy.deepcopy(model).double().posterior().log_prob(z).exp().reshape(PIXELS, PIXELS).T
    return [bytes(row).hex() for row in (255 * q / q.max()).round().byte().tolist()]


def density(rows: list[str]) -> Tensor:
    """A stored picture, shape `[PIXELS, PIXELS]`: the first index is that of z_2, the maximum 1."""
    return torch.tensor([list(bytes.fromhex(row)) for row in rows]) / 255


def summary(models: list[Approximation], energy: Energy) -> dict:
    """KLs of all seeds, how much a coarser grid would change them, and the best one's picture."""
    kls = [exact_kl(model, energy) for model in models]
    coarse = [exact_kl(model, energy, points=401) for model in models]
    return {
        "kl": [round(kl, 4) for kl in kls],
        "mean": round(statistics.mean(kls), 4),
        "standard_error": round(statistics.stdev(kls) / len(kls) ** 0.5, 4),
        "grid_error": max(abs(a - b) for a, b in zip(kls, coarse, strict=True)),
        "picture": picture(models[kls.index(min(kls))]),
    }


def main() -> None:
    torch.set_num_threads(1)
    data = {"fits": {name: {} for name in ENERGIES}, "short": {}}
    for family in tqdm(FITTED):
        for name, models in fit(family, list(ENERGIES), SEEDS).items():
            data["fits"][name][family] = summary(models, ENERGIES[name])
    for name, models in fit(SHORT_FAMILY, list(ENERGIES), SEEDS, SHORT_STEPS).items():
        kls = [round(exact_kl(model, ENERGIES[name], points=401), 4) for model in models]
        data["short"][name] = kls
    data["log_partition"] = {name: log_partition(energy) for name, energy in ENERGIES.items()}
    data["collapse"] = {at: collapse(at, SEEDS) for at in ("z_0", "z_K")}
    print(write("flows_on_energies", data, SEEDS))


if __name__ == "__main__":
    main()
