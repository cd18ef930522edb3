"""The paper's two backbones from a folder to an exported student: train, kill, resume, export, reload, sample."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from noria.distill.integrations.diffusers import open_pipeline
from tests.distill.tiny_pipelines import BUILDERS

SETTINGS = [
    "iterations=6",
    "batch_size=2",
    "checkpoint_every=2",
    "schedule.max_steps=4",
    "student.lr=1e-3",
    "critic.lr=1e-3",
    "student.warmup=0",
]


def killed_after_a_checkpoint(arguments: list[str], cwd: Path) -> None:
    """Start the command, and SIGKILL it once its first checkpoint stands."""
    child = subprocess.Popen(
        [sys.executable, "-m", "noria.cli", "distill", *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(cwd.glob("run/checkpoints/step-*")):
        assert child.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "train"), [("sd3", "full"), ("longcat", "lora")])
def test_train_kill_resume_export_reload_sample(
    here: Path, noria: Callable[..., SimpleNamespace], family: str, train: str
) -> None:
    import diffusers

    BUILDERS[family](here / "model")
    (here / "prompts.txt").write_text("a photo of a red cat\ntwo blue birds on a wheel\n")
    sizes = ["--preset", f"cdm-{family}", "height=32", "width=32", "precision=fp32"]
    arguments = ["train", "--model", "model", "--prompts", "prompts.txt", "-o", "run", *sizes, *SETTINGS]
    arguments.append(f"train={train}")
    if train == "lora":
        arguments += ["lora.rank=2", "lora.alpha=4"]

    killed_after_a_checkpoint([*arguments, "iterations=2000"], here)
    reached = max(int(p.name.removeprefix("step-")) for p in here.glob("run/checkpoints/step-*"))
    arguments.append(f"iterations={reached + 4}")
    resumed = noria(*arguments)
    assert resumed.code == 0, resumed.err
    assert f"iteration {reached}" in resumed.err
    assert (here / "run" / "checkpoints" / f"step-{reached + 4:08d}").is_dir()
    assert noria("export", "run", "--output", "student").code == 0
    drawn = noria("sample", "student", "-p", "a photo of a red cat", "--seed", "3")
    assert drawn.code == 0, drawn.err
    assert drawn.out.strip()

    # Stock diffusers opens the folder; on the grid of its card it draws what the trained EMA weights draw.
    pipe = diffusers.DiffusionPipeline.from_pretrained(here / "student")
    pipe.set_progress_bar_config(disable=True)
    adapter = open_pipeline(here / "model", height=32, width=32)
    tensors = load_file(here / "run" / "checkpoints" / f"step-{reached + 4:08d}" / "tensors.safetensors")
    if train == "full":
        averages = {n.removeprefix("ema."): t for n, t in tensors.items() if n.startswith("ema.")}
        assert averages.keys() == dict(pipe.transformer.named_parameters()).keys()
        for name, parameter in pipe.transformer.named_parameters():
            torch.testing.assert_close(parameter.detach(), averages[name], rtol=0, atol=0)
    moved = [
        name
        for name, p in pipe.transformer.named_parameters()
        if not torch.equal(p, dict(adapter.network.named_parameters())[name])
    ]
    assert moved, "the student is not the teacher"
    image = pipe(
        "a photo of a red cat",
        sigmas=[1.0, 0.75, 0.5, 0.25],
        guidance_scale=1.0,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **({"enable_cfg_renorm": False, "enable_prompt_rewrite": False} if family == "longcat" else {}),
    ).images[0]
    assert image.shape == (32, 32, 3)
    assert 0 < image.std() < 1
