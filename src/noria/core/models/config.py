"""Options that load a model."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from noria.core.config import Config


class DownloadOption(Config):
    """Whether models of a hub are fetched."""

    section: ClassVar[str] = "Model"

    allow_download: bool = Field(False, description="Fetch a hub model that is not in the local cache.")


class ModelOptions(DownloadOption):
    """Options of verbs that load a local model."""

    section: ClassVar[str] = "Model"

    precision: Literal["fp32", "bf16"] = Field("fp32", description="Number format of the weights.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")
