"""Options that choose and open a model."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from noria.core.config import Config, Option
from noria.core.errors import ConfigError

if TYPE_CHECKING:
    from noria.core.judging import Checklist
    from noria.core.progress import Progress
    from noria.tryon.video.clips import Clip


class ModelChoice(Config):
    """A model, and how it is held in memory."""

    section: ClassVar[str] = "Model"

    model: Annotated[str, Option(metavar="DIR")] = Field(
        "tiny",
        description="diffusers folder of Wan-VACE or iTryOn, or a run; tiny has random weights, to try the path.",
    )
    lora: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="LoRA weights to load on it (.safetensors); of two experts, on that of high noise."
    )
    lora_low: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="LoRA weights for the expert of low noise levels, of a model that has two."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Number format of the weights.")
    offload: bool = Field(False, description="Hold on the GPU only the model that is running.")
    tiling: bool = Field(False, description="Encode and decode the video in tiles, which needs less memory.")


class ScreenOptions(Config):
    """A model of the operator that must clear what is dressed, and what comes of it."""

    section: ClassVar[str] = "Screening"

    screen_url: str | None = Field(
        None, description="API of a model that must clear clips, garments and results: no minors, no nudity."
    )
    screen_model: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of that model; no answer is a refusal."
    )
    screen_questions: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None,
        description='Questions in the place of ours, as JSON: [{"id", "question", "good": "yes" or "no"}].',
    )

    def screener(self) -> Callable[[Clip], None] | None:
        """Refuses a clip that is not cleared by raising; None where no model is named.

        Raises:
            ConfigError: only a part of it is given.
            DataError: the questions are none.
        """
        if self.screen_url is None or self.screen_model is None:
            if self.screen_url or self.screen_model or self.screen_questions:
                raise ConfigError(
                    "half a model to ask", where="--screen-url, --screen-model", mend="give both"
                )
            return None
        from noria.core.chat import ChatServer
        from noria.tryon.integrations.judge import screen

        server = ChatServer(url=self.screen_url, model=self.screen_model)
        return functools.partial(screen, server=server, checklist=self._questions())

    def screen_digest(self) -> str:
        """Name of what clears: a result that was cleared by something else has to be cleared again."""
        if self.screen_model is None:
            return ""
        from noria.tryon.pipeline.chunks import digest_of

        return digest_of(
            [self.screen_model, [[one.id, one.question, one.good] for one in self._questions().items]]
        )

    def _questions(self) -> Checklist:
        from noria.core.judging import Checklist
        from noria.core.records import read_json
        from noria.tryon.integrations.judge import SCREEN

        path = self.screen_questions
        return SCREEN if path is None else Checklist.from_json(read_json(path), where=str(path))


def silence_libraries() -> None:
    """Keep remarks of diffusers and transformers to themselves; call it before they are imported."""
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


def open_model(choice: ModelChoice, progress: Progress) -> Any:
    """Open the pipeline that the options name, with its LoRA.

    Raises:
        NoriaError: it cannot be loaded.
    """
    import torch

    from noria.tryon.pipeline.lora import load_lora
    from noria.tryon.training.loading import open_any

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if choice.precision == "bf16" else torch.float32
    pipeline = open_any(choice.model, dtype=dtype, device="cpu" if choice.offload else device)
    wanted: dict[Literal["high", "low"], Path | None] = {"high": choice.lora, "low": choice.lora_low}
    for expert, path in wanted.items():
        if path is not None:
            loaded = load_lora(pipeline, path, expert=expert)
            ignored = f", {len(loaded.ignored)} keys ignored: {', '.join(loaded.ignored[:8])}"
            progress.say(f"LoRA: {len(loaded.used)} layers changed{ignored if loaded.ignored else ''}")
    if choice.tiling:
        pipeline.vae.enable_tiling()
    if choice.offload and device != "cpu":
        pipeline.enable_model_cpu_offload()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
