"""Opening what a user names: a model with its head, or a run that trained one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noria.core.errors import CheckpointError, ModelError, RunError
from noria.core.models.loading import SMALL, LanguageModel, open_language_model
from noria.core.runs.checkpoints import fingerprint
from noria.core.runs.outputs import is_run
from noria.core.runs.run import latest_checkpoint, read_config, whole_checkpoint
from noria.mtp.config import TrainConfig
from noria.mtp.heads.checkpoint import has_head, load_head
from noria.mtp.heads.head import MTPHead
from noria.mtp.heads.layouts import LAYOUTS
from noria.mtp.heads.small import small_head

__all__ = ["IDENTITY", "LoadedPolicy", "fresh_or_stored", "open_policy", "stored_head"]

IDENTITY = ("model_fingerprint", "data_fingerprint")
"""What a run's stored settings hold beside the fields of `TrainConfig`."""


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy, with its head where there is one.

    Attributes:
        name: of the run or model.
        policy: the model.
        head: None where only a policy was asked for.
        config: the run's settings; None for a model.
        step: of the run's checkpoint; None for a model.
    """

    name: str
    policy: LanguageModel
    head: MTPHead | None
    config: TrainConfig | None = None
    step: int | None = None


def open_policy(
    source: str,
    *,
    head: bool = True,
    model: str | None = None,
    precision: str | None = None,
    device: torch.device | None = None,
    allow_download: bool = False,
    trust_remote_code: bool = False,
) -> LoadedPolicy:
    """Open a run's model and head, or a model with the head in its files.

    Args:
        source: run folder, model folder, hub id, or `small`.
        head: whether there must be a head; False opens the policy alone.
        model: where the run's model is now.
        precision: "fp32" or "bf16"; a run's own, else fp32, by default.
        device: where; a GPU if there is one by default.
        allow_download: whether a hub model may be fetched.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        RunError: the folder is a run of something else.
        ModelError: the model does not open, or has no head.
        CheckpointError: no whole checkpoint, or the run was of another model.
    """
    folder = Path(source).expanduser()
    more: dict[str, Any] = {
        "device": device,
        "allow_download": allow_download,
        "trust_remote_code": trust_remote_code,
    }
    if not is_run(folder):
        policy = open_language_model(source, precision=precision or "fp32", **more)
        return LoadedPolicy(policy.name, policy, stored_head(policy) if head else None)
    stored = read_config(folder)
    config = _settings(stored, folder)
    try:
        policy = open_language_model(
            model or config.model or "", precision=precision or config.precision, **more
        )
    except ModelError as error:
        if model is not None:
            raise
        raise ModelError(
            f"its model {config.model} does not open ({error.what})",
            where=str(folder),
            mend="put the model back, or name it with --model",
        ) from error
    if precision in (None, config.precision) and fingerprint(policy.model) != stored.get("model_fingerprint"):
        raise CheckpointError(
            f"the run was trained on another model than the one now at {policy.name}",
            where=str(folder),
            mend="put that model back, or name it with --model",
        )
    step = whole_checkpoint(folder)
    if not head:
        return LoadedPolicy(folder.resolve().name, policy, None, config, step)
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError(
            "no checkpoint yet", where=str(folder), mend="give the training command again to go on with it"
        )
    layout = None if config.layout is None else LAYOUTS[config.layout]
    trained = MTPHead(policy.model, layout=layout, layers=config.layers)
    own = {n.removeprefix("head."): t for n, t in checkpoint.tensors.items() if n.startswith("head.")}
    try:
        trained.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(
            "its tensors do not fit the model", where=f"{folder}, checkpoint {checkpoint.step}"
        ) from error
    return LoadedPolicy(folder.resolve().name, policy, trained.eval(), config, checkpoint.step)


def stored_head(policy: LanguageModel, config: TrainConfig | None = None) -> MTPHead:
    """The head in a model's own files.

    Raises:
        ModelError: there is none.
        CheckpointError: it is another model's.
    """
    if policy.name == SMALL:
        return small_head(policy.model)
    layout = None if config is None or config.layout is None else LAYOUTS[config.layout]
    return load_head(policy.model, policy.files, layout=layout)


def fresh_or_stored(policy: LanguageModel, config: TrainConfig) -> tuple[MTPHead, bool]:
    """The head a training starts from, and whether it came from the model's files.

    Raises:
        ModelError: `start: checkpoint`, and there is none in the files.
        CheckpointError: the head in the files is another model's, or of another number of layers.
    """
    layout = None if config.layout is None else LAYOUTS[config.layout]
    there = policy.name == SMALL or has_head(policy.model, policy.files, layout=layout)
    if config.start == "fresh" or (config.start == "auto" and not there):
        with torch.random.fork_rng(devices=[]):
            return MTPHead.fresh(policy.model, layout=layout, layers=config.layers, seed=config.seed), False
    head = small_head(policy.model, "ce") if policy.name == SMALL else stored_head(policy, config)
    if head.layers != config.layers:
        raise CheckpointError(
            f"the model's head has {head.layers} layers, layers is {config.layers}",
            where=policy.name,
            mend=f"set layers={head.layers}, or start=fresh",
        )
    return head, True


def _settings(stored: Mapping[str, Any], folder: Path) -> TrainConfig:
    try:
        return TrainConfig(**{name: value for name, value in stored.items() if name not in IDENTITY})
    except (TypeError, ValueError) as error:
        raise RunError("not the settings of a head's training", where=str(folder / "config.json")) from error
