"""Drafted rollouts in TRL's own GRPO trainer, on a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.errors import ConfigError
from noria.core.lm import small_lm
from noria.mtp.integrations.trl import Rollouts
from noria.mtp.small import small_head

pytest.importorskip("trl")


def grpo(tmp_path: Path, rollouts: Rollouts, model: Any, tokenizer: Any, **settings: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=12,
        max_steps=2,
        learning_rate=1e-3,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        temperature=0.9,
        **settings,
    )

    def digits(completions: list[str], **_: Any) -> list[float]:
        return [sum(c.isdigit() for c in text) / 12 for text in completions]

    data = Dataset.from_dict({"prompt": ["Q: 3+4\n", "Q: 8*2\n", "Q: 9-5\n", "Q: 1+1\n"]})
    return GRPOTrainer(
        model=model,
        reward_funcs=digits,
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        rollout_func=rollouts,
    )


def test_grpo_trains_on_drafted_rollouts_with_the_head_frozen(tmp_path: Path) -> None:
    model, tokenizer = small_lm()
    head = small_head(model)
    drafts = {name: p.detach().clone() for name, p in head.named_parameters()}
    before = model.get_output_embeddings().weight.detach().clone()
    rollouts = Rollouts(head)
    trainer = grpo(tmp_path, rollouts, model, tokenizer)
    trainer.train()
    assert not torch.equal(model.get_output_embeddings().weight, before)
    assert all(torch.equal(p, drafts[name]) for name, p in head.named_parameters())
    assert rollouts.calls >= 1
    logged = [row for row in trainer.state.log_history if "rollout/accept_length" in row]
    assert logged
    for row in logged:
        rates = [row[f"rollout/acceptance_{n}"] for n in (1, 2, 3)]
        assert row["rollout/accept_length"] == pytest.approx(1 + sum(rates))
        assert row["rollout/accept_length"] > 1.5
    # Log-probabilities are those of the tempered policy.
    completion = rollouts.last[0]
    assert all(value <= 0 for value in completion.logprobs)
    assert len(completion.logprobs) == len(completion.tokens)


def test_what_would_change_the_law_is_refused(tmp_path: Path) -> None:
    model, tokenizer = small_lm()
    head = small_head(model)
    with pytest.raises(ConfigError, match="allow_lossy"):
        Rollouts(head, settings={"accept_threshold_single": 0.9})
    Rollouts(head, settings={"accept_threshold_single": 0.9}, allow_lossy=True)
    trainer = grpo(tmp_path, Rollouts(head), model, tokenizer, repetition_penalty=1.1)
    with pytest.raises(ConfigError, match="repetition_penalty"):
        trainer.train()
