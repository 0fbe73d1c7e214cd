"""What every test run of this repository has in common, and what strict nbval needs to know.

Cells tagged `gpu` run only where there is a GPU (`COURSE_GPU=1` or `0` decides instead). In the
strict nbval run, fresh pictures are compared with the stored ones, which nbval alone does not do.
Every notebook runs in an empty folder, as in Colab; and where COURSE_LIBRARY names a folder that
`pip install --target` has filled (`make test` does), with the library that users install.

Every other test starts from a seed of its own, that of its name, and leaves no trace in torch. With
`TEST_SEED=17 make test` all start from another, but for those that fix a seed themselves.
"""

import os
import shutil
import tempfile
import zlib

import nbval.kernel
import pytest
import torch
from nbval.plugin import IPyNbCell

from tools import notebooks

notebooks.kernel_environment()  # kernels inherit it


_start = nbval.kernel.start_new_kernel


def _start_as_in_colab(**options):
    """nbval's start of a kernel, away from the checkout."""
    environment, library = dict(os.environ), os.environ.get("COURSE_LIBRARY")
    if library:
        environment["PYTHONPATH"] = library
    folder = tempfile.TemporaryDirectory(prefix="notebook-", ignore_cleanup_errors=True)
    manager, client = _start(**options | {"cwd": folder.name, "env": environment})
    manager.empty_folder = folder  # goes with the kernel
    if library:
        check = f"import importlib.util as u; assert {library!r} in u.find_spec('reparam').origin"
        reply = client.execute_interactive(check, timeout=60, output_hook=print)
        assert reply["content"]["status"] == "ok", f"the notebooks do not import {library}/reparam"
    return manager, client


nbval.kernel.start_new_kernel = _start_as_in_colab


@pytest.fixture(autouse=True)
def _seeded(request):
    name = request.node.name + os.environ.get("TEST_SEED", "")
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(name.encode()))
        yield


def _has_gpu():
    if "COURSE_GPU" in os.environ:
        return os.environ["COURSE_GPU"] == "1"
    return shutil.which("nvidia-smi") is not None


def pytest_collection_modifyitems(items):
    for item in items:
        if isinstance(item, IPyNbCell):
            # Canonical notebooks carry no execution counts, and without one nbval compares nothing.
            item.cell.execution_count = 0
            if "gpu" in item.cell.metadata.get("tags", []):
                item.add_marker(pytest.mark.gpu)
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and there is none here"))


_compare_text = IPyNbCell.compare_outputs


def _compare(self, test, ref, skip_compare=None):
    """nbval's comparison, then the pictures; every difference says how to mend it."""
    same = _compare_text(self, test, ref, skip_compare)
    where = f"{notebooks.shown(self.path)}, code cell {self.cell_num}"
    differences = [f"{where}: {fault}" for fault in notebooks.picture_faults(ref, test)]
    self.comparison_traceback.extend(differences)
    if same and not differences:
        return True
    if "AVX" in torch.backends.cpu.get_cpu_capability():
        why = (
            "If the fresh ones are right, `make notebooks` stores them; then look at them before "
            "you commit."
        )
    else:
        why = (
            "This processor has no AVX2: PyTorch rounds its normal noise differently here, and "
            "what a training prints differs in its last digits: that is no fault, do not store it."
        )
    self.comparison_traceback.append(
        f"{where}: the stored outputs are not what the code gives. {why}"
    )
    return False


IPyNbCell.compare_outputs = _compare
