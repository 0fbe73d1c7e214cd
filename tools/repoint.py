"""Re-point a fork: one setting, and every place that names the repository follows.

    python tools/repoint.py URL [BRANCH]     what `make repoint URL=… [BRANCH=…]` does
    python tools/repoint.py                  after an edit of `repository:` in _config.yml
    python tools/repoint.py --check          list what disagrees with _config.yml, change nothing

The setting is `repository: {url, branch}` in `_config.yml`. From it follow the setup cell and the
Colab button of every notebook, absolute links into the repository, and the URLs in the docs and in
`pyproject.toml`. Running it twice changes nothing the second time.
"""

import argparse
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "_config.yml"
# Where the repository may be named; tests and tools read it from _config.yml instead.
PLACES = ("*.md", "*.toml", "*.cff", ".github/**/*.yml", "book/**/*.ipynb", "book/**/*.md",
          "_templates/**/*.html", "lib/**/*.py", "lib/**/*.js", "instructor/**/*.md",
          "instructor/**/*.ipynb")  # fmt: skip

SETUP = """\
# Setup: nothing to do in a checkout; on Colab, one quiet install that leaves torch as it is.
import importlib.util

if importlib.util.find_spec("reparam") is None:
    %pip install --quiet "reparam @ git+{url}@{branch}"
"""
_INSTALL = re.compile(r"reparam @ git\+([^\s\"'\\]+?)@([^\s\"'\\@]+)")
_COLAB = re.compile(
    r"https://colab\.research\.google\.com/github/[^\s/)\"'\\]+/[^\s/)\"'\\]+/blob/"
    r"[^\s)\"'\\]+?/(?=book/|instructor/)"
)


def setting(root=ROOT):
    """(url, branch) of the repository, as `_config.yml` names it."""
    repository = yaml.safe_load((Path(root) / CONFIG).read_text(encoding="utf-8"))["repository"]
    return repository["url"], repository["branch"]


def setup_source(url, branch):
    """The setup cell of a notebook."""
    return SETUP.format(url=url, branch=branch).rstrip("\n")


def _slug(url):
    return "/".join(url.rstrip("/").split("/")[-2:])


def colab_url(url, branch, path=""):
    """Where Colab opens a file of the repository."""
    return f"https://colab.research.google.com/github/{_slug(url)}/blob/{branch}/{path}"


def file_url(url, branch, path=""):
    """Where a reader finds a file of the repository: the one form of link between its pages."""
    return f"{url}/blob/{branch}/{path}"


def _pages(url):
    owner, name = _slug(url).split("/")
    return f"https://{owner.lower()}.github.io/{name}"


def _rewrite(text, olds, url, branch):
    """The text with every old name of the repository replaced by the new one."""
    end = r"(?![\w-])(?!\.\w)"
    for old_url, old_branch in olds:
        text = re.sub(
            re.escape(old_url) + r"(?:\.git)?/(blob|tree|raw|edit)/" + re.escape(old_branch) + end,
            lambda m: f"{url}/{m[1]}/{branch}",
            text,
        )
        if old_url != url:
            text = re.sub(re.escape(old_url) + end, lambda _: url, text)
            if old_url.startswith("https://github.com/"):
                text = re.sub(re.escape(_pages(old_url)) + end, lambda _: _pages(url), text)
    text = _INSTALL.sub(lambda _: f"reparam @ git+{url}@{branch}", text)
    return _COLAB.sub(lambda _: colab_url(url, branch), text)


def _files(root):
    found = {path for place in PLACES for path in Path(root).glob(place) if path.is_file()}
    return sorted(p for p in found if ".ipynb_checkpoints" not in p.parts)


def _olds(texts, *known):
    """Every (url, branch) under which the files know the repository."""
    found = {match.groups() for text in texts.values() for match in _INSTALL.finditer(text)}
    return sorted({*known, *found}, key=lambda pair: (-len(pair[0]), pair))


def plan(root, url, branch):
    """{path: (old text, new text)} for every file that has to change."""
    root = Path(root)
    texts = {path: path.read_text(encoding="utf-8") for path in _files(root)}
    olds = _olds(texts, setting(root))
    changes = {
        path: (text, new)
        for path, text in texts.items()
        if (new := _rewrite(text, olds, url, branch)) != text
    }
    config = root / CONFIG
    text = config.read_text(encoding="utf-8")
    new = text
    for key, value in (("url", url), ("branch", branch)):
        new = re.sub(
            rf"(?m)(^repository:\s*\n(?:[ \t]+.*\n)*?[ \t]+{key}:[ \t]*)[^\s#]+",
            lambda m, value=value: m[1] + value,
            new,
        )
    if yaml.safe_load(new)["repository"] != {
        **yaml.safe_load(text)["repository"], "url": url, "branch": branch,
    }:  # fmt: skip
        raise SystemExit(
            f"{CONFIG}: `url:` and `branch:` must stand on their own lines under `repository:`."
        )
    return ({config: (text, new)} if new != text else {}) | changes


def faults(root=ROOT):
    """What disagrees with `_config.yml`: one sentence per line of a file."""
    root = Path(root)
    url, branch = setting(root)
    return [
        f"{path.relative_to(root)}, line {number}: names another repository than {CONFIG} "
        f"({url}, branch {branch}): {old.strip()[:100]}; "
        f"run `make repoint URL={url} BRANCH={branch}`"
        for path, (before, after) in plan(root, url, branch).items()
        for number, (old, new) in enumerate(
            zip(before.splitlines(), after.splitlines(), strict=True), 1
        )
        if old != new
    ]


def main(arguments=None, root=ROOT):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("url", nargs="?", help="https://github.com/you/yours, or file:///a/clone")
    parser.add_argument("branch", nargs="?", default="main")
    parser.add_argument("--check", action="store_true", help="list what disagrees, change nothing")
    parser.add_argument("--root", type=Path, default=root, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    if options.check:
        found = faults(root)
        for fault in found:
            print(fault, file=sys.stderr)
        return 1 if found else 0
    url, branch = (options.url, options.branch or "main") if options.url else setting(root)
    url = url.rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"(https://[\w.-]+|file://)(/[\w.~+-]+){2,}", url):
        parser.exit(2, f"Not a repository that pip can install from: {url!r}; give "
                       "https://github.com/OWNER/NAME or file:///PATH/TO/CLONE.\n")  # fmt: skip
    if not re.fullmatch(r"[\w./+-]+", branch):
        parser.exit(2, f"Not a branch name: {branch!r}.\n")
    changes = plan(root, url, branch)
    for path, (_, text) in changes.items():
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"re-pointed {path.relative_to(root)}")
    print(f"{len(changes)} files changed; the repository is {url}, branch {branch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
