"""Texts as vectors: static word embeddings that a wheel ships, and hashed n-grams that know any script.

Both give unit vectors [texts, dimension] in float32, so that a dot product is the cosine.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from noria.core.assets import require_asset
from noria.core.errors import DataError, needing
from noria.core.files import decoding
from noria.skills.bank.text import FILLERS, words

Vectors = NDArray[np.float32]
EncoderName = Literal["ngrams", "static"]
LONGEST = 4000
"""Characters of a text that are encoded; a longer one is cut."""


class Encoder(Protocol):
    """Something that turns texts into unit vectors."""

    name: str

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [texts, dimension]; a text without anything known is all zeros."""
        ...


class NgramEncoder:
    """Hashed words and character n-grams with sublinear counts: no model, no download, every language.

    Args:
        dimension: number of buckets.
    """

    name = "ngrams"

    def __init__(self, dimension: int = 2048) -> None:
        self.dimension = dimension

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [texts, dimension]."""
        out = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(out, texts, strict=True):
            for gram, weight in _grams(text[:LONGEST]):
                code = zlib.crc32(gram.encode("utf-8", "surrogatepass"))
                row[code % self.dimension] += weight if code & 0x8000_0000 else -weight
        np.multiply(np.sign(out), np.log1p(np.abs(out)), out=out)
        return _unit(out)


def _grams(text: str) -> list[tuple[str, float]]:
    grams: list[tuple[str, float]] = []
    found = words(text)
    for word, after in itertools.zip_longest(found, found[1:], fillvalue=""):
        grams.append((word, 0.3 if word in _COMMON else 1.0))
        if len(word) == 1 and ord(word) > 0x2E80:
            grams.append((word + after, 1.0))
        elif len(word) > 3 and word not in _COMMON:
            padded = f"<{word}>"
            grams += [(padded[n : n + 4], 0.3) for n in range(len(padded) - 3)]
    return grams


_COMMON = FILLERS | frozenset(words("asks not use user users wants"))


class StaticEncoder:
    """WordLlama's static embeddings (MIT): the mean of a text's token vectors, 256 numbers, microseconds a query.

    Its package looks for the tokenizer in a folder that its wheel does not have, so the files are read directly.

    Raises:
        ConfigError: the asset is not here; `noria assets wordllama` fetches it.
    """

    name = "static"

    def __init__(self) -> None:
        folder = require_asset("wordllama")
        weights = folder / "weights" / "l2_supercat_256.safetensors"
        tokens = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
        with needing("skills"):
            from safetensors.numpy import load_file
            from scipy.sparse import csr_array
            from tokenizers import Tokenizer
        with decoding(weights, "word embeddings"):
            (table,) = load_file(weights).values()
        with decoding(tokens, "a tokenizer"):
            self._tokenizer: Any = Tokenizer.from_file(str(tokens))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(512)
        self._table = np.ascontiguousarray(table, np.float32)
        self._sparse: Any = csr_array

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [texts, 256]."""
        # The fast call leaves out offsets, which nobody reads; it takes two thirds of the time.
        batch = self._tokenizer.encode_batch_fast([t[:LONGEST] for t in texts], add_special_tokens=False)
        ids = [encoding.ids for encoding in batch]
        if len(ids) == 1:
            return _unit(self._table[ids[0]].sum(axis=0, keepdims=True))
        tokens = np.fromiter(itertools.chain.from_iterable(ids), np.int32)
        ends = np.cumsum([0, *map(len, ids)])
        counted = self._sparse((np.ones(len(tokens), np.float32), tokens, ends), (len(ids), len(self._table)))
        return _unit(counted @ self._table)


class CachedEncoder:
    """An encoder that keeps the vectors of the texts it has seen.

    Args:
        encoder: the encoder behind it.
        most: most vectors kept; one of n-grams has 8 kB.
    """

    def __init__(self, encoder: Encoder, most: int = 20_000) -> None:
        self._encoder, self._most, self.name = encoder, most, encoder.name
        self._known: dict[str, Vectors] = {}

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [texts, dimension]; threads may call it at once."""
        known = self._known
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            if len(known) + len(new) > self._most:
                known = self._known = {}
                new = list(dict.fromkeys(texts))
            known.update(zip(new, self._encoder.encode(new), strict=True))
        return np.stack([known[text] for text in texts]) if texts else self._encoder.encode([])


@lru_cache(maxsize=4)
def make_encoder(name: EncoderName) -> Encoder:
    """The encoder of a name.

    Raises:
        DataError: there is none of that name. ConfigError: its files are not here.
    """
    if name == "ngrams":
        return NgramEncoder()
    if name == "static":
        return StaticEncoder()
    raise DataError(f"there is no encoder {name!r}", mend="choose ngrams or static")


@lru_cache(maxsize=4)
def shared_encoder(name: EncoderName) -> CachedEncoder:
    """The encoder of a name with a cache that all its users share.

    Raises:
        DataError: there is none of that name. ConfigError: its files are not here.
    """
    return CachedEncoder(make_encoder(name))


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return result


_CLAUSE = re.compile(r"(?<=[.!?])\s+|[;\n。！？；]+")
_NOT = re.compile(r"(?i)^(?:not for|do not use (?:it )?(?:for|when|if)|never for|不用于|不适用于)[:：]?\s*")
_LEAD = re.compile(
    r"(?i)^(?:use (?:it |this )?(?:when|for)(?: the user (?:asks?|wants?|says?))?|适用于|用于)[:：]?\s*"
)


def clauses(description: str) -> tuple[list[str], list[str]]:
    """The clauses of a description: what it is for, and what it says it is not for ("Not for: …")."""
    inside: list[str] = []
    outside: list[str] = []
    excluded = False
    for sentence in re.split(r"(?<=[.!?])\s+|[\n。！？]+", description):
        negative = _NOT.match(sentence.strip())
        excluded = negative is not None
        rest = _NOT.sub("", _LEAD.sub("", sentence.strip()))
        parts = [part.strip(" .") for part in _CLAUSE.split(rest) if part and part.strip(" .")]
        (outside if excluded else inside).extend(parts)
    return inside, outside
