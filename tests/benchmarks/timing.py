"""Times of the same work done in several ways, and the file that keeps what was measured."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results" / "measured.json"
PEERS = (
    "storchastic",
    "pyro-ppl",
    "normflows",
    "nflows",
    "zuko",
    "tensorflow-probability",
    "jax",
)
_rows: dict[str, list[dict]] = {}


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict]:
    """Minimum, median and spread (interquartile range over median) of the seconds of each way.

    All in turn, after three warm-ups, so that a busy machine slows them alike; each right after a
    call of its own that is not timed, as in a loop of training, so that none pays for caches that
    another one has filled (which can cost a short step two fifths of its time). Seconds of the
    processor, which on one thread of an idle machine are those of the clock, and on a busy one do
    not count the other programs.
    """
    for _ in range(3):
        for way in ways.values():
            way()
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            way()
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    summary = {}
    for name, measured in times.items():
        low, middle, high = statistics.quantiles(measured, n=4)
        summary[name] = {
            "minimum": min(measured),
            "median": middle,
            "spread": (high - low) / middle,
        }
    return summary


def report(section: str, name: str, summary: Mapping[str, dict], **more) -> dict[str, float]:
    """Print and keep one row; the ratio of each way to the first one, by minima."""
    first = next(iter(summary.values()))
    ratios = {way: row["minimum"] / first["minimum"] for way, row in list(summary.items())[1:]}
    shown = "  ".join(
        f"{way} {row['minimum'] * 1e3:8.3f} ms (median {row['median'] * 1e3:.3f}, "
        f"{row['spread']:.0%})"
        for way, row in summary.items()
    )
    told = "  ".join(f"{way} / ours {ratio:.3g}" for way, ratio in ratios.items())
    print(f"\n{section:16s} {name:34s} {shown}  {told}", end="")
    keep(section, {"name": name, **more, "seconds": dict(summary), "ratios": ratios})
    return ratios


def keep(section: str, row: dict) -> None:
    """Add a row to a section of the results, which are written when the session ends."""
    _rows.setdefault(section, []).append(row)


def write() -> None:
    """Put what this session has measured in the place of what was there by the same names.

    Each row names its run, and the runs say when, on what machine and with which versions: a
    section may hold rows of several.
    """
    if not _rows:
        return
    recorded = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}, "sections": {}}
    run = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    runs = recorded["runs"] | {run: {"machine": _machine(), "versions": _versions()}}
    sections = recorded["sections"]
    for section, rows in _rows.items():
        known = sections.get(section, [])
        fresh = [{**row, "run": run} for row in rows]
        merged = {(row["name"], row.get("problem")): row for row in [*known, *fresh]}
        sections[section] = list(merged.values())
    named = {row["run"] for rows in sections.values() for row in rows}
    recorded["runs"] = {run: runs[run] for run in sorted(named)}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(_rounded(recorded), indent=1, ensure_ascii=False) + "\n")


def _machine() -> dict:
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names),
        "load": os.getloadavg()[0],  # of other programs, too: above the cores, measure again
    }


def _versions() -> dict:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PEERS:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _rounded(value):
    """Four digits are more than a time has."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
