"""Check a Gaussian encoder: what its two heads say about a batch of inputs, and what they learn."""

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from reparam._checks import check_finite
from reparam._functions import keeping_modes
from reparam.checkup._report import Finding, Report, subject_of
from reparam.gaussian import gaussian_kl

# Where a standard deviation is absurd: a bounded log-variance, from -10 to 10, stays far inside.
_SIGMA = (1e-4, 1e3)
# In nats for each dimension, averaged over the inputs. Before training they lie between 1e-3 and
# 0.1, as a rule; a posterior that has collapsed has a few 1e-5 in all, one that works about 1 in
# some, and below 0.01 in those that it leaves unused.
_COLLAPSED, _SILENT, _ACTIVE = 1e-4, 1e-2, 0.5


def check_encoder(
    encoder: Callable[[Tensor], Distribution | tuple[Tensor, Tensor]], x: Tensor
) -> Report:
    """Check an encoder `encoder(x) -> (mu, log_var)` on inputs of its own kind.

    It encodes `x`, an `nn.Module` in evaluation mode, and looks at

    - the form: shapes, dtypes and devices of mu and log_var, values that are not finite, answers
      that change from call to call;
    - gradients, by value: units that no input gives a gradient, values cut off at a bound;
    - the law: a log-variance that is never negative, exponentials that overflow or underflow, a
      sigma of absurd size;
    - what the code says: dimensions that ignore the input, a posterior that is the prior.

    Args:
        encoder: a function or an `nn.Module`. It returns two tensors of shape `[batch, D]`, or a
            `Normal` or `Independent(Normal)`, whose log-variance is then `2 log(scale)`.
        x: inputs as in training, shape `[batch, ...]`, at least two of them, not all the same.
            Some hundred show more than a few.

    Returns:
        A `Report`. Heads in a 16-bit type and dimensions that a trained encoder leaves unused are
        remarks. An encoder that raises is a finding, too.

    Raises:
        TypeError: if `encoder` is not callable, or `x` no tensor of real numbers.
        ValueError: if `x` holds fewer than two different inputs, NaN or infinity.

    Used in chapter 4.

    >>> head = torch.nn.Linear(64, 16)
    >>> x = torch.rand(100, 64)
    >>> check_encoder(lambda x: head(x).chunk(2, -1), x).ok
    True
    >>> report = check_encoder(lambda x: head(x).relu().chunk(2, -1), x)
    >>> "log_var is never negative" in [finding.name for finding in report.findings]
    True
    """
    if not callable(encoder):
        raise TypeError(f"encoder must be callable as encoder(x), got {type(encoder).__name__}")
    _check_inputs(x)
    with (
        keeping_modes(encoder),
        torch.random.fork_rng([x.device] if x.device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        if isinstance(encoder, nn.Module):
            encoder.eval()
        findings, remarks = _look_at(encoder, x)
    return Report(subject_of(encoder), tuple(findings), tuple(remarks))


def _check_inputs(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor of inputs, got {type(x).__name__}")
    if x.is_complex():
        raise TypeError(f"x must hold real numbers, got dtype {x.dtype}: use torch.view_as_real(x)")
    if x.is_floating_point():
        check_finite(x=x)
    if x.ndim == 0 or len(x) < 2 or not (x != x[0]).any():
        raise ValueError(
            "x must hold at least two different inputs, in its first dimension; "
            f"got shape {tuple(x.shape)}" + (", all the same" if x.ndim and len(x) > 1 else "")
        )


def _look_at(encoder: Callable, x: Tensor) -> tuple[list[Finding], list[Finding]]:
    """All checks, from the plainest on; a later one runs only where it can mean something."""
    try:
        # Copies: some encoders scale their inputs in place.
        heads, again = _heads(encoder(x.clone())), _heads(encoder(x.clone()))
    except Exception as error:  # whatever the reader's code may raise
        cure = "call it yourself with the same x, and follow the traceback"
        return [Finding("it raises an error", f"{type(error).__name__}: {error}", cure)], []
    findings = _form(heads, len(x))
    if findings:
        return findings, []
    mu, log_var = (head.flatten(1) for head in heads)
    finite = (mu.isfinite() & log_var.isfinite()).all(-1)
    findings = _not_finite(mu, log_var) + _changing(heads, again)
    if finite.sum() < 2:
        return findings, []
    mu, log_var = mu[finite], log_var[finite]
    findings += _gradients("mu", mu) + _gradients("log_var", log_var)
    findings += _never_negative(log_var) + _exponentials(log_var) + _spread(log_var, x)
    silent, unused = _silence(mu, log_var)
    findings += silent
    return findings, _narrow(mu, log_var) + ([] if findings else unused)


def _heads(output: object) -> tuple[Tensor, Tensor] | None:
    """The means and log-variances in what an encoder returned, if they are there."""
    while isinstance(output, Independent):
        output = output.base_dist
    if isinstance(output, Normal):
        return output.loc, 2 * torch.log(output.scale)
    if isinstance(output, tuple | list) and len(output) == 2:
        mu, log_var = output
        if isinstance(mu, Tensor) and isinstance(log_var, Tensor):
            return mu, log_var
    return None


def _form(heads: tuple[Tensor, Tensor] | None, count: int) -> list[Finding]:
    if heads is None:
        return [
            Finding(
                "it does not return mu and log_var",
                "what came is neither two tensors nor a Normal distribution",
                "wrap it: lambda x: encoder(x)[:2] where there is more behind them, "
                "lambda x: encoder(x).chunk(2, -1) where they lie side by side in one tensor",
            )
        ]
    mu, log_var = heads
    cures = {
        "shape": "give both heads one output for each latent dimension",
        "dtype": "convert both heads to one dtype, .float(), before anything is sampled",
        "device": "move the whole encoder at once: encoder.to(x.device)",
    }
    findings = [
        Finding(
            f"mu and log_var differ in {what}",
            f"{getattr(mu, what)} and {getattr(log_var, what)}",
            cure,
        )
        for what, cure in cures.items()
        if getattr(mu, what) != getattr(log_var, what)
    ]
    if not findings and not mu.is_floating_point():
        findings = [
            Finding(
                "mu and log_var are no floating-point numbers",
                f"their dtype is {mu.dtype}",
                "end both heads with a layer whose weights are real: nothing else has a gradient",
            )
        ]
    if not findings and (mu.ndim < 2 or len(mu) != count or mu.numel() == 0):
        findings = [
            Finding(
                "there is not one posterior for each input",
                f"{count} inputs give mu of shape {list(mu.shape)}",
                "keep the batch in the first dimension, and the latent dimensions in the last",
            )
        ]
    return findings


def _not_finite(mu: Tensor, log_var: Tensor) -> list[Finding]:
    findings = []
    for name, head in (("mu", mu), ("log_var", log_var)):
        bad = ~head.isfinite()
        if bad.any():
            rows = bad.any(-1).nonzero().flatten().tolist()
            findings.append(
                Finding(
                    f"{name} is not finite",
                    f"{int(bad.sum())} of {bad.numel()} values are NaN or infinite, for the inputs "
                    f"{_some(rows)}",
                    "look for a division by a standard deviation that is 0, a logarithm of 0, or "
                    "an overflow; a clamp passes NaN on",
                )
            )
    return findings


def _changing(heads: tuple[Tensor, Tensor], again: tuple[Tensor, Tensor]) -> list[Finding]:
    """Two calls may differ by rounding, as the order of sums does on a GPU, and no more."""
    findings = []
    for name, head, other in zip(("mu", "log_var"), heads, again, strict=True):
        gap = (head - other).abs().nan_to_num().max()
        if gap > 100 * torch.finfo(head.dtype).eps * head.abs().nan_to_num().max():
            findings.append(
                Finding(
                    f"{name} changes from call to call",
                    f"two calls on the same inputs differ by up to {gap:.3g}",
                    "draw noise in the sampler alone; a dropout needs training=self.training",
                )
            )
    return findings


def _gradients(name: str, head: Tensor) -> list[Finding]:
    """Whether each unit, and each value, has a gradient with respect to whatever it comes from."""
    leaves = _leaves(head)
    if not leaves:
        return [
            Finding(
                f"{name} has no graph",
                f"{name}.requires_grad is False: no parameter learns from it",
                "look for .detach(), torch.no_grad() or frozen parameters on the way to it",
            )
        ]
    weight = torch.rand_like(head) + 0.5  # so that no sum over inputs can cancel
    columns = torch.eye(head.shape[-1], dtype=head.dtype, device=head.device)
    dead = [j for j, one in enumerate(columns) if not _moves(head, leaves, weight * one)]
    findings = []
    if dead:
        findings.append(
            Finding(
                f"{name} has dead units",
                f"dimensions {_some(dead)} of {len(columns)}: the gradient is exactly zero for all "
                f"{len(head)} inputs; they are {_some([f'{head[0, j]:.3g}' for j in dead])}",
                f"end the {name} head with a linear layer: no ReLU, no clamp, no rounding behind it"
                + ("; bound_log_var(raw) bounds it smoothly" if name == "log_var" else ""),
            )
        )
    alive = torch.tensor([j not in dead for j in range(len(columns))], device=head.device)
    for bound in head[:, alive].aminmax() if alive.any() else ():
        at = (head == bound) & alive
        if at.sum() > 1 and not _moves(head, leaves, weight * at):
            findings.append(_cut_off(name, bound.item(), at))
    return findings


def _cut_off(name: str, bound: float, at: Tensor) -> Finding:
    return Finding(
        f"{name} is cut off at {bound:g}",
        f"{int(at.sum())} of {at.numel()} values are exactly {bound:g}, and their gradient is "
        "exactly zero",
        "bound_log_var(raw) bounds it smoothly, with a gradient everywhere, where a clamp or a "
        "ReLU has none"
        if name == "log_var"
        else "end the mu head with a linear layer: no ReLU, no clamp behind it",
    )


def _never_negative(log_var: Tensor) -> list[Finding]:
    """What a head for variances looks like: the operation says so, and so do all values."""
    operation = next((name for name in _last_operations(log_var) if name in _POSITIVE), None)
    if operation is None or log_var.min() < 0:
        return []
    return [
        Finding(
            "log_var is never negative",
            f"its {log_var.numel()} values lie between {log_var.min():.3g} and "
            f"{log_var.max():.3g} and come out of {operation.lower()}: sigma is never below 1, so "
            "that a sample says little about its input",
            "leave the last activation out; or, where that head is the variance, return its "
            "logarithm",
        )
    ]


_POSITIVE = {"Relu", "Softplus", "Exp", "Sigmoid", "Abs", "Pow"}
# Operations that keep positive values positive, or only move them about.
_KEEPING = {"Add", "Mul", "Div", "Clamp", "ToCopy", "Clone", "View", "UnsafeView", "Reshape"}
_KEEPING |= {"Split", "Slice", "Select", "Unbind", "Squeeze", "Unsqueeze", "Transpose", "Index"}


def _last_operations(head: Tensor) -> Iterator[str]:
    """The last operations behind a tensor, up to the first that mixes or changes signs."""
    node = head.grad_fn
    while node is not None:
        name = re.sub(r"Backward\d*$", "", node.name())
        yield name
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        if name not in _KEEPING or len(parents) != 1:
            return
        (node,) = parents


def _exponentials(log_var: Tensor) -> list[Finding]:
    variance = torch.exp(log_var)
    faults = {"overflows": variance.isinf(), "underflows to 0": variance == 0}
    dtype = str(log_var.dtype).removeprefix("torch.")
    return [
        Finding(
            f"exp(log_var) {what}",
            f"in {int(at.sum())} of {at.numel()} values: log_var runs from {log_var.min():.3g} to "
            f"{log_var.max():.3g}, and {dtype} ends where it is {_end_of(log_var.dtype, what):.3g}",
            "bound_log_var(raw) keeps it between -10 and 10"
            + ("; take exponentials in float32" if dtype in ("float16", "bfloat16") else ""),
        )
        for what, at in faults.items()
        if at.any()
    ]


def _end_of(dtype: torch.dtype, what: str) -> float:
    limits = torch.finfo(dtype)
    end = limits.max if what == "overflows" else limits.tiny * limits.eps
    return torch.tensor(end, dtype=torch.float64).log().item()


def _spread(log_var: Tensor, x: Tensor) -> list[Finding]:
    low, high = (torch.exp(end.double() / 2).item() for end in (log_var.min(), log_var.max()))
    if low >= _SIGMA[0] and high <= _SIGMA[1]:
        return []
    large = x.is_floating_point() and bool(x.abs().max() > 10)
    return [
        Finding(
            "sigma is of absurd size",
            f"it runs from {low:.1g} to {high:.1g} on these inputs"
            + (f", which run from {x.min():.3g} to {x.max():.3g}" if large else ""),
            ("scale the inputs, to between 0 and 1 or to unit variance; then " if large else "")
            + "start the log_var head with small weights (standard deviation 0.01) and bias 0, and "
            "bound it by bound_log_var",
        )
    ]


def _silence(mu: Tensor, log_var: Tensor) -> tuple[list[Finding], list[Finding]]:
    """Dimensions that cannot tell inputs apart; then those that do not, before and after training.

    Heads that start at zero are constant, too, but learn to tell inputs apart in the first step.
    """
    findings, remarks = [], []
    deaf = [j for j in range(mu.shape[-1]) if _is_deaf(mu, j) and _is_deaf(log_var, j)]
    if deaf:
        findings.append(
            Finding(
                "latent dimensions ignore the input",
                f"mu and log_var of dimensions {_some(deaf)} are the same for all {len(mu)} "
                "inputs, and so are their gradients",
                "look for a layer before the heads that is off for every input: ReLUs that are "
                "all 0, a detach(), a missing path",
            )
        )
    kl = gaussian_kl(mu.detach().float(), log_var.detach().float(), reduction="none").mean(0)
    if kl.max() < _COLLAPSED and not deaf and mu.std(0).any():
        findings.append(
            Finding(
                "the posterior has collapsed to the prior",
                f"no dimension's KL, averaged over the inputs, exceeds {kl.max():.1g} nats",
                "before training, give the mu head weights of usual size; after it, let the KL's "
                "weight grow from 0 to 1 over the first epochs, and look whether the decoder does "
                "without z",
            )
        )
    silent = (kl < _SILENT).nonzero().flatten().tolist()
    if kl.max() > _ACTIVE and silent:
        remarks.append(
            Finding(
                f"{len(silent)} of {len(kl)} dimensions are unused",
                f"dimensions {_some(silent)} have KLs below {_SILENT} nats, where another has "
                f"{kl.max():.2g}",
                "nothing, if the rest is enough; else let the KL's weight grow from 0 to 1",
            )
        )
    return findings, remarks


def _is_deaf(head: Tensor, j: int) -> bool:
    """Whether unit j is constant, and moving its parameters moves it by the same for all inputs.

    The second shows in a cotangent that sums to 0 over the inputs: what gets through it is how
    differences between inputs would change.
    """
    column = head[:, j]
    if column.max() - column.min() > 1e-6 * (1 + column.abs().max()):
        return False
    leaves = _leaves(head)
    if not leaves:
        return True
    weight = torch.rand_like(column) + 0.5
    together = _largest(column, leaves, weight)
    return _largest(column, leaves, weight - weight.mean()) <= 1e-3 * together


def _narrow(mu: Tensor, log_var: Tensor) -> list[Finding]:
    if torch.finfo(mu.dtype).bits > 16:
        return []
    steps = mu.abs().float() * torch.finfo(mu.dtype).eps / torch.exp(log_var.float() / 2)
    return [
        Finding(
            f"the heads are in {str(mu.dtype).removeprefix('torch.')}",
            f"neighboring numbers are up to {steps.max():.1g} sigma apart at mu, and "
            f"{log_var.abs().max() * torch.finfo(mu.dtype).eps:.1g} at log_var",
            "compute the last layers, or at least sample and KL, in float32: under autocast, "
            "mu.float() and log_var.float() inside torch.autocast(..., enabled=False)",
        )
    ]


def _leaves(output: Tensor) -> list[Tensor]:
    """What a tensor's gradients arrive at: parameters, as a rule."""
    leaves, seen, nodes = [], set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        nodes += [parent for parent, _ in node.next_functions]
    return leaves


def _slopes(output: Tensor, leaves: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    slopes = torch.autograd.grad(
        output, leaves, cotangent.to(output.dtype), retain_graph=True, allow_unused=True
    )
    return [slope for slope in slopes if slope is not None]


def _moves(output: Tensor, leaves: list[Tensor], cotangent: Tensor) -> bool:
    return any(bool(slope.any()) for slope in _slopes(output, leaves, cotangent))


def _largest(output: Tensor, leaves: list[Tensor], cotangent: Tensor) -> float:
    return max(slope.abs().max().item() for slope in _slopes(output, leaves, cotangent))


def _some(things: list) -> str:
    shown = ", ".join(str(thing) for thing in things[:5])
    return shown + (f" and {len(things) - 5} more" if len(things) > 5 else "")
