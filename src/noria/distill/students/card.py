"""The model card of an exported student."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from noria.core.errors import ConfigError, DataError
from noria.core.files import read_text
from noria.core.yaml_values import parse_yaml

LORA_FILE = "student_lora.safetensors"


@dataclass(frozen=True)
class ExportResult:
    """The files of an export, and its noise levels.

    Attributes:
        folder: diffusers folder.
        lora: LoRA file in it, if there is one.
        sigmas_pre_shift: σ grid that a pipeline takes.
        sigmas: σ grid that the network then sees, at the training size.
        captured: share of the squared weight change that a LoRA of a full student holds; 1 for a LoRA student.
    """

    folder: Path
    lora: Path | None
    sigmas_pre_shift: tuple[float, ...]
    sigmas: tuple[float, ...]
    captured: float | None


def model_card(adapter: Any, exported: ExportResult, base: Path, settings: Mapping[str, Any] | None) -> str:
    """README.md of the export."""
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", adapter.source) is not None
    source = adapter.source if hub else base.name  # never where the user keeps it
    theirs = _front_matter(base)
    front: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
    }
    if hub:
        front["base_model"] = source
    front |= {key: theirs[key] for key in ("license", "license_name", "license_link") if key in theirs}
    front["tags"] = ["distillation", "few-step", "flow-matching", *(["lora"] if exported.lora else [])]
    steps = len(exported.sigmas_pre_shift)
    call: dict[str, Any] = {
        "sigmas": list(exported.sigmas_pre_shift),
        "num_inference_steps": steps,
        **adapter.call,
    }
    arguments = "".join(f"    {name}={value!r},\n" for name, value in call.items())
    shift = f"shift {adapter.contract.shift:.6g}" + (
        "" if adapter.mu is None else f" (μ = {adapter.mu:.6g} at this size)"
    )
    true = exported.sigmas[:-1]
    rows = "".join(
        f"| {i} | {pre:.6g} | {now:.6g} |\n"
        for i, (pre, now) in enumerate(zip(exported.sigmas_pre_shift, true, strict=True), 1)
    )
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# A {steps}-step student of {source}\n",
        "Distilled with `noria.distill` (continuous-time distribution matching and its relatives, arXiv 2605.06376). "
        f"It samples in {steps} network {'call' if steps == 1 else 'calls'}, without classifier-free guidance.\n",
        "## Use\n",
        "With diffusers alone, give the steps and the guidance; a stock pipeline has no way to take them from here:\n",
        "```python\nfrom diffusers import DiffusionPipeline\n\n"
        'pipe = DiffusionPipeline.from_pretrained("this-folder")\n'
        f'image = pipe(\n    "a prompt",\n{arguments}).images[0]\n```\n',
        "To have them as the defaults of a plain `pipe(prompt)`, either let Noria teach diffusers:\n",
        "```python\nfrom noria.distill.students.few_step import register\n\nregister()\n"
        'pipe = DiffusionPipeline.from_pretrained("this-folder")\nimage = pipe("a prompt").images[0]\n```\n',
        "or trust the `pipeline.py` beside this card, once you have read it:\n",
        "```python\npipe = DiffusionPipeline.from_pretrained(\n"
        '    "this-folder", custom_pipeline="this-folder", trust_remote_code=True\n)\n```\n',
    ]
    if exported.lora:
        parts += ["## LoRA\n", _lora_text(adapter, exported)]
    parts += [
        "## Noise levels\n",
        f"Pass the pre-shift σ; the scheduler applies its {shift} itself, once. The network then sees the true σ "
        f"at {adapter.size[0]} × {adapter.size[1]} pixels:\n",
        f"| step | pre-shift σ | true σ |\n| --- | --- | --- |\n{rows}",
    ]
    if adapter.notes:
        parts.append("\n".join(f"- {note}." for note in adapter.notes) + "\n")
    parts += ["## Licence\n", _licence_text(theirs, source)]
    if settings:
        shown = yaml.safe_dump(
            json.loads(json.dumps(settings, default=str)), sort_keys=False, allow_unicode=True
        )
        parts += ["## Training settings\n", "".join(f"    {line}\n" for line in shown.splitlines())]
    return "\n".join(parts)


def _lora_text(adapter: Any, exported: ExportResult) -> str:
    load = (
        f'pipe.load_lora_weights("this-folder", weight_name="{LORA_FILE}")'
        if hasattr(adapter.pipeline, "load_lora_weights")
        else f'pipe.transformer.load_lora_adapter("this-folder", weight_name="{LORA_FILE}")'
    )
    text = f"`{LORA_FILE}` turns the base model into the student, at scale 1 (α is multiplied in):\n\n"
    text += f"```python\n{load}\n```\n"
    if exported.captured is not None and exported.captured < 1:
        text += (
            f"\nIt approximates a fully trained student: it holds {exported.captured:.1%} of the squared change of the "
            "weights. Biases and norms are not in it.\n"
        )
    return text


def _licence_text(theirs: Mapping[str, Any], source: str) -> str:
    named = theirs.get("license_name") or theirs.get("license")
    link = f" ({theirs['license_link']})" if theirs.get("license_link") else ""
    return (
        f"These weights derive from {source}, whose licence"
        + (f", {named}{link}," if named else "")
        + " governs them too: read it before use.\n"
    )


def _front_matter(base: Path) -> dict[str, Any]:
    """The YAML head of the base's card; empty where there is none or it does not parse."""
    with contextlib.suppress(ConfigError, DataError):
        found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", read_text(base / "README.md"), re.DOTALL)
        head = parse_yaml(found[1], "README.md").value if found else None
        return (
            {str(k): v for k, v in head.items() if isinstance(v, (str, list))}
            if isinstance(head, dict)
            else {}
        )
    return {}
