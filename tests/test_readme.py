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


def test_its_code_runs_in_one_go(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join([*blocks, "print(mu.grad.item())"])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    *tables, slope = found.stdout.strip().splitlines()
    assert abs(float(slope) - 2) < 1.2  # 2μ; its standard error at 1000 draws is 0.11
    for first in ("DisARM", "ST", "score", "1000 replicates"):
        assert any(line.startswith(first) for line in tables), found.stdout


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
