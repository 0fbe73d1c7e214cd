"""Every exercise: right answers pass, wrong ones fail, blanks get nothing, variants are right."""

import pytest
import torch

from instructor import build, sources, verify
from reparam.exercises._running import checks_of

EXERCISES = sources.load()
IDS = [exercise.id for exercise in EXERCISES]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("exercise", EXERCISES, ids=IDS)
def test_right_answers_pass_and_wrong_ones_fail(exercise):
    """In a few seeds here; `make verify SEEDS=1000` is the long run."""
    faults, _ = verify.verify(exercise, range(3))
    assert not faults, f"{exercise.path.name}:\n" + "\n".join(faults)


@pytest.mark.parametrize("exercise", EXERCISES, ids=IDS)
@pytest.mark.parametrize("cohort", ["spring", "autumn"])
def test_variants_are_right(exercise, cohort):
    other = sources.read(exercise.path, cohort)
    if not other.given:
        pytest.skip("this exercise has no variants")
    faults, _ = verify.verify(other, range(2))
    assert not faults, f"{exercise.path.name}, {other.given}:\n" + "\n".join(faults)


@pytest.mark.parametrize("exercise", EXERCISES, ids=IDS)
def test_its_parts_are_there(exercise):
    about = exercise.about
    assert 1 <= about["difficulty"] <= 5 and 5 <= about["minutes"] <= 60
    assert 3 <= about["points"] <= 10
    visible, hidden = exercise.tests()
    assert len(checks_of(visible)) >= 2 and len(checks_of(hidden)) >= 3
    for test in [*checks_of(visible), *checks_of(hidden)]:
        assert test.__doc__, f"{test.__name__} has no title"
    words = len(" ".join(cell.text for cell in exercise.of("text")).split())
    assert 30 <= words <= 330, f"the statement has {words} words"
    chapter = build.chapters()[exercise.chapter]["file"]
    nb = build.notebooks.read(build.ROOT / "book" / f"{chapter}.ipynb")
    headings = "\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
    assert f"# {about['after']}" in headings, f"chapter has no heading {about['after']!r}"


@pytest.mark.parametrize("chapter", sorted(build.chapters()))
def test_every_chapter_has_every_kind(chapter):
    mine = [e for e in EXERCISES if e.chapter == chapter]
    assert len(mine) >= 4
    assert {e.about["kind"] for e in mine} >= {"derivation", "implementation", "bug", "harder"}
    assert [e.id for e in mine] == [f"{chapter}.{n}" for n in range(1, len(mine) + 1)]


def test_some_exercises_have_variants():
    chapters = {e.chapter for e in EXERCISES if e.given}
    assert len(chapters) >= 5


def test_cohorts_differ_and_are_reproducible():
    def given(cohort):
        return [e.given for e in sources.load(cohort)]

    assert given("a") == given("a")
    assert len({str(given(cohort)) for cohort in "abcdefgh"}) > 1
