"""Devices, and torch's own checks switched on for each test of the library."""

import pytest
from torch.distributions import Distribution


@pytest.fixture(autouse=True)
def _validating(monkeypatch):
    """The first `torch.compile` turns the checks of distributions off for the whole process."""
    monkeypatch.setattr(Distribution, "_validate_args", True)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param
