"""The quizzes: every claim about what code prints is run, every answer is explained."""

import contextlib
import io
import itertools
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from reparam.quiz import check, on_paper, quiz, vote

KINDS = {"choice", "number", "predict-output", "repair-line"}
CHAPTERS = [1, 2, 3, 4, 5, 6, 7, 8]
QUIZZES = [*CHAPTERS, "concept"]
ITEMS = [item for chapter in QUIZZES for item in quiz(chapter).items]
OPTIONS = [(item, option) for item in ITEMS for option in item["options"]]


def name(value):
    return value["id"] if "id" in value else value["text"][:30]


def gauss_hermite(mu: float, sigma: float):
    """Points and weights that average a polynomial over N(mu, sigma²) exactly."""
    points, weights = np.polynomial.hermite_e.hermegauss(20)
    return (
        torch.from_numpy(mu + sigma * points),
        torch.from_numpy(weights / weights.sum()),
    )


def run(code: str) -> str:
    """What the code prints; if it raises, the exception's name comes last."""
    printed = io.StringIO()
    scope = {"torch": torch, "math": math, "gauss_hermite": gauss_hermite}
    with contextlib.redirect_stdout(printed), torch.random.fork_rng():
        try:
            exec(compile(code, "<quiz>", "exec"), scope)
        except Exception as error:
            print(type(error).__name__)
    return printed.getvalue().strip()


def with_line(item, option) -> str:
    """The item's code with the option put where `...  # <- the line` stands."""
    code, count = re.subn(
        r"^( *).*\.\.\.  # <- the line$",
        lambda match: match[1] + option["text"],
        item["code"],
        flags=re.MULTILINE,
    )
    assert count == 1, f"{item['id']}: the code must have one line '...  # <- the line'"
    return code


def said(question, answer, capsys) -> str:
    check(question, answer)
    return " ".join(capsys.readouterr().out.split())


# --- the items -------------------------------------------------------------------------------


@pytest.mark.parametrize("item", ITEMS, ids=name)
def test_an_item_is_complete(item):
    assert item["kind"] in KINDS
    assert item["prompt"].endswith("?")
    assert sum(option["correct"] for option in item["options"]) == 1
    assert len({option["text"] for option in item["options"]}) == len(item["options"])
    for option in item["options"]:
        assert len(option["why"]) > 60, f"{item['id']} {option['text']}: explain it"
    if item["kind"] == "number":
        assert len(item["otherwise"]) > 60
    else:
        assert len(item["options"]) == 3
    assert not re.search(r"[$\\]", item["prompt"]), "plain text: a quiz has no TeX"


@pytest.mark.parametrize("item", [i for i in ITEMS if i["kind"] == "choice"], ids=name)
def test_length_does_not_give_the_right_option_away(item):
    lengths = [len(option["text"]) for option in item["options"]]
    if "result" not in item["options"][0]:  # lines of code are as long as they are
        assert max(lengths) <= 1.3 * min(lengths)


@pytest.mark.parametrize("item", [i for i in ITEMS if i["kind"] == "number"], ids=name)
def test_the_answers_to_a_number_question_do_not_overlap(item):
    values = sorted(abs(float(option["text"])) for option in item["options"])
    for low, high in itertools.pairwise(values):
        assert low * (1 + item["tolerance"]) < high * (1 - item["tolerance"])


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_mixes_kinds_positions_and_has_one_vote(chapter):
    items = quiz(chapter).items
    assert [item["id"] for item in items] == [f"{chapter}.{n + 1}" for n in range(len(items))]
    assert 5 <= len(items) <= 7
    assert len({item["kind"] for item in items}) >= 3
    lettered = [item for item in items if item["kind"] != "number"]
    keys = Counter(next(i for i, o in enumerate(x["options"]) if o["correct"]) for x in lettered)
    assert len(keys) == 3, "the right option must not always stand in the same place"
    assert sum("vote" in item for item in items) == 1


def test_the_concept_test_has_eight_items_that_mix_kinds_and_positions():
    items = quiz("concept").items
    assert [item["id"] for item in items] == [f"C.{n + 1}" for n in range(8)]
    assert len({item["kind"] for item in items}) >= 3
    lettered = [item for item in items if item["kind"] != "number"]
    assert len({next(i for i, o in enumerate(x["options"]) if o["correct"]) for x in lettered}) == 3


# --- the claims ------------------------------------------------------------------------------


@pytest.mark.parametrize(("item", "option"), OPTIONS, ids=name)
def test_what_an_option_says_is_printed_is_printed(item, option):
    if "result" in option:
        assert run(with_line(item, option)) == option["result"]
    elif item["kind"] == "predict-output" and option["correct"]:
        assert run(item["code"]) == option["text"]
    elif item["kind"] in ("number", "predict-output"):
        assert run(option["evidence"]) == option["text"]
    else:
        assert "proof" in item, f"{item['id']}: say by code why the right option is right"


@pytest.mark.parametrize("item", [i for i in ITEMS if "proof" in i], ids=name)
def test_the_proof_of_an_item_holds(item):
    assert run(item["proof"]) == ""


@pytest.mark.parametrize("item", [i for i in ITEMS if i["options"][0].get("result")], ids=name)
def test_the_lines_of_a_repair_give_different_results(item):
    results = [option["result"] for option in item["options"]]
    assert len(set(results)) == len(results)


def test_the_runner_sees_errors_and_false_proofs():
    assert run("assert 1 == 2") == "AssertionError"
    assert run("print('x')\nraise KeyError") == "x\nKeyError"


# --- check -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("item", "option"), OPTIONS, ids=name)
def test_check_explains_every_answer(item, option, capsys):
    letter = "abcdefgh"[item["options"].index(option)]
    answer = float(option["text"]) if item["kind"] == "number" else letter
    out = said(item["id"], answer, capsys)
    verdict = "Right." if option["correct"] else "Not this one."
    shown = f"{answer:g}" if item["kind"] == "number" else letter
    assert out.startswith(f"{item['id']} {shown}: {verdict} {' '.join(option['why'].split())}")
    assert option.get("result", "") in out


def test_check_takes_a_tensor_a_capital_and_a_number_it_does_not_know(capsys):
    assert "Right." in said("1.1", torch.tensor(5.02), capsys)
    assert "Right." in said("1.2", " C ", capsys)
    assert "Not this one. The draws are constants" in said("1.1", 77, capsys)


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [
        ("1.99", "a", "there is no question '1.99'; there are questions 1.1 to 1.6, questions 2.1"),
        (1.2, "a", "there is no question 1.2; there are questions"),
        (["1.2"], "a", "there is no question"),
        ("1.2", "d", 'question 1.2 takes one of "a", "b", "c"; got \'d\''),
        ("1.2", "", "question 1.2 takes one of"),
        ("1.2", ["a"], "question 1.2 takes one of"),
        ("1.1", "b", "question 1.1 asks for a number; got 'b'"),
        ("1.1", float("nan"), "question 1.1 asks for a number; got nan"),
        ("1.1", torch.zeros(3), "question 1.1 asks for a number; got tensor"),
    ],
)
def test_check_refuses_with_what_there_is(question, answer, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(question, answer)


def test_an_exercise_of_that_number_is_not_meant():
    other = r".*reparam\.exercises\.check"
    with pytest.raises(ValueError, match=r"question 1\.2 .* asks for a letter such as" + other):
        check("1.2")
    with pytest.raises(ValueError, match=r"question 1\.1 .* asks for a number; got None" + other):
        check("1.1")
    with pytest.raises(ValueError, match=r"99\.1"):
        check("99.1")


@pytest.mark.parametrize("chapter", [0, 99, "1", None, True, 1.5, [1]])
@pytest.mark.parametrize("function", [quiz, vote, on_paper])
def test_an_unknown_chapter_is_refused_with_those_that_exist(function, chapter):
    with pytest.raises(
        ValueError,
        match=r"there is no quiz for chapter .*; there are quizzes for 1, 2, .*, 8 and 'concept'",
    ):
        function(chapter)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_vote_shows_the_question_and_what_to_expect(chapter):
    (item,) = (item for item in quiz(chapter).items if "vote" in item)
    text = " ".join(vote(chapter).split())
    assert item["id"] in text and " ".join(item["prompt"].split()) in text
    assert text.count("<- right") == 1
    assert text.endswith(" ".join(item["vote"].split()))


def test_the_concept_test_is_no_vote():
    with pytest.raises(ValueError, match="the concept test has no vote"):
        vote("concept")


@pytest.mark.parametrize("chapter", QUIZZES)
def test_on_paper_asks_everything_and_answers_nothing(chapter):
    text = " ".join(on_paper(chapter).split())
    for item in quiz(chapter).items:
        assert " ".join(item["prompt"].split()) in text
        assert " ".join(item.get("code", "").split()) in text
        for option in item["options"]:
            assert item["kind"] == "number" or option["text"] in text
            assert " ".join(option["why"].split()) not in text
    assert "right" not in re.findall(r"<- (\w+)", text)


# --- the page --------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Tag names in order, with a check that what opens also closes."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("chapter", QUIZZES)
def test_the_html_is_whole_stable_and_carries_a_fold_for_every_answer(chapter):
    page = quiz(chapter)._repr_html_()
    assert page == quiz(chapter)._repr_html_(), "nbval compares it"
    tags = Tags(page)
    assert not tags.open
    assert Counter(tags.seen)["details"] == sum(len(i["options"]) for i in quiz(chapter).items)
    assert "http" not in page, "a page asks no other host for anything"
    for part in ('"fieldset"', '"legend"', '"role", "status"', '"radio"', '"number"'):
        assert part in page
    assert len(page.encode()) < 60_000


def test_prose_becomes_html_and_code_stays_code(monkeypatch):
    from reparam.quiz import _inline

    assert _inline("a < b, q_φ") == "a &lt; b, q<sub>φ</sub>"
    assert _inline("`a_b < c` is code") == "<code>a_b &lt; c</code> is code"


def test_repr_is_text():
    assert repr(quiz(2)) == "<Quiz of chapter 2: questions 2.1 to 2.6>"
    json.dumps(quiz(2).items)
