"""Try-ons over real HTTP: a garment in, a video out, only in clips that are on offer, with the token, and cancelled."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("av")

from noria.core.errors import DataError
from noria.core.files import write_atomic
from noria.core.service.callers import Caller
from noria.core.service.hosting import running
from noria.core.service.responses import HttpError
from noria.core.service.serving import Service
from noria.tryon.pipeline.settings import GENERATED, SamplingConfig
from noria.tryon.service.clips import Clips
from noria.tryon.service.service import KEEP, TryOnService
from noria.tryon.training.loading import open_any
from noria.tryon.video.clips import read_clip
from noria.tryon.video.reading import read_mask
from tests.tryon.world_files import write_manifest

TOKEN = "a-token-of-sixteen-letters"
SAMPLING = SamplingConfig(steps=2, guidance=1, most_pixels=1536)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    import torch

    return open_any("tiny", dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_manifest(folder)
    return folder


@contextmanager
def serving(
    pipeline: Any, world: Path, folder: Path, sampling: SamplingConfig = SAMPLING, **more: Any
) -> Iterator[str]:
    uploads = more.pop("uploads", False)
    try_ons = TryOnService(pipeline, Clips(world / "clips.jsonl", uploads=uploads), sampling, folder, **more)
    service = Service("tryon", try_ons.routes(), token=TOKEN, around=try_ons.jobs.running, access_log=False)
    with running(service) as url:
        yield url


def call(url: str, body: Any = None, *, token: str = TOKEN, method: str | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"authorization": f"Bearer {token}"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            content = reply.read()
            return reply.status, json.loads(content) if reply.headers[
                "content-type"
            ] == "application/json" else content
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def ended(url: str, number: str, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while (job := call(f"{url}/v1/jobs/{number}")[1])["state"] in ("queued", "running"):
        assert time.monotonic() < end
        time.sleep(0.05)
    return job


def test_a_garment_comes_back_on_the_clip_and_nothing_else_changes(
    pipeline: Any, world: Path, tmp_path: Path
) -> None:
    garment = data_url(world / "c0" / "garment.png", "image/png")
    with serving(pipeline, world, tmp_path) as url:
        offered = call(f"{url}/v1/clips")[1]
        listed = [json.loads(line)["id"] for line in (world / "clips.jsonl").read_text().splitlines()]
        assert [one["id"] for one in offered["data"]] == listed
        name = offered["data"][0]["id"]
        status, job = call(f"{url}/v1/try-ons", {"garment": garment, "clip": name, "seed": 3})
        assert status == 202
        assert ended(url, job["id"])["state"] == "done"
        result = call(f"{url}/v1/jobs/{job['id']}/result")[1]
        assert (result["note"], result["frames"], result["size"]) == (GENERATED, 9, [48, 32])
        status, video = call(f"{url}/v1/try-ons/{job['id']}/result.mp4")
        assert status == 200
        (tmp_path / "got.mp4").write_bytes(video)
        made, source = read_clip(tmp_path / "got.mp4"), read_clip(world / "c0" / "clip.mp4")
        assert made.frames.shape == source.frames.shape
        mask = np.asarray(read_mask(world / "c0" / "mask.npz", source))
        change = np.abs(made.frames.astype(int) - source.frames).mean(axis=3)
        assert change[mask].mean() > 4 * change[:, :, 44:].mean(), "the garment changed, and the edge did not"
        assert call(f"{url}/v1/try-ons/{job['id']}/poster.png")[1][:8] == b"\x89PNG\r\n\x1a\n"
        began = time.monotonic()
        again = call(f"{url}/v1/try-ons", {"garment": garment, "clip": name, "seed": 3})[1]
        assert ended(url, again["id"])["state"] == "done"
        repeated = call(f"{url}/v1/jobs/{again['id']}/result")[1]
        assert repeated["try_on"] == result["try_on"], "the same wish, the same video"
        assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({}, "no picture of a garment"), ({"clip": "../c0"}, "no clip"), ({"clip": 7}, "not a text"),
        ({"seed": -1}, "whole number"), ({"video": "data:video/mp4;base64,AAAA"}, "not taken here"),
        ({"garment": "http://127.0.0.1/x.png"}, "data: URL"), ({"garment": "data:text/html;base64,PGI+"}, "type"),
        ({"steps": 3}, "no field"), ({"garment": ["x"] * 9}, "too many"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(
    pipeline: Any, world: Path, tmp_path: Path, fields: Any, what: str
) -> None:
    garment = {} if not fields else {"garment": data_url(world / "c0" / "garment.png", "image/png")}
    with serving(pipeline, world, tmp_path) as url:
        status, error = call(f"{url}/v1/try-ons", garment | fields)
        assert status == 400
        assert what in error["message"]
        assert call(f"{url}/v1/jobs")[1]["data"] == []


def test_a_picture_that_is_none_fails_the_job_and_no_other(
    pipeline: Any, world: Path, tmp_path: Path
) -> None:
    with serving(pipeline, world, tmp_path) as url:
        bad = call(f"{url}/v1/try-ons", {"garment": "data:image/png;base64,aGVsbG8="})[1]
        job = ended(url, bad["id"])
        assert (job["state"], "garment" in job["message"]) == ("failed", True)
        assert call(f"{url}/v1/jobs/{bad['id']}/result")[0] == 410


def test_the_token_guards_what_is_made(pipeline: Any, world: Path, tmp_path: Path) -> None:
    with serving(pipeline, world, tmp_path) as url:
        assert call(f"{url}/v1/try-ons", {}, token="wrong")[0] == 401
        assert call(f"{url}/v1/try-ons/0/result.mp4", token="wrong")[0] == 401
        for name in ("../../etc/passwd", "result.json"):
            assert call(f"{url}/v1/try-ons/0/{name}")[0] == 404


def test_a_video_is_given_to_the_caller_of_its_job_and_to_an_operator_alone(tmp_path: Path) -> None:
    async def given() -> dict[str, int]:
        service: Any = TryOnService(cast(Any, None), cast(Any, None), SAMPLING, tmp_path)
        service.jobs.open()

        async def work(progress: Any) -> dict[str, str]:
            return {"try_on": "v"}

        write_atomic(tmp_path / "try-ons" / "v" / "result.mp4", b"video")
        job = service.jobs.submit("try-on", "shop", work)
        while service.jobs.get(job.id).state != "done":
            await asyncio.sleep(0.01)
        statuses = {}
        for name, rights in (("shop", ("chat",)), ("other", ("chat",)), ("operator", ("operate",))):
            asked = SimpleNamespace(
                path_params={"id": job.id, "file": "result.mp4"}, caller=Caller(name, cast(Any, rights))
            )
            try:
                statuses[name] = (await service._file(asked)).status_code
            except HttpError as error:
                statuses[name] = error.status
        return statuses

    assert asyncio.run(given()) == {"shop": 200, "other": 404, "operator": 200}


def test_a_cancelled_job_ends_at_its_next_step(pipeline: Any, world: Path, tmp_path: Path) -> None:
    slow = SamplingConfig(steps=1000, guidance=1, most_pixels=1536)
    garment = data_url(world / "c0" / "garment.png", "image/png")
    with serving(pipeline, world, tmp_path, slow) as url:
        job = call(f"{url}/v1/try-ons", {"garment": garment})[1]
        while call(f"{url}/v1/jobs/{job['id']}")[1]["progress"] == 0:
            time.sleep(0.05)
        began = time.monotonic()
        assert call(f"{url}/v1/jobs/{job['id']}", method="DELETE")[1]["state"] == "cancelled"
        assert time.monotonic() - began < 10
    assert time.monotonic() - began < 20, "its thread has ended, too"


def test_an_upload_is_screened_and_dressed(pipeline: Any, world: Path, tmp_path: Path) -> None:
    seen: list[Any] = []

    def refuse(clip: Any) -> None:
        seen.append(clip)
        raise DataError("not cleared by the model: minors", where="clip")

    files = {
        "garment": data_url(world / "c0" / "garment.png", "image/png"),
        "video": data_url(world / "c0" / "clip.mp4", "video/mp4"),
        "mask": data_url(world / "c0" / "mask.npz", "application/octet-stream"),
    }
    with serving(pipeline, world, tmp_path / "a", uploads=True) as url:
        assert call(f"{url}/v1/try-ons", {k: files[k] for k in ("garment", "video")})[0] == 400
        job = call(f"{url}/v1/try-ons", files)[1]
        assert ended(url, job["id"])["state"] == "done"
    with serving(pipeline, world, tmp_path / "b", uploads=True, screen=refuse) as url:
        job = ended(url, call(f"{url}/v1/try-ons", files)[1]["id"])
        assert (job["state"], "not cleared" in job["message"]) == ("failed", True)
        assert len(seen) == 1
    with serving(pipeline, world, tmp_path / "c", uploads=True, screen=seen.append) as url:
        job = call(f"{url}/v1/try-ons", files)[1]
        assert ended(url, job["id"])["state"] == "done"
        assert [clip.path.name for clip in seen[1:]] == ["video.mp4", "garment", "result"]


def test_videos_leave_after_their_time(pipeline: Any, world: Path, tmp_path: Path) -> None:
    import os

    old, fresh = tmp_path / "try-ons" / "old", tmp_path / "try-ons" / "fresh"
    for home in (old, fresh):
        home.mkdir(parents=True)
    os.utime(old, (0, time.time() - KEEP - 60))
    with serving(pipeline, world, tmp_path) as url:
        call(f"{url}/v1/try-ons", {"garment": "data:image/png;base64,aGVsbG8="})
        assert (old.exists(), fresh.exists()) == (False, True)
