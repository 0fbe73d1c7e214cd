"""Sphinx extension: pages that are no notebook show a quiz, a vote or a sheet of questions.

`{quiz} concept` is what `quiz("concept")` shows in a notebook; `{on-paper} concept` its questions
without the answers; `{vote} 3` the vote of chapter 3: its question, the right answer, the wrong
ones to expect.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from reparam.quiz import _answers_are_code, _letters, _vote_item, on_paper, quiz


class Quiz(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        shown = quiz(named(self.arguments[0]))._repr_html_()
        return [nodes.raw("", shown, format="html")]


class OnPaper(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = on_paper(named(self.arguments[0]))
        return [nodes.literal_block(text, text, language="text", classes=["on-paper"])]


class Vote(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        item = _vote_item(named(self.arguments[0]))
        options = zip(_letters(item), item["options"], strict=True)
        (right,) = (letter for letter, option in options if option["correct"])
        title = nodes.strong("", f"Vote on {item['id']}. ")
        question = nodes.paragraph("", "", title, *prose(item["prompt"]))
        texts = [item["code"]] if "code" in item else []
        code = [nodes.literal_block(text, text, language="python") for text in texts]
        options = nodes.enumerated_list(enumtype="loweralpha", suffix=")", prefix="")
        for option in item["options"]:
            text = f"`{option['text']}`" if _answers_are_code(item) else option["text"]
            options += nodes.list_item("", nodes.paragraph("", "", *prose(text)))
        told = f"Right is {right}. {item['vote']}"
        return [question, *code, options, nodes.paragraph("", "", *prose(told))]


def named(argument: str) -> int | str:
    return int(argument) if argument.isdecimal() else argument


def prose(text: str) -> list[nodes.Node]:
    """A line of prose with `code` between backticks."""
    kinds = nodes.Text, lambda part: nodes.literal("", part)
    return [kinds[n % 2](part) for n, part in enumerate(text.split("`")) if part]


def setup(app: Sphinx) -> dict:
    app.add_directive("quiz", Quiz)
    app.add_directive("on-paper", OnPaper)
    app.add_directive("vote", Vote)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
