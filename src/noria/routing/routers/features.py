"""Numbers that a question is known by: hashed words weighted by how rare they are, in a few dozen dimensions.

x = normalise(tf · idf · V), with V the right singular vectors of the training questions. No vocabulary is kept, so the
file is two tensors; what a question holds that training did not is hashed like the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import CheckpointError, DataError, require

__all__ = ["TextFeatures"]

LONGEST = 8000
"""Most characters of a question that are read: half from its beginning, half from its end."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TextFeatures:
    """Questions as vectors of length one.

    Attributes:
        idf: [hashed].
        basis: V, [hashed, width].
    """

    idf: Floats
    basis: Floats

    @property
    def width(self) -> int:
        """Number of features of a question."""
        return int(self.basis.shape[1])

    @classmethod
    def fit(
        cls, texts: Sequence[str], *, width: int = 64, hashed: int = 2**14, seed: int = 0
    ) -> TextFeatures:
        """Learn features from questions.

        Args:
            texts: training questions.
            width: number of features; fewer where there are fewer questions.
            hashed: number of buckets of words and pairs of words.
            seed: seed of the decomposition.

        Raises:
            DataError: there are no questions with words.
        """
        decomposition = require("sklearn.decomposition", "routing")
        counts = _counts(texts, hashed)
        seen = np.asarray((counts > 0).sum(0)).ravel()
        if not seen.any():
            raise DataError("no question with words", where="features", mend="give questions")
        idf = (np.log((1 + len(texts)) / (1 + seen)) + 1).astype(np.float32)
        rows = _unit_rows(counts.multiply(idf).tocsr())
        width = max(1, min(width, len(texts) - 1, int((seen > 0).sum()) - 1))
        svd = decomposition.TruncatedSVD(width, random_state=seed).fit(rows)
        return cls(idf, np.ascontiguousarray(svd.components_.T, dtype=np.float32))

    def __call__(self, texts: Sequence[str]) -> Floats:
        """[questions, width]; a question without known words is zero."""
        rows = _unit_rows(_counts(texts, len(self.idf)).multiply(self.idf).tocsr())
        vectors = np.asarray(rows @ self.basis, dtype=np.float32)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(length > 1e-12, length, 1.0), dtype=np.float32)

    def tensors(self) -> dict[str, Any]:
        """Tensors that are saved."""
        import torch

        return {
            "features.idf": torch.from_numpy(self.idf),
            "features.basis": torch.from_numpy(self.basis).contiguous(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> TextFeatures:
        """Restore what `tensors` gave.

        Raises:
            CheckpointError: the tensors are something else.
        """
        try:
            idf, basis = (tensors[f"features.{name}"].numpy() for name in ("idf", "basis"))
        except KeyError as error:
            raise CheckpointError("no features in it", where="features") from error
        if idf.ndim != 1 or basis.ndim != 2 or len(idf) != len(basis):
            raise CheckpointError("features of the wrong shape", where="features")
        return cls(idf, basis)


def _counts(texts: Sequence[str], hashed: int) -> Any:
    text = require("sklearn.feature_extraction.text", "routing")
    half = LONGEST // 2
    cut = [t if len(t) <= LONGEST else t[:half] + " " + t[-half:] for t in texts]
    cut = [t.encode("utf-8", "replace").decode() for t in cut]  # half of a surrogate pair cannot be hashed
    vectorizer = text.HashingVectorizer(
        n_features=hashed, ngram_range=(1, 2), alternate_sign=False, norm=None, token_pattern=r"\w+|[^\w\s]"
    )
    counts = vectorizer.transform(cut).astype(np.float32)
    counts.data = np.log1p(counts.data)
    return counts


def _unit_rows(rows: Any) -> Any:
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
    scale = np.repeat(1 / np.where(length > 0, length, 1.0), np.diff(rows.indptr))
    rows.data = rows.data * scale.astype(np.float32)
    return rows
