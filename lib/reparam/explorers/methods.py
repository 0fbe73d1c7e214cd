"""Which estimator needs what: the one table behind the chooser and chapter 7's decision table.

Every entry is held against the library in `tests/lib/test_methods.py`: the calls are run, needs are
what raises without them, evaluations are counted, and biases are measured.
"""

from dataclasses import dataclass

__all__ = ["CARDS", "FACTS", "METHODS", "Card", "Fact", "Method", "decision_table"]


@dataclass(frozen=True)
class Fact:
    """A question about the reader's problem, with two answers.

    Attributes:
        question: what is asked.
        answers: their names, and their words.
        reasons: for each answer, why it strikes out an estimator that needs the other one.
    """

    question: str
    answers: dict[str, str]
    reasons: dict[str, str]


@dataclass(frozen=True)
class Method:
    """An estimator, as the chooser shows it.

    Attributes:
        name: of its row.
        call: the Python text to copy; `f`, `q` and, for RELAX, `surrogate` are the reader's.
        wants: by fact, the only answer with which it can be used.
        needs: the same in words, and what else it needs.
        bias: in words; "none", where it is unbiased.
        variance: what drives it.
        evaluations: of `f` for each gradient, with `K` for `num_samples`, `D` for the number of
            variables and `C` for the classes of each (2 for bits): a Python expression.
        evaluations_normal: the same for a Normal with both parameters trained, where it differs.
        section: the heading under which a chapter explains it.
        chapter: of that section.
        preset: a state of `two_histograms` that shows it, as in a link.
    """

    name: str
    call: str
    wants: dict[str, str]
    needs: str
    bias: str
    variance: str
    evaluations: str
    section: str
    evaluations_normal: str = ""
    chapter: int = 7
    preset: str = ""

    def struck_out(self, **facts: str) -> list[str]:
        """Why these facts exclude it; an empty list where they do not.

        Used in chapter 7 through `chooser`.

        >>> METHODS[0].name, METHODS[0].struck_out(z="discrete", f="differentiable")
        ('Pathwise', ['z is discrete: no path to follow'])
        """
        _check(facts)
        return [
            FACTS[fact].reasons[facts[fact]] + (f" ({self.bias})" if fact == "bias" else "")
            for fact, answer in self.wants.items()
            if fact in facts and facts[fact] != answer
        ]


@dataclass(frozen=True)
class Card:
    """A case to read before choosing.

    Attributes:
        title, text: what is read.
        picks: names of methods to choose from.
        facts: what the text says, by fact.
    """

    title: str
    text: str
    picks: tuple[str, ...]
    facts: dict[str, str]


FACTS = {
    "z": Fact(
        "The variable z is",
        {"continuous": "continuous", "discrete": "discrete"},
        {"continuous": "z is continuous", "discrete": "z is discrete: no path to follow"},
    ),
    "f": Fact(
        "The function f is",
        {"differentiable": "differentiable", "black": "a black box, or jumps"},
        {"differentiable": "", "black": "f has no slope to follow"},
    ),
    "density": Fact(
        "log q(z) is",
        {"known": "known", "unknown": "unknown (a simulator)"},
        {"known": "", "unknown": "log q(z) is unknown"},
    ),
    "support": Fact(
        "Values of z, all combinations",
        {"few": "few enough to sum", "many": "too many"},
        {"few": "", "many": "too many values to sum"},
    ),
    "bias": Fact(
        "Bias is",
        {"none": "not allowed", "some": "allowed"},
        {"none": "biased", "some": ""},
    ),
}
_RELAXED = {"z": "discrete", "f": "differentiable", "density": "known"}
_BIASED = {"bias": "some"}
_VARIABLES = "Bernoulli or OneHotCategorical variables"
METHODS = (
    Method(
        "Pathwise",
        "Pathwise()(f, q)",
        {"z": "continuous", "f": "differentiable"},
        "q with rsample; f differentiable, without jumps",
        "none",
        "the slope of f",
        "K",
        "In PyTorch",
        chapter=2,
        preset="f=square",
    ),
    Method(
        "ScoreFunction, leave-one-out",
        "ScoreFunction(baseline=LeaveOneOut())(f, q, num_samples=8)",
        {"density": "known"},
        "log q(z); two samples or more; f any function",
        "none",
        "how far f strays from its mean; the number of parameters",
        "K",
        "A baseline from the other samples",
    ),
    Method(
        "MeasureValued",
        "MeasureValued()(f, q)",
        {"density": "known"},
        "a family it knows (Normal, Bernoulli, Categorical, Poisson, …); f any function",
        "none",
        "differences of f at two coupled points",
        "K*(1 + D*(C - 1))",
        "Replace the derivative by a difference",
        "K*(1 + 3*D)",
    ),
    Method(
        "Enumeration",
        "Enumeration()(f, q)",
        {"z": "discrete", "density": "known", "support": "few"},
        "a finite support; f any function",
        "none",
        "nothing: it is exact",
        "C**D",
        "Sum, if you can",
    ),
    Method(
        "RaoBlackwell",
        "RaoBlackwell(ScoreFunction(), enumerate=[0])(f, q)",
        {"z": "discrete", "density": "known"},
        "several discrete variables, some of them summed; f any function",
        "none",
        "the variables left to the outer estimator",
        "K*C",
        "Sum, if you can",
    ),
    Method(
        "GumbelSoftmax",
        "GumbelSoftmax(temperature=0.5)(f, q)",
        _RELAXED | _BIASED,
        f"{_VARIABLES}; f differentiable between the values too",
        "that of the relaxed f; falls with τ",
        "the slope of f, times 1/τ as τ falls",
        "K",
        "Relax",
    ),
    Method(
        "GumbelSoftmax, hard",
        "GumbelSoftmax(temperature=0.5, hard=True)(f, q)",
        _RELAXED | _BIASED,
        f"{_VARIABLES}; a slope of f at the values",
        "stays as τ falls, unless f is quadratic",
        "the slope of f, times 1/τ as τ falls",
        "K",
        "Four that are called straight-through",
    ),
    Method(
        "StraightThrough",
        "StraightThrough()(f, q)",
        _RELAXED | _BIASED,
        f"{_VARIABLES}; a slope of f at the values",
        "even the sign can be wrong",
        "the slope of f",
        "K",
        "Four that are called straight-through",
    ),
    Method(
        "GumbelRao",
        "GumbelRao(temperature=0.5)(f, q)",
        _RELAXED | _BIASED,
        f"{_VARIABLES}; a slope of f at the values",
        "that of hard GumbelSoftmax",
        "as hard GumbelSoftmax, noise within a value averaged out",
        "K",
        "Better relaxations",
    ),
    Method(
        "ReinMax",
        "ReinMax()(f, q)",
        _RELAXED | _BIASED,
        f"{_VARIABLES}; a slope of f at the values",
        "third order: none for quadratic f",
        "the slope of f",
        "K",
        "Better relaxations",
    ),
    Method(
        "REBAR",
        "REBAR()(f, q)",
        _RELAXED,
        f"{_VARIABLES}; f differentiable between the values too; own parameters to train",
        "none",
        "how well f at the relaxed sample predicts f",
        "3*K",
        "Relax, then correct",
    ),
    Method(
        "RELAX",
        "RELAX(surrogate, eta=None)(f, q)",
        {"density": "known"},
        f"{_VARIABLES}, or rsample; a surrogate network to train; f any function with eta=None "
        "(for discrete z the default, eta=1, asks f's slope and takes 3K evaluations)",
        "none",
        "how well the surrogate predicts f",
        "K",
        "Relax, then correct",
    ),
    Method(
        "ARM",
        "ARM()(f, q)",
        {"z": "discrete", "density": "known"},
        "Bernoulli or categorical variables; f any function",
        "none",
        "differences of f at two antithetic points",
        "K*(C*(C - 1)/2 + 1)",
        "Flip the coin twice",
    ),
    Method(
        "DisARM",
        "DisARM()(f, q)",
        {"z": "discrete", "density": "known"},
        "Bernoulli or categorical variables; f any function",
        "none",
        "as ARM; for bits never more",
        "2*K",
        "Flip the coin twice",
    ),
    Method(
        "SPSA",
        "SPSA(step=0.1)(f, q)",
        _BIASED,
        "samples at moved parameters; f any function",
        "of second order in the step",
        "the number of parameters; 1/step where f jumps",
        "2*K",
        "Ask from outside",
    ),
)
CARDS = (
    Card(
        "Game",
        "A policy draws one of 4 moves from a categorical q; a game engine, which can be asked "
        "again, returns the score f as a plain number. The gradient must be right on average.",
        ("Enumeration", "GumbelSoftmax", "ScoreFunction, leave-one-out", "StraightThrough"),
        {"z": "discrete", "f": "black", "density": "known", "support": "few", "bias": "none"},
    ),
    Card(
        "Codes",
        "A VAE codes an image in 20 categorical variables of 10 classes; the decoder is a network "
        "that also takes values between the classes. Some bias is fine if training is quick.",
        ("Pathwise", "Enumeration", "GumbelSoftmax", "ScoreFunction, leave-one-out"),
        {"z": "discrete", "f": "differentiable", "density": "known", "support": "many",
         "bias": "some"},
    ),
    Card(
        "Simulator",
        "A differentiable simulator turns noise and parameters into a continuous z; nobody can "
        "write down its density. f is smooth, and bias is not allowed.",
        ("Pathwise", "ScoreFunction, leave-one-out", "MeasureValued", "SPSA"),
        {"z": "continuous", "f": "differentiable", "density": "unknown", "support": "many",
         "bias": "none"},
    ),
    Card(
        "Threshold",
        "z is Normal and f(z) is 1 where z exceeds 1.5, else 0: the gradient of a probability, "
        "without bias.",
        ("Pathwise", "SPSA", "Enumeration", "MeasureValued"),
        {"z": "continuous", "f": "black", "density": "known", "support": "many", "bias": "none"},
    ),
)  # fmt: skip


def _check(facts: dict[str, str]) -> None:
    for fact, answer in facts.items():
        if fact not in FACTS:
            raise ValueError(f"there is no fact {fact!r}: use {', '.join(FACTS)}")
        if answer not in FACTS[fact].answers:
            choices = " or ".join(repr(name) for name in FACTS[fact].answers)
            raise ValueError(f"{fact} must be {choices}, got {answer!r}")


def formula(expression: str) -> str:
    """A count of evaluations in the notation of the page.

    Used in chapter 7 through `chooser`.

    >>> formula("K*(C*(C - 1)/2 + 1)"), formula("C**D")
    ('K(C(C − 1)/2 + 1)', 'Cᴰ')
    """
    return expression.replace("**D", "ᴰ").replace("*", "").replace(" - ", " − ")


def decision_table(**facts: str) -> list[dict[str, str]]:
    """The rows of the chooser, as chapter 7 shows them.

    Args:
        facts: what is known of the problem: any of `z="continuous"` or `"discrete"`,
            `f="differentiable"` or `"black"`, `density="known"` or `"unknown"`, `support="few"` or
            `"many"` (values of `z`), `bias="none"` or `"some"` (allowed).

    Returns:
        A row for each estimator, with the keys `estimator`, `needs`, `bias`, `variance` (what
        drives it), `evaluations` (of `f`, for `K` samples of `D` variables with `C` classes),
        `chapter`, `section` (its heading there), `call`, and `struck out` with the reasons, empty
        where there are none.

    Raises:
        ValueError: for an unknown fact or answer.

    Used in chapter 7 through `chooser`.

    >>> rows = decision_table(z="discrete", f="black", bias="none", support="many")
    >>> [row["estimator"] for row in rows if not row["struck out"]]
    ['ScoreFunction, leave-one-out', 'MeasureValued', 'RaoBlackwell', 'RELAX', 'ARM', 'DisARM']
    """
    _check(facts)
    return [
        {
            "estimator": method.name,
            "needs": method.needs,
            "bias": method.bias,
            "variance": method.variance,
            "evaluations": formula(method.evaluations),
            "chapter": str(method.chapter),
            "section": method.section,
            "call": method.call,
            "struck out": "; ".join(method.struck_out(**facts)),
        }
        for method in METHODS
    ]
