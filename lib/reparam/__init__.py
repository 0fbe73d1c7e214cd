"""Gradient estimators that are checked against the exact gradient.

`reparam` is the library of the course *The Reparameterization Trick*. Its modules, from the ground
up: `noise`, `gaussian`, `distributions`, `relaxed`, `flows`, `estimators`, `objectives`, `measure`,
`data`, `vae`, `checkup`, `plots`, `long_runs`, `explorers`, `quiz`, `live`, `exercises`. Import
what you need from the module that has it:

>>> import torch
>>> from torch.distributions import Normal
>>> from reparam.estimators import Pathwise
>>> mu = torch.tensor(0.5, requires_grad=True)
>>> Pathwise()(lambda z: 3 * z, Normal(mu, 1.0)).backward()
>>> mu.grad
tensor(3.)
"""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "checkup",
    "data",
    "distributions",
    "estimators",
    "exercises",
    "explorers",
    "flows",
    "gaussian",
    "live",
    "long_runs",
    "measure",
    "noise",
    "objectives",
    "plots",
    "quiz",
    "relaxed",
    "vae",
)


def __getattr__(name: str):
    """Import a submodule when it is first asked for, so that `import reparam` stays quick."""
    if name in _MODULES:
        return importlib.import_module(f"reparam.{name}")
    raise AttributeError(
        f"module 'reparam' has no attribute {name!r}; it has {', '.join(_MODULES)}"
    )


def __dir__():
    return sorted([*globals(), *_MODULES])
