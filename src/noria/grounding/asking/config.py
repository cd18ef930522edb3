"""Settings of asking: the requests, how a clip is sent, and a model in this process."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from noria.core.config import Config, Option
from noria.core.models.config import ModelOptions
from noria.grounding.asking.types import Control, Protocol


class PlanSettings(Config):
    """Protocol, control and media of the requests."""

    section: ClassVar[str] = "Plan"

    protocol: Protocol = Field("staged", description="Protocol by which tasks are cut into requests.")
    control: Control = Field("none", description="What is shown in the place of the clip.")
    orders: int = Field(6, ge=1, description="Number of orders of options, under permute.")
    conversation: bool = Field(
        False, description="Ask a staged run's questions in the conversation of the ratings."
    )


class AskSettings(PlanSettings):
    """Settings of the requests to a model."""

    section: ClassVar[str] = "Requests"

    temperature: float | None = Field(0.0, ge=0, description="Temperature of the sampling.")
    max_new_tokens: Annotated[int, Option(was=("--max-tokens",))] = Field(
        4096, ge=1, description="Most tokens of a reply."
    )
    seed: int = Field(0, ge=0, description="Seed of option orders and of clips from another source.")
    send_seed: bool = Field(False, description="Send the seed to the server.")
    json_mode: bool = Field(False, description="Have the server hold the reply to JSON.")
    fallback: bool = Field(True, description="Ask again for what a unified reply lacks, as published.")
    reasoning_tags: tuple[str, ...] = Field(
        (), description="Names of tags around a model's reasoning, besides the usual ones such as think."
    )
    retry_errors: bool = Field(True, description="Ask again, on resuming, what ended in an error.")


class MediaSettings(Config):
    """Settings of how a clip is sent."""

    section: ClassVar[str] = "Clips"

    send: Literal["frames", "video"] = Field(
        "frames", description="Images with their times, or the file itself (vLLM and SGLang)."
    )
    frames: int = Field(16, ge=1, description="Number of frames of a clip.")
    side: int = Field(512, ge=16, description="Most pixels of a frame's longer side.")
    audio: bool = Field(False, description="Send the sound as WAV, too.")
    quality: int = Field(90, ge=1, le=100, description="Quality of the JPEG images.")


class LocalModelOptions(ModelOptions):
    """Options that open a model in this process. Its weights keep their own number format by default."""

    section: ClassVar[str] = "Model"

    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Option(was=("--dtype",))] = Field(  # type: ignore[assignment]
        "auto", description="Number format of the weights."
    )
    device: str | None = Field(None, description="Device of the weights (default: a GPU if there is one).")
