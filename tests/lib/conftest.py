"""Every test of the library starts from a seed of its own and leaves no trace in torch's."""

import zlib

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded(request):
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(request.node.name.encode()))
        yield


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param
