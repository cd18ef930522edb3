"""The small language model's text, tokenizer and training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noria.core.errors import DataError, ModelError
from noria.core.models.lm import (
    answer_of,
    arithmetic,
    build_small_lm,
    load_lm,
    pack,
    python_sources,
    save_lm,
    small_config,
    small_lm,
    train_lm,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def sources() -> list[str]:
    return python_sources(held_out=True)


def test_held_out_files_are_others_and_a_tenth(tmp_path: Path) -> None:
    for n in range(200):
        (tmp_path / f"m{n}.py").write_text(f"x = {n}\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text("test\n")
    (tmp_path / "other.py").write_text("é = 1\n", encoding="utf-8")
    train, held = python_sources(folder=tmp_path), python_sources(held_out=True, folder=tmp_path)
    assert sorted(train + held) == sorted(f"x = {n}\n" for n in range(200))
    assert 5 <= len(held) <= 45
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no Python sources"):
        python_sources(folder=tmp_path / "empty")


def test_every_arithmetic_answer_is_right_and_worked_step_by_step() -> None:
    problems = arithmetic(300, seed=1)
    assert problems == arithmetic(300, seed=1)
    assert problems != arithmetic(300, seed=2)
    for problem in problems:
        assert eval(problem.question.removeprefix("Q: ")) == problem.answer == answer_of(problem.text)
        for step in problem.solution.split(" ####")[0].split():
            left, right = step.split("=")
            assert eval(left) == int(right)
    assert answer_of("no answer") is None
    assert answer_of("#### 3 then #### -12.") == -12


def test_the_tokenizer_loses_nothing_and_keeps_digits_apart(sources: list[str]) -> None:
    tokenizer = train_tokenizer(sources[:8], 600)
    assert len(tokenizer) == 600
    text = sources[10][:2000] + " 12345\t\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("12345")["input_ids"]) == 5
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)


def test_packing_keeps_order_and_ends() -> None:
    rows = pack([[5, 6, 7], [8, 9]], 3)
    assert rows.tolist() == [[5, 6, 7], [0, 8, 9]]
    with pytest.raises(DataError, match="do not fill a row"):
        pack([[1]], 5)


def test_training_learns_and_is_the_same_twice_and_survives_a_file(
    tmp_path: Path, sources: list[str]
) -> None:
    from transformers import Qwen3ForCausalLM

    tokenizer = train_tokenizer(sources[:8], 400)
    rows = pack([tokenizer(text)["input_ids"] for text in sources[:8]], 65)
    losses: list[list[float]] = []
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(small_config(400, width=48, layers=2, heads=2))
        seen: list[float] = []
        train_lm(
            model, rows, steps=40, batch_size=4, lr=5e-3, on_step=lambda _, loss, to=seen: to.append(loss)
        )
        losses.append(seen)
        models.append(model)
    assert losses[0] == losses[1]
    assert sum(losses[0][-5:]) < 0.85 * sum(losses[0][:5])
    save_lm(models[0], tokenizer, tmp_path / "lm")
    assert not list((tmp_path / "lm").glob("*.bin"))
    model, again = load_lm(tmp_path / "lm")
    assert torch.equal(model(rows[:1]).logits, models[0](rows[:1]).logits)
    assert again("def f(x):")["input_ids"] == tokenizer("def f(x):")["input_ids"]


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a causal language model"):
        load_lm(tmp_path)


def test_the_model_that_ships_has_learnt_both_of_its_texts(sources: list[str]) -> None:
    model, tokenizer = small_lm()
    assert sum(p.numel() for p in model.parameters()) < 3.1e6
    problems = arithmetic(80, seed=7)
    both = {
        "code": (tokenizer(sources[:6])["input_ids"], 4.0),
        "arithmetic": (
            tokenizer(["\n".join(p.text for p in problems[i : i + 8]) for i in range(0, 80, 8)])["input_ids"],
            0.65,
        ),
    }
    for name, (ids, most) in both.items():
        rows = pack(ids, 129)[:24]
        with torch.no_grad():
            assert float(model(rows, labels=rows).loss) < most, name


def test_it_can_be_built_again(tmp_path: Path) -> None:
    losses: list[float] = []
    held_out = build_small_lm(tmp_path / "lm", steps=3, on_step=lambda step, loss: losses.append(loss))
    model, tokenizer = load_lm(tmp_path / "lm")
    shipped, words = small_lm()
    one, other = model.config.to_dict(), shipped.config.to_dict()
    assert one | {"_name_or_path": None} == other | {"_name_or_path": None}
    assert words.get_vocab().keys() & tokenizer.get_vocab().keys()
    assert held_out.keys() == {"code", "arithmetic"}
    assert all(nats == pytest.approx(losses[-1], abs=1) for nats in held_out.values())
    assert losses[0] == pytest.approx(7.6, abs=0.3), "log 2048: it starts knowing nothing"
