"""The quizzes of the chapters: `quiz(1)` shows one, `check("1.3", "b")` answers in text.

`quiz("concept")` is the concept test, eight questions across the chapters, and `on_paper` gives
the questions of any quiz without the answers. The questions are data, one file per quiz in
`items/`. What an option says is printed is printed: `tests/lib/test_quiz.py` runs the code that
each item carries. There is no score; every answer, right or wrong, is met with an explanation.
"""

import functools
import html
import math
import re
import textwrap
import tomllib
from importlib.resources import files

from reparam._embed import embed

__all__ = ["Quiz", "check", "on_paper", "quiz", "vote"]

_ITEMS = files(__package__) / "items"
_CONCEPT = "concept"


class Quiz:
    """One chapter's questions, as a figure that works in a page, in Jupyter and in Colab.

    `items` holds the questions as `items/*.toml` has them. Args, raises: as for `quiz`.

    Used in every chapter through `quiz`.

    >>> len(Quiz(1).items), Quiz(1).items[0]["id"]
    (6, '1.1')
    """

    def __init__(self, chapter):
        self.chapter = chapter
        self.items = _load(chapter)

    def __repr__(self):
        of = "the concept test" if self.chapter == _CONCEPT else f"chapter {self.chapter}"
        return f"<Quiz of {of}: {_span(self.items)}>"

    def _repr_html_(self):
        state = {"chapter": self.chapter, "items": [_for_page(item) for item in self.items]}
        return embed((files(__package__) / "quiz.js").read_text("utf-8"), state, _fallback(state))


def quiz(chapter):
    """The quiz of a chapter, to be shown as the last line of a notebook cell.

    Parameters:
        chapter: the chapter's number, an integer; or `"concept"`, the concept test.

    Raises:
        ValueError: if that chapter has no quiz; the message lists those that have one.

    Used in every chapter.

    >>> quiz(1)
    <Quiz of chapter 1: questions 1.1 to 1.6>
    >>> quiz("concept")
    <Quiz of the concept test: questions C.1 to C.8>
    """
    return Quiz(chapter)


def check(question, answer=None):
    """Print what there is to say about one answer to one question.

    Parameters:
        question: its name as the quiz shows it, such as `"1.3"`.
        answer: the letter of an option, such as `"b"`; for a question that asks for a number, that
            number.

    Raises:
        ValueError: if there is no answer, the question does not exist or cannot have that answer;
            the message says what can be asked or answered.

    Used in every chapter, at its end.

    >>> check("1.2", "c")  # doctest: +ELLIPSIS
    1.2 c: Right. `sample()` returns a tensor without a graph, ...
    >>> check("2.5", 43)  # doctest: +ELLIPSIS
    2.5 43: Right. With fresh noise the difference ...
    """
    item = _find(question)
    if answer is None:
        wanted = "a number" if item["kind"] == "number" else 'a letter such as "b"'
        raise ValueError(
            f"question {item['id']} of the quiz asks for {wanted}; got None. An exercise of that "
            f"number is checked by reparam.exercises.check({question!r})"
        )
    if item["kind"] == "number":
        value = _number(item, answer)
        option = _closest(item, value)
        shown = f"{value:g}"
        verdict, why = _verdict(option), (option["why"] if option else item["otherwise"])
    else:
        letter = answer.strip().lower() if isinstance(answer, str) else answer
        letters = _letters(item)
        if letter not in letters:
            wanted = ", ".join(f'"{x}"' for x in letters)
            raise ValueError(f"question {item['id']} takes one of {wanted}; got {answer!r}")
        option = item["options"][letters.index(letter)]
        shown, verdict, why = letter, _verdict(option), option["why"]
    print(textwrap.fill(f"{item['id']} {shown}: {verdict} {why}", width=82))
    if option and "result" in option:
        print(f"With this line the program prints: {option['result']}")


def vote(chapter):
    """The question of a chapter that a lecturer puts to the vote, with the answers to expect.

    Returns a text: the question, its options, the right one, and a note on what most will choose.

    Raises:
        ValueError: if that chapter has no quiz.

    >>> print(vote(2))  # doctest: +ELLIPSIS
    Vote on question 2.2
    ...
    """
    item = _vote_item(chapter)
    title = f"Vote on question {item['id']}"
    return "\n\n".join([title, _as_text(item, key="   <- right"), textwrap.fill(item["vote"], 88)])


def on_paper(chapter):
    """The questions of a quiz as text, without the answers, to be handed out on paper.

    Parameters:
        chapter: as for `quiz`, any chapter's number or `"concept"`.

    Raises:
        ValueError: if there is no such quiz.

    >>> print(on_paper("concept"))  # doctest: +ELLIPSIS
    C.1
    ...
    """
    return "\n\n".join(f"{item['id']}\n\n{_as_text(item)}" for item in _load(chapter))


def _vote_item(chapter):
    """The question of a chapter that is to be voted on; tools/book_quiz.py shows it, too."""
    item = next((item for item in _load(chapter) if "vote" in item), None)
    if item is None:
        raise ValueError("the concept test has no vote; each chapter has one")
    return item


def _as_text(item, key=""):
    """A question and its options, `key` behind the right one."""
    parts = [textwrap.fill(item["prompt"], 88)]
    if "code" in item:
        parts.append("\n".join(f"    {line}" for line in item["code"].splitlines()))
    if item["kind"] == "number":
        parts.append("Your number: ________")
    else:
        options = zip(_letters(item), item["options"], strict=True)
        parts.append("\n".join(f"{x}) {o['text']}" + key * o["correct"] for x, o in options))
    return "\n\n".join(parts)


@functools.cache
def _chapters():
    """What there is a quiz for: the numbers of chapters, then the concept test."""
    names = [file.name.removesuffix(".toml") for file in _ITEMS.iterdir()]
    return [*sorted(int(name) for name in names if name.isdecimal()), _CONCEPT]


def _load(chapter):
    if type(chapter) not in (int, str) or chapter not in _chapters():
        known = _listed(repr(n) for n in _chapters())
        raise ValueError(f"there is no quiz for chapter {chapter!r}; there are quizzes for {known}")
    return _read(chapter)


@functools.cache
def _read(chapter):
    items = tomllib.loads((_ITEMS / f"{chapter}.toml").read_text("utf-8"))["items"]
    for item in items:
        for key in ("prompt", "code", "otherwise", "vote"):
            if key in item:
                item[key] = item[key].strip()
        for option in item["options"]:
            option["why"] = option["why"].strip()
            option.setdefault("correct", False)
    return items


def _find(question):
    for chapter in _chapters():
        for item in _load(chapter):
            if item["id"] == question:
                return item
    known = _listed(_span(_load(n)) for n in _chapters())
    raise ValueError(f"there is no question {question!r}; there are {known}")


def _listed(parts):
    *parts, last = parts
    return f"{', '.join(parts)} and {last}"


def _span(items):
    return f"questions {items[0]['id']} to {items[-1]['id']}"


def _letters(item):
    return list("abcdefgh"[: len(item["options"])])


def _number(item, answer):
    try:
        value = float(answer)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"question {item['id']} asks for a number; got {answer!r}")
    return value


def _closest(item, value):
    """The option that the value means, or None; `tolerance` is relative. quiz.js does likewise."""
    for option in item["options"]:
        wanted = float(option["text"])
        if abs(value - wanted) <= item["tolerance"] * abs(wanted):
            return option
    return None


def _verdict(option):
    return "Right." if option and option["correct"] else "Not this one."


def _inline(text):
    """HTML of a line of prose: `code` between backticks, and q_φ as q with an index."""

    def prose(part):
        return re.sub(r"_(\w)", r"<sub>\1</sub>", html.escape(part, quote=False))

    return "".join(_code(p) if i % 2 else prose(p) for i, p in enumerate(text.split("`")))


def _code(text):
    return f"<code>{html.escape(text, quote=False)}</code>"


def _answers_are_code(item):
    return item["kind"] == "predict-output" or "result" in item["options"][0]


def _for_page(item):
    """An item as the page needs it: everything that is prose already in HTML."""
    numeric = item["kind"] == "number"
    page = {"id": item["id"], "numeric": numeric, "prompt": _inline(item["prompt"])}
    page |= {"code": item.get("code", ""), "options": []}
    if numeric:
        page["tolerance"] = item["tolerance"]
        page["otherwise"] = f"{_verdict(None)} {_inline(item['otherwise'])}"
    for option in item["options"]:
        why = f"{_verdict(option)} {_inline(option['why'])}"
        if "result" in option:
            why += f" With this line the program prints: {_code(option['result'])}"
        text = _code(option["text"]) if _answers_are_code(item) else _inline(option["text"])
        page["options"].append({"text": text, "correct": option["correct"], "why": why})
    return page


def _fallback(state):
    """The quiz where scripts do not run: every answer is a fold that opens on its explanation."""
    parts = []
    for item in state["items"]:
        parts.append(f"<p><strong>{item['id']}</strong> {item['prompt']}</p>")
        if item["code"]:
            code = html.escape(item["code"], quote=False)
            parts.append(f'<pre style="white-space:pre-wrap;overflow-wrap:anywhere">{code}</pre>')
        for letter, option in zip(_letters(item), item["options"], strict=True):
            label = f"{option['text']}?" if item["numeric"] else f"{letter}) {option['text']}"
            parts.append(f"<details><summary>{label}</summary><p>{option['why']}</p></details>")
    return "".join(parts)
