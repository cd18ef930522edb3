"""Two processes train a head as one does, the backbone whole in each or sharded over both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from noria.core.models.lm import small_lm
from noria.core.runs.run import read_metrics
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.proof.small_heads import own_text, text_prompts
from tests.processes import SHARDED, alone, together

STEPS = 6


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's own completions, of unequal lengths: processes have unequally many chains that count."""
    model, tokenizer = small_lm()
    rows = own_text(model, text_prompts(tokenizer, 60, seed=5), length=40, seed=5, params=SamplingParams())
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    with path.open("w") as file:
        for n, tokens in enumerate(rows.tokens.tolist()):
            kept = tokens[: 12 + 5 * (n % 6)]
            file.write(json.dumps({"input_ids": kept, "loss_mask": [0] * 4 + [1] * (len(kept) - 4)}) + "\n")
    return path


def command(text: Path, folder: Path, *overrides: str) -> list[str]:
    settings = [
        f"steps={STEPS}",
        "batch_size=4",
        "length=40",
        "train_gamma=3",
        "lr=1e-3",
        "checkpoint_every=3",
    ]
    return ["mtp", "train", "--model", "small", "--data", str(text), "-o", str(folder), *settings, *overrides]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "more"), [((), {}), (("loss=ce",), SHARDED)], ids=["e2e_tv", "ce, backbone sharded"]
)
def test_two_processes_train_as_one(
    text: Path, tmp_path: Path, overrides: tuple[str, ...], more: dict[str, str]
) -> None:
    alone(command(text, tmp_path / "one", *overrides))
    together(command(text, tmp_path / "two", *overrides, "steps=3"), **more)
    together(command(text, tmp_path / "two", *overrides), **more)  # goes on where the two had come to
    step = f"checkpoints/step-{STEPS:08d}/tensors.safetensors"
    one, two = load_file(tmp_path / "one" / step), load_file(tmp_path / "two" / step)
    assert one.keys() == two.keys()
    for name in one:
        # Adam's first steps are the gradients' signs: where a gradient is round-off, they may differ by a whole step.
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=2e-5, msg=name)
    for mine, theirs in zip(*map(read_metrics, (tmp_path / "one", tmp_path / "two")), strict=True):
        assert mine["chains"] == theirs["chains"]
        for name in (
            "loss",
            "grad_norm",
            "conditional_rate_1",
            "conditional_rate_3",
            "accept_length_factorised",
        ):
            assert mine[name] == pytest.approx(theirs[name], rel=2e-4), name
    scores = [json.loads((tmp_path / run / "score.json").read_text()) for run in ("one", "two")]
    assert scores[0]["rules"]["rejection"]["accept_length"]["mean"] == pytest.approx(
        scores[1]["rules"]["rejection"]["accept_length"]["mean"], rel=1e-4
    )
