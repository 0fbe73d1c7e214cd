"""Every test starts from the same state of torch's generator, whatever ran before it.

A test must not pass because of that state, either: TEST_SEED=17 make test starts all from another.
"""

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(int(os.environ.get("TEST_SEED", "0")))
