"""The bridge to TRL: its own advantages when nothing is plugged in, ours when something is, the same on every rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.errors import CheckpointError, ConfigError
from noria.core.models.lm import small_config
from noria.core.training.rl import group_advantages

pytest.importorskip("trl")

from noria.core.training.trl import Advantages, ComponentGRPOTrainer, RewardBatch, TokenBatch
from tests.processes import free_port

PROMPTS = ["Q: 3+4\n", "Q: 8*2\n", "Q: 9-5\n", "Q: 1+1\n"]


def digits(completions: list[str], **_: Any) -> list[float]:
    return [sum(c.isdigit() for c in text) / 12 for text in completions]


def sometimes(completions: list[str], **_: Any) -> list[float | None]:
    """Nothing for a third of them."""
    return [len(text) / 40 if len(text) % 3 else None for text in completions]


def tiny() -> tuple[Any, Any]:
    """A policy of random weights, quick to write with."""
    import transformers

    from noria.core.models.loading import SMALL, open_language_model

    tokenizer = open_language_model(SMALL).tokenizer
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(small_config(len(tokenizer), width=32, layers=1, heads=2))
    return model, tokenizer


def trainer(folder: Path, **more: Any) -> ComponentGRPOTrainer:
    from datasets import Dataset
    from trl import GRPOConfig

    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "seed": 3,
    } | more.pop("settings", {})
    model, tokenizer = tiny()
    data = Dataset.from_dict({"prompt": PROMPTS, "data_source": ["sum", "product", "sum", None]})
    return ComponentGRPOTrainer(
        model=model,
        reward_funcs=[digits, sometimes],
        args=GRPOConfig(**settings),
        train_dataset=data,
        processing_class=tokenizer,
        **more,
    )


class Remembers:
    """Standard scores of each component, and how many batches there were."""

    def __init__(self) -> None:
        self.batches: list[RewardBatch] = []
        self.count = 0

    def __call__(self, batch: RewardBatch) -> Advantages:
        self.batches.append(batch)
        self.count += batch.training
        return Advantages(group_advantages(batch.rewards, batch.group), {"own/count": self.count})

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = int(state["count"])


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_without_plugs_it_is_trls_trainer(tmp_path: Path) -> None:
    from trl import GRPOTrainer

    ours = trainer(tmp_path / "a")
    ours.train()
    plain = trainer(tmp_path / "b")
    plain.__class__ = GRPOTrainer
    plain.train()
    for name, value in weights(ours).items():
        assert torch.equal(value, weights(plain)[name])


def test_trls_own_advantages_are_group_advantages_of_the_sum(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    t.train()
    rewards = torch.tensor([t._logs["rewards"][name] for name in ("digits", "sometimes")]).T
    assert rewards.isnan().any()
    theirs = torch.tensor(list(t._logs["advantages"]))
    ours = group_advantages(rewards.nansum(1), torch.arange(8) // 4)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_function_gets_components_groups_and_data_sets(tmp_path: Path) -> None:
    function = Remembers()
    t = trainer(tmp_path, advantage_function=function)
    t.train()
    batch = function.batches[0]
    assert batch.names == ("digits", "sometimes")
    assert batch.rewards.shape == (8, 2)
    assert batch.group.tolist() == [0] * 4 + [1] * 4
    assert set(batch.dataset) <= {"sum", "product", ""}
    assert batch.rewards.isnan().any()
    assert [row["own/count"] for row in t.state.log_history if "own/count" in row] == [1, 2]
    expected = group_advantages(function.batches[-1].rewards, batch.group).sum(1)
    torch.testing.assert_close(torch.tensor(list(t._logs["advantages"])[-8:]), expected)


def test_credit_reaches_the_policys_own_tokens_only(tmp_path: Path) -> None:
    seen: list[TokenBatch] = []
    given: list[torch.Tensor] = []

    def first_token(batch: TokenBatch) -> torch.Tensor:
        """The first component goes to the first token, the second to all."""
        seen.append(batch)
        credit = torch.ones(*batch.completion_ids.shape, 2)
        credit[:, 1:, 0] = 0
        return credit

    t = trainer(tmp_path, advantage_function=Remembers(), token_credit=first_token)
    inner = t._compute_loss

    def watch(model: Any, inputs: Any) -> Any:
        given.append(inputs["advantages"])
        return inner(model, inputs)

    t._compute_loss = watch  # type: ignore[method-assign]
    t.train()
    batch = seen[0]
    assert batch.advantages.shape == (8, 2)
    assert batch.mask.shape == batch.completion_ids.shape == given[0].shape
    assert batch.inputs[0]["prompt"] in PROMPTS
    assert sorted(given[0][:, 0].tolist()) == pytest.approx(
        sorted(batch.advantages.sum(1).tolist()), abs=1e-6
    )
    rest = given[0][:, 1:]
    assert sorted(rest.abs().amax(1).tolist()) == pytest.approx(
        sorted((batch.advantages[:, 1].abs() * batch.mask[:, 1:].any(1)).tolist()), abs=1e-6
    )


def test_zero_advantages_move_nothing(tmp_path: Path) -> None:
    t = trainer(tmp_path, advantage_function=lambda b: Advantages(torch.zeros(len(b.rewards))))
    before = weights(t)
    t.train()
    after = weights(t)
    assert all(torch.allclose(after[name], value, atol=1e-7) for name, value in before.items())


def test_what_a_function_remembers_is_resumed(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trainer(tmp_path, advantage_function=Remembers(), settings=settings).train()
    assert json.loads((tmp_path / "checkpoint-1" / "advantages.json").read_text()) == {"count": 1}
    function = Remembers()
    t = trainer(tmp_path, advantage_function=function, settings=settings | {"max_steps": 2})
    t.train(resume_from_checkpoint=True)
    assert function.count == 2
    # Ended in the middle of its third checkpoint: what is there of it is not gone on from.
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text('{"global_')
    function = Remembers()
    t = trainer(tmp_path, advantage_function=function, settings=settings | {"max_steps": 3})
    t.train(resume_from_checkpoint=True)
    assert (function.count, t.state.global_step) == (3, 3)
    # A damaged checkpoint is refused by name, and the one before is taken where none is named.
    for name in ("advantages.json", "model.safetensors", "optimizer.pt"):
        file = tmp_path / "checkpoint-3" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        broken = trainer(tmp_path, advantage_function=Remembers(), settings=settings | {"max_steps": 4})
        with pytest.raises(CheckpointError, match=f"{name}: its content is not what was written"):
            broken.train(resume_from_checkpoint=str(file.parent))
        file.write_bytes(whole)
    file.write_bytes(whole[:-9])
    function = Remembers()
    t = trainer(tmp_path, advantage_function=function, settings=settings | {"max_steps": 4})
    with pytest.warns(UserWarning, match=r"optimizer\.pt: its content is not .*; checkpoint-3 is skipped"):
        t.train(resume_from_checkpoint=True)
    assert (function.count, t.state.global_step) == (4, 4)


def test_a_context_is_held_while_completions_are_scored(tmp_path: Path) -> None:
    import contextlib
    from collections.abc import Iterator

    held: list[bool] = []

    @contextlib.contextmanager
    def around(own: Any) -> Iterator[None]:
        held.append(True)
        yield
        held.append(False)

    def function(batch: RewardBatch) -> Advantages:
        assert not held[-1]
        return Advantages(torch.zeros(len(batch.rewards)))

    trainer(tmp_path, advantage_function=function, around=around, settings={"max_steps": 1}).train()
    assert held == [True, False]


TWO_RANKS = """
import json, sys
from pathlib import Path
import torch
from tests.core.test_trl import Remembers, trainer, weights
function = Remembers()
t = trainer(Path(sys.argv[1]), advantage_function=function, settings={"per_device_train_batch_size": 4, "max_steps": 2})
t.train()
rank = t.accelerator.process_index
batch = function.batches[0]
Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps({
    "rewards": torch.nan_to_num(batch.rewards, nan=-1.0).tolist(), "dataset": batch.dataset,
    "group": batch.group.tolist(), "logged": list(t._logs["advantages"])[-8:],
    "weights": float(sum(w.double().abs().sum() for w in weights(t).values())),
}))
"""


@pytest.mark.slow
def test_two_ranks_see_the_same_rewards_and_stay_the_same(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_RANKS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{os.getcwd()}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(
        [*launch, "--master-port", str(free_port()), str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert one == other
    assert len(one["rewards"]) == 8
    assert one["group"] == [0] * 4 + [1] * 4
    assert len(set(map(tuple, one["rewards"]))) > 4  # the ranks wrote different completions


def gradient(t: ComponentGRPOTrainer, credit: torch.Tensor) -> torch.Tensor:
    """Gradient of TRL's loss of two completions whose tokens have these advantages."""
    torch.manual_seed(1)
    completion = torch.randint(5, 50, credit.shape)
    ones = torch.ones_like(completion)
    t.model.zero_grad()
    t.current_gradient_accumulation_steps = 1
    loss = t._compute_loss(
        t.model,
        {
            "prompt_ids": completion[:, :2],
            "prompt_mask": ones[:, :2],
            "completion_ids": completion,
            "completion_mask": ones,
            "advantages": credit,
            "num_items_in_batch": torch.tensor(float(credit.numel())),
        },
    )
    loss.backward()
    return torch.cat([p.grad.flatten() for p in t.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"])
def test_credit_turns_the_gradient_under_every_loss_that_is_accepted(tmp_path: Path, loss: str) -> None:
    first, last = torch.ones(2, 6), torch.ones(2, 6)
    first[:, :3] = 2
    last[:, 3:] = 2

    def turned(**settings: Any) -> float:
        t = trainer(tmp_path, settings={"loss_type": loss, **settings})
        return float(1 - torch.cosine_similarity(gradient(t, first), gradient(t, last), dim=0))

    assert turned() > 1e-3
    if loss == "grpo":  # this is why a ratio a sequence is refused
        assert abs(turned(importance_sampling_level="sequence")) < 1e-4


def test_settings_under_which_credit_of_tokens_does_nothing_are_refused_and_little_is_told(
    tmp_path: Path,
) -> None:
    def credit(batch: TokenBatch) -> torch.Tensor:
        return torch.ones(batch.completion_ids.shape)

    sequence = {"importance_sampling_level": "sequence", "loss_type": "grpo"}
    with pytest.raises(
        ConfigError, match=r"importance_sampling_level: one ratio a sequence .*; set it to token"
    ):
        trainer(tmp_path, token_credit=credit, settings=sequence)
    trainer(tmp_path, settings=sequence)  # without credit of tokens it is TRL's business
    with pytest.warns(
        UserWarning, match=r"top_entropy_quantile=0\.2: the loss leaves out the other 80% of the tokens"
    ):
        trainer(tmp_path, token_credit=credit, settings={"top_entropy_quantile": 0.2})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("reward_weights", [1.0, 0.0]),
        ("scale_rewards", "batch"),
        ("multi_objective_aggregation", "normalize_then_sum"),
    ],
)
def test_settings_of_trls_advantages_are_refused_where_a_function_makes_them(
    tmp_path: Path, setting: str, value: Any
) -> None:
    trainer(tmp_path, settings={setting: value})
    with pytest.raises(ConfigError, match=f"{setting}: the advantage function makes the advantages"):
        trainer(tmp_path, advantage_function=Remembers(), settings={setting: value})
