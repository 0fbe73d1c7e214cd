"""What the libraries are compared on, and the bias of a gradient against the exact one."""

import itertools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

from tests.benchmarks.timing import keep


@dataclass(frozen=True)
class Problem:
    """The gradient of `E[f(z, t)]` in the logits of z, and in t, which stands for a decoder."""

    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    logits: Tensor
    one_hot: bool = False
    t: float = 0.3

    def distribution(self, logits: Tensor) -> Distribution:
        base = OneHotCategorical if self.one_hot else Bernoulli
        return Independent(base(logits=logits), 1)

    def leaves(self, dtype=torch.float32) -> tuple[Tensor, Tensor]:
        t = torch.tensor(self.t, dtype=dtype, requires_grad=True)
        return self.logits.to(dtype).clone().requires_grad_(), t

    def points(self) -> Tensor:
        """All values of z."""
        if not self.one_hot:
            return torch.tensor([*itertools.product([0.0, 1.0], repeat=len(self.logits))])
        variables, classes = self.logits.shape
        chosen = torch.tensor([*itertools.product(range(classes), repeat=variables)])
        return torch.nn.functional.one_hot(chosen, classes).float()

    def exact(self, objective=None) -> tuple[Tensor, Tensor]:
        """The gradient of `Σ q(z) objective(z, q, t)` over all z, in float64; else that of f."""
        logits, t = self.leaves(torch.float64)
        q, z = self.distribution(logits), self.points().double()
        values = self.f(z, t) if objective is None else objective(z, q, t)
        return torch.autograd.grad((q.log_prob(z).exp() * values).sum(), (logits, t))


def _one_bit(b, t):
    return (b - t).square().sum(-1)


_PAIRS = torch.tensor([[0.0, 1.5, -0.7], [0.0, 0.0, 0.9], [0.0, 0.0, 0.0]])


def _three_bits(b, t):
    return (b - t).square().sum(-1) + ((b @ _PAIRS.to(b)) * b).sum(-1) + 1


def _two_classes_of_three(z, t):
    own = ((z - t).square() * torch.arange(1.0, 4).to(z)).sum((-1, -2))
    return own + ((z[..., 0, :] @ _PAIRS.to(z)) * z[..., 1, :]).sum(-1)


ONE_BIT = Problem("1 bit", _one_bit, torch.tensor([0.0]))
THREE_BITS = Problem("3 bits", _three_bits, torch.tensor([0.3, -0.8, 0.5]))
CLASSES = Problem(
    "2 × 3 classes",
    _two_classes_of_three,
    torch.tensor([[0.3, -0.8, 0.5], [0.0, 0.4, -0.6]]),
    one_hot=True,
)

_SLOPES = torch.linspace(-1, 1, 200) / 200**0.5


def many_bits(b: Tensor, t: float | Tensor = 0.45) -> Tensor:
    """200 bits: the toy problem of the REBAR paper, and a square that mixes all of them."""
    return (b - t).square().mean(-1) + (b @ _SLOPES).square()


def bias(
    section: str,
    name: str,
    problem: Problem,
    step: Callable[[Tensor, Tensor], object],
    *,
    replicates: int,
    by_design: bool = False,
    cause: str = "",
    exact: tuple[Tensor, Tensor] | None = None,
) -> str:
    """Run `step(logits, t)`, which calls backward, many times; print and keep what came out.

    Returns:
        "right", or "biased by design" or "wrong" where a mean is more than 5 standard errors from
        the exact gradient, or the name of the error that the step raised.
    """
    row = {"name": name, "problem": problem.name, "replicates": replicates, "cause": ""}
    exact = exact or problem.exact()
    gradients = []
    try:
        for _ in range(replicates):
            logits, t = problem.leaves()
            step(logits, t)
            slopes = [leaf.grad for leaf in (logits, t)]
            gradients.append([torch.zeros(()) if s is None else s for s in slopes])
    except Exception as problem_met:  # whatever a peer raises is the result
        frame = traceback.extract_tb(problem_met.__traceback__)[-1]
        verdict = f"raises {type(problem_met).__name__}"
        row |= {"verdict": verdict, "error": str(problem_met).splitlines()[0][:160]}
        row["cause"] = cause or f"{Path(frame.filename).name}:{frame.lineno}"
        print(f"\n{section:16s} {name:34s} {problem.name:14s} {verdict}: {row['error']}", end="")
        keep(section, row)
        return verdict
    wrong = False
    shown = []
    for part, truth, column in zip(
        ("logits", "t"), exact, zip(*gradients, strict=True), strict=True
    ):
        drawn = torch.stack(column).double().reshape(replicates, -1)
        error = drawn.mean(0) - truth.reshape(-1)
        spread = drawn.std(0) / replicates**0.5
        limit = 5 * spread + 1e-5 * (1 + truth.reshape(-1).abs())
        worst = (error.abs() / limit).argmax()
        wrong |= bool((error.abs() > limit).any())
        row[part] = {
            "exact": truth.reshape(-1)[worst].item(),
            "bias": error[worst].item(),
            "standard_error": spread[worst].item(),
        }
        shown.append(
            f"{part} {error[worst]:+.4f} ± {spread[worst]:.4f} of {row[part]['exact']:+.4f}"
        )
    row["verdict"] = ("biased by design" if by_design else "wrong") if wrong else "right"
    if row["verdict"] == "wrong":
        row["cause"] = cause
    print(
        f"\n{section:16s} {name:34s} {problem.name:14s} {row['verdict']:16s} {'  '.join(shown)}",
        end="",
    )
    keep(section, row)
    return row["verdict"]
