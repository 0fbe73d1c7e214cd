"""Every test of the library starts from a seed of its own and leaves no trace in torch."""

import zlib

import pytest
import torch
from torch.distributions import Distribution


@pytest.fixture(autouse=True)
def _seeded(request):
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(request.node.name.encode()))
        yield


@pytest.fixture(autouse=True)
def _validating(monkeypatch):
    """The first `torch.compile` turns the checks of distributions off for the whole process."""
    monkeypatch.setattr(Distribution, "_validate_args", True)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param
