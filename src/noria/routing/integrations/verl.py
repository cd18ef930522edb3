"""Calibrated rewards in verl: an advantage estimator that gets components and data sets.

verl (0.9.1) calls an estimator with the token rewards, the response mask, the group of each row (`uid`) and its
configuration. Components and `data_source` reach it only under the name `gdpo` of the trainer of old, and not at all in
the trainer of `trainer.use_v1` (verl issue 7473). `install` mends both: it registers the estimator, and for the v1
trainer it makes a class that fetches the two columns before it asks for advantages.

    from noria.routing.rewards.calibration import preset
    from noria.routing.integrations.verl import install

    install(preset("recal"), keys=("form", "answer", "thrift"))      # before the trainer is made, in its process
    # algorithm.adv_estimator=noria_recal, and for v1 trainer.v1.trainer_mode=noria_sync

Put these lines into a module of yours and name it in VERL_USE_EXTERNAL_MODULES: verl then imports it wherever it runs.
The reward function returns a dictionary with `score` and one entry a component; None or NaN was not given.

verl 0.9.1 needs transformers below 5.11, so it is not installed beside this package's other extras: install noria into
verl's own environment. The contract above was read in verl's sources; here it is tested against a stand-in that keeps
to it.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noria.core.errors import ConfigError, DataError, require
from noria.routing.rewards.calibrator import Calibrator
from noria.routing.rewards.config import CalibrationConfig

__all__ = ["NAME", "Estimator", "columns", "install", "trainer_class"]

NAME = "noria_recal"
"""Name of the estimator: `algorithm.adv_estimator`."""
MODE = "noria_sync"
"""Name of the v1 trainer: `trainer.v1.trainer_mode`."""

Columns = Mapping[str, Sequence[Any]]
_columns: contextvars.ContextVar[Columns | None] = contextvars.ContextVar("noria_columns", default=None)


class Estimator:
    """An advantage estimator with verl's signature.

    Args:
        config: settings of the calibration.
        keys: keys of the components in what the reward function returns, in the order of the calibration's names.
        names: names of the components; the keys themselves by default.
        dataset_key: column that names the data set of a row.
    """

    def __init__(
        self,
        config: CalibrationConfig,
        *,
        keys: Sequence[str],
        names: Sequence[str] | None = None,
        dataset_key: str = "data_source",
    ) -> None:
        self.calibrator = Calibrator(config)
        self.keys, self.names, self.dataset_key = tuple(keys), tuple(names or keys), dataset_key
        if len(self.names) != len(self.keys):
            raise ConfigError(f"{len(self.keys)} keys for {len(self.names)} names", where="keys")
        absent = [name for name in self.names if name not in config.components]
        if absent:
            raise ConfigError(
                f"{absent[0]!r} is no component",
                where="keys",
                mend=f"the components are {', '.join(config.components)}",
            )

    def __call__(
        self,
        token_level_rewards: Tensor,
        response_mask: Tensor,
        index: Any = None,
        config: Any = None,
        non_tensor_batch: Columns | None = None,
        batch: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns, [rows, tokens] both and the same.

        Args:
            token_level_rewards: [rows, tokens]; only its device and shape are used.
            response_mask: [rows, tokens], 1 where the policy wrote.
            index: [rows], group of each row.
            config: verl's settings; not used.
            non_tensor_batch: columns by name, where verl gives them.
            batch: verl's tensors; not used.
            kwargs: further arguments of verl's; not used.

        Raises:
            DataError: no groups, no components, or a row too many or too few.
        """
        if index is None:
            raise DataError("rows without a group", where="uid", mend="use a trainer that gives uid")
        given = (non_tensor_batch if non_tensor_batch is not None else _columns.get()) or {}
        missing = [key for key in self.keys if key not in given]
        if missing:
            raise DataError(
                f"verl did not hand over {', '.join(missing)}",
                where="non_tensor_batch",
                mend="call install() and use its trainer, and let the reward function return these keys",
            )
        rows = len(response_mask)
        table = torch.tensor(
            [[_number(v) for v in given[key]] for key in self.keys], dtype=torch.float64
        ).T.to(response_mask.device)
        dataset = [str(v) for v in given.get(self.dataset_key, [""] * rows)]
        if table.shape[0] != rows or len(dataset) != rows or len(index) != rows:
            raise DataError(f"{table.shape[0]} rewards of {rows} rows", where="non_tensor_batch")
        _, group = np.unique(np.asarray([str(name) for name in index]), return_inverse=True)
        result = self.calibrator.calibrate(
            table,
            torch.from_numpy(group.astype(np.int64)).to(table.device),
            dataset,
            names=self.names,
            lengths=response_mask.sum(1),
        )
        advantages = result.advantages.to(token_level_rewards)[:, None] * response_mask
        return advantages, advantages


@contextmanager
def columns(values: Columns) -> Iterator[None]:
    """Give an estimator the columns that verl does not hand over."""
    token = _columns.set(values)
    try:
        yield
    finally:
        _columns.reset(token)


def install(
    config: CalibrationConfig,
    *,
    keys: Sequence[str],
    names: Sequence[str] | None = None,
    dataset_key: str = "data_source",
    v1: bool = True,
) -> Estimator:
    """Register the estimator in verl, and a v1 trainer that feeds it.

    Under `gdpo` verl's own estimator is replaced, since only that name is given the columns by the trainer of old;
    under `noria_recal` the same one stands for v1.

    Args:
        config: settings of the calibration.
        keys: keys of the components in what the reward function returns.
        names: names of the components; the keys themselves by default.
        dataset_key: column that names the data set of a row.
        v1: whether to register the v1 trainer, too.

    Returns:
        The estimator; its calibrator has the state to be saved.

    Raises:
        MissingExtra: verl is absent.
    """
    algorithms = require("verl.trainer.ppo.core_algos", "verl")
    estimator = Estimator(config, keys=keys, names=names, dataset_key=dataset_key)
    for name in (NAME, "gdpo"):
        # verl refuses another function under a name that is taken.
        algorithms.ADV_ESTIMATOR_REGISTRY.pop(name, None)
        algorithms.register_adv_est(name)(estimator)
    if v1:
        trainers = require("verl.trainer.ppo.v1.trainer_base", "verl")
        sync = require("verl.trainer.ppo.v1.trainer_sync", "verl")
        queue = require("transfer_queue", "verl")
        made = trainer_class(sync.PPOTrainerSync, queue, keys=keys, dataset_key=dataset_key)
        trainers.TRAINER_REGISTRY.pop(MODE, None)
        trainers.register_trainer(MODE)(made)
    return estimator


def trainer_class(base: Any, queue: Any, *, keys: Sequence[str], dataset_key: str = "data_source") -> Any:
    """Make a v1 trainer that fetches components and data sets before it asks for advantages.

    Args:
        base: verl's trainer, whose `_compute_advantage(batch, metrics)` is wrapped.
        queue: the module `transfer_queue`.
        keys: keys of the components, in `extra_fields["reward_extra_info"]` of each row.
        dataset_key: column that names the data set of a row.
    """

    class CalibratedTrainer(base):  # type: ignore[misc]
        """The trainer, which gives the estimator two more columns."""

        def _compute_advantage(self, batch: Any, metrics: Any) -> Any:
            data = queue.kv_batch_get(
                keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields", dataset_key]
            )
            extra = [_extra(fields) for fields in _listed(data["extra_fields"])]
            given: dict[str, Sequence[Any]] = {key: [row.get(key) for row in extra] for key in keys}
            given[dataset_key] = _listed(data[dataset_key])
            with columns(given):
                return super()._compute_advantage(batch, metrics)

    return CalibratedTrainer


def _listed(values: Any) -> list[Any]:
    """List the rows of a column, however the queue gives them."""
    return list(values.tolist()) if hasattr(values, "tolist") else list(values)


def _extra(fields: Any) -> Mapping[str, Any]:
    extra = fields.get("reward_extra_info", {}) if isinstance(fields, Mapping) else {}
    return extra if isinstance(extra, Mapping) else {}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
