"""Settings of building a benchmark."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from noria.core.config import Config
from noria.grounding.corpus.types import CATEGORIES, SHORT


class BuildSettings(Config):
    """Settings of building a benchmark."""

    section: ClassVar[str] = "Building"

    categories: tuple[str, ...] = Field(
        CATEGORIES, min_length=1, description="Categories of questions, by name or short name such as Micro."
    )
    rounds: int = Field(3, ge=0, description="Rounds of the artefact adversary; 0 leaves it out.")
    fewest: int = Field(3, ge=0, description="Fewest questions that a clip must keep.")
    seed: int = Field(0, ge=0, description="Seed of letters and of the adversary's folds.")
    max_new_tokens: int = Field(4096, ge=1, description="Most tokens of a reply.")

    @field_validator("categories")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        long = {short.lower(): name for name, short in SHORT.items()} | {n.lower(): n for n in CATEGORIES}
        for name in names:
            if name.lower() not in long:
                raise ValueError(f"{name!r} is no category; choose from {', '.join(SHORT.values())}")
        return tuple(dict.fromkeys(long[name.lower()] for name in names))
