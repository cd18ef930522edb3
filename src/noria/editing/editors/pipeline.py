"""Editors in this process: diffusers pipelines that take a picture and a prompt; the hash that shows them frozen."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL.Image import Image as Picture

from noria.core.errors import ModelError, require
from noria.core.files import check_input
from noria.core.records import json_object
from noria.editing.types import EditorError


class PipelineEditor:
    """A diffusers pipeline that edits pictures, such as Qwen-Image-Edit, FLUX Kontext or LongCat-Image-Edit.

    It runs in a thread of its own, one picture at a time: a pipeline keeps state between its steps.

    Args:
        pipeline: pipeline, loaded and placed.
        name: name of its model and revision.
        settings: arguments of every call, such as `num_inference_steps` and `guidance_scale`.

    Raises:
        ModelError: the pipeline takes no picture, no prompt, no generator, or not one of the settings.
    """

    def __init__(self, pipeline: Any, name: str, **settings: Any) -> None:
        self.pipeline, self.settings = pipeline, settings
        self._takes = set(inspect.signature(pipeline.__call__).parameters)
        for field in ("image", "prompt", "generator", *settings):
            if field not in self._takes:
                raise ModelError(
                    f"{type(pipeline).__name__} takes no {field!r}",
                    where=name,
                    mend="give a pipeline that edits pictures" if field == "image" else None,
                )
        chosen = ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
        self.name = f"{name} ({type(pipeline).__name__}{'; ' + chosen if chosen else ''})"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="editor")

    async def edit(
        self, images: Sequence[Picture], plan: str, seed: int, *, mask: Picture | None = None
    ) -> Picture:
        """Run the pipeline once.

        Raises:
            EditorError: a mask that the pipeline does not take, no memory, or a result that is no picture.
        """
        if mask is not None and "mask_image" not in self._takes:
            raise EditorError(
                f"{type(self.pipeline).__name__} takes no mask", kind="unsupported", where=self.name
            )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, list(images), plan, seed, mask)

    def _run(self, images: list[Picture], plan: str, seed: int, mask: Picture | None) -> Picture:
        import torch

        more = {} if mask is None else {"mask_image": mask}
        generator = torch.Generator("cpu").manual_seed(seed)
        try:
            with torch.inference_mode():
                result = self.pipeline(
                    image=images[0] if len(images) == 1 else images,
                    prompt=plan,
                    generator=generator,
                    **more,
                    **self.settings,
                )
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise EditorError(
                "not enough memory", where=self.name, mend="offload the pipeline, or edit a smaller picture"
            ) from None
        flagged = getattr(result, "nsfw_content_detected", None)
        if flagged and any(flagged):
            raise EditorError("the safety checker declined the picture", kind="refused", where=self.name)
        pictures = getattr(result, "images", None)
        if not pictures or not isinstance(pictures[0], Picture):
            raise EditorError("the pipeline returned no picture", where=self.name)
        edited: Picture = pictures[0].convert("RGB")
        return edited

    def fingerprint(self) -> str:
        """SHA-256 of all parameters and buffers: equal before and after a training shows that it was frozen."""
        return module_digest(*self._modules().values())

    def _modules(self) -> dict[str, Any]:
        import torch

        parts = sorted(getattr(self.pipeline, "components", {}).items())
        return {name: part for name, part in parts if isinstance(part, torch.nn.Module)}


def module_digest(*modules: Any) -> str:
    """SHA-256 of the names, shapes, types and bytes of all parameters and buffers of these modules, in order."""
    import torch

    total = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            if isinstance(value, torch.Tensor):
                flat = value.detach().cpu().contiguous()
                total.update(f"{name} {list(flat.shape)} {flat.dtype}".encode())
                total.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def open_pipeline(
    folder: Path,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> PipelineEditor:
    """Open a folder of diffusers, from the disk alone and with weights in safetensors alone.

    Args:
        folder: folder with a `model_index.json`.
        steps: steps of a render; the pipeline's own by default.
        guidance: scale of the guidance; the pipeline's own by default. It is `true_cfg_scale` where there is such.
        device: device of the weights.
        precision: number format of the weights: `auto` is bfloat16 on a GPU and float32 elsewhere.

    Raises:
        ModelError: there is no such folder, or diffusers does not load it.
        MissingExtra: diffusers is not installed.
    """
    diffusers = require("diffusers", "editing")
    import torch

    if not folder.is_dir():
        raise ModelError("no such model folder", where=str(folder), mend="give a folder of diffusers")
    check_input(folder / "model_index.json")
    name = json_object(folder / "model_index.json", "a pipeline's index").get("_class_name")
    kind = getattr(diffusers, str(name), None)
    if not isinstance(name, str) or kind is None:
        raise ModelError(f"diffusers has no pipeline {name!r}", where=str(folder))
    dtypes = {"auto": torch.bfloat16 if device != "cpu" else torch.float32}
    dtypes |= {word: getattr(torch, word) for word in ("float32", "float16", "bfloat16")}
    try:
        pipeline = kind.from_pretrained(
            folder, torch_dtype=dtypes[precision], use_safetensors=True, local_files_only=True
        ).to(device)
    except Exception as error:  # a library that reads foreign files raises whatever it likes
        raise ModelError(f"diffusers does not load it: {error}", where=str(folder)) from error
    pipeline.set_progress_bar_config(disable=True)
    takes = inspect.signature(pipeline.__call__).parameters
    scale = "true_cfg_scale" if "true_cfg_scale" in takes else "guidance_scale"
    settings = {"num_inference_steps": steps, scale: guidance}
    chosen = {key: value for key, value in settings.items() if value is not None}
    return PipelineEditor(pipeline, folder.resolve().name, **chosen)
