"""Follow-up questions on a finished report: answers out of its ledger alone, each sentence with what it cites."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from noria.reports.agents.asking import Asker, as_data
from noria.reports.agents.prose import LANGUAGES, Prose, checked
from noria.reports.agents.requests import english_names, language_of
from noria.reports.agents.series import printed
from noria.reports.document.blocks import FIGURE_MENTION, Sentence, sentences
from noria.reports.document.bundle import Bundle
from noria.reports.document.numbering import number, reference_text
from noria.reports.search.terms import query_terms

LEAST = 0.4
"""Share of a question's words, weighted by rarity, that evidence must have to count as an answer."""
OFFERED = 40


class Answered(msgspec.Struct, frozen=True):
    """An answer: its sentences, and the sentences of a model that were removed because they cite nothing."""

    sentences: tuple[Sentence, ...]
    removed: tuple[str, ...] = ()


def answer(question: str, bundle: Bundle, asker: Asker | None = None, *, most: int = 5) -> Answered:
    """Answer a question from a report's evidence; no sentence where the evidence does not speak of it.

    Args:
        question: question in words, English or Chinese.
        bundle: the report.
        asker: model that writes the answer; None quotes the evidence.
        most: most sentences.

    Raises:
        SpentError: a limit of money or tokens of the model is reached.
    """
    ranked = _ranked(question, bundle)
    quoted = Answered(tuple(ranked[:most]))
    if asker is None or not ranked:
        return quoted
    offered = [{"ids": list(s.cites[:8]), "says": s.text} for s in ranked[:OFFERED]]
    reply = asker.ask(
        Prose,
        f"Answer the question in {LANGUAGES[language_of(question)]}, in at most {most} sentences, "
        "from the evidence alone. Each sentence cites ids.",
        [question, as_data(offered)],
        most=1000,
    )
    if reply is None:
        return quoted
    removed: list[str] = []
    kept = []
    for said in reply.sentences[:most]:
        sentence = checked(asker, said, set(), bundle.book, removed)
        if sentence is not None and sentence.cites:
            kept.append(sentence)
        elif sentence is not None:
            removed.append(said.text[:300])
    return Answered(tuple(kept), tuple(removed)) if kept else Answered(quoted.sentences, tuple(removed))


def with_references(given: Answered, bundle: Bundle) -> dict[str, Any]:
    """An answer as JSON: each sentence with the numbers of the report's references, and these references."""
    numbering = number(bundle.report, bundle.book)
    rows = [
        msgspec.to_builtins(sentence) | {"references": numbering.markers(sentence.cites, bundle.book)}
        for sentence in given.sentences
    ]
    cited = sorted({n for row in rows for n in row["references"]})
    references = [
        {"number": n, "text": reference_text(source, bundle.report), "url": source.url}
        for n in cited
        for source in [numbering.order[n - 1]]
    ]
    return {"sentences": rows, "references": references, "removed": list(given.removed)}


def _ranked(question: str, bundle: Bundle) -> list[Sentence]:
    """Sentences of the report and facts of its ledger that share the question's rare words, best first.

    A Chinese question is also looked up by the English names of what it speaks of.
    """
    known = _known(bundle)
    terms = [set(query_terms(text)) for text, _ in known]
    counts = Counter(word for words in terms for word in words)
    best = [0.0] * len(known)
    for wanted in filter(None, (set(query_terms(text)) for text in (question, english_names(question)))):
        # A word that the evidence lacks altogether weighs most: what is asked about it is not answered by the rest.
        weights = {word: math.log(1 + len(known) / (1 + counts[word])) for word in wanted}
        total = sum(weights.values())
        for n, words in enumerate(terms):
            best[n] = max(best[n], sum(weights[word] for word in wanted & words) / total)
    order = sorted(range(len(known)), key=lambda n: (-best[n], len(known[n][0]), n))
    return [Sentence(*known[n]) for n in order if best[n] >= LEAST]


def _known(bundle: Bundle) -> Sequence[tuple[str, tuple[str, ...]]]:
    said = [
        (" ".join(FIGURE_MENTION.sub("", sentence.text).split()), sentence.cites)
        for _, sentence in sentences(bundle.report)
        if sentence.cites
    ]
    facts = [
        (f"{f.entity}: {f.measure}{f', {f.period}' if f.period else ''}: {printed(f.raw, f.unit)}.", (f.id,))
        for f in bundle.book.facts.values()
    ]
    return list(dict.fromkeys([*said, *facts]))
