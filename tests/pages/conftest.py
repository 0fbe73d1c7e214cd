"""The built book, served and opened in a real browser that reaches nothing else.

A browser lives as long as one test file: every file may then have a browser of its own kind, and
the kernels of the notebook tests share no event loop with it.
"""

import functools
import http.server
import threading
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from tools.book_setup import toc_pages
from tools.browser import NoBrowser, chromium_path, launch_arguments

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
PAGES = toc_pages(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
CHAPTERS = [page for page in PAGES if page.rpartition("/")[2][0].isdigit()]
EVERY_PAGE = [*PAGES, "search"]


@pytest.fixture(scope="session", autouse=True)
def built():
    """The folder of the built book. A missing build is a failure, never a skip."""
    if not (HTML / "search.html").exists():
        pytest.fail("there is no built book in _build/html; run  make book", pytrace=False)
    return HTML


@pytest.fixture(scope="session")
def site():
    """The address at which the built book is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    try:
        path = chromium_path()
    except NoBrowser as problem:
        pytest.fail(str(problem), pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=[*launch_arguments(), "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield browser
        browser.close()


def open_page(context, address, site):
    """Open an address in a browser context.

    The page comes with `.problems` (console errors, exceptions, requests that failed),
    `.elsewhere` (requests to another host) and `.loaded` (bytes by address).
    """
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.problems, page.elsewhere, page.loaded = [], [], {}

    def on_request(request):
        if not request.url.startswith((site, "file:", "data:", "blob:")):
            page.elsewhere.append(request.url)

    def on_response(response):
        if response.url.startswith(site) and response.ok:
            page.loaded[response.url] = len(response.body())

    page.on("request", on_request)
    page.on("requestfinished", lambda request: on_response(request.response()))
    page.on("requestfailed", lambda request: page.problems.append(f"not found: {request.url}"))
    page.on("pageerror", lambda error: page.problems.append(f"exception: {error}"))
    page.on(
        "console",
        lambda message: (
            message.type == "error" and page.problems.append(f"console: {message.text}")
        ),
    )
    page.goto(address)
    settle(page)
    return page


def new_context(browser, width=1280, theme="light"):
    """A fresh profile."""
    return browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=theme, reduced_motion="reduce"
    )


@pytest.fixture
def visit(browser, site):
    """Return a function that opens a page of the book in a fresh profile."""
    contexts = []

    def visit(name, *, width=1280, theme="light", by_file=False):
        contexts.append(new_context(browser, width, theme))
        start = HTML.as_uri() if by_file else site
        return open_page(contexts[-1], f"{start}/{name}.html", site)

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def page(request, browser, site):
    """A page of the book, opened once for all tests of a file that only look at it.

    Use it with `look_at(PAGES)`. A test may resize it, change its theme and open its folds, and
    sets the size and the theme that it needs: others do so, too.
    """
    context = new_context(browser)
    page = open_page(context, f"{site}/{request.param}.html", site)
    page.name = request.param
    yield page
    context.close()


def look_at(names):
    """Decorator: run a test on each of the pages, through the fixture `page`."""
    return pytest.mark.parametrize("page", names, indirect=True, scope="module")


def show(page, width=1280, theme="light"):
    """Give an open page a size and a theme, and wait until it is drawn so."""
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=theme)
    page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
    page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def open_folds(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


def settle(page):
    """Wait until the math is set, the fonts are there and every embedded output has started."""
    page.wait_for_load_state("load")
    page.evaluate(
        """async () => {
            if (window.MathJax) {
                while (!window.MathJax.startup?.promise) await new Promise(r => setTimeout(r, 20));
                await MathJax.startup.promise;
            }
            await document.fonts.ready;
        }"""
    )
    page.wait_for_function(
        "[...document.querySelectorAll('[data-embed]')].every(e => e.dataset.ready)"
    )


# What a page holds thousands of, alike on every page: half of axe's time goes into their contrast.
TOKENS = "mjx-container *, div.highlight pre span { display: none }"


def violations(page, rules=None, tokens=True):
    """What axe finds on a page, by all of its rules or by some; a line each.

    Without `tokens` the words of highlighted code and the parts of formulas are left out.
    """
    options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
    style = None if tokens else page.add_style_tag(content=TOKENS)
    try:
        return [_told(found) for found in Axe().run(page, options=options).response["violations"]]
    finally:
        if style:
            style.evaluate("e => e.remove()")


def _told(violation):
    """One violation in one line: the rule, what to do, and where."""
    places = [" ".join(node["target"][0:1]) for node in violation["nodes"][:4]]
    why = violation["nodes"][0]["failureSummary"].replace("\n", " ")
    return f"{violation['id']}: {violation['help']}; at {places}; {why}"
