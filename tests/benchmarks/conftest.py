"""One thread, so that a time is that of the work; results written when the session ends."""

import pytest
import torch

from tests.benchmarks import timing


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def pytest_sessionfinish():
    timing.write()
