"""Drafted rollouts in TRL's own GRPO trainer, on a small model."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from noria.core.errors import ConfigError, ModelError
from noria.core.models.lm import small_lm
from noria.core.statistics.intervals import Interval
from noria.mtp.heads.small import small_head
from noria.mtp.integrations.trl import Rollouts
from noria.mtp.rl.monitors import DriftMonitor
from tests.mtp.tiny_models import tiny

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
    head = small_head(small_lm()[0])  # of another copy, as where the trainer opens the model by its name
    drafts = {name: p.detach().clone() for name, p in head.named_parameters()}
    before = model.get_output_embeddings().weight.detach().clone()
    drift = DriftMonitor([Interval(0.999, 0.998, 1.0, 9)], tolerance=0.0)
    rollouts = Rollouts(head, drift=drift)
    trainer = grpo(tmp_path, rollouts, model, tokenizer)
    with pytest.warns(UserWarning, match=r"99.9 % were predicted"):
        trainer.train()
    assert head.embedding is model.get_input_embeddings()
    assert head.output is model.get_output_embeddings()
    assert not torch.equal(model.get_output_embeddings().weight, before)
    assert all(torch.equal(p, drafts[name]) for name, p in head.named_parameters())
    assert rollouts.calls >= 1
    logged = [row for row in trainer.state.log_history if "rollout/accept_length" in row]
    assert logged
    for row in logged:
        rates = [row[f"rollout/prefix_rate_{n}"] for n in (1, 2, 3)]
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
    trainer = grpo(tmp_path, Rollouts(head), model, tokenizer, generation_kwargs={"suppress_tokens": [3]})
    with pytest.raises(ConfigError, match="generation_kwargs"):
        trainer.train()


def test_prompts_ends_and_seeds_are_the_trainers() -> None:
    model, tokenizer = small_lm()
    rollouts = Rollouts(small_head(model), gamma=2)
    tokenizer.chat_template = (
        "{% if think %}!{% endif %}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    newline = tokenizer("\n")["input_ids"][-1]

    def trainer(step: int, seed: int = 0) -> Any:
        return SimpleNamespace(
            model=model,
            accelerator=SimpleNamespace(
                unwrap_model=lambda model: model, autocast=contextlib.nullcontext, process_index=0
            ),
            args=SimpleNamespace(
                temperature=1.0, top_k=0, top_p=1.0, min_p=None, seed=seed, max_completion_length=16
            ),
            processing_class=tokenizer,
            state=SimpleNamespace(global_step=step),
            eos_token_ids=[tokenizer.eos_token_id, newline],
            chat_template_kwargs={"think": True},
        )

    chats = [[{"role": "user", "content": "Q: 3+4\n"}]] * 4
    done = rollouts(chats, trainer(5))
    assert done["prompt_ids"] == [tokenizer("!Q: 3+4\n")["input_ids"]] * 4
    for tokens in done["completion_ids"]:
        assert newline not in tokens[:-1]
    assert any(tokens[-1] == newline and len(tokens) < 16 for tokens in done["completion_ids"])
    again, later = rollouts(chats, trainer(5)), rollouts(chats, trainer(6))
    resumed = Rollouts(rollouts.head, gamma=2)(chats, trainer(6))
    texts = [result["completion_ids"] for result in (done, again, later)]
    assert texts[0] != texts[1] != texts[2] != texts[0]
    assert resumed["completion_ids"] == later["completion_ids"], "a run that goes on draws what it would have"


def test_a_head_of_another_width_and_sharded_weights_are_told() -> None:
    head = small_head(small_lm()[0])
    with pytest.raises(ModelError, match="another model's head"):
        head.attach(tiny("qwen3"))
    model = tiny("qwen3")
    next(model.parameters()).ds_id = 1  # type: ignore[attr-defined]
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        args=SimpleNamespace(temperature=1.0, top_k=0, top_p=1.0, min_p=None),
    )
    with pytest.raises(ConfigError, match="sharded"):
        Rollouts(head)([], trainer)
