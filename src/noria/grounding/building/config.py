"""Settings of building a benchmark."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from noria.core.config import Config
from noria.grounding.corpus.types import CATEGORIES

__all__ = ["BuildSettings"]


class BuildSettings(Config):
    """How a benchmark is built."""

    section: ClassVar[str] = "Building"

    categories: tuple[str, ...] = Field(CATEGORIES, description="Categories of questions, by name.")
    rounds: int = Field(3, ge=0, description="Rounds of the artefact adversary; 0 leaves it out.")
    fewest: int = Field(3, ge=0, description="Fewest questions that a clip must keep.")
    seed: int = Field(0, ge=0, description="Seed of letters and of the adversary's folds.")
    max_new_tokens: int = Field(4096, ge=1, description="Most tokens of a reply.")
