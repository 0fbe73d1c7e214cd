"""What every test run of this repository has in common, and what strict nbval needs to know.

Cells tagged `gpu` run only where there is a GPU (`COURSE_GPU=1` or `0` decides instead). In the
strict nbval run, fresh pictures are compared with the stored ones, which nbval alone does not do.
"""

import os
import shutil

import pytest
from nbval.plugin import IPyNbCell

from tools import notebooks

notebooks.kernel_environment()  # kernels inherit it


def _has_gpu():
    if "COURSE_GPU" in os.environ:
        return os.environ["COURSE_GPU"] == "1"
    return shutil.which("nvidia-smi") is not None  # cheap: no torch import in every worker


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
    self.comparison_traceback.append(
        f"{where}: the stored outputs are not what the code gives. If the fresh ones are right, "
        "`make notebooks` stores them; then look at them before you commit."
    )
    return False


IPyNbCell.compare_outputs = _compare
