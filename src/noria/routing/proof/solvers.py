"""The proof's pool: nine methods, an assistant that combines some of them, and the small language model in two ways of
thinking.

Each is an ordinary method, trained on questions of its own, and is asked everything, what it was made for and what it
was not. A cost is what it computes, in millions of multiplications, and one for being called: counted, not timed, so
that it is the same everywhere.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from noria.core.chat import Answer, ChatModel, ChatRequest, Outcome, Prices, Usage
from noria.core.errors import require
from noria.core.models.loading import SMALL, open_language_model
from noria.routing.pool.config import Strategy
from noria.routing.pool.local import LocalChat
from noria.routing.pool.pool import Pool
from noria.routing.tables.table import Question, Route

__all__ = ["Solver", "real_pool"]

_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
CALL = 1.0
"""Cost of a call by itself."""
STRATEGIES = {
    "direct": Strategy(instruction="{question}\n####", max_tokens=6, stop=("\n",)),
    "step_by_step": Strategy(instruction="{question}\n", max_tokens=48, stop=("\n",)),
    "plain": Strategy(max_tokens=None),
}
"""The small language model continues a question by `#### answer` at once, or works it out before that."""
ABOUT = {
    "majority": "the commonest answer to such questions; free",
    "recall": "the answer to the most similar question it has seen; cheap",
    "bayes": "a word-counting classifier of texts; cheap",
    "pixels": "compares rows of numbers; for pictures and measurements",
    "forest": "decision trees over rows of numbers; dearer and better than pixels",
    "abacus": "sums and products from left to right; wrong where a product comes later",
    "index": "finds the option or module whose name fits a description",
    "euclid": "common divisors; exact",
    "scanner": "counts letters; exact",
    "clerk": "a bit of everything by simple methods; cheap",
    "reader": "a small language model; arithmetic, better step by step; dear",
}


Method: TypeAlias = Callable[[str], tuple[str, float]]
"""From a question's text to an answer, and what that took in millions of multiplications."""


UNKNOWN = ("unknown", 1e-6)
"""Reply of a method to a question that is none of its own."""


@dataclass(frozen=True)
class Solver:
    """A named method as a chat model."""

    name: str
    solve: Method

    async def ask(self, request: ChatRequest) -> Outcome:
        """Answer the last message."""
        text = request.messages[-1].text
        answer, work = self.solve(text)
        usage = Usage(len(text.split()), len(answer.split()))
        return Answer(answer, "stop", usage, CALL + work, model=self.name)


def real_pool(known: Sequence[Question], *, seed: int = 0) -> Pool:
    """Train the pool on the known questions.

    Raises:
        MissingExtra: scikit-learn or transformers is absent.
    """
    texts, answers = [q.text for q in known], [q.answers[0] for q in known]
    methods: dict[str, Method] = {
        "majority": _majority(texts, answers),
        "recall": _recall(texts, answers),
        "bayes": _bayes(texts, answers),
        "pixels": _pixels(texts, answers),
        "forest": _forest(texts, answers, seed),
        "abacus": _abacus,
        "index": _index(texts, answers),
        "euclid": _euclid,
        "scanner": _scanner,
    }
    methods["clerk"] = _first([methods["pixels"], _abacus, methods["recall"]], overhead=0.5)
    solvers: dict[str, ChatModel] = {name: Solver(name, solve) for name, solve in methods.items()}
    opened = open_language_model(SMALL)
    # A weight is a multiplication of a token: so many millions for a million tokens.
    price = float(sum(p.numel() for p in opened.model.parameters()))
    solvers["reader"] = LocalChat(opened, prices=Prices(input=price, output=price), batch_size=64, ending="")
    routes = [Route(name) for name in solvers if name != "reader"]
    routes += [Route("reader"), Route("reader", "step_by_step")]
    return _SolverPool(solvers, routes, strategies=STRATEGIES, about=ABOUT)


class _SolverPool(Pool):
    """A pool whose language model alone is told how to think; the others read the question as it is."""

    async def ask(self, route: Route, query: str, *, question: Question | None = None) -> Any:
        if route.model != "reader":
            route = Route(route.model, "plain")
        return await super().ask(route, query, question=question)


def _first(methods: Sequence[Method], *, overhead: float) -> Method:
    """The first of several methods that has an answer; all that were tried are paid."""

    def solve(text: str) -> tuple[str, float]:
        work = overhead
        for method in methods:
            answer, own = method(text)
            work += own
            if answer not in ("", "unknown"):
                return answer, work
        return "unknown", work

    return solve


def _kind(text: str) -> str:
    return " ".join(text.split()[:2])


def _majority(texts: Sequence[str], answers: Sequence[str]) -> Method:
    counts: dict[str, Counter[str]] = {}
    for text, answer in zip(texts, answers, strict=True):
        counts.setdefault(_kind(text), Counter())[answer] += 1
    common = {kind: count.most_common(1)[0][0] for kind, count in counts.items()}
    return lambda text: (common.get(_kind(text), ""), 1e-6)


def _recall(texts: Sequence[str], answers: Sequence[str]) -> Method:
    words = require("sklearn.feature_extraction.text", "proof")
    vectorizer = words.TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=20_000)
    known = vectorizer.fit_transform(texts)

    def solve(text: str) -> tuple[str, float]:
        own = vectorizer.transform([text])
        like = (known @ own.T).toarray().ravel()
        return answers[int(like.argmax())], known.nnz / 1e6

    return solve


def _bayes(texts: Sequence[str], answers: Sequence[str]) -> Method:
    words = require("sklearn.feature_extraction.text", "proof")
    bayes = require("sklearn.naive_bayes", "proof")
    vectorizer = words.CountVectorizer(ngram_range=(1, 2), binary=True)
    known = vectorizer.fit_transform(texts)
    model = bayes.MultinomialNB(alpha=0.1).fit(known, answers)

    def solve(text: str) -> tuple[str, float]:
        own = vectorizer.transform([text])
        return str(model.predict(own)[0]), own.nnz * len(model.classes_) / 1e6

    return solve


def _rows(texts: Sequence[str], answers: Sequence[str]) -> dict[int, tuple[Any, list[str]]]:
    """Questions that are rows of many numbers, by how many they have."""
    groups: dict[int, tuple[list[list[float]], list[str]]] = {}
    for text, answer in zip(texts, answers, strict=True):
        row = _numbers(text)
        if len(row) >= 10:
            rows, labels = groups.setdefault(len(row), ([], []))
            rows.append(row)
            labels.append(answer)
    return {size: (np.array(rows), labels) for size, (rows, labels) in groups.items()}


def _numbers(text: str) -> list[float]:
    return [float(v) for v in _NUMBERS.findall(text)]


def _pixels(texts: Sequence[str], answers: Sequence[str]) -> Method:
    """Answer of the nearest of a few examples."""
    known = {}
    for size, (rows, labels) in _rows(texts, answers).items():
        few = slice(0, 60)
        spread = rows.std(0) + 1e-9
        known[size] = (rows[few] / spread, labels[few], spread)

    def solve(text: str) -> tuple[str, float]:
        row = np.array(_numbers(text))
        if len(row) not in known:
            return UNKNOWN
        rows, labels, spread = known[len(row)]
        nearest = int(((rows - row / spread) ** 2).sum(1).argmin())
        return labels[nearest], rows.size / 1e6

    return solve


def _forest(texts: Sequence[str], answers: Sequence[str], seed: int) -> Method:
    ensemble = require("sklearn.ensemble", "proof")
    known = {
        size: ensemble.ExtraTreesClassifier(60, random_state=seed, n_jobs=1).fit(rows, labels)
        for size, (rows, labels) in _rows(texts, answers).items()
    }

    def solve(text: str) -> tuple[str, float]:
        row = _numbers(text)
        if len(row) not in known:
            return UNKNOWN
        # 60 trees, some tens of comparisons each, and a vote over the classes; as many again to load them.
        return str(known[len(row)].predict([row])[0]), 0.05

    return solve


def _abacus(text: str) -> tuple[str, float]:
    """Sums and products from left to right, whatever binds tighter."""
    match = re.fullmatch(r"Q: (\d+(?:[-+*]\d+)*)", text.strip())
    if match is None:
        return UNKNOWN
    value, *rest = re.findall(r"\d+|[-+*]", match[1])
    total = int(value)
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        n = int(number)
        total = total + n if sign == "+" else total - n if sign == "-" else total * n
    return str(total), 1e-5


def _index(texts: Sequence[str], answers: Sequence[str]) -> Method:
    """The option whose letters fit the description; without options, the module whose known words do."""
    words = require("sklearn.feature_extraction.text", "proof")
    letters = words.TfidfVectorizer(analyzer="char", ngram_range=(3, 4), sublinear_tf=True)
    documented = [
        (t.partition(": ")[2], a) for t, a in zip(texts, answers, strict=True) if "library says" in t
    ]
    letters.fit([t for t, _ in documented] or ["nothing"])
    modules = sorted({a for _, a in documented})
    words_of = [" ".join(t for t, a in documented if a == m) for m in modules]
    whole = letters.transform(words_of) if modules else None

    def solve(text: str) -> tuple[str, float]:
        options = re.match(r"Which function is it, ([^?]*)\? (.*)", text, re.DOTALL)
        if options:
            names = options[1].split(", ")
            own = letters.transform([options[2].lower()])
            like = (letters.transform([n.replace("_", " ").lower() for n in names]) @ own.T).toarray().ravel()
            return names[int(like.argmax())], 0.01
        if "library says" in text and whole is not None:
            own = letters.transform([text.partition(": ")[2]])
            return modules[int((whole @ own.T).toarray().argmax())], whole.nnz / 1e6
        return UNKNOWN

    return solve


def _euclid(text: str) -> tuple[str, float]:
    match = re.search(r"\(GCD\) of these numbers: ([\d, ]+)", text)
    if match is None:
        return UNKNOWN
    return str(math.gcd(*(int(n) for n in re.findall(r"\d+", match[1])))), 2e-5


def _scanner(text: str) -> tuple[str, float]:
    match = re.search(r'letter "(.)" appear in the text: "(.*)"', text, re.DOTALL)
    if match is None:
        return UNKNOWN
    return str(match[2].lower().count(match[1].lower())), 2e-5
