"""The table behind the chooser and chapter 7: each of its entries, held against the library."""

import functools
import itertools
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical, constraints

import reparam.estimators
from reparam.explorers import chooser, decision_table
from reparam.explorers.build import run_javascript
from reparam.explorers.methods import CARDS, FACTS, METHODS
from reparam.measure import exact_gradient, measure

NAMES = [method.name for method in METHODS]
METHOD = {method.name: method for method in METHODS}
BIASED = [method.name for method in METHODS if method.bias != "none"]


class Surrogate(nn.Module):
    """For `RELAX`: any shape of event, some dependence on `z`."""

    def __init__(self, event_dims):
        super().__init__()
        self.event_dims = event_dims
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, z):
        return (self.weight * z).tanh().flatten(-self.event_dims).sum(-1)


def call(method, f, q, num_samples=None):
    """What the text to copy gives, run as it stands."""
    names = vars(reparam.estimators) | {"f": f, "q": q}
    names["surrogate"] = Surrogate(len(q.event_shape))
    text = method.call
    if num_samples is not None:
        text = text.split(")(f, q")[0] + f")(f, q, num_samples={num_samples})"
    return eval(text, names)


def estimator(method):
    """The estimator in the text to copy, as `measure` wants it."""
    return lambda f, q, num_samples: call(method, f, q, num_samples)


class Simulator(torch.distributions.Distribution):
    """Continuous samples with a path, and no density."""

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support, has_rsample = constraints.real_vector, True

    def __init__(self, loc, scale, validate_args=None):
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * torch.randn(*sample_shape, *self.loc.shape).to(self.loc)


class Switches(torch.distributions.Distribution):
    """Discrete samples, without probabilities."""

    arg_constraints: ClassVar = {"bias": constraints.real}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, bias, validate_args=None):
        self.bias = bias
        super().__init__(bias.shape[:-1], bias.shape[-1:], validate_args=False)

    def sample(self, sample_shape=()):
        noise = torch.rand(*sample_shape, *self.bias.shape)
        return (noise < self.bias.detach().sigmoid()).to(self.bias)


def smooth(z):
    return torch.exp(0.7 * z[..., 0] - 0.5 * z[..., 1]) + z.prod(-1)


def black(z):
    return smooth(z.detach())


def problem(z, density, support):
    """A distribution of which these facts are true."""
    size = 30 if support == "many" and z == "discrete" else 2
    first = torch.linspace(-0.4, 0.5, size, dtype=torch.float64).requires_grad_()
    if z == "discrete":
        known = Independent(Bernoulli(logits=first), 1)
        return known if density == "known" else Switches(first)
    scale = torch.full((size,), 0.8, dtype=torch.float64, requires_grad=True)
    return Independent(Normal(first, scale), 1) if density == "known" else Simulator(first, scale)


@pytest.mark.parametrize("name", NAMES)
def test_an_estimator_raises_exactly_where_it_is_struck_out(name):
    method = METHOD[name]
    f = {"differentiable": smooth, "black": black}
    for facts in itertools.product(*(FACTS[k].answers for k in ("z", "f", "density", "support"))):
        facts = dict(zip(("z", "f", "density", "support"), facts, strict=True))
        if (facts["z"], facts["support"]) == ("continuous", "few"):
            continue  # there is no such problem
        q = problem(facts["z"], facts["density"], facts["support"])
        reasons = method.struck_out(**facts)
        try:
            call(method, f[facts["f"]], q).backward()
        except (ValueError, NotImplementedError) as problem_found:
            assert reasons, f"{method.call} raises for {facts}: {problem_found}"
        else:
            assert not reasons, f"{method.call} works for {facts}, and is struck out: {reasons}"


BITS = {"logits": torch.tensor([-0.4, 0.5], dtype=torch.float64)}
GAUSS = {
    "loc": torch.tensor([-0.4, 0.5], dtype=torch.float64),
    "scale": torch.tensor([0.8, 0.6], dtype=torch.float64),
}


def bits(logits):
    return Independent(Bernoulli(logits=logits), 1)


def gauss(loc, scale):
    return Independent(Normal(loc, scale), 1)


@functools.cache
def exact(f, make):
    return exact_gradient(f, make, {bits: BITS, gauss: GAUSS}[make]).gradient


def distance(method, f, make):
    """The greatest distance of the mean from the exact gradient, in standard errors."""
    torch.manual_seed(0)
    parameters = {bits: BITS, gauss: GAUSS}[make]
    got = measure(estimator(method), f, make, parameters, 2, replicates=20_000)
    return max(
        ((got.mean[k] - right).abs() / (got.standard_error[k] + 1e-9)).max().item()
        for k, right in exact(f, make).items()
    )


@pytest.mark.parametrize("name", NAMES)
def test_bias_is_where_the_table_says(name):
    """5 standard errors on either side: 20,000 gradients of a problem with curvature."""
    method = METHOD[name]
    assert (method.bias == "none") is ("bias" not in method.wants)
    if name == "SPSA":  # second order: a step of 1.5 shows what one of 0.1 hides
        method = type(method)(**vars(method) | {"call": method.call.replace("0.1", "1.5")})
    cases = [] if method.wants.get("z") == "continuous" else [bits]
    cases += [] if method.wants.get("z") == "discrete" else [gauss]
    for make in cases:
        off = distance(method, smooth, make)
        if method.bias == "none":
            assert off < 5, f"{name} is {off:.1f} standard errors off"
        else:
            assert off > 5, f"{name} is said to be biased ({method.bias}) and is not seen to be"


@pytest.mark.parametrize("eta", [1.0, None])
def test_what_relax_says_of_its_two_forms(eta):
    """The default asks for f's slope and three evaluations, without eta neither."""
    assert "the default, eta=1, asks f's slope and takes 3K evaluations" in METHOD["RELAX"].needs
    assert reparam.estimators.RELAX(Surrogate(1)).eta.item() == 1

    def relax(f, q, num_samples):
        return reparam.estimators.RELAX(Surrogate(1), eta=eta)(f, q, num_samples)

    for make, parameters, cost in ((bits, BITS, 3 if eta else 1), (gauss, GAUSS, 1)):
        assert measure(relax, smooth, make, parameters, 5, replicates=2).evaluations == 5 * cost
        q = make(**{name: p.clone().requires_grad_() for name, p in parameters.items()})
        if cost == 3:
            with pytest.raises(ValueError, match="RELAX"):
                relax(black, q, 5)
        else:
            relax(black, q, 5).backward()


def square(z):
    return (z - 0.45).square().sum(-1)


def test_what_the_table_says_of_biases():
    assert (exact(square, bits)["logits"] > 0).all()
    torch.manual_seed(0)
    straight = measure(estimator(METHOD["StraightThrough"]), square, bits, BITS, replicates=20_000)
    wrong = straight.mean["logits"][0] + 5 * straight.standard_error["logits"][0]
    assert wrong < 0, "the sign is wrong"
    assert distance(METHOD["ReinMax"], square, bits) < 5, "none for quadratic f"


def onehot(classes):
    return lambda logits: Independent(OneHotCategorical(logits=logits), 1)


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_are_counted(name):
    method = METHOD[name]

    def f(z):
        return (z - 0.3).square().flatten(-2 if onehots else -1).sum(-1)

    least = 2 if "LeaveOneOut" in method.call else 1
    counts = {"K": (least, 3), "D": (2, 3), "C": (2, 4)}
    if method.wants.get("z") != "continuous":
        for k, d, c in itertools.product(*counts.values()):
            onehots = c > 2
            make = onehot(c) if onehots else bits
            logits = torch.zeros(d, c) if onehots else torch.zeros(d)
            parameters = {"logits": logits.double()}
            got = measure(estimator(method), f, make, parameters, k, replicates=2).evaluations
            assert got == eval(method.evaluations, {"K": k, "D": d, "C": c}), (k, d, c)
    if method.wants.get("z") != "discrete":
        onehots = False
        text = method.evaluations_normal or method.evaluations
        for k, d in itertools.product(counts["K"], counts["D"]):
            parameters = {"loc": torch.zeros(d).double(), "scale": torch.ones(d).double()}
            got = measure(estimator(method), f, gauss, parameters, k, replicates=2).evaluations
            assert got == eval(text, {"K": k, "D": d}), (k, d)


def test_the_page_strikes_out_what_python_strikes_out():
    answers = [["", *fact.answers] for fact in FACTS.values()]
    combinations = [dict(zip(FACTS, answer, strict=True)) for answer in itertools.product(*answers)]
    pages = run_javascript(
        chooser(),
        f"""{json.dumps(combinations)}.map((facts) => {{
            const view = widget.spec.model({{ ...state, ...facts }});
            return [view.left.length, view.rows.map((row) => row.reasons)];
        }})""",
    )
    for facts, (left, reasons) in zip(combinations, pages, strict=True):
        known = {fact: answer for fact, answer in facts.items() if answer}
        assert reasons == [method.struck_out(**known) for method in METHODS]
        assert left == sum(not row["struck out"] for row in decision_table(**known))
    assert {left for left, _ in pages} >= {0, 1, len(METHODS)}


def test_the_page_takes_every_row_for_a_pick():
    last = run_javascript(chooser(), "widget.spec.fields.guess.among.at(-1)")
    assert int(last) == len(METHODS) - 1, "chooser.js: fields.guess has a number for each row"


@pytest.mark.parametrize("card", range(len(CARDS)), ids=lambda card: CARDS[card].title)
def test_the_goal_is_the_cards_and_says_whether_the_pick_survives(card):
    facts = CARDS[card].facts
    other = {fact: next(a for a in FACTS[fact].answers if a != facts[fact]) for fact in facts}
    first = next(iter(facts))
    for pick in CARDS[card].picks:
        states = [
            {},
            {first: facts[first]},
            facts | {first: other[first]},
            facts,
        ]
        asked = {"card": str(card), "guess": str(NAMES.index(pick))}
        goals = run_javascript(
            chooser(),
            f"""{json.dumps([asked | facts for facts in states])}.map((facts) =>
                widget.spec.goal(widget.spec.model({{ ...state, ...facts }})))""",
        )
        assert [goal["done"] for goal in goals] == [False, False, False, True]
        reasons = METHOD[pick].struck_out(**facts)
        found = goals[-1]["found"]
        if reasons:
            assert found.startswith(f"It falls: {'; '.join(reasons)}. Of the card's four survive: ")
            kept = found.rpartition("survive: ")[2].rstrip(".").split("; ")
            assert set(kept) == {x for x in CARDS[card].picks if not METHOD[x].struck_out(**facts)}
        else:
            others = sum(not row["struck out"] for row in decision_table(**facts)) - 1
            assert found.startswith(f"It survives, with {others} others:")


def test_the_status_names_what_was_just_struck_and_why():
    def told(**facts):
        page = "widget.spec.status(widget.spec.model({...state, ...facts}))"
        return run_javascript(
            chooser(), page.replace("...facts", f"...{json.dumps({'guess': '0'} | facts)}")
        )

    assert told(z="discrete", last="z").startswith(
        "The variable z is discrete: strikes out Pathwise (z is discrete: no path to follow). 14 of"
    )
    biased = "Bias is not allowed: strikes out SPSA (biased). "
    assert told(f="black", bias="none", last="bias").startswith(biased), "the others were out"
    assert "The function f is not said: strikes out nothing more." in told(last="f")


def test_rows_and_page_say_the_same():
    rows = decision_table()
    assert [row["estimator"] for row in rows] == NAMES
    assert not any(row["struck out"] for row in rows)
    page = run_javascript(chooser(), "widget.spec.story(widget.spec.model({...state, guess: '0'}))")
    for row in rows:
        for words in row.values():
            assert words.replace("&", "&amp;") in page, words


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.title)
def test_a_card_has_no_single_winner_and_no_idle_pick(card):
    assert set(card.picks) <= set(NAMES) and set(card.facts) == set(FACTS)
    struck = {method.name: method.struck_out(**card.facts) for method in METHODS}
    picks = [bool(struck[name]) for name in card.picks]
    assert any(picks) and not all(picks)


def test_every_public_estimator_has_a_row():
    helpers = {"Constant", "Learned", "LeaveOneOut", "MovingAverage", "NVIL", "optimal_constant"}
    rows = {method.call.split("(")[0] for method in METHODS}
    assert rows == set(reparam.estimators.__all__) - helpers, "add a Method for each estimator"


def test_unknown_facts():
    with pytest.raises(ValueError, match="there is no fact 'colour': use z, f, density, support"):
        decision_table(colour="red")
    with pytest.raises(ValueError, match="z must be 'continuous' or 'discrete', got 'mixed'"):
        decision_table(z="mixed")


def test_the_reference_s_page_speaks_of_every_estimator():
    """In the generated table, whose rows are these, or in the words around it."""
    root = Path(__file__).resolve().parents[2]
    words = (root / "book" / "reference" / "estimators.md").read_text(encoding="utf-8")
    rows = {name.partition(",")[0] for name in NAMES}
    left = {name for name in reparam.estimators.__all__ if f"`{name}`" not in words} - rows
    assert not left, f"neither in the table nor in the words: {left}"
