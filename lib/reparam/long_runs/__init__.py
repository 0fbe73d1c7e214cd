"""What takes minutes to compute: committed data, each with the script that made it.

`NAME.py` holds the experiment and its seeds; `python -m reparam.long_runs.NAME` runs it and writes
`NAME.json` beside it. Notebooks show the stored data through `load`, run a short version of
the same functions, and check that the two agree.
"""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["load", "write"]

_FOLDER = Path(__file__).parent
_PACKAGES = ("torch", "numpy", "scikit-learn")


def load(name: str, folder: Path = _FOLDER) -> dict[str, Any]:
    """The data of a long run, after checking that nobody changed it or its script.

    Args:
        name: the script's name without `.py`.
        folder: where script and data are.

    Returns:
        What the script computed, numbers, lists and dicts of them.

    Raises:
        FileNotFoundError: if there is no such run.
        ValueError: if the data or the script are not those of the recorded run.

    Used in chapters 1, 2, 3, 5, 6, 7 and 8.

    >>> sorted(load("vae_seeds"))[:3]
    ['curve_epochs', 'held_out_curves', 'kl']
    """
    script, stored = folder / f"{name}.py", folder / f"{name}.json"
    if not script.is_file() or not stored.is_file():
        known = sorted(path.stem for path in folder.glob("*.json"))
        raise FileNotFoundError(f"there is no long run {name!r}; there is {', '.join(known)}")
    try:
        record = json.loads(stored.read_text(encoding="utf-8"))
        data, sums = record["data"], (record["data_sha256"], record["script_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{stored.name} is not a record of a long run. {_cure(name)}") from error
    if _sha256(_canonical(data)) != sums[0]:
        raise ValueError(f"{stored.name} does not match its checksum: edited. {_cure(name)}")
    if _script_sha256(script) != sums[1]:
        raise ValueError(f"{script.name} changed since it made {stored.name}. {_cure(name)}")
    return data


def write(name: str, data: dict[str, Any], seeds: list[int], folder: Path = _FOLDER) -> Path:
    """Store what the script `NAME.py` computed, with checksums and versions; returns the path.

    Raises:
        FileNotFoundError: if `folder` has no script of that name.
        ValueError: if `data` holds something that JSON cannot, NaN and infinity included.

    For what a chapter shows and a reader would not wait for.

    >>> write("no_such_script", data={}, seeds=[0])
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    script = folder / f"{name}.py"
    if not script.is_file():
        raise FileNotFoundError(f"a long run needs its script: there is no {script}")
    try:
        canonical = _canonical(data)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"data must be finite numbers, strings, lists and dicts: {error}"
        ) from error
    record = {
        "script_sha256": _script_sha256(script),
        "data_sha256": _sha256(canonical),
        "seeds": seeds,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "data": data,
    }
    path = folder / f"{name}.json"
    unfinished = path.with_suffix(".json.part")  # a killed run leaves the old file whole
    unfinished.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _script_sha256(script: Path) -> str:
    # Line ends are Git's business, not the experiment's.
    return _sha256(script.read_bytes().replace(b"\r\n", b"\n"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _cure(name: str) -> str:
    return f"Run `python -m reparam.long_runs.{name}` to make both anew"
