"""One thread, so that a time is that of the work; results written when the session ends."""

import ctypes

import pytest
import torch

from tests.benchmarks import timing


def pytest_sessionstart():
    """Freed memory stays with the program, so that no step pays for getting it back.

    Otherwise whether it goes back to the system depends on what was measured before, and makes a
    step with tensors of megabytes four times as long. Only glibc has the call.
    """
    keep = getattr(ctypes.CDLL(None), "mallopt", None)
    if keep is not None:
        keep(-1, 2**30)  # M_TRIM_THRESHOLD
        keep(-3, 2**30)  # M_MMAP_THRESHOLD


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def pytest_sessionfinish():
    timing.write()
