"""The asynchronous loop on a real Ray on loopback, beside the loop of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.errors import ConfigError, DataError
from noria.core.runs.run import Run
from noria.mtp.integrations.ray import RayTrainer
from noria.mtp.rl.config import RLConfig
from noria.mtp.rl.policy import PolicyTrainer
from tests.mtp.tiny_models import head_of, tiny

ray = pytest.importorskip("ray")

PROMPTS = [[3, 5, 7], [11, 2], [4, 9, 1, 6]]
CONFIG = {"steps": 4, "prompts": 2, "group": 4, "max_new_tokens": 6, "gamma": 2, "lr": 1e-3, "staleness": 1}


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # The writers import this file, and noria from where this process has it.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        yield
        ray.shutdown()


def luck(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[float]:
    return [sum(token == 8 for token in c) / len(c) for c in completions]


def no_luck(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[float]:
    return [float("nan")] * len(completions)


def parts() -> tuple[Any, Any]:
    model = tiny("qwen3")
    return model, head_of(model, "qwen3")


def weights(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_ray_trains_the_policy_that_one_process_trains() -> None:
    config = RLConfig(**CONFIG | {"head": "online", "head_lr": 1e-3})
    alone = PolicyTrainer(*parts(), PROMPTS, luck, config, eos=[])
    alone.train()
    seen: list[Any] = []
    threads = torch.get_num_threads()
    with RayTrainer(*parts(), PROMPTS, luck, config, eos=[], writers=2, threads=threads) as together:
        together.train(on_step=seen.append)
    assert [d.figures["staleness"] for d in seen] == [0, 1, 1, 1]
    assert all(d.figures["rollout_seconds"] > 0 for d in seen)
    for mine, other in ((alone.model, together.model), (alone.head, together.head)):
        assert mine is not None
        for name, p in weights(mine).items():
            torch.testing.assert_close(dict(other.named_parameters())[name], p, rtol=1e-4, atol=1e-6)


def test_a_run_on_ray_goes_on_in_one_process(tmp_path: Path) -> None:
    """Batches that were under way are waited for and kept."""
    whole = PolicyTrainer(*parts(), PROMPTS, luck, RLConfig(**CONFIG), eos=[])
    whole.train()
    short = RLConfig(**CONFIG | {"steps": 2})
    with (
        Run.open(tmp_path / "run", config={}) as run,
        RayTrainer(*parts(), PROMPTS, luck, short, eos=[], threads=torch.get_num_threads()) as first,
    ):
        first.train(run)
    again = PolicyTrainer(*parts(), PROMPTS, luck, RLConfig(**CONFIG), eos=[])
    with Run.open(tmp_path / "run", config={}) as run:
        again.train(run)
    for name, p in weights(whole.model).items():
        torch.testing.assert_close(dict(again.model.named_parameters())[name], p, rtol=1e-4, atol=1e-6)


def test_what_goes_wrong_in_a_writer_is_told_here() -> None:
    with (
        RayTrainer(*parts(), PROMPTS, no_luck, RLConfig(**CONFIG), eos=[]) as trainer,
        pytest.raises(DataError, match="not finite"),
    ):
        trainer.train()
    with pytest.raises(ConfigError, match="writers"):
        RayTrainer(*parts(), PROMPTS, luck, RLConfig(**CONFIG), writers=0)
