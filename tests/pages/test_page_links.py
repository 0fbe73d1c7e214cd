"""Every link leads somewhere: inside the book, and from the book to files of the repository."""

import functools
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from playwright.sync_api import expect

from reparam.explorers.methods import METHODS

from .conftest import CHAPTERS, CONFIG, EVERY_PAGE, HTML, ROOT

REPOSITORY = CONFIG["repository"]["url"].rstrip("/")
BRANCH = CONFIG["repository"]["branch"]
COLAB = "https://colab.research.google.com/github/"


class Links(HTMLParser):
    """The links, the files and the anchors of one page."""

    def __init__(self):
        super().__init__()
        self.links, self.files, self.anchors, self.repeated = [], [], set(), []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes:
            if attributes["id"] in self.anchors:
                self.repeated.append(attributes["id"])
            self.anchors.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in ("img", "script", "source", "iframe") and attributes.get("src"):
            self.files.append(attributes["src"])
        if tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preload"):
            self.files.append(attributes["href"])


@functools.cache
def read(path):
    parser = Links()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def fault(page, link):
    """Say what is wrong with a link of a page, or nothing."""
    address = urlsplit(link)
    if link.startswith((REPOSITORY + "/", COLAB)):
        return repository_fault(link)
    if address.scheme or link.startswith("//"):
        return None  # to another site: not for a test without a network
    path, anchor = urldefrag(link)
    target = page if not path else (page.parent / unquote(path.partition("?")[0])).resolve()
    if not target.is_file():
        return f"{link}: there is no such file in the built book"
    if ":" in anchor:
        return None  # an explorer's state, which test_lecturing.py opens
    if anchor and target.suffix == ".html" and unquote(anchor) not in read(target).anchors:
        return f"{link}: {target.name} has no anchor #{anchor}"
    return None


def repository_fault(link):
    """Check a link to a file of the repository, or to Colab, against the checkout."""
    path = link.removeprefix(REPOSITORY + "/")
    if link.startswith(COLAB):
        owner = urlsplit(REPOSITORY).path.strip("/")
        path = link.removeprefix(f"{COLAB}{owner}/")
        if path == link:
            return f"{link}: opens another repository than _config.yml names; run  make repoint"
    kind, _, rest = path.partition("/")
    if kind not in ("blob", "tree", "edit", "raw"):
        return None  # the repository itself, its issues
    branch, _, name = rest.partition("/")
    if branch != BRANCH:
        return f"{link}: is on branch {branch}, _config.yml says {BRANCH}; run  make repoint"
    if not (ROOT / unquote(urldefrag(name)[0])).exists():
        return f"{link}: the repository has no {name}"
    return None


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_links_and_anchors_resolve(name):
    page = HTML / f"{name}.html"
    parsed = read(page)
    faults = [found for link in parsed.links + parsed.files if (found := fault(page, link))]
    assert faults == [], f"{name}: mend in the page's source:\n" + "\n".join(sorted(set(faults)))
    assert parsed.repeated == [], f"{name}: one id, several elements: {parsed.repeated}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_colab_button_opens_this_notebook(name):
    owner = urlsplit(REPOSITORY).path.strip("/")
    wanted = f"{COLAB}{owner}/blob/{BRANCH}/{name}.ipynb"
    links = read(HTML / f"{name}.html").links
    opened = [link for link in links if link.startswith("https://colab.research.google.com")]
    assert wanted in opened, f"{name}: no link opens {wanted}"
    own = [link for link in opened if link.endswith(f"{name}.ipynb")]
    assert set(own) == {wanted}, f"{name}: Colab links that differ: {set(own)}; run  make repoint"


def test_the_chooser_leads_to_the_section_of_each_estimator(visit):
    name = next(name for name in CHAPTERS if "/7-" in name)
    page = visit(name, math=False)
    page.get_by_role("button", name="GumbelSoftmax", exact=True).click()
    links = page.locator("section.x .story li a")
    expect(links).to_have_count(len(METHODS) + sum(bool(method.preset) for method in METHODS))
    links = links.evaluate_all("all => all.map(a => a.pathname.split('/').at(-1) + a.hash)")
    faults = [found for link in links if (found := fault(HTML / f"{name}.html", link))]
    assert faults == []
