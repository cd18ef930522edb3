"""Terms of texts and queries: words in Latin script, pairs of characters in Chinese and Japanese, without stop
words.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?", re.UNICODE)
_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\u3040-\u30ff]+")
STOP = frozenset(
    [
        "a",
        "about",
        "above",
        "after",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "between",
        "both",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "each",
        "for",
        "from",
        "further",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "me",
        "more",
        "most",
        "my",
        "no",
        "nor",
        "not",
        "of",
        "on",
        "once",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "own",
        "please",
        "report",
        "same",
        "she",
        "should",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "under",
        "until",
        "up",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
        "write",
        "compare",
        "show",
        "chart",
        "data",
        "using",
        "include",
    ]
)
MOST = 24
"""Most terms of one query."""


def indexed(text: str) -> str:
    """A text as the index stores it: runs of Chinese characters as pairs, separated by blanks."""
    return text if text.isascii() else _CJK.sub(lambda match: f" {' '.join(_pairs(match[0]))} ", text)


def query_terms(text: str) -> list[str]:
    """Terms of a query in their order, each once, without stop words."""
    words = [word.lower() for word in _WORD.findall(indexed(text))]
    return list(
        dict.fromkeys(word for word in words if word not in STOP and (len(word) > 1 or not word.isascii()))
    )


def _pairs(run: str) -> list[str]:
    return [run] if len(run) == 1 else [run[n : n + 2] for n in range(len(run) - 1)]
