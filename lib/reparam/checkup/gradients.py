"""Check the gradients of a loss, parameter by parameter."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from reparam.checkup._report import Finding, Report


def check_gradients(
    loss: Tensor, parameters: nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
) -> Report:
    """Check the values of the gradients of `loss`, parameter by parameter.

    Args:
        loss: a scalar. Its graph is kept, and no `.grad` is touched.
        parameters: a module, a dict of named tensors, or what `named_parameters()` gives.

    Returns:
        A `Report` with one finding for each parameter whose gradient is missing (`None`), exactly
        zero in every entry, or not finite; and for a loss without a graph or not finite.

    Raises:
        TypeError: if `loss` or a parameter is not a floating-point tensor, or has no name.
        ValueError: if `loss` is not a scalar, or there are no parameters.

    Used in no chapter; chapter 1 shows why a gradient that is there proves little.

    >>> mu = torch.zeros(3, requires_grad=True)
    >>> check_gradients(torch.normal(mu, 1.0).sum(), {"mu": mu})
    check_gradients: 1 fault found
    ✗ mu: the gradient is exactly zero
      seen: all 3 entries are 0
      cure: look for what is flat or cut between mu and the loss: torch.normal, round, sign, a clamp
    """
    named = _named(parameters)
    if not named:
        raise ValueError("parameters must name at least one tensor, got none")
    tensors = {"loss": loss} | {f"parameter {name}": tensor for name, tensor in named.items()}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    if loss.numel() != 1:
        raise ValueError(
            f"loss must be a scalar, got shape {list(loss.shape)}: use loss.mean() or loss.sum()"
        )
    findings = []
    if not loss.isfinite():
        findings.append(
            Finding(
                "the loss is not finite",
                f"it is {loss.item():g}",
                "look for the first term that is not: logarithms of 0, exponentials of log_var",
            )
        )
    if not loss.requires_grad:
        findings.append(
            Finding(
                "the loss has no graph",
                "loss.requires_grad is False: backward() would raise",
                "draw with rsample(), not sample(), and compute the loss outside torch.no_grad()",
            )
        )
        return Report("check_gradients", tuple(findings))
    wanted = {name: p for name, p in named.items() if p.requires_grad}
    try:
        found = wanted and torch.autograd.grad(
            loss,
            list(wanted.values()),
            torch.ones_like(loss),
            retain_graph=True,
            allow_unused=True,
        )
    except RuntimeError as problem:
        if "second time" not in str(problem):
            raise
        findings.append(
            Finding(
                "the loss has no graph any more",
                "backward() has passed it and freed it",
                "call check_gradients before backward(), or backward(retain_graph=True)",
            )
        )
        return Report("check_gradients", tuple(findings))
    slopes = dict.fromkeys(named) | dict(zip(wanted, found, strict=True))
    findings += [
        finding
        for name, slope in slopes.items()
        if (finding := _fault_of(name, named[name], slope)) is not None
    ]
    return Report("check_gradients", tuple(findings))


def _named(parameters: object) -> dict[str, Tensor]:
    if isinstance(parameters, nn.Module):
        parameters = parameters.named_parameters()
    if isinstance(parameters, Mapping):
        return dict(parameters)
    has_parts = isinstance(parameters, Iterable) and not isinstance(parameters, Tensor)
    pairs = list(parameters) if has_parts else [parameters]
    for pair in pairs:
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not isinstance(pair[0], str):
            raise TypeError(
                "parameters must have names, as model.named_parameters() or {'mu': mu} have; "
                f"got {type(parameters).__name__}"
            )
    return dict(pairs)


def _fault_of(name: str, parameter: Tensor, slope: Tensor | None) -> Finding | None:
    if slope is None:
        frozen = not parameter.requires_grad
        return Finding(
            f"{name}: there is no gradient",
            "requires_grad is False" if frozen else "grad stays None: no path leads to the loss",
            "set requires_grad_(True), or leave it out if it is frozen on purpose"
            if frozen
            else f"look for sample(), .detach() or torch.no_grad() between {name} and the loss",
        )
    slope = slope.to_dense()  # of an embedding it may hold the rows in use alone
    bad = int((~slope.isfinite()).sum())
    if bad:
        return Finding(
            f"{name}: the gradient is not finite",
            f"{bad} of {slope.numel()} entries are NaN or infinite",
            "torch.autograd.set_detect_anomaly(True) names the operation that makes them",
        )
    if not slope.any():
        return Finding(
            f"{name}: the gradient is exactly zero",
            f"all {slope.numel()} entries are 0",
            f"look for what is flat or cut between {name} and the loss: torch.normal, round, "
            "sign, a clamp",
        )
    return None
