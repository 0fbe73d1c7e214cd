"""What the README shows runs as it is written there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"`(make [^`]+)`|^(make [^#\n]+)", README, re.MULTILINE)))
COMMANDS = [(one or other).strip() for one, other in COMMANDS]


def said_by(code, folder):
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip().splitlines()


def test_each_block_of_its_code_runs_alone(tmp_path):
    """But for the three lines that want a problem: that is the reader's, or the one below them."""
    three_lines, slope, table, encoder = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (found,) = said_by(slope + "\nprint(mu.grad.item())", tmp_path)
    assert abs(float(found) - 2) < 1.2  # 2μ; its standard error at 1000 draws is 0.11
    assert len([line for line in three_lines.splitlines() if line]) == 3
    for code, rows in (
        (table, ["DisARM", "ST", "leave-one-out", "1000 replicates"]),
        (table.replace("print(table)", three_lines), ["DisARM", "score"]),
        (encoder, ["score"]),
    ):
        lines = said_by(code, tmp_path)
        assert all(any(line.startswith(row) for line in lines) for row in rows), lines


@pytest.mark.parametrize("command", COMMANDS)
def test_make_has_its_commands(command):
    _, target, *settings = command.split()
    # The teachers' targets stand in a folder that the public copy has not.
    files = [ROOT / "Makefile", *ROOT.glob("*/targets.mk")]
    made = [path.read_text(encoding="utf-8") for path in files]
    assert re.search(rf"^{target}:", "\n".join(made), re.MULTILINE), f"no target {target}"
    for setting in settings:
        name = setting.partition("=")[0]
        assert f"$({name})" in "".join(made), f"nothing reads {name}"
