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
from axe_playwright_python.base import AXE_SCRIPT
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
    `.elsewhere` (requests to another host) and `.loaded` (the addresses that the site answered).
    """
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.problems, page.elsewhere, page.loaded = [], [], set()

    def on_request(request):
        if not request.url.startswith((site, "file:", "data:", "blob:")):
            page.elsewhere.append(request.url)

    def on_response(response):
        if response.url.startswith(site) and response.ok:
            page.loaded.add(response.url)

    page.on("request", on_request)
    page.on("response", on_response)
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


def no_fault(page, name):
    assert page.elsewhere == [], (
        f"{name} asks another host; keep a copy in _static/, or make it a link: {page.elsewhere}"
    )
    assert page.problems == [], f"{name}: errors in the browser's console: {page.problems}"


def new_context(browser, width=1280, theme="light"):
    """A fresh profile."""
    return browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=theme, reduced_motion="reduce"
    )


@pytest.fixture
def visit(browser, site):
    """Return a function that opens a page of the book in a fresh profile.

    Without `math` formulas stay TeX, which takes seconds less.
    """
    contexts = []

    def visit(name, *, width=1280, theme="light", by_file=False, math=True):
        contexts.append(new_context(browser, width, theme))
        if not math:
            idle = "MathJax.startup = {promise: Promise.resolve()}"
            contexts[-1].route("**/mathjax/startup.js*", lambda route: route.fulfill(body=idle))
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


# Axe mixes what stands behind a text from all of its ancestors, milliseconds for each text, and a
# page has thousands in a hundred looks. So a text passes if it has the look of one that passed: its
# own colors and size and those of every ancestor. What is lifted out of the flow may stand on
# anything, and is like nothing else.
ONE_OF_A_LOOK = """() => {
    const properties = [
        "color", "-webkit-text-fill-color", "background-color", "background-image", "opacity",
        "mix-blend-mode", "filter", "text-shadow", "-webkit-text-stroke", "font-size",
        "font-weight",
    ];
    let looks, numbers, passed;
    function look(element) {
        if (!element) return 0;
        if (!looks.has(element)) {
            const style = getComputedStyle(element);
            const lifted = !/static|relative/.test(style.position) || style.transform !== "none";
            const key = [
                look(element.parentElement ?? element.getRootNode().host),
                lifted && looks.size,
                ...properties.map((property) => style.getPropertyValue(property)),
            ].join("|");
            if (!numbers.has(key)) numbers.set(key, numbers.size + 1);
            looks.set(element, numbers.get(key));
        }
        return looks.get(element);
    }
    const check = axe._audit.checks["color-contrast"];
    const rule = axe._audit.rules.find((rule) => rule.id === "color-contrast");
    const matches = rule.matches;
    const report = { data() {}, relatedNodes() {} };
    rule.matches = function (element, node, ...rest) {
        if (passed.has(look(element)) || !matches.call(this, element, node, ...rest)) return false;
        if (!check.evaluate.call(report, element, check.options, node)) return true;
        passed.add(look(element));
        return false;
    };
    window.runAxe = async (options, formulas) => {
        [looks, numbers, passed] = [new Map(), new Map(), new Set()];
        const emptied = formulas ? [] : [...document.querySelectorAll("mjx-container")]
            .map((formula) => [formula, [...formula.childNodes]]);
        for (const [formula] of emptied) formula.replaceChildren();
        const { violations } = await axe.run(options);
        for (const [formula, parts] of emptied) formula.replaceChildren(...parts);
        return violations;
    };
}"""


COLOR_RULES = ["color-contrast", "link-in-text-block"]  # all that another theme can break


def violations(page, rules=None, formulas=True):
    """What axe finds on a page, by all of its rules or by some; a line each.

    Without `formulas` their parts are left out: the half of a chapter's elements.
    """
    if not page.evaluate("'runAxe' in window"):
        page.evaluate(AXE_SCRIPT)
        page.evaluate(ONE_OF_A_LOOK)
    options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
    found = page.evaluate("options => runAxe(...options)", [options, formulas])
    return [_told(violation) for violation in found]


def _told(violation):
    """One violation in one line: the rule, what to do, and where."""
    places = [node["target"] for node in violation["nodes"][:4]]
    why = violation["nodes"][0]["failureSummary"].replace("\n", " ")
    return f"{violation['id']}: {violation['help']}; at {places}; {why}"
