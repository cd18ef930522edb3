"""Pictures over real HTTP: drawn in batches, the same from the same seed, refused by name, none for who has left."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

pytest.importorskip("starlette")

from noria.core.errors import ConfigError, RunError
from noria.core.service.batching import Batching
from noria.core.service.hosting import running
from noria.core.service.serving import Service
from noria.distill.adapters import SmallAdapter
from noria.distill.config import ExportConfig
from noria.distill.evaluation.grids import even_grid
from noria.distill.integrations.diffusers import open_pipeline
from noria.distill.service.drawing import Painter, Wish, draw_all
from noria.distill.service.service import PictureService
from noria.distill.students.export import export_student
from noria.distill.students.loading import Student
from noria.distill.training.teacher import save_teacher
from noria.distill.verbs.serve import ServeConfig, open_painter
from tests.distill.conftest import tiny_network
from tests.distill.tiny_pipelines import build_sd3


class Slow(Painter):
    """A painter that takes its time, so that others come to wait, and that keeps what it was asked."""

    seconds = 0.0

    def draw(self, prompts: Sequence[str], noise: Tensor) -> list[bytes]:
        drawn.append(list(prompts))
        time.sleep(self.seconds)
        return super().draw(prompts, noise)


drawn: list[list[str]] = []


def painter(seconds: float = 0.0) -> Slow:
    adapter = SmallAdapter(tiny_network())
    student = Student("s", adapter, (1.0, 0.5), None, None, lambda role: adapter.network, True)
    drawn.clear()
    made = Slow(student, even_grid(adapter.contract, 2))
    object.__setattr__(made, "seconds", seconds)
    return made


@contextmanager
def pictures(seconds: float = 0.0, **settings: Any) -> Iterator[str]:
    service = PictureService(painter(seconds), "student", **settings)
    with running(Service("distill", service.routes(), around=service.around, access_log=False)) as url:
        yield url


def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{url}/v1/images/generations", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def pixels(one: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))), np.int16)


def test_a_seed_draws_the_same_picture_in_whatever_batch(tmp_path: Path) -> None:
    with pictures(0.3, batch_size=8) as url, ThreadPoolExecutor(7) as pool:
        first = post(url, {"prompt": "1", "seed": 5, "n": 2, "model": "student"})
        assert first[0] == 200
        alone = [pixels(one) for one in first[1]["data"]]
        assert (alone[0] != alone[1]).any(), "two pictures of one request are two"
        drawn.clear()
        bodies = [{"prompt": str(n % 3), "seed": n} for n in range(6)] + [{"prompt": "1", "seed": 5, "n": 2}]
        answers = list(pool.map(lambda body: post(url, body), bodies))
        assert len(drawn) <= 3, "those that wait are drawn together"
        assert sorted(p for batch in drawn for p in batch) == ["0", "0", "1", "1", "1", "1", "2", "2"]
        again = [pixels(one) for one in answers[-1][1]["data"]]
        assert max(np.abs(a - b).max() for a, b in zip(alone, again, strict=True)) <= 1
        assert (pixels(answers[4][1]["data"][0]) != alone[0]).any()
        chance = [post(url, {"prompt": "1"})[1]["data"][0] for _ in range(2)]
        assert chance[0]["noria"]["seed"] != chance[1]["noria"]["seed"]
        repeated = post(url, {"prompt": "1", "seed": chance[0]["noria"]["seed"]})[1]["data"][0]
        assert repeated["b64_json"] == chance[0]["b64_json"], "the seed that was told draws it again"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"prompt": "a red kite"}, 400, "bad_prompt"),
        ({"prompt": "1" * 5000}, 400, "bad_prompt"),
        ({"prompt": "1", "size": "640x480"}, 400, "bad_size"),
        ({"prompt": "1", "steps": 3}, 400, "unsupported_field"),
        ({"prompt": "1", "output_format": "jpeg"}, 400, "unsupported_field"),
        ({"prompt": "1", "background": "transparent"}, 400, "unsupported_field"),
        ({"prompt": "1", "quality": "high"}, 400, "unsupported_field"),
        ({"prompt": "1", "output_compression": 50}, 400, "unsupported_field"),
        ({"prompt": "1", "style": "vivid"}, 400, "unsupported_field"),
        ({"prompt": "1", "model": "other"}, 404, "model_not_found"),
        ({"prompt": "1", "n": 99}, 400, "bad_n"),
        ({"prompt": 7}, 400, "bad_prompt"),
        ([1], 400, "bad_json"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: Any, status: int, code: str) -> None:
    with pictures() as url:
        got, error = post(url, body)
        assert (got, error["code"]) == (status, code)
        anyway = {"output_format": "png", "background": "auto", "quality": "auto", "user": "ann"}
        assert post(url, {"prompt": "1", "size": "4x4", **anyway})[0] == 200


def test_a_prompt_that_is_refused_spoils_no_other_in_its_batch() -> None:
    with pictures(0.2, batch_size=4) as url, ThreadPoolExecutor(4) as pool:
        blocker = pool.submit(post, url, {"prompt": "0"})
        time.sleep(0.05)
        answers = [f.result() for f in [pool.submit(post, url, {"prompt": p}) for p in ("1", "no", "2")]]
        assert [status for status, _ in answers] == [200, 400, 200]
        assert blocker.result()[0] == 200
        assert any(len(batch) == 3 for batch in drawn), "they were tried together"


def test_more_than_may_wait_is_busy() -> None:
    with pictures(0.3, batch_size=1, waiting=2) as url, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda n: post(url, {"prompt": "1", "seed": n})[0], range(6)))
        assert sorted(set(answers)) == [200, 429]


@pytest.mark.parametrize(
    "fault",
    [RuntimeError("postgres://admin:hunter2@db"), RunError("hunter2", where="http://10.0.0.7:8001/v1")],
)
def test_why_nothing_was_drawn_is_for_the_log(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr("noria.distill.service.service.draw_all", broken)
    with pictures() as url:
        status, error = post(url, {"prompt": "1"})
    assert (status, error["code"]) == (502, "not_drawn")
    assert error["message"].endswith("log says why")
    assert "hunter2" not in str(error)
    assert "10.0.0.7" not in str(error)
    assert "hunter2" in caplog.text


def test_who_has_left_is_not_drawn_for() -> None:
    async def go() -> None:
        batching: Batching[Wish, bytes] = Batching(partial(draw_all, painter(0.1)), size=1, waiting=9)
        work = asyncio.create_task(batching.run())
        first = asyncio.create_task(batching.ask([Wish("0", 0, 0)]))
        left = asyncio.create_task(batching.ask([Wish("1", 0, 0)]))
        await asyncio.sleep(0.03)
        left.cancel()
        await first
        await batching.ask([Wish("2", 0, 0)])
        assert drawn == [["0"], ["2"]]
        work.cancel()

    asyncio.run(go())


def test_what_the_options_name_is_opened_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_teacher(tiny_network(), path)
    opened = open_painter(ServeConfig(source=path, steps=3, guidance=2.0))
    assert (opened.role, opened.grid.steps, opened.guidance, opened.size) == ("teacher", 3, 2.0, (4, 4))
    assert open_painter(ServeConfig(source=path)).grid.steps == 50
    plain = opened.draw(["1"], opened.noise(0, [0]))
    unguided = open_painter(ServeConfig(source=path, steps=3)).draw(["1"], opened.noise(0, [0]))
    assert plain != unguided, "guidance is honoured"


def test_a_pipeline_draws_as_itself_and_its_export_as_the_student(tmp_path: Path) -> None:
    folder = build_sd3(tmp_path / "pipeline")
    adapter = open_pipeline(folder, height=32, width=48)
    export_student(adapter, adapter.network, tmp_path / "student", ExportConfig(sigmas=(1.0, 0.8, 0.35)))
    plain, student = (open_painter(ServeConfig(source=path)) for path in (folder, tmp_path / "student"))
    assert (plain.role, plain.grid.steps) == ("teacher", 50)
    assert (student.role, student.grid.steps, student.size) == ("student", 3, (48, 32))
    (picture,) = student.draw(["a red cat"], student.noise(0, [0]))
    assert Image.open(io.BytesIO(picture)).size == (48, 32)
    with pytest.raises(ConfigError, match="guidance"):
        open_painter(ServeConfig(source=tmp_path / "student", guidance=4.0))
    with pytest.raises(ConfigError, match="teacher"):
        open_painter(ServeConfig(source=tmp_path / "student", teacher=True))
