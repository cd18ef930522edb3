"""Who answers without seeing? Classifiers that read questions only, trained on other sources' questions.

What they get right is what the words, lengths, letters and numbers of the options give away. They learn from the test
set's own statistics by cross-validation, so they bound artefacts that can be exploited; they are no zero-shot guess.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import require
from noria.grounding.corpus.cues import alike
from noria.grounding.corpus.questions import boxes_in, spans_in, times_in, traits_in
from noria.grounding.corpus.records import Corpus, Question, each_question
from noria.grounding.corpus.types import CATEGORIES, LETTERS, SHORT

Floats = NDArray[np.float64]

AUDITORS = ("letter", "length", "numbers", "options", "stem", "together")
"""
letter     the letter that is most often right
length     how long an option is beside the others
numbers    its times, spans and boxes beside the others'
options    its words
stem       its words, and how it goes with the stem
together   all of them, a linear model and a forest averaged
"""
SIMPLE = AUDITORS[:-1]
"""The five simple auditors: all but `together`."""
FEWEST = 30
"""Questions of a category, below which nothing is said of it."""
FOLDS = 5
"""Parts of the cross-validation, and so the fewest sources of a category."""


@dataclass(frozen=True)
class BlindResult:
    """What blind classifiers came to.

    Attributes:
        accuracy: {category or "all": {auditor: share right, None where there are too few questions}}.
        p: exact chance of so many right guesses, one-sided.
        questions: {category or "all": how many}.
        solved: {(video, number of the question): how many of the first five auditors are right}.
        chosen: {auditor: {(video, number): letter}}.
    """

    accuracy: dict[str, dict[str, float | None]]
    p: dict[str, dict[str, float | None]]
    questions: dict[str, int]
    solved: dict[tuple[str, int], int]
    chosen: dict[str, dict[tuple[str, int], str]] = field(repr=False)


@dataclass(frozen=True)
class _Row:
    """A question with its place."""

    key: tuple[str, int]
    source: str
    question: Question


def blind_accuracy(
    corpus: Corpus,
    *,
    auditors: Sequence[str] = AUDITORS,
    seed: int = 0,
    on_category: Callable[[str], None] | None = None,
) -> BlindResult:
    """Cross-validated accuracy of every auditor on every category, folds parted by source.

    Raises:
        MissingExtra: scikit-learn is absent.
    """
    require("sklearn", "grounding")
    rows = [
        _Row((record.video_id, n), record.source, question)
        for record, n, question in each_question(corpus)
        if question.correct is not None
    ]
    accuracy: dict[str, dict[str, float | None]] = {}
    p: dict[str, dict[str, float | None]] = {}
    counts: dict[str, int] = {}
    chosen: dict[str, dict[tuple[str, int], str]] = {name: {} for name in auditors}
    for category in CATEGORIES:
        mine = [row for row in rows if row.question.category == category]
        counts[category] = len(mine)
        enough = len(mine) >= FEWEST and len({row.source for row in mine}) >= FOLDS
        folds = _folds(mine, seed) if enough else []
        for name in auditors:
            for train, test in folds:
                letters = _answers(name, [mine[n] for n in train], [mine[n] for n in test], seed)
                chosen[name].update({mine[n].key: letter for n, letter in zip(test, letters, strict=True)})
        accuracy[category], p[category] = _results(mine, chosen)
        if on_category:
            on_category(SHORT[category])
    accuracy["all"], p["all"] = _results(
        [row for row in rows if row.key in next(iter(chosen.values()))], chosen
    )
    counts["all"] = len(rows)
    right = {row.key: row.question.correct_answer for row in rows}
    first = [name for name in auditors if name in SIMPLE]
    solved = {
        key: sum(chosen[name].get(key) == letter for name in first)
        for key, letter in right.items()
        if any(key in chosen[name] for name in first)
    }
    return BlindResult(accuracy, p, counts, solved, chosen)


def blind_letters(
    train: Corpus, test: Corpus, *, auditor: str = "together", seed: int = 0
) -> dict[tuple[str, int], str]:
    """{(video, number): letter} that a classifier trained on the questions of one corpus gives to those of another.

    Args:
        train: whole records whose right answers are shown.
        test: whole records whose questions are answered, of the same categories.
        auditor: name of the classifier, one of `AUDITORS`.
        seed: seed of the classifier.
    """
    require("sklearn", "grounding")
    letters: dict[tuple[str, int], str] = {}
    for category in CATEGORIES:
        known, asked = (
            [
                _Row((record.video_id, n), record.source, question)
                for record, n, question in each_question(corpus)
                if question.category == category
            ]
            for corpus in (train, test)
        )
        if known and asked:
            answers = _answers(auditor, known, asked, seed)
            letters |= {row.key: letter for row, letter in zip(asked, answers, strict=True)}
    return letters


def solvable(blind: BlindResult, *, least: int = 3) -> set[tuple[str, int]]:
    """The questions that at least `least` of the five simple auditors answer: artefact-solvable ones."""
    return {key for key, count in blind.solved.items() if count >= least}


def _results(
    rows: Sequence[_Row], chosen: Mapping[str, Mapping[tuple[str, int], str]]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    accuracy: dict[str, float | None] = {}
    p: dict[str, float | None] = {}
    for name, letters in chosen.items():
        answered = [row for row in rows if row.key in letters]
        if not answered:
            accuracy[name] = p[name] = None
            continue
        hits = sum(letters[row.key] == row.question.correct_answer for row in answered)
        accuracy[name] = hits / len(answered)
        p[name] = _tail(hits, [len(row.question.options) for row in answered])
    return accuracy, p


def _tail(hits: int, options: Sequence[int]) -> float:
    """Pr[at least `hits` right] of a guesser; exact where all questions have as many options, else normal."""
    from scipy.stats import binom, norm

    chances = np.array([1 / n for n in options])
    if len(set(options)) == 1:
        return float(binom.sf(hits - 1, len(options), chances[0]))
    spread = float(np.sqrt((chances * (1 - chances)).sum()))
    return float(norm.sf((hits - 0.5 - chances.sum()) / spread))


def _folds(rows: Sequence[_Row], seed: int) -> list[tuple[list[int], list[int]]]:
    """(train, test) places."""
    fold = folds_by_source([row.source for row in rows], seed)
    return [(np.flatnonzero(fold != k).tolist(), np.flatnonzero(fold == k).tolist()) for k in range(FOLDS)]


def folds_by_source(sources: Sequence[str], seed: int) -> NDArray[np.int64]:
    """[n] the fold of each row, such that a source is in one fold only."""
    names = sorted(set(sources))
    order = np.random.default_rng(seed).permutation(len(names))
    fold = {names[int(n)]: place % FOLDS for place, n in enumerate(order)}
    return np.array([fold[source] for source in sources], dtype=np.int64)


# -- the classifiers --------------------------------------------------------------------------------------------------


def _answers(name: str, train: Sequence[_Row], test: Sequence[_Row], seed: int) -> list[str]:
    """The letter that an auditor chooses for every test question."""
    if name == "letter":
        shares = np.array([sum(row.question.correct_answer == letter for row in train) for letter in LETTERS])
        best = [LETTERS[int(n)] for n in np.argsort(-shares, kind="stable")]
        return [next(b for b in best if b in {o.id for o in row.question.options}) for row in test]
    scores = _scores(name, train, test, seed)
    letters = []
    at = 0
    for row in test:
        count = len(row.question.options)
        letters.append(row.question.options[int(np.argmax(scores[at : at + count]))].id)
        at += count
    return letters


def _scores(name: str, train: Sequence[_Row], test: Sequence[_Row], seed: int) -> Floats:
    """[options of all test questions] how right each looks."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    labels = np.array([o.id == row.question.correct_answer for row in train for o in row.question.options])
    dense = {"length": _lengths, "numbers": _numbers}.get(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fold that does not converge is as blind as one that does
        if dense is not None:
            scaler = StandardScaler()
            x = scaler.fit_transform(_stack(dense, train))
            model = LogisticRegression(class_weight="balanced", max_iter=300).fit(x, labels)
            return np.asarray(model.decision_function(scaler.transform(_stack(dense, test))), dtype=float)
        x, y = _words(train, test, stem=name != "options")
        linear = LogisticRegression(C=2.0, class_weight="balanced", max_iter=300).fit(x, labels)
        scores = np.asarray(linear.decision_function(y), dtype=float)
        if name != "together":
            return scores
        both = [_stack(make, part) for part in (train, test) for make in (_lengths, _numbers, _places)]
        a, b = np.hstack(both[:3]), np.hstack(both[3:])
        forest = RandomForestClassifier(
            100, min_samples_leaf=3, class_weight="balanced", random_state=seed, n_jobs=1
        ).fit(a, labels)
    wood = forest.predict_proba(b)[:, 1]
    return _standard(scores) + _standard(wood)


def _standard(values: Floats) -> Floats:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else values * 0


def _stack(make: Callable[[Question], Floats], rows: Sequence[_Row]) -> Floats:
    return np.vstack([make(row.question) for row in rows])


def _beside(values: Floats) -> Floats:
    """[options, 4 features] of one number an option: itself, less the mean, its rank, whether it is an extreme."""
    mean = np.nanmean(values) if not np.isnan(values).all() else 0.0
    filled = np.where(np.isnan(values), mean, values)
    rank = np.argsort(np.argsort(filled, kind="stable"), kind="stable") / max(1, len(values) - 1)
    extreme = (filled == filled.max()).astype(float) - (filled == filled.min())
    return np.stack([filled, filled - mean, rank, extreme], axis=1)


def _lengths(question: Question) -> Floats:
    """[options, 12] of characters, words, and the share of the mean."""
    texts = [option.text for option in question.options]
    characters = np.array([float(len(text)) for text in texts])
    words = np.array([float(len(text.split())) for text in texts])
    return np.hstack([_beside(characters), _beside(words), _beside(characters / max(1.0, characters.mean()))])


def _numbers(question: Question) -> Floats:
    """[options, 28] of the first time, the span's width, and the box's place and size."""
    rows = []
    for option in question.options:
        spans, times, boxes = spans_in(option.text), times_in(option.text), boxes_in(option.text)
        start = spans[0][0] if spans else times[0] if times else np.nan
        width = spans[0][1] - spans[0][0] if spans else np.nan
        x, y, w, h = boxes[0] if boxes else (np.nan,) * 4
        rows.append([start, width, x + w / 2, y + h / 2, w, h, w * h])
    return np.hstack([_beside(column) for column in np.array(rows, dtype=float).T])


def _places(question: Question) -> Floats:
    """[options, 1] of the letter."""
    return np.arange(len(question.options), dtype=float)[:, None]


def _words(train: Sequence[_Row], test: Sequence[_Row], *, stem: bool) -> tuple[Any, Any]:
    """TF-IDF of the options' words; with the stem: how alike they are, how many traits and times they share."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    reader = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"[a-z0-9.]+")
    texts = [[o.text for row in part for o in row.question.options] for part in (train, test)]
    try:
        x, y = reader.fit_transform(texts[0]), reader.transform(texts[1])
    except ValueError:  # no word is there twice
        x, y = csr_matrix((len(texts[0]), 1)), csr_matrix((len(texts[1]), 1))
    if not stem:
        return x, y
    more = [
        np.array([[*_with_stem(row.question, o.text)] for row in part for o in row.question.options])
        for part in (train, test)
    ]
    return hstack([x, csr_matrix(more[0])]), hstack([y, csr_matrix(more[1])])


def _with_stem(question: Question, text: str) -> tuple[float, float, float]:
    stem = question.question
    times = set(times_in(stem)) & set(times_in(text))
    return alike(stem, text), float(len(traits_in(stem) & traits_in(text))), float(len(times))
