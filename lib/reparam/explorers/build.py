"""Make what is derived from the explorers' sources: `python -m reparam.explorers.build`.

- `built/NAME.js`: `runtime.js`, `NAME.js` and, for fresh noise, `draws.js` in one file, without
  comments and with short names, so that a page stays small;
- `stills/NAME.svg`: the still picture, drawn by that file in Node (from the PATH, or the one that
  playwright brings).

Only people who change an explorer need this, and `tdewolff-minify`: both are committed, and a test
holds them fresh.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from reparam.explorers import (
    Explorer,
    chooser,
    fresh_or_frozen,
    latent_plane,
    mu_sigma_epsilon,
    raw_to_sigma,
    simplex,
    transport,
    two_histograms,
    warped_grid,
)

FOLDER = Path(__file__).parent
EXPLORERS = (
    fresh_or_frozen,
    mu_sigma_epsilon,
    two_histograms,
    chooser,
    raw_to_sigma,
    transport,
    simplex,
    warped_grid,
    latent_plane,
)


def find_node() -> str:
    """The path of a Node executable.

    Raises:
        RuntimeError: if there is none.
    """
    found = shutil.which("node")
    if found:
        return found
    try:
        import playwright
    except ImportError:
        pass
    else:
        bundled = Path(playwright.__file__).parent / "driver" / "node"
        if bundled.exists():
            return str(bundled)
    raise RuntimeError("no Node found: install it, or type `pip install playwright`")


def run_javascript(explorer: Explorer, expression: str):
    """The JSON value of a JavaScript expression in `widget` (the module) and `state`."""
    return _run(explorer.javascript, explorer.state, expression)


def _run(javascript: str, state: dict, expression: str):
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, "explorer.mjs")
        module.write_text(javascript, encoding="utf-8")
        main = Path(folder, "main.mjs")
        main.write_text(
            'import widget from "./explorer.mjs";\n'
            f"const state = {json.dumps(state)};\n"
            f"console.log(JSON.stringify({expression}));\n",
            encoding="utf-8",
        )
        done = subprocess.run(
            [find_node(), str(main)], capture_output=True, text=True, encoding="utf-8"
        )
    if done.returncode:
        raise RuntimeError(f"Node failed on `{expression}`:\n{done.stderr}")
    return json.loads(done.stdout)


def build(explorer: Explorer) -> dict[str, str]:
    """The texts of an explorer's derived files, made now, by path below this folder."""
    import minify

    shared, draws, own, still = (
        (FOLDER / file).read_text(encoding="utf-8")
        for file in ("runtime.js", "draws.js", f"{explorer.name}.js", "still.js")
    )
    code = "\n".join([shared, draws, own] if "freshNoise(" in own else [shared, own])
    javascript = minify.string("application/javascript", code)
    # What line breaks are left are inside CSS, where they say nothing.
    javascript = javascript.replace("\n", "")
    own_still = FOLDER / f"{explorer.name}.still.js"  # where there is no picture to begin with
    still += own_still.read_text(encoding="utf-8") if own_still.exists() else ""
    with_still = f"{code}\n{still}".replace("export default {", "export default { still,")
    picture = _run(with_still, explorer.state, "widget.still(widget.spec, state)")
    derived = {f"built/{explorer.name}.js": javascript, f"stills/{explorer.name}.svg": picture}
    if explorer.name == "mu_sigma_epsilon":  # for the start page: without the answer to its puzzle
        unspoiled = "{...widget.spec, stillState: {...widget.spec.stillState, seen: ''}}"
        derived["stills/start_page.svg"] = _run(
            with_still, explorer.state, f"widget.still({unspoiled}, state)"
        )
    return derived


def main() -> None:
    for make in EXPLORERS:
        for name, text in build(make()).items():
            path = FOLDER / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"{name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
