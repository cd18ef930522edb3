"""An image-text-to-text model of Hugging Face in this process, behind the chat protocol."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

from noria.core.chat import (
    Answer,
    Audio,
    ChatRequest,
    Clip,
    Failure,
    Image,
    Message,
    Outcome,
    Text,
    Usage,
    Video,
)
from noria.core.errors import ModelError, require
from noria.grounding.asking.config import LocalModelOptions

__all__ = ["HuggingModel"]


class HuggingModel:
    """A `ChatModel`: one request at a time, greedy where the temperature is 0.

    Args:
        model: an `AutoModelForImageTextToText`.
        processor: processor of the model, with a chat template.
        name: name of the model in errors.
    """

    def __init__(self, model: Any, processor: Any, name: str = "model") -> None:
        self.model, self.processor, self.name = model, processor, name
        self._lock = asyncio.Lock()

    @classmethod
    def open(
        cls,
        name: str,
        options: LocalModelOptions | None = None,
    ) -> HuggingModel:
        """Open a folder or a hub id; weights from safetensors only.

        Args:
            name: folder or hub id.
            options: number format, device, and what is allowed.

        Raises:
            ModelError: there is no such model, or it is of another kind.
            MissingExtra: transformers or torch is absent.
        """
        transformers, torch = require("transformers", "mtp"), require("torch", "mtp")
        options = options or LocalModelOptions()
        kinds = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        allowed = {
            "local_files_only": not options.allow_download,
            "trust_remote_code": options.trust_remote_code,
        }
        where = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
        try:
            processor = transformers.AutoProcessor.from_pretrained(where, **allowed)
            model = transformers.AutoModelForImageTextToText.from_pretrained(
                where, dtype=kinds[options.precision], use_safetensors=True, **allowed
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            mend = "give a folder, or --allow-download" if not options.allow_download else None
            raise ModelError(
                f"not an image-text-to-text model that opens ({first})", where=name, mend=mend
            ) from error
        goal = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(goal).eval(), processor, name)

    async def ask(self, request: ChatRequest) -> Outcome:
        """The outcome of one request; a request that does not fit is a failure of kind `request`."""
        async with self._lock:
            return await asyncio.to_thread(self._answer, request)

    def _answer(self, request: ChatRequest) -> Outcome:
        import time

        torch = require("torch", "mtp")
        began = time.monotonic()
        try:
            chat, images = _chat(request.messages)
            text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            inputs = self.processor(text=[text], images=images or None, return_tensors="pt").to(
                self.model.device
            )
            sampling: dict[str, Any] = {"do_sample": False}
            if request.temperature:
                sampling = {"do_sample": True, "temperature": request.temperature}
                if request.top_p is not None:
                    sampling["top_p"] = request.top_p
            if request.seed is not None:
                torch.manual_seed(request.seed)
            with torch.inference_mode():
                out = self.model.generate(**inputs, max_new_tokens=request.max_tokens or 1024, **sampling)
        except (ValueError, IndexError, RuntimeError) as error:
            words = " ".join(str(error).split())[:300] or type(error).__name__
            return Failure("request", words, seconds=time.monotonic() - began)
        prompt = inputs["input_ids"].shape[1]
        new = out[0, prompt:]
        reply = self.processor.batch_decode([new], skip_special_tokens=True)[0]
        ended = len(new) < (request.max_tokens or 1024)
        return Answer(
            reply,
            "stop" if ended else "length",
            Usage(int(prompt), len(new)),
            cost=0.0,
            seconds=time.monotonic() - began,
            model=self.name,
        )


def _chat(messages: tuple[Message, ...]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The conversation as processors take it, and its images in order; frames are images behind their times."""
    from PIL import Image as Pillow

    chat: list[dict[str, Any]] = []
    images: list[Any] = []

    def picture(image: Image) -> dict[str, str]:
        images.append(Pillow.open(io.BytesIO(image.data)).convert("RGB"))
        return {"type": "image"}

    for message in messages:
        content: list[dict[str, str]] = []
        for part in message.parts:
            if isinstance(part, Text):
                content.append({"type": "text", "text": part.text})
            elif isinstance(part, Image):
                content.append(picture(part))
            elif isinstance(part, Video):
                for frame in part.frames:
                    content += [{"type": "text", "text": f"[t={frame.seconds:.2f}s]"}, picture(frame.image)]
            elif isinstance(part, Clip | Audio):
                raise ValueError(
                    "a model in this process takes frames; set media.send to frames and audio to false"
                )
        chat.append({"role": message.role, "content": content})
    return chat, images
