"""What is wrong with a benchmark's questions and labels, and the part of it that is clean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.grounding.audit.adversary import BlindResult, solvable
from noria.grounding.corpus.checks import check
from noria.grounding.corpus.questions import even_lengths, levels_in, moves_in, names_level
from noria.grounding.corpus.records import Corpus, Question, each_question
from noria.grounding.corpus.types import CATEGORIES, LETTERS, SHORT, TRAITS, level_number, to_levels


def audit(corpus: Corpus, *, blind: BlindResult | None = None) -> dict[str, Any]:
    """Every finding, as JSON values.

    Args:
        corpus: whole records to audit.
        blind: answers of the classifiers that do not see, if they were trained.
    """
    clean = clean_subset(corpus, blind)
    return {
        "videos": len(corpus),
        "questions": sum(len(record.mcq_questions) for record in corpus),
        "problems": dict(Counter(problem.kind for problem in check(corpus)).most_common()),
        "letters": letter_balance(corpus),
        "lengths": lengths(corpus),
        "leaks": leaks(corpus),
        "boundaries": boundaries(corpus),
        "polarity": polarity(corpus),
        "constant": constant(corpus),
        "duplicates": duplicates(corpus),
        "blind": None if blind is None else _blind_json(blind),
        "clean": {
            "questions": sum(len(numbers) for numbers in clean.values()),
            "videos": sum(bool(numbers) for numbers in clean.values()),
            "untested": None
            if blind is None
            else sum(len(r.mcq_questions) for r in corpus) - len(blind.solved),
        },
    }


def _blind_json(blind: BlindResult) -> dict[str, Any]:
    names = [*CATEGORIES, "all"]
    return {
        "accuracy": {SHORT.get(name, name): blind.accuracy[name] for name in names},
        "p": {SHORT.get(name, name): blind.p[name] for name in names},
        "questions": {SHORT.get(name, name): blind.questions[name] for name in names},
        "artefact_solvable": len(solvable(blind)),
    }


# -- questions --------------------------------------------------------------------------------------------------------


def letter_balance(corpus: Corpus) -> dict[str, Any]:
    """Right letters over all and by category, with the χ² test against even ones."""
    from scipy.stats import chisquare

    balance: dict[str, Any] = {}
    for name in ("all", *CATEGORIES):
        letters = Counter(q.correct_answer for q in _questions(corpus) if name in ("all", q.category))
        counts = [letters.get(letter, 0) for letter in LETTERS]
        p = float(chisquare(counts).pvalue) if sum(counts) else None
        balance[SHORT.get(name, name)] = {
            "counts": counts,
            "p": p,
            "always_best": max(counts) / sum(counts) if sum(counts) else None,
        }
    return balance


def lengths(corpus: Corpus) -> dict[str, Any]:
    """Number of questions with an option over 15 % off the mean length, and what `the longest option` answers."""
    broken = total = 0
    longest: dict[str, list[bool]] = {}
    for question in _questions(corpus):
        sizes = [len(option.text) for option in question.options]
        total += 1
        broken += not even_lengths([option.text for option in question.options])
        if len(set(sizes)) > 1:
            pick = question.options[int(np.argmax(sizes))].id
            longest.setdefault(question.category, []).append(pick == question.correct_answer)
    return {
        "rule_broken": broken,
        "rule_broken_share": broken / total if total else None,
        "longest_is_right": {SHORT.get(c, c): float(np.mean(hits)) for c, hits in sorted(longest.items())},
    }


def leaked_levels(corpus: Corpus) -> dict[str, dict[str, int]]:
    """{video: {trait: level}} that the questions' own words tell, a stem before an option's `from X to Y`."""
    leaked: dict[str, dict[str, int]] = {}
    for record in corpus:
        levels: dict[str, int] = {}
        for question in record.mcq_questions:
            for option in question.options:
                levels.update(moves_in(option.text))
        for question in record.mcq_questions:
            levels.update(levels_in(question.question))
        if levels:
            leaked[record.video_id] = levels
    return leaked


def leaks(corpus: Corpus) -> dict[str, Any]:
    """Shares of questions that name a level, and rightly, and what a reader of them alone would score on T1."""
    levels = corpus.levels("official")
    places = {record.video_id: n for n, record in enumerate(corpus)}
    stems = right_stems = 0
    for record, _, question in each_question(corpus):
        for trait, level in levels_in(question.question).items():
            stems += 1
            right_stems += int(levels[places[record.video_id], TRAITS.index(trait)] == level)
    leaked = leaked_levels(corpus)
    pairs = [
        (levels[places[video], TRAITS.index(trait)], level)
        for video, row in leaked.items()
        for trait, level in row.items()
    ]
    read = reader_levels(corpus, leaked)
    known = levels >= 0
    return {
        "stems": stems,
        "stems_right": right_stems / stems if stems else None,
        "pairs": len(pairs),
        "pairs_right": float(np.mean([a == b for a, b in pairs])) if pairs else None,
        "T1_of_reading_them": float((read == levels)[known].mean()) if known.any() else None,
    }


def reader_levels(corpus: Corpus, leaked: Mapping[str, Mapping[str, int]]) -> NDArray[np.int64]:
    """[videos, 5] levels of who reads leaked words and says Medium to all else."""
    levels = np.full((len(corpus), 5), 2, dtype=np.int64)
    for n, record in enumerate(corpus):
        for trait, level in leaked.get(record.video_id, {}).items():
            levels[n, TRAITS.index(trait)] = level
    return levels


def duplicates(corpus: Corpus) -> dict[str, Any]:
    """Stems that several questions share, and questions that are the same word for word."""
    stems = Counter(question.question for question in _questions(corpus))
    whole = Counter((q.question, tuple(sorted(o.text for o in q.options))) for q in _questions(corpus))
    return {
        "stems_repeated": sum(count for count in stems.values() if count > 1),
        "questions_repeated": sum(count for count in whole.values() if count > 1),
    }


# -- labels -----------------------------------------------------------------------------------------------------------


def boundaries(corpus: Corpus) -> dict[str, int]:
    """Scores that the two binnings take differently, and analyses whose level is not their score's."""
    paper, official = corpus.levels("paper"), corpus.levels("official")
    disagree = sum(
        level_number(one.level) != int(to_levels(record.original_scores[one.trait.lower()], "official"))
        for record in corpus
        for one in record.personality_analyses
        if one.trait.lower() in record.original_scores
    )
    return {"binnings_differ": int((paper != official).sum()), "analyses_disagree": int(disagree)}


SMILES = ("smil", "laugh", "grin", "mouth curves upwards")


def polarity(corpus: Corpus) -> dict[str, Any]:
    """Does the neuroticism score look like neuroticism?

    Neuroticism goes against the other four in people and in raters; a score that goes with them, and with smiles, is
    emotional stability under another name. `verdict` is `inverted` when its correlations with all four are above .3,
    `as_named` when their mean is below −.1, else `unclear`. It is evidence about labels, not proof.
    """
    scores = np.array([record.scores() for record in corpus], dtype=float)
    rows = scores[~np.isnan(scores).any(axis=1)]
    if len(rows) < 10:
        return {"correlations": None, "smiles": None, "verdict": "unclear"}
    others = [0, 1, 2, 4]
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.corrcoef(rows.T)
    correlations = {TRAITS[n]: float(table[3, n]) for n in others}
    smiles = np.array(
        [sum(any(word in o.description.lower() for word in SMILES) for o in r.observations) for r in corpus],
        float,
    )[~np.isnan(scores).any(axis=1)]
    with_smiles = (
        float(np.corrcoef(rows[:, 3], smiles)[0, 1]) if smiles.std() > 0 and rows[:, 3].std() > 0 else None
    )
    values = list(correlations.values())
    verdict = "inverted" if min(values) > 0.3 else "as_named" if float(np.mean(values)) < -0.1 else "unclear"
    return {"correlations": correlations, "smiles": with_smiles, "verdict": verdict}


def constant(corpus: Corpus) -> dict[str, Any]:
    """What saying Medium to everything scores."""
    levels = corpus.levels("official")
    known = levels >= 0
    right = (levels == 2) & known
    return {
        "T1": float(right[known].mean()) if known.any() else None,
        "MAE": float(np.abs(levels - 2)[known].mean()) if known.any() else None,
        "r1": float((right.sum(axis=1) >= 3).mean()) if len(corpus) else None,
    }


# -- the clean part ---------------------------------------------------------------------------------------------------


def clean_subset(corpus: Corpus, blind: BlindResult | None) -> dict[str, list[int]]:
    """{video: numbers of its clean questions}: no level in the words, lengths within 15 %, not artefact-solvable.

    Where classifiers were trained, a question that none of them could be tested on (its category has too few) is not
    clean: nobody knows.
    """
    bad = solvable(blind) if blind is not None else set()
    clean: dict[str, list[int]] = {record.video_id: [] for record in corpus}
    for record, number, question in each_question(corpus):
        key = record.video_id, number
        if _clean(question) and key not in bad and (blind is None or key in blind.solved):
            clean[record.video_id].append(number)
    return clean


def _clean(question: Question) -> bool:
    texts = [option.text for option in question.options]
    return question.correct is not None and not names_level(question.question, texts) and even_lengths(texts)


def _questions(corpus: Corpus) -> list[Question]:
    return [question for _, _, question in each_question(corpus)]
