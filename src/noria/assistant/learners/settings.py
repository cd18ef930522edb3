"""Settings of ablations, apart from what they need to run: a command says its options without loading that."""

from __future__ import annotations

from pydantic import Field

from noria.core.config import Config


class AblationConfig(Config):
    """The sample of an ablation, and its confidence."""

    requests: int = Field(200, ge=2, description="Most requests that are replayed.")
    level: float = Field(
        0.95, gt=0.5, lt=1, description="Confidence of the intervals of all parts together (Bonferroni)."
    )
