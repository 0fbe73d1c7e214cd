"""Write constraints.txt: the versions here of what requirements.txt brings along."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# The packages that requirements.txt brings along, pinned. Made by:\n#   make constraints\n"


def name(line: str) -> str:
    """Return the normalized package name that a requirement line starts with."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>~! \[]", line, maxsplit=1)[0]).lower()


def main() -> None:
    direct = {
        name(line)
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith(("#", "-"))
    }
    # pip itself and its helpers are left to the environment; CUDA packages are pinned by torch.
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    pins = [
        line.split("+")[0]
        for line in frozen
        if "==" in line
        and name(line) not in direct
        and not name(line).startswith(("nvidia", "cuda", "triton"))
    ]
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(pins) + "\n")
    print(f"constraints.txt: {len(pins)} packages")


if __name__ == "__main__":
    main()
