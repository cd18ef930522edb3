"""Real processes: killed and run again, or two where there was one, the numbers are the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from noria.core.config import load_config
from noria.core.runs.run import read_metrics
from noria.distill.config import preset
from noria.distill.training.teacher import save_teacher
from noria.distill.verbs.train import TrainJobConfig
from tests.distill.conftest import tiny_network, tiny_settings
from tests.processes import SHARDED, alone, free_port, together

EXAMPLES = Path(__file__).parents[2] / "examples" / "distill"


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """A model and prompts in a folder."""
    save_teacher(tiny_network(blocks=2), tmp_path / "teacher.safetensors")
    (tmp_path / "prompts.txt").write_text("0\n1\n2\n")
    return ["--model", str(tmp_path / "teacher.safetensors"), "--prompts", str(tmp_path / "prompts.txt")]


def command(inputs: list[str], folder: Path, *overrides: str) -> list[str]:
    return ["distill", "train", *inputs, "-o", str(folder), *tiny_settings("cdm", *overrides), *overrides]


def state(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint: weights, averages, both optimisers."""
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / "tensors.safetensors")


def newest(folder: Path) -> int:
    """The iteration of the newest checkpoint, or 0."""
    return max((int(p.name[5:]) for p in folder.glob("checkpoints/step-????????")), default=0)


def figures(folder: Path) -> list[dict[str, float]]:
    return read_metrics(folder)


# -- killed and run again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_run_killed_at_any_moment_and_run_again_is_the_same_to_the_bit(
    inputs: list[str], tmp_path: Path, train: str
) -> None:
    settings = [f"train={train}", "checkpoint_every=7", "ladder_every=20"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    endless = [sys.executable, "-m", "noria.cli", *command(inputs, killed, *settings, "iterations=100000")]
    reached = 0
    for more in (1, 3):  # killed after that many more checkpoints, wherever it is by then
        child = subprocess.Popen(endless, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 100
        wanted = reached + 7 * more
        while newest(killed) < wanted:
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        reached = newest(killed)
        assert not (killed / "report.html").exists()
    last = reached + 10
    alone(command(inputs, killed, *settings, f"iterations={last}"))
    alone(command(inputs, whole, *settings, f"iterations={last}"))
    one, other = state(whole, last), state(killed, last)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert len(one) > 20
    assert figures(whole) == figures(killed)
    assert (killed / "report.html").exists()


# -- two processes ----------------------------------------------------------------------------------------------------


def assert_same(one: Path, other: Path, step: int) -> None:
    """The same run but for the order in which floats were added."""
    a, b = state(one, step), state(other, step)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=2e-5, msg=name)
    for mine, theirs in zip(figures(one), figures(other), strict=True):
        for name in mine:
            if name.startswith(("loss", "critic_lag", "grad_norm")):
                assert mine[name] == pytest.approx(theirs[name], rel=2e-4, abs=1e-7), name


CALM = ["student.eps=1e-3", "critic.eps=1e-3"]
"""Adam makes whole steps of gradients that are zero but for round-off (that of keys' bias is); not so with these."""


@pytest.mark.parametrize(
    "overrides",
    [
        ("train=full",),
        ("train=lora",),
        ("execution=reference", "schedule.kind=dynamic_per_sample", "critic.source=mix"),
    ],
    ids=lambda o: o[0],
)
def test_two_processes_train_as_one(inputs: list[str], tmp_path: Path, overrides: tuple[str, ...]) -> None:
    alone(command(inputs, tmp_path / "one", *CALM, *overrides))
    together(command(inputs, tmp_path / "two", *CALM, *overrides))
    assert_same(tmp_path / "one", tmp_path / "two", 6)


def test_sharded_processes_train_as_one_and_go_on_where_one_stopped(
    inputs: list[str], tmp_path: Path
) -> None:
    """FSDP2, asked for as accelerate's launcher asks for it; its checkpoint opens anywhere."""
    overrides = ["schedule.kind=dynamic_per_sample", "critic.source=anchor_conditioned"]
    alone(command(inputs, tmp_path / "one", *CALM, *overrides))
    together(command(inputs, tmp_path / "two", *CALM, *overrides, "iterations=4"), **SHARDED)
    together(command(inputs, tmp_path / "two", *CALM, *overrides), **SHARDED)
    assert_same(tmp_path / "one", tmp_path / "two", 6)


def test_the_examples_launch_what_they_say(inputs: list[str], tmp_path: Path) -> None:
    """The FSDP2 file through `accelerate launch` itself, on CPUs and with two processes instead of eight."""
    given = yaml.safe_load((EXAMPLES / "accelerate_fsdp2.yaml").read_text())
    (tmp_path / "cpu.yaml").write_text(yaml.safe_dump(given | {"use_cpu": True, "num_processes": 2}))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "cpu.yaml")]
    lora = command(inputs, tmp_path / "run", "train=lora")
    done = subprocess.run(
        [*launch, "--main_process_port", str(free_port()), "-m", "noria.cli", *lora],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0
    assert "LoRA and FSDP2 do not combine" in done.stderr, "the launcher's wish reached the trainer"


@pytest.mark.parametrize("name", ["sd3", "longcat", "sd3_lora"])
def test_the_example_settings_are_legal_and_start_from_their_preset(name: str) -> None:
    config = load_config(TrainJobConfig, file=EXAMPLES / f"{name}.yaml", overrides=["prompts=prompts.txt"])
    assert config.preset == f"cdm-{name.removesuffix('_lora')}"
    assert config.iterations == preset(config.preset)["iterations"]
    assert config.model is not None
    assert config.model.count("/") == 1
