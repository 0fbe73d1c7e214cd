"""Find a Chromium for the page tests, or obtain one.

    python tools/browser.py                    print the path of one, obtaining it where possible
    from tools.browser import chromium_path

Looked for in this order: $CHROMIUM; chromium-headless-shell, chromium, chromium-browser and
google-chrome on PATH; the one that Playwright keeps. Where there is none, apt-get (as root) or else
Playwright fetches one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

# The headless shell is a fifth quicker in the page tests, and not everywhere.
NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
HOW = (
    "No Chromium found, and the page tests need one. Install it with one of\n"
    "    sudo apt-get install -y chromium        (Debian, Ubuntu)\n"
    "    .venv/bin/playwright install chromium   (anywhere)\n"
    "or name one that you have: CHROMIUM=/path/to/chrome make test"
)


class NoBrowser(RuntimeError):
    """There is no usable Chromium; the message says what to type."""


@cache
def chromium_path() -> str:
    """Return the path of a Chromium; raise NoBrowser if there is none. Installs nothing."""
    named = os.environ.get("CHROMIUM")
    if named:
        path = shutil.which(named)
        if path is None:
            raise NoBrowser(f"CHROMIUM={named} is not a program that can be run.\n{HOW}")
        return path
    for name in NAMES:
        if path := shutil.which(name):
            return path
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    if mac.exists():
        return str(mac)
    if path := _playwright_chromium():
        return path
    raise NoBrowser(HOW)


def launch_arguments() -> list[str]:
    """Return the switches that keep Chromium from calling home, and let root run it."""
    arguments = [
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-gpu",  # most machines that test have none, and to imitate one takes longer
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")
    return arguments


def _playwright_chromium() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def _commands() -> list[list[list[str]]]:
    """Return the ways of obtaining a browser, each a list of commands."""
    ways = []
    if shutil.which("apt-get") and os.geteuid() == 0:
        for name in NAMES[:2]:
            install = ["apt-get", "install", "-y", name, "fonts-dejavu-core"]
            ways.append([["apt-get", "update"], install])
    ways.append([[sys.executable, "-m", "playwright", "install", "chromium"]])
    return ways


def obtain() -> str:
    """Return the path of a Chromium, installing one first if there is none."""
    try:
        return chromium_path()
    except NoBrowser:
        if os.environ.get("CHROMIUM"):
            raise
    for way in _commands():
        for command in way:
            print("==> no Chromium yet:", " ".join(command), file=sys.stderr, flush=True)
            # The path alone goes to stdout; the installer's progress is for the person watching.
            if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
                break
        else:
            try:
                return chromium_path()
            except NoBrowser:
                continue
    raise NoBrowser(HOW)


if __name__ == "__main__":
    try:
        print(obtain())
    except NoBrowser as problem:
        sys.exit(str(problem))
