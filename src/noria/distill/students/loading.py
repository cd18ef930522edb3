"""Loading what a user names: a model to distil, a run that holds a student, or an exported student."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.digests import check_digests
from noria.core.errors import CheckpointError, ConfigError, DataError, ModelError, RunError, require
from noria.core.records import read_json
from noria.core.runs.checkpoints import fingerprint, list_checkpoints
from noria.core.runs.run import read_config, whole_checkpoint
from noria.distill.adapters import Condition, FlowAdapter, Sampler, SmallAdapter
from noria.distill.config import DistillConfig, LoadConfig, ModelFormat
from noria.distill.data.prompts import Prompts
from noria.distill.students.few_step import RECORD
from noria.distill.training.roles import LoraRoles, load_parameters
from noria.distill.training.teacher import load_teacher
from noria.distill.types import Role

IDENTITY = ("model_fingerprint", "prompts_fingerprint")
"""Fields of a run's stored settings beside those of `DistillConfig`."""


def default_device() -> str:
    """The accelerator where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def open_model(
    model: str, config: LoadConfig | None = None, *, device: torch.device | str = "cpu"
) -> FlowAdapter:
    """Open a diffusers pipeline (a folder or a hub id), or a small transformer from a `.safetensors` file.

    Args:
        model: folder, hub id or file of the model.
        config: size of the images, format of the weights, and whether a hub id may be fetched over the network.
        device: device of the weights.

    Raises:
        ModelError: there is no such model, or none that can be distilled.
        ConfigError: a size that the model cannot have.
        CheckpointError: the file holds no small transformer.
    """
    config = config or LoadConfig()
    if model.endswith(".safetensors"):
        if config.variant is not None:
            raise ConfigError(
                f"variant {config.variant}, but a small model is one file",
                where="variant",
                mend="leave it out",
            )
        path = Path(model).expanduser()
        if not path.is_file():
            raise ModelError("no such model file", where=model, mend="`noria distill teacher` makes one")
        small = SmallAdapter(load_teacher(path).to(device))
        for name, given, own in zip(
            ("height", "width"), (config.height, config.width), small.latent_shape[1:], strict=True
        ):
            if given is not None and given != own:
                raise ConfigError(
                    f"{name} {given}, but the model draws {own} pixels", where=name, mend="leave it out"
                )
        return small
    require("diffusers", "distill")
    from noria.distill.integrations.diffusers import open_pipeline

    return open_pipeline(
        model,
        height=config.height,
        width=config.width,
        dtype=torch.bfloat16 if config.precision == "bf16" else torch.float32,
        device=device,
        variant=config.variant,
        local_files_only=not config.allow_download,
    )


def check_prompts(adapter: FlowAdapter, prompts: Prompts) -> None:
    """Refuse prompts of a small model that are no class numbers, now rather than in the middle of an epoch.

    Raises:
        DataError: one of them is none.
    """
    if isinstance(adapter, SmallAdapter):
        try:
            adapter.encode(prompts.texts)
        except DataError as error:
            raise DataError(error.what, where=prompts.source, mend=error.mend) from error


@dataclass(frozen=True)
class Student(Sampler):
    """A student opened from disk, with its teacher where that is at hand.

    Attributes:
        name: name of the run or folder.
        adapter: how to call its model.
        sigmas: pre-shift grid that it is sampled at by default.
        step: iteration of the run that the weights are of; None for an export.
        config: settings of the run; None for an export.
        networks: network of each role.
        has_teacher: whether "teacher" is one of them.
    """

    name: str
    adapter: FlowAdapter
    sigmas: tuple[float, ...]
    step: int | None
    config: DistillConfig | None
    networks: Callable[[Role], nn.Module]
    has_teacher: bool

    @contextlib.contextmanager
    def playing(self, role: Role) -> Iterator[Callable[[Tensor, Tensor, Condition], Tensor]]:
        """The velocity of the role's network."""
        yield functools.partial(self.adapter.velocity, self.networks(role))


def open_student(
    source: Path,
    *,
    teacher: str | None = None,
    variant: str | None = None,
    device: torch.device | str = "cpu",
    allow_download: bool = False,
) -> Student:
    """Open a run folder (EMA weights of its last checkpoint) or an exported student.

    Args:
        source: folder of the run or the export.
        teacher: model that an exported student is compared with; a run knows its own.
        variant: variant of that model's weight files; a run knows its own.
        device: device of the weights.
        allow_download: whether hub ids may be fetched.

    Raises:
        RunError: the folder is neither.
        ConfigError: a variant of no model is given.
        CheckpointError: the run has no whole checkpoint, its model is not the one it was trained on, or weights of the
            export are not those that were written.
        ModelError: the model does not open.
    """
    if (source / "model_index.json").is_file():
        return _open_export(source, teacher, variant, device, allow_download)
    if not (source / "config.json").is_file():
        raise RunError(
            "neither a training run nor an exported student",
            where=str(source),
            mend="give the folder that `noria distill train` or `noria distill export` wrote",
        )
    return _open_run(source, teacher, variant, device, allow_download)


def _open_run(
    folder: Path, model: str | None, variant: str | None, device: torch.device | str, allow_download: bool
) -> Student:
    stored = read_config(folder)
    try:
        known = DistillConfig(**{name: value for name, value in stored.items() if name not in IDENTITY})
    except (TypeError, ValueError) as error:
        raise RunError("not the settings of a distillation run", where=str(folder / "config.json")) from error
    form = known.part(ModelFormat).model_dump()
    load = LoadConfig(
        allow_download=allow_download, **form | ({} if variant is None else {"variant": variant})
    )
    adapter = open_model(model or known.model or "", load, device=device)
    if fingerprint(adapter.network) != stored.get("model_fingerprint"):
        raise CheckpointError(
            f"the run was trained on another model than the one now at {model or known.model}",
            where=str(folder),
            mend="put that model back, or name it with --model",
        )
    step = whole_checkpoint(folder)
    if step is None:
        raise CheckpointError(
            "no checkpoint yet", where=str(folder), mend="give the training command again to go on with it"
        )
    tensors, where = _averages(dict(list_checkpoints(folder / "checkpoints"))[step]), f"checkpoint {step}"
    if known.train == "lora":
        roles = LoraRoles(adapter, rank=known.lora.rank, alpha=known.lora.alpha)
        load_parameters(roles.parameters("student"), tensors, where=where)
        networks: Callable[[Role], nn.Module] = roles.network
    else:
        pair: dict[Role, nn.Module] = {"teacher": adapter.network, "student": copy.deepcopy(adapter.network)}
        load_parameters(dict(pair["student"].named_parameters()), tensors, where=where)
        networks = pair.__getitem__
    return Student(folder.resolve().name, adapter, known.schedule.steps, step, known, networks, True)


def _averages(checkpoint: Path) -> dict[str, Tensor]:
    """The EMA weights alone: the optimisers' state is five times as large."""
    from safetensors import safe_open

    with safe_open(checkpoint / "tensors.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("ema.")]  # noqa: SIM118
        return {name.removeprefix("ema."): file.get_tensor(name) for name in names}


def _open_export(
    folder: Path,
    teacher: str | None,
    variant: str | None,
    device: torch.device | str,
    allow_download: bool,
) -> Student:
    if variant is not None and teacher is None:
        raise ConfigError(
            "an exported student has plain weights only", where="--variant", mend="give --model with it"
        )
    record = read_record(folder)
    check_digests(folder)
    size = {name: record["call"].get(name) for name in ("height", "width")}
    adapter = open_model(str(folder), LoadConfig(**size), device=device)
    pair: dict[Role, nn.Module] = {"student": adapter.network}
    if teacher is not None:
        other = open_model(
            teacher, LoadConfig(allow_download=allow_download, variant=variant, **size), device=device
        )
        if type(other) is not type(adapter) or other.latent_shape != adapter.latent_shape:
            raise ModelError(
                f"the teacher is a {other.name}, the student a {adapter.name} of another family or size",
                where=teacher,
                mend="give the model that the student was distilled from",
            )
        pair["teacher"] = other.network
    sigmas = tuple(float(s) for s in record["sigmas"])
    return Student(folder.resolve().name, adapter, sigmas, None, None, pair.__getitem__, teacher is not None)


def read_record(folder: Path) -> dict[str, Any]:
    """The steps and call settings that an export recorded in its scheduler's config.

    Raises:
        RunError: the folder is a pipeline, but no exported student.
    """
    try:
        record = read_json(folder / "scheduler" / "scheduler_config.json").get(RECORD)
        return {"sigmas": list(record["sigmas"]), "call": dict(record["call"])}
    except (DataError, ValueError, TypeError, KeyError, AttributeError):
        raise RunError(
            "a pipeline, but not a student that Noria exported",
            where=str(folder),
            mend="give the folder that `noria distill train` or `noria distill export` wrote",
        ) from None
