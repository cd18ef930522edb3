"""The estimator in verl, against a stand-in that keeps to the contract of verl 0.9.1 as its sources have it.

verl itself needs an older transformers than this environment has. What is copied here is behaviour: the registry that
refuses a second function under a name, what `compute_advantage` hands over under which name, and the v1 trainer that
fetches fixed columns from its queue.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from noria.core.errors import ConfigError, DataError, MissingExtra
from noria.routing.integrations.verl import NAME, Estimator, columns, install
from noria.routing.rewards.calibrator import Calibrator
from noria.routing.rewards.config import preset

KEYS = ("form", "answer", "thrift")
ROWS, TOKENS = 8, 5


def standing_in() -> dict[str, ModuleType]:
    """Modules of the names that `install` imports."""
    algorithms = ModuleType("verl.trainer.ppo.core_algos")
    algorithms.ADV_ESTIMATOR_REGISTRY = {"gdpo": lambda **k: "verl's own"}  # type: ignore[attr-defined]

    def register_adv_est(name: str) -> Any:
        def decorator(function: Any) -> Any:
            known = algorithms.ADV_ESTIMATOR_REGISTRY
            if name in known and known[name] != function:
                raise ValueError(f"Adv estimator {name} has already been registered")
            known[name] = function
            return function

        return decorator

    algorithms.register_adv_est = register_adv_est  # type: ignore[attr-defined]
    base, sync = (
        ModuleType("verl.trainer.ppo.v1.trainer_base"),
        ModuleType("verl.trainer.ppo.v1.trainer_sync"),
    )
    queue = ModuleType("transfer_queue")
    queue.store = {}  # type: ignore[attr-defined]

    def kv_batch_get(keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, Any]:
        rows = [queue.store[key] for key in keys]
        return {f: np.array([row[f] for row in rows], dtype=object) for f in select_fields if f in rows[0]}

    queue.kv_batch_get = kv_batch_get  # type: ignore[attr-defined]

    class PPOTrainer:
        def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
            """Only these columns, and no other, as of verl 0.9.1."""
            data = kv_batch_get(batch.keys, batch.partition_id, ["uid", "response_mask", "rm_scores"])
            return compute_advantage(
                algorithms,
                self.config.adv_estimator,  # type: ignore[attr-defined]
                torch.tensor(np.stack(data["rm_scores"].tolist())).float(),
                torch.tensor(np.stack(data["response_mask"].tolist())).float(),
                {"uid": data["uid"]},
            )

    base.TRAINER_REGISTRY = {}  # type: ignore[attr-defined]

    def register_trainer(name: str) -> Any:
        def decorator(cls: type) -> type:
            if not issubclass(cls, PPOTrainer):
                raise TypeError("register_trainer expected a PPOTrainer subclass")
            if base.TRAINER_REGISTRY.get(name) not in (None, cls):
                raise ValueError(f"Trainer name {name!r} is already registered")
            base.TRAINER_REGISTRY[name] = cls
            return cls

        return decorator

    base.register_trainer = register_trainer  # type: ignore[attr-defined]
    sync.PPOTrainerSync = PPOTrainer  # type: ignore[attr-defined]
    names = {"verl": ModuleType("verl"), "transfer_queue": queue}
    return names | {m.__name__: m for m in (algorithms, base, sync)}


def compute_advantage(
    algorithms: Any, name: str, rewards: torch.Tensor, mask: torch.Tensor, non_tensor_batch: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What verl hands over: the columns only under the literal name gdpo."""
    more: dict[str, Any] = {"token_level_rewards": rewards, "response_mask": mask, "config": None}
    if "uid" in non_tensor_batch:
        more["index"] = non_tensor_batch["uid"]
    if name == "gdpo":
        more |= {"non_tensor_batch": non_tensor_batch, "batch": {}}
    found: tuple[torch.Tensor, torch.Tensor] = algorithms.ADV_ESTIMATOR_REGISTRY[name](**more)
    return found


@pytest.fixture
def verl(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    modules = standing_in()
    for name in ("verl.trainer", "verl.trainer.ppo", "verl.trainer.ppo.v1"):
        modules.setdefault(name, ModuleType(name))
    for name, module in modules.items():
        module.__path__ = []  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return modules


def rows() -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    generator = np.random.default_rng(0)
    table = {key: (generator.random(ROWS) > 0.4).astype(float).tolist() for key in KEYS}
    table["answer"][3] = None
    mask = torch.ones(ROWS, TOKENS)
    mask[2, 3:] = 0
    uid = np.array([f"uid-{n // 4}" for n in range(ROWS)], dtype=object)
    return torch.zeros(ROWS, TOKENS), mask, table | {"data_source": ["nq"] * 4 + ["hotpot"] * 4, "uid": uid}


def expected(table: dict[str, Any]) -> torch.Tensor:
    rewards = torch.tensor([[float("nan") if v is None else v for v in table[key]] for key in KEYS]).T
    done = Calibrator(preset("recal")).calibrate(
        rewards, torch.arange(ROWS) // 4, table["data_source"], names=KEYS
    )
    return done.advantages


def test_under_gdpo_the_trainer_of_old_hands_everything_over(verl: dict[str, ModuleType]) -> None:
    estimator = install(preset("recal"), keys=KEYS)
    rewards, mask, table = rows()
    algorithms = verl["verl.trainer.ppo.core_algos"]
    advantages, returns = compute_advantage(algorithms, "gdpo", rewards, mask, table)
    assert torch.equal(advantages, returns)
    torch.testing.assert_close(advantages, expected(table)[:, None] * mask)
    assert estimator.calibrator.names == ["nq", "hotpot"]
    install(preset("recal"), keys=KEYS)  # and again, in a process that lives on


def test_the_v1_trainer_fetches_what_verl_leaves_out(verl: dict[str, ModuleType]) -> None:
    install(preset("recal"), keys=KEYS)
    rewards, mask, table = rows()
    keys = [f"{table['uid'][n]}_{n}_0" for n in range(ROWS)]
    store = {
        key: {
            "uid": table["uid"][n],
            "rm_scores": rewards[n].numpy(),
            "response_mask": mask[n].numpy(),
            "data_source": table["data_source"][n],
            "extra_fields": {"reward_extra_info": {k: table[k][n] for k in KEYS}},
        }
        for n, key in enumerate(keys)
    }
    verl["transfer_queue"].store = store  # type: ignore[attr-defined]
    trainer = verl["verl.trainer.ppo.v1.trainer_base"].TRAINER_REGISTRY["noria_sync"]()  # type: ignore[attr-defined]
    trainer.config = SimpleNamespace(adv_estimator=NAME)
    order = keys[::-1]  # rows in the order of the batch, whichever that is
    advantages, _ = trainer._compute_advantage(SimpleNamespace(keys=order, partition_id="train"), {})
    torch.testing.assert_close(advantages, (expected(table)[:, None] * mask).flip(0))
    # Outside of it nothing lingers.
    algorithms = verl["verl.trainer.ppo.core_algos"]
    with pytest.raises(DataError, match="did not hand over form, answer, thrift"):
        compute_advantage(algorithms, NAME, rewards, mask, table)


def test_what_does_not_fit_is_told() -> None:
    rewards, mask, table = rows()
    estimator = Estimator(preset("recal"), keys=KEYS)
    with pytest.raises(DataError, match="without a group"):
        estimator(rewards, mask, non_tensor_batch=table)
    with pytest.raises(DataError, match="thrift"):
        estimator(
            rewards, mask, table["uid"], non_tensor_batch={k: v for k, v in table.items() if k != "thrift"}
        )
    with pytest.raises(DataError, match="rewards of 8 rows"):
        estimator(rewards, mask, table["uid"], non_tensor_batch={k: v[:4] for k, v in table.items()})
    with pytest.raises(ConfigError, match="no component"):
        Estimator(preset("recal"), keys=("form", "style"))
    with pytest.raises(ConfigError, match="keys for"):
        Estimator(preset("recal"), keys=KEYS, names=("form",))
    renamed = Estimator(preset("recal"), keys=("f", "a", "t"), names=KEYS)
    other = dict(zip("fat", (table[k] for k in KEYS), strict=True)) | {"data_source": table["data_source"]}
    with columns(other):
        advantages, _ = renamed(rewards, mask, table["uid"])
    torch.testing.assert_close(advantages, expected(table)[:, None] * mask)


def test_without_verl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verl", None)
    with pytest.raises((MissingExtra, ModuleNotFoundError)):
        install(preset("recal"), keys=KEYS)
