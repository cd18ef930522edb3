"""Credit in TRL's own GRPO trainer, through the bridge of the core, on a small model."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.models.lm import small_lm
from noria.credit.config import named_credit
from noria.credit.credit import TokenCredit

pytest.importorskip("trl")


def grpo(tmp_path: Path, credit: Any, model: Any, tokenizer: Any, **settings: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig

    from noria.core.training.trl import ComponentGRPOTrainer

    args = GRPOConfig(
        **{
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 40,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "report_to": [],
            "save_strategy": "no",
            "use_cpu": True,
            "loss_type": "dapo",
        }
        | settings
    )

    def digits(completions: list[str], **_: Any) -> list[float]:
        return [sum(c.isdigit() for c in text) % 3 / 2 for text in completions]

    data = Dataset.from_dict({"prompt": ["Q: 3+4\n", "Q: 8*2-1\n", "Q: 9-5\n", "Q: 1+1+7\n"]})
    return ComponentGRPOTrainer(
        model=model,
        reward_funcs=digits,
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        token_credit=credit,
        around=credit.around,
    )


@pytest.fixture(name="seen")
def _seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every batch as it goes into the loss."""
    from noria.core.training.trl import ComponentGRPOTrainer

    batches: list[dict[str, Any]] = []
    original = ComponentGRPOTrainer._generate_and_score_completions

    def kept(self: Any, inputs: Any) -> Any:
        output = original(self, inputs)
        batches.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in output.items()})
        return output

    monkeypatch.setattr(ComponentGRPOTrainer, "_generate_and_score_completions", kept)
    return batches


def test_flow_credit_reaches_the_loss_of_grpo(tmp_path: Path, seen: list[dict[str, Any]]) -> None:
    from noria.credit.integrations.trl import RolloutCredit

    model, tokenizer = small_lm()
    credit = RolloutCredit(named_credit("flow"))
    trainer = grpo(tmp_path, credit, model, tokenizer)
    trainer.train()
    assert credit.passes_saved == 0  # on policy, TRL needs no pass over the completions: one of ours was made
    some = 0
    for batch in seen:
        mask = batch["completion_mask"].bool()
        for row, own in zip(batch["advantages"], mask, strict=True):
            assert not row[~own].any()
            values = row[own]
            if values.any():
                base = values.abs().min()
                ratios = (values / values[values.abs().argmin()]).round(decimals=4)
                assert set(ratios.tolist()) <= {1.0, 1.5}, base
                some += int((ratios == 1.5).sum())
    assert some > 0
    logged = [row for row in trainer.state.log_history if "credit/mean_weight" in row]
    assert len(logged) == 2
    for row in logged:
        assert 1 <= row["credit/mean_weight"] <= 1.2 + 1e-6
        assert 0 <= row["credit/fallback"] <= 1


def test_attention_is_read_in_the_trainer_s_own_pass_where_there_is_one(
    tmp_path: Path, seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from noria.credit.integrations.trl import RolloutCredit

    model, tokenizer = small_lm()
    config = named_credit("flow")
    credit = RolloutCredit(config)
    passes = {"ours": 0}
    original = TokenCredit.score

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        passes["ours"] += 1
        return original(self, *args, **options)

    found: list[tuple[Any, Any]] = []
    called = RolloutCredit.__call__

    def compared(self: Any, batch: Any) -> Any:
        weights = called(self, batch)
        # The same by a pass of our own, in parts of another size.
        monkeypatch.setattr(TokenCredit, "score", original)
        alone = called(RolloutCredit(named_credit("flow", batch_size=3)), batch)
        monkeypatch.setattr(TokenCredit, "score", counted)
        found.append((weights, alone))
        return weights

    monkeypatch.setattr(TokenCredit, "score", counted)
    monkeypatch.setattr(RolloutCredit, "__call__", compared)
    trainer = grpo(
        tmp_path,
        credit,
        model,
        tokenizer,
        num_iterations=2,  # so that TRL keeps the log-probabilities of who wrote
        steps_per_generation=2,
        per_device_train_batch_size=4,
        beta=0.01,  # and a pass of the reference model behind them
        max_steps=4,
    )
    trainer.train()
    assert "old_per_token_logps" in seen[0]
    assert credit.passes_saved == len(seen) > 0
    assert passes["ours"] == 0
    for weights, alone in found:
        assert torch.equal(weights, alone)


@pytest.mark.parametrize("name", ["ktae", "entropy", "random"])
def test_rivals_need_no_pass_of_the_trainer(tmp_path: Path, name: str) -> None:
    from noria.credit.integrations.trl import RolloutCredit

    model, tokenizer = small_lm()
    trainer = grpo(
        tmp_path, RolloutCredit(named_credit(name)), model, tokenizer, max_steps=1, max_completion_length=12
    )
    trainer.train()
    assert any("credit/mean_weight" in row for row in trainer.state.log_history)


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy
    import sys

    model, tokenizer = small_lm()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = {
        "model": tmp_path / "model",
        "output": tmp_path / "out",
        "steps": 1,
        "questions": 8,
        "rows": 4,
    }
    settings |= {"accumulate": 1, "group": 4, "tokens": 8}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["countdown.py", *words, "--cpu"])
    example = Path(__file__).parents[2] / "examples" / "credit" / "countdown.py"
    runpy.run_path(str(example), run_name="__main__")
    assert list((tmp_path / "out").rglob("model.safetensors"))


def tool_batch(pad: int, tokenizer: Any) -> Any:
    """Two completions: the policy calls a tool, the tool answers, with end tokens of its own, and the policy ends."""
    from types import SimpleNamespace

    from noria.core.training.trl import TokenBatch

    end = tokenizer.eos_token_id
    call, tool, final = (tokenizer(text)["input_ids"] for text in ("3+4 = ?\n", " 7 ", "3+4=7\n#### 7"))
    tool = [end, *tool, end, end]
    whole, short = [*call, *tool, *final, end], [*final, end]
    width = len(whole) + 3
    ids, present, own = (torch.full((2, width), value) for value in (pad, 0, 0))
    for row, text in enumerate((whole, short)):
        ids[row, : len(text)] = torch.tensor(text)
        present[row, : len(text)] = own[row, : len(text)] = 1
    own[0, len(call) : len(call) + len(tool)] = 0
    prompt = torch.tensor([tokenizer("Q: 3+4\n")["input_ids"]] * 2)
    trainer = SimpleNamespace(
        processing_class=SimpleNamespace(
            pad_token_id=pad,
            all_special_ids=[end, pad],
            decode=tokenizer.decode,
        ),
        model=small_lm()[0],
        num_generations=2,
        num_generations_eval=2,
        accelerator=SimpleNamespace(process_index=0),
        state=SimpleNamespace(global_step=0),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
    )
    return TokenBatch(
        prompt_ids=prompt,
        prompt_mask=torch.ones_like(prompt, dtype=torch.bool),
        completion_ids=ids,
        completion_mask=present.bool(),
        mask=own.bool(),
        advantages=torch.tensor([1.0, -1.0]),
        inputs=[{}, {}],
        trainer=trainer,
    )


@pytest.mark.parametrize("name", ["flow", "flow_emission", "attention", "waad", "oar_g"])
def test_tool_rollouts_are_credited_alike_whether_padding_is_the_end_token_or_not(name: str) -> None:
    """Masks come from what was generated, never from the values of tokens."""
    from noria.credit.integrations.trl import RolloutCredit

    _, tokenizer = small_lm()
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    weights = [
        RolloutCredit(named_credit(name))(tool_batch(pad, tokenizer))
        for pad in (tokenizer.pad_token_id, tokenizer.eos_token_id)
    ]
    assert torch.equal(*weights)
    assert (weights[0] != 1).any()


def test_the_answer_is_marked_where_it_stands_behind_a_tools_end_tokens() -> None:
    from noria.credit.integrations.trl import RolloutCredit

    _, tokenizer = small_lm()
    batch = tool_batch(tokenizer.eos_token_id, tokenizer)
    credit = RolloutCredit(named_credit("flow", answer="hash"))
    marked = []
    original = TokenCredit.score

    def seen(self: Any, model: Any, traces: Any, **more: Any) -> Any:
        marked.extend(
            tokenizer.decode(row[own]) for row, own in zip(traces.tokens, traces.answer, strict=True)
        )
        assert not (traces.answer & ~traces.response).any()
        return original(self, model, traces, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenCredit, "score", seen)
        credit(batch)
    assert [text.strip() for text in marked] == ["7", "7"]


def test_an_answer_is_found_where_the_completion_begins_with_a_tools_words() -> None:
    from noria.credit.responses.answers import finder
    from noria.credit.responses.traces import completion_traces

    _, tokenizer = small_lm()
    prompt, tool, final = (tokenizer(text)["input_ids"] for text in ("Q: 3+4\n", "hint 7\n", "3+4=7 #### 7"))
    tokens = torch.tensor([[*prompt, *tool, *final]])
    written = torch.tensor([[False] * len(tool) + [True] * len(final)])
    traces = completion_traces(
        tokens, torch.ones_like(tokens).bool(), written, tokenizer, finder("hash"), named_credit("flow")
    )
    assert tokenizer.decode(tokens[traces.answer]).strip() == "7"
    assert traces.answer[0, -len(final) :].any()
    assert traces.known.tolist() == [0]
