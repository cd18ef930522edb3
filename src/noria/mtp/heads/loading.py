"""Loading what a user names: a model with its head, or a run that trained one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noria.core.errors import CheckpointError, ConfigError, ModelError, RunError
from noria.core.models.loading import SMALL, LanguageModel, open_language_model
from noria.core.runs.checkpoints import fingerprint
from noria.core.runs.outputs import is_run
from noria.core.runs.run import latest_checkpoint, read_config, whole_checkpoint
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.config import SamplingOptions, SourceOptions, TrainConfig
from noria.mtp.heads.checkpoint import load_head, stored_layout
from noria.mtp.heads.head import MTPHead
from noria.mtp.heads.layouts import LAYOUTS
from noria.mtp.heads.small import small_head

IDENTITY = ("model_fingerprint", "data_fingerprint")
"""Fields of a run's stored settings that are none of `TrainConfig`."""


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy, with its head where there is one.

    Attributes:
        name: name of the run or model.
        policy: the model.
        head: the head; None where only the policy was wanted.
        config: settings of the run; None for a model.
        step: step of the run's checkpoint; None for a model.
    """

    name: str
    policy: LanguageModel
    head: MTPHead | None
    config: TrainConfig | None = None
    step: int | None = None

    def check_gamma(self, gamma: int | None) -> None:
        """Refuse more drafts a round than the head can make.

        Raises:
            ConfigError: `gamma` is too large.
        """
        if self.head is not None and gamma is not None and gamma > self.head.most_drafts:
            raise ConfigError(
                f"{gamma} drafts a round of a head with {self.head.layers} layers",
                where="--gamma",
                mend=f"give at most {self.head.most_drafts}",
            )

    def sampling_params(self, options: SamplingOptions) -> SamplingParams:
        """Temperature and filters; a temperature that is not given is the run's own, else 1."""
        own = 1.0 if self.config is None else self.config.temperature
        temperature = own if options.temperature is None else options.temperature
        return SamplingParams(temperature, options.top_k, options.top_p, options.min_p)


def open_policy(options: SourceOptions, *, head: bool = True) -> LoadedPolicy:
    """Load a run's model and head, or a model with the head in its files.

    Args:
        options: the run or model, and how it is loaded.
        head: whether there must be a head; False loads the policy alone.

    Raises:
        RunError: the folder is a run of something else.
        ModelError: the model does not load, or has no head.
        CheckpointError: no whole checkpoint, or the run was of another model.
    """
    source, model, precision = options.source, options.model, options.precision
    folder = Path(source).expanduser()
    more: dict[str, Any] = options.model_dump(include={"allow_download", "trust_remote_code"})
    if not is_run(folder):
        if model is not None:
            raise ConfigError(
                f"{source} is a model itself, not a run", where="--model", mend="name one of the two"
            )
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
            "no checkpoint yet", where=str(folder), mend="give the training command again to resume it"
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
    found = stored_layout(policy.model, policy.files)
    there = policy.name == SMALL or (found is not None and layout in (None, found))
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
