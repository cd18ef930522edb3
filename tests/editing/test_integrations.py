"""TRL, verl and diffusers as they are: the rewards reach the trainer, a frozen pipeline stays the same."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from noria.core.chat import Part, Text
from noria.core.errors import DataError, ModelError
from noria.core.judging import RuleJudge
from noria.core.judging.items import Item
from noria.core.training.trl import RewardBatch
from noria.editing.data.tasks import Task
from noria.editing.editors.pipeline import PipelineEditor, module_digest
from noria.editing.environment.cache import RenderCache
from noria.editing.environment.judges import AtomicJudges, JudgeSettings
from noria.editing.environment.rendering import Renderer
from noria.editing.environment.rewarding import RewardEnvironment, Rollout, ScoredRollout
from noria.editing.integrations.trl import StreamAdvantages, TrlRewards, text_of
from noria.editing.integrations.verl import ComputeScore, stream_of
from noria.editing.rewards.streams import StreamSettings, expand
from noria.editing.types import EditorError
from tests.editing.doubles import Painter, output, painted, square
from tests.editing.test_environment import CHECKLIST, SCENE, environment, eye, rollout

GREEN, BLUE = output("paint the square green"), output("paint the square blue")


def rewards(tmp_path: Path, painter: Painter) -> TrlRewards:
    square().save(tmp_path / "a.png")
    task = Task("t", ("a.png",), "after the rain?", checklist=CHECKLIST)
    return TrlRewards(environment(painter, RuleJudge(eye), cache=True), [task], tmp_path)


@pytest.mark.anyio
async def test_each_row_has_the_reward_of_its_stream_alone(tmp_path: Path) -> None:
    painter = Painter()
    made = rewards(tmp_path, painter)
    columns = {"task": ["t"] * 4, "stream": ["cognitive", "cognitive", "visual", "visual"]}
    completions = [GREEN, BLUE, GREEN, "no tags"]
    logged: dict[str, float] = {}
    both = await asyncio.gather(
        *(f(prompts=[""] * 4, completions=completions, log_metric=logged.__setitem__, **columns)
          for f in made.functions)
    )  # fmt: skip
    assert both == [[1.0, 0.0, None, None], [None, None, 1.0, 0.0]]
    assert len(painter.calls) == 1  # the cognitive stream renders nothing, nor does an output without a plan
    assert (logged["coverage/visual"], logged["strict/cognitive"]) == (1.0, 0.5)


@pytest.mark.anyio
async def test_both_functions_share_one_scoring(tmp_path: Path) -> None:
    painter = Painter()
    made = rewards(tmp_path, painter)
    both = await asyncio.gather(
        *(f(prompts=["", ""], completions=[GREEN, BLUE], task=["t", "t"]) for f in made.functions)
    )
    assert both == [[1.0, 0.0], [1.0, 0.5]]
    assert len(painter.calls) == 2
    assert made.environment.judges.counts.requests == 4  # a plan and a picture of each rollout, once
    assert not made._under_way
    with pytest.raises(DataError, match="no task"):
        await made.reward_cog([""], [GREEN], task=["other"])


def test_stream_advantages_are_the_rule_of_the_settings() -> None:
    nan = math.nan
    batch = RewardBatch(
        torch.tensor([[0.0, nan], [1.0, nan], [nan, 0.2], [nan, 0.8]]),
        ("reward_cog", "reward_vis"),
        torch.tensor([0, 0, 1, 1]),
        ("",) * 4,
        True,
        0,
    )
    result = StreamAdvantages(StreamSettings())(batch)
    assert result.values.sign().tolist() == [-1, 1, -1, 1]
    assert result.metrics["known/reward_cog"] == 0.5


def test_trl_trains_on_both_streams_and_renders_one(tmp_path: Path) -> None:
    """Real steps of TRL's trainer: a prompt has a group a stream, each with its own reward, and half is rendered."""
    from datasets import Dataset
    from trl import GRPOConfig

    from noria.core.training.trl import Advantages, ComponentGRPOTrainer
    from tests.core.test_trl import tiny

    class Tagged(RewardEnvironment):
        """What an untrained policy writes has no tags: they are put around it."""

        async def score(self, rollout: Rollout) -> ScoredRollout:
            return await super().score(replace(rollout, output=output(f"{rollout.number} {rollout.output}")))

    painter, batches = Painter(), []
    made = rewards(tmp_path, painter)

    def ones(item: Item, subject: Sequence[Part]) -> bool:
        last = subject[-1]
        return not isinstance(last, Text) or last.text.count("1") > 0

    digits = RuleJudge(ones)
    renderer = Renderer(painter, cache=RenderCache())
    made.environment = Tagged(renderer, AtomicJudges(digits, digits, JudgeSettings(canaries=0)))
    settings = StreamSettings(cognitive_group=4, visual_group=4)

    def advantages(batch: RewardBatch) -> Advantages:
        batches.append(batch)
        return StreamAdvantages(settings)(batch)

    model, tokenizer = tiny()
    trainer = ComponentGRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=made.functions,
        advantage_function=advantages,
        train_dataset=Dataset.from_list(expand([{"prompt": "plan the rain", "task": "t"}], settings)),
        args=GRPOConfig(output_dir=str(tmp_path / "run"), per_device_train_batch_size=8, num_generations=4, max_steps=2,
                        max_completion_length=6, report_to=[], save_strategy="no", use_cpu=True, seed=3,
                        learning_rate=1e-3),
    )  # fmt: skip
    trainer.train()
    assert len(batches) == 2
    for batch in batches:
        known = batch.rewards.isfinite()
        assert known.sum(1).tolist() == [1] * 8
        assert all(
            len(set(known[batch.group == g][:, 0].tolist())) == 1 for g in (0, 1)
        )  # one stream a group
        assert known[:, 0].sum() == 4
    assert len(painter.calls) == 8  # two steps of four


COMPLETIONS: list[Any] = [
    "a b",
    [{"role": "assistant", "content": "a b"}],
    [{"content": [{"type": "text", "text": "a "}, {"text": "b"}]}],
]


@pytest.mark.parametrize("completion", COMPLETIONS, ids=["text", "message", "parts"])
def test_the_text_of_a_completion(completion: Any) -> None:
    assert text_of(completion) == "a b"


# -- verl -------------------------------------------------------------------------------------------------------------


def test_verl_scores_by_data_source() -> None:
    score = ComputeScore(environment, lambda name, text, stream: rollout("", stream))
    assert score("editing/both", "x", "t")["score"] == 0.0  # no plan
    good = ComputeScore(environment, lambda name, text, stream: rollout("paint the square green", stream))
    assert good("editing/cognitive", "x", "t")["score"] == 1.0
    assert good("editing/both", "x", "t")["score"] == 2.0
    with pytest.raises(DataError, match="no stream"):
        good("gsm8k", "x", "t")
    assert stream_of("editing/visual") == "visual"


def test_verl_gets_no_made_up_number() -> None:
    def fault(number: int) -> None:
        raise EditorError("no", kind="refused")

    def make(drop: bool) -> ComputeScore:
        return ComputeScore(
            lambda: environment(Painter(fault=fault)), lambda n, o, s: rollout(stream=s), drop_masked=drop
        )

    with pytest.raises(DataError, match="masked reward"):
        make(False)("editing/visual", "x", "t")
    dropped = make(True)("editing/visual", "x", "t")
    assert math.isnan(dropped["score"])
    assert dropped["masked"] == 1.0


# -- diffusers --------------------------------------------------------------------------------------------------------


class Pipeline:
    """What a diffusers pipeline looks like from outside."""

    def __init__(self) -> None:
        self.components = {"net": torch.nn.Linear(2, 2), "scheduler": object()}
        self.seen: list[dict[str, Any]] = []

    def __call__(self, image: Any, prompt: str, generator: Any = None, num_inference_steps: int = 50) -> Any:
        self.seen.append({"seed": generator.initial_seed(), "steps": num_inference_steps, "prompt": prompt})
        first = image[0] if isinstance(image, list) else image
        return SimpleNamespace(images=[painted(first, prompt)], nsfw_content_detected=[prompt == "nsfw"])


@pytest.mark.anyio
async def test_a_pipeline_is_an_editor_and_stays_frozen() -> None:
    pipeline = Pipeline()
    editor = PipelineEditor(pipeline, "small", num_inference_steps=4)
    before = editor.fingerprint()
    made = await editor.edit([square()], "paint the square green", 7)
    assert made.tobytes() == painted(square(), "paint the square green").tobytes()
    assert pipeline.seen == [{"seed": 7, "steps": 4, "prompt": "paint the square green"}]
    assert editor.fingerprint() == before == module_digest(pipeline.components["net"])
    with torch.no_grad():
        pipeline.components["net"].weight[0, 0] += 1e-3  # type: ignore[attr-defined]
    assert editor.fingerprint() != before
    assert editor.name == "small (Pipeline; num_inference_steps=4)"


@pytest.mark.anyio
async def test_what_a_pipeline_cannot_honour_is_an_error() -> None:
    editor = PipelineEditor(Pipeline(), "small")
    with pytest.raises(EditorError) as raised:
        await editor.edit([square()], "x", 0, mask=square().convert("L"))
    assert raised.value.kind == "unsupported"
    with pytest.raises(EditorError) as raised:
        await editor.edit([square()], "nsfw", 0)
    assert raised.value.kind == "refused"
    with pytest.raises(ModelError, match="takes no 'strength'"):
        PipelineEditor(Pipeline(), "small", strength=0.5)
    assert SCENE.images
