"""The verbs of `noria mtp`, run as a user runs them, on the small model that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from noria.cli import main
from noria.core.models.lm import small_lm
from tests.mtp.tiny_models import BACKBONES

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the small model writes behind arithmetic questions."""
    folder = tmp_path_factory.mktemp("text")
    prompts = folder / "prompts.jsonl"
    questions = [f"Q: {a}+{b}*2\n" for a in range(10, 30) for b in (3, 7, 12)]
    prompts.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in questions))
    path = folder / "text.jsonl"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "mtp",
                "sample",
                "small",
                "--prompts",
                str(prompts),
                "-o",
                str(path),
                "--max-new-tokens",
                "48",
                "-q",
            ]
        )
    assert ended.value.code == 0
    return path


SHORT = ["length=128", "train_gamma=2", "batch_size=4", "lr=1e-3", "steps=3"]


def test_from_prompts_to_a_served_model(noria: Any, text: Path, here: Path) -> None:
    done = noria("train", "--model", "small", "--data", str(text), "-o", "run", *SHORT, "temperature=0.8")
    assert done.code == 0
    assert "run     run   3 steps" in done.out
    assert "by rejection" in done.out
    assert "from the model's files" in done.err
    page = (here / "run" / "report.html").read_text()
    assert "Acceptance on held-out text" in page
    assert "Gradient norm" in page
    assert "before training" in page
    assert json.loads((here / "run" / "start-score.json").read_text())["step"] == 0
    assert [json.loads(line)["step"] for line in (here / "run" / "metrics.jsonl").open()] == [1, 2, 3]

    done = noria("evaluate", "run", "--data", str(text), "--gamma", "2", "--json", "-q")
    scored = json.loads(done.out)
    lengths = {rule: found["accept_length"]["mean"] for rule, found in scored["rules"].items()}
    # Of one draft and one target, block keeps no less than rejection, which keeps no less than match.
    assert 1 < lengths["match"] <= lengths["rejection"] <= lengths["block"] <= 3
    for found in scored["rules"].values():
        assert found["accept_length"]["mean"] == pytest.approx(
            1 + sum(rate["mean"] for rate in found["prefix_rates"])
        )
        assert found["over_positions"]["accept_length"]["mean"] != found["accept_length"]["mean"]
    assert (here / "runs" / "mtp" / "evaluation-run" / "evaluation.html").exists()

    for filters in ([], ["--top-k", "40"]):  # the run's own temperature, whatever else is said
        done = noria("evaluate", "run", "--data", str(text), "--gamma", "2", "--json", "-q", *filters)
        assert json.loads(done.out)["temperature"] == 0.8
    done = noria("export", "run", "-o", "model", "--gamma", "2")
    assert done.code == 0
    assert "--speculative-config" in done.out
    assert "no MTP for qwen3 models" in done.out
    assert "NEXTN" in done.out
    done = noria("evaluate", "model", "--data", str(text), "--gamma", "2", "--json", "-q", "-t", "0.8")
    again = json.loads(done.out)
    for rule, length in lengths.items():
        assert again["rules"][rule]["accept_length"]["mean"] == pytest.approx(
            length, abs=0.02
        )  # stored in bfloat16
    assert json.loads((here / "model" / "config.json").read_text())["mtp_num_hidden_layers"] == 1


@pytest.mark.parametrize("family", ["deepseek_v3", "mimo"])
def test_a_run_on_another_family_is_scored_and_exported(noria: Any, here: Path, family: str) -> None:
    """Experts, whose balance is no parameter, and a family that transformers does not know."""
    model, tokenizer = BACKBONES[family](vocab_size=2048, eos_token_id=0), small_lm()[1]
    model.save_pretrained(here / "base")
    tokenizer.save_pretrained(here / "base")
    config = json.loads((here / "base" / "config.json").read_text())
    if family == "mimo":
        config |= {"model_type": "mimo", "architectures": ["MiMoForCausalLM"]}
        (here / "base" / "config.json").write_text(json.dumps(config))
    rows = [{"input_ids": [(7 * row + n) % 2048 for n in range(20)]} for row in range(24)]
    (here / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["length=64", "batch_size=4", "steps=2", "layers=2", "train_gamma=2"]
    done = noria("train", "--model", "base", "--data", "text.jsonl", "-o", "run", *settings)
    assert done.code == 0, done.err
    scored = ["--data", "text.jsonl", "--gamma", "2", "--length", "64", "--json", "-q"]
    of_run = json.loads(noria("evaluate", "run", *scored).out)["rules"]
    for verb in (["export", "run", "-o", "model"], ["evaluate", "run", *scored[:2]], ["audit", "run"]):
        done = noria(*verb, "--gamma", "3")
        assert done.code == 2
        assert "--gamma: 3 drafts a round of a head with 2 layers; give at most 2" in done.err
    done = noria("advise", "run", *scored[:2], "--context", "2000", "-q")
    assert "context: 2000 tokens" in done.err
    (here / "base").rename(here / "elsewhere")
    assert "name it with --model" in noria("evaluate", "run", *scored).err
    done = noria("evaluate", "run", "--model", "elsewhere", *scored)
    assert json.loads(done.out)["rules"] == of_run
    (here / "elsewhere").rename(here / "base")
    done = noria("export", "run", "-o", "model")
    assert done.code == 0, done.err
    assert '"num_speculative_tokens": 2' in done.out
    assert ("first layer" in done.out) == (family == "mimo")
    of_model = json.loads(noria("evaluate", "model", *scored).out)["rules"]
    for rule, found in of_run.items():
        assert of_model[rule]["accept_length"] == pytest.approx(found["accept_length"], rel=1e-4)


def test_the_same_command_goes_on_and_ends_as_if_it_had_not_stopped(
    noria: Any, text: Path, here: Path
) -> None:
    train = [
        "train",
        "--model",
        "small",
        "--data",
        str(text),
        "-q",
        *SHORT[:-1],
        "checkpoint_every=2",
        "warmup=0",
    ]
    assert noria(*train, "-o", "whole", "steps=4").code == 0
    assert noria(*train, "-o", "parts", "steps=2").code == 0
    assert noria(*train, "-o", "parts", "steps=4").code == 0
    whole, parts = ((here / name / "metrics.jsonl").read_text() for name in ("whole", "parts"))
    assert whole == parts
    other = noria(*train, "-o", "parts", "steps=4", "loss=ce")
    assert other.code == 2
    assert "loss" in other.err
    text2 = here / "other.jsonl"
    text2.write_text(text.read_text().splitlines()[0] * 1 + "\n")
    other = noria("train", "--model", "small", "--data", str(text2), "-o", "parts", *SHORT)
    assert other.code == 2
    assert "another data" in other.err


def test_advice_is_a_table_and_a_verdict(noria: Any, text: Path) -> None:
    asked = [
        "advise",
        "small",
        "--data",
        str(text),
        "--gammas",
        "1,3",
        "--rounds",
        "3",
        "--context",
        "16",
        "-q",
    ]
    done = noria(*asked)
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("advice  ")
    found = json.loads(noria(*asked, "--least", "50", "--json").out)
    assert found["rule"] is None
    assert "do not use MTP here" in found["verdict"]
    seconds = found["seconds"]
    for rule in ("rejection", "target_only"):
        for option in found["rules"][rule]:
            cost = seconds["verify"][str(option["gamma"])] + option["gamma"] * seconds["draft"]
            assert option["break_even"] == pytest.approx(cost / seconds["step"])
            length = option["accept_length"]["mean"]
            assert option["speed_up"]["mean"] == pytest.approx(length * seconds["step"] / cost)


def test_an_audit_says_what_it_found(noria: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["--samples", "100", "--depth", "1", "--prompt", "Q: 1+2", "-q"]
    done = noria("audit", "small", "--gamma", "1", *few, "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["verdict"] != "fail"
    made = {check["name"]: check["passed"] for check in report["checks"]}
    assert made["stale draft"] is made["disjoint supports"] is True
    import sys

    module = type(sys)("sampler_of_one")
    module.sample = lambda prompt, n, params, seed: [[5, 5]] * n  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sampler_of_one", module)
    done = noria("audit", "small", "--engine", "sampler_of_one:sample", *few[:-1])
    assert "audit: done in" in done.err
    assert done.code == 1
    assert "FAIL" in done.out
    (here / "mine.py").write_text("def sample(prompt, n, params, seed):\n    return [[5, 5]] * n\n")
    assert noria("audit", "small", "--engine", "mine:sample", *few).code == 1


def test_an_audit_says_how_far_it_is() -> None:
    import torch

    from noria.mtp.engines.audit import STEPS, audit

    told: list[tuple[int, str]] = []
    audit(
        lambda prompt, n, params, seed: [[0]] * n,
        lambda prefixes: torch.full((len(prefixes), 2), 0.5),
        [[0]],
        samples=50,
        on_step=lambda number, name: told.append((number, name)),
    )
    assert [number for number, _ in dict.fromkeys(told)] == list(range(STEPS))
    assert told[0] == (0, "law of tokens")
    assert len(told) > STEPS  # and while one question is asked


def test_prompts_that_go_past_a_chat_template_are_pointed_at(noria: Any, here: Path) -> None:
    from noria.core.models.loading import open_language_model, save_language_model

    opened = open_language_model("small")
    opened.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    save_language_model(opened.model, opened.tokenizer, here / "chatty")
    few = ["--max-new-tokens", "1"]
    (here / "plain.jsonl").write_text('{"prompt": "Q"}\n')
    (here / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "Q"}]}\n')
    done = noria("sample", "chatty", "--prompts", "plain.jsonl", "-o", "a.jsonl", *few)
    assert "the model has a chat template" in done.err
    assert "template" not in noria("sample", "chatty", "--prompts", "chat.jsonl", "-o", "b.jsonl", *few).err
    assert "template" not in noria("sample", "small", "--prompts", "plain.jsonl", "-o", "c.jsonl", *few).err


def test_a_gguf_model_is_trained_and_exported(noria: Any, here: Path) -> None:
    pytest.importorskip("gguf")
    from tests.core.gguf_files import write_tiny_llama

    write_tiny_llama(here / "tiny.gguf")
    rows = [{"prompt": "a", "completion": f" b c d e f g {n}"} for n in range(24)]
    (here / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["length=32", "batch_size=2", "steps=1", "layout=mimo"]
    assert noria("train", "--model", "tiny.gguf", "--data", "text.jsonl", "-o", "run", *settings).code == 0
    assert noria("export", "run", "-o", "model").code == 0
    scored = ["--data", "text.jsonl", "--length", "32", "--gamma", "2", "--json", "-q"]
    of_run, of_model = (json.loads(noria("evaluate", source, *scored).out) for source in ("run", "model"))
    assert of_run["rules"] == of_model["rules"]
    assert sorted(path.name for path in here.iterdir()) == ["model", "run", "runs", "text.jsonl", "tiny.gguf"]


def test_an_rl_log_is_read_as_frameworks_write_it(noria: Any, here: Path) -> None:
    # L = 4 − 2 H exactly: all of the change is entropy's.
    rows = [
        {"step": s, "actor/entropy": 0.5 - 0.01 * s, "rollout/accept_length": 3 + 0.02 * s} for s in range(30)
    ]
    (here / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"lr": 1e-6}, *rows]))
    found = json.loads(noria("rl-report", "log.jsonl", "--json").out)
    assert found["regression"]["slope"] == pytest.approx(-2)
    assert found["steps"][-1]["entropy_part"] == pytest.approx(0.58)
    assert found["steps"][-1]["mismatch"] == pytest.approx(0, abs=1e-9)
    assert (
        "Accept length against entropy"
        in (here / "runs" / "mtp" / "rl-report-log" / "rl-report.html").read_text()
    )
    (here / "trainer_state.json").write_text(json.dumps({"global_step": 30, "log_history": rows}))
    of_trl = json.loads(noria("rl-report", "trainer_state.json", "--json").out)
    assert of_trl["regression"] == found["regression"]
    (here / "other.json").write_text("{}")
    assert "no log_history" in noria("rl-report", "other.json").err
    done = noria("rl-report", "log.jsonl", "--entropy-field", "H")
    assert done.code == 2
    assert "--entropy-field" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--model", "small"], "data: no data given"),
        (["train", "--model", "small", "--data", "TEXT", "los=ce"], "did you mean 'loss'"),
        (["train", "--model", "small", "--data", "TEXT", "train_gamma=99"], "train_gamma"),
        (["train", "--model", "nowhere", "--data", "TEXT"], "nowhere: no such model"),
        (["train", "--model", "a/b", "--data", "TEXT"], "--allow-download"),
        (["train", "--model", "small", "--data", "none.jsonl"], "none.jsonl"),
        (
            ["train", "--model", "small", "--data", "TEXT", "layers=2", "start=checkpoint", "train_gamma=2"],
            "layers=1",
        ),
        (["evaluate", "small", "--data", "TEXT", "--rules", "luck"], "no rule 'luck'"),
        (["evaluate", "empty", "--data", "TEXT"], "empty"),
        (["advise", "small", "--data", "TEXT", "--gammas", "x"], "--gammas"),
        (["advise", "small", "--data", "TEXT", "--gammas", "1.5"], "no list of counts"),
        (["advise", "small", "--data", "TEXT", "--gammas", "0,33"], "--gammas"),
        (["advise", "small", "--data", "TEXT", "--model", "other"], "small is a model itself"),
        (["audit", "small", "--url", "http://x", "--plain"], "--plain: it does nothing with --url"),
        (["audit", "small", "--url", "http://x", "--engine", "noria"], "--engine: it does nothing"),
        (["audit", "small", "--served-model", "x"], "--served-model: it does nothing without --url"),
        (["audit", "small", "--engine", "transformers", "--rule", "block"], "--rule: it does nothing"),
        (["audit", "small", "--plain", "--rule", "block"], "--rule: it does nothing with --plain"),
        (["audit", "small", "--prompts", "TEXT", "--prompt", "a"], "--prompt: it does nothing"),
        (["sample", "small", "--prompts", "TEXT", "--rule", "block"], "--rule: it does nothing without"),
        (["rl-report", "TEXT", "--slope", "1", "--early", "3"], "--early: it does nothing with --slope"),
        (["advise", "small", "--data", "TEXT", "--gammas", ""], "--gammas"),
        (["audit", "small", "--engine", "hope"], "no engine 'hope'"),
        (["audit", "small", "--prompt", ""], "--prompt"),
        (["audit", "small", "--url", "127.0.0.1"], "--url"),
        (["sample", "small", "--prompts", "TEXT", "-o", "out.txt"], ".jsonl"),
        (["export", "small", "-o", "../out"], "--output"),
        (["rl-report", "none.jsonl"], "none.jsonl"),
        (["rl-report", "TEXT"], "name it with"),
        (["report", "empty"], "empty"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_left(
    noria: Any, text: Path, here: Path, arguments: list[str], told: str
) -> None:
    (here / "empty").mkdir()
    done = noria(*(str(text) if word == "TEXT" else word for word in arguments))
    lines = [line for line in done.err.splitlines() if line.startswith("noria: error: ")]
    assert done.code == 2
    assert done.out == ""
    assert len(lines) == 1
    assert told in lines[0]
    assert [path.name for path in here.iterdir()] == ["empty"]
