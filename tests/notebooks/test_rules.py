"""Every rule of `rules.py` on every notebook of the book. Nothing is executed here."""

import pytest
import rules

from tools import notebooks, repoint

PATHS = notebooks.notebook_paths()
CHAPTERS = [path for path in PATHS if path.parent.name == "book"]
SHEETS = [path for path in PATHS if path not in CHAPTERS]


def _report(faults):
    assert not faults, "\n" + "\n".join(faults)


def test_there_are_notebooks():
    assert PATHS, "book/ holds no notebook: the rules below would pass on nothing"


@pytest.mark.parametrize("rule", rules.PAGE_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_page(path, rule):
    _report(rule(rules.Page(path)))


@pytest.mark.parametrize("rule", rules.SHEET_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.name)
def test_sheet(path, rule):
    _report(rule(rules.Page(path)))


def test_figure_names_are_unique():
    _report(rules.figure_names([rules.Page(path) for path in PATHS]))


def test_long_runs_are_what_their_scripts_wrote():
    _report(rules.long_runs(notebooks.ROOT / "lib/reparam/long_runs"))


def test_the_repository_is_named_the_same_everywhere():
    _report(repoint.faults())


def test_run_status_page_is_what_its_data_say():
    status = notebooks._load(notebooks.ROOT / notebooks.STATUS_DATA)
    page = (notebooks.ROOT / notebooks.STATUS_PAGE).read_text(encoding="utf-8")
    assert page == notebooks.status_page(status), "edited by hand? `make notebooks` writes it"
    assert sorted(status) == [notebooks.shown(path) for path in PATHS], "run `make notebooks`"


def test_a_wrong_digit_in_the_prose_is_noticed():
    """The power of `prose_numbers`: nine in ten of its numbers with the last digit moved."""
    counts = {path.name: rules.power(rules.Page(path)) for path in CHAPTERS}
    print(counts)
    caught, tried = (sum(column) for column in zip(*counts.values(), strict=True))
    assert tried and caught / tried >= 0.9, (
        f"only {caught} of {tried} wrong digits would be noticed {counts}: show more digits"
    )
