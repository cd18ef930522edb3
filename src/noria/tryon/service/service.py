"""Endpoints of `noria tryon serve`.

POST   /v1/try-ons                {"garment": data: URL, "clip"?, "prompt"?, "garment_is"?, "seed"?}: 202, a job; with
                                  uploads also {"video", "mask"} in the place of a clip
GET    /v1/clips                  the clips on offer
GET    /v1/jobs, /v1/jobs/{id}, … the jobs of the core: progress, result, cancel
GET    /v1/try-ons/{id}/{file}    result.mp4 and poster.png of a finished job
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.core.completions.jobs import Jobs, Progress, accepted, in_thread, whose
from noria.core.errors import DataError, RunError
from noria.core.files import read_bytes, write_atomic
from noria.core.records import json_record
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response, Route, route
from noria.core.traces.ids import is_id
from noria.tryon.pipeline.settings import GENERATED, SamplingConfig
from noria.tryon.service.clips import Clips, Wish

if TYPE_CHECKING:
    from noria.tryon.pipeline.chunks import ChunkStore
    from noria.tryon.pipeline.long import Order
    from noria.tryon.pipeline.pipeline import ITryOnPipeline
    from noria.tryon.video.clips import Clip

BODY = 96 << 20
"""Most bytes of a request."""
KEEP = 7 * 86_400.0
"""Seconds for which videos are kept."""
FILES = {"result.mp4": "video/mp4", "poster.png": "image/png"}


class TryOnService:
    """Try-ons as jobs, one at a time.

    Args:
        pipeline: the model.
        clips: clips on offer.
        sampling: settings of every generation.
        folder: folder of jobs and videos.
        screen: refuses a clip that is not cleared by raising; it sees uploads, garments and results.
        screened: name of what clears, which results are kept under.
        waiting: most jobs that wait.
    """

    def __init__(
        self,
        pipeline: ITryOnPipeline,
        clips: Clips,
        sampling: SamplingConfig,
        folder: Path,
        *,
        screen: Callable[[Clip], None] | None = None,
        screened: str = "",
        waiting: int = 16,
    ) -> None:
        self.screened = screened
        self.pipeline, self.clips, self.sampling, self.folder, self.screen = (
            pipeline,
            clips,
            sampling,
            folder,
            screen,
        )
        self.jobs = Jobs(folder / "jobs", waiting=waiting, keep=KEEP)

    def routes(self) -> list[Route]:
        """The routes of try-ons, and those of their jobs."""
        own = [
            route("/v1/try-ons", self._submit, methods=("POST",), access="write", body_bytes=BODY),
            route("/v1/try-ons/{id}/{file}", self._file, access="write"),
            route("/v1/clips", self._clips),
        ]
        return [*own, *self.jobs.routes("write")]

    async def _clips(self, request: Request) -> Response:
        data = [
            {"id": one.id, "caption": one.caption, "actions": [vars(action) for action in one.actions]}
            for one in self.clips.records.values()
        ]
        return json_response({"object": "list", "data": data, "uploads": self.clips.uploads})

    async def _submit(self, request: Request) -> Response:
        wish = self.clips.read_wish(json_record(await request.body(), "body"))
        self._forget_old()
        return accepted(self.jobs.submit("try-on", request.caller.name, functools.partial(self._work, wish)))

    async def _work(self, wish: Wish, progress: Progress) -> dict[str, Any]:
        loop = asyncio.get_running_loop()

        def work(unwanted: threading.Event) -> dict[str, Any]:
            def on_step(step: int, of: int) -> None:
                if unwanted.is_set():
                    raise RunError("the job was cancelled")  # its finished chunks stay
                loop.call_soon_threadsafe(progress, step / max(1, of), f"step {step} of {of}")

            return self._dress(wish, on_step)

        return await in_thread(work)

    def _dress(self, wish: Wish, on_step: Callable[[int, int], None]) -> dict[str, Any]:
        from noria.tryon.pipeline.chunks import ChunkStore
        from noria.tryon.pipeline.loading import pipeline_digest
        from noria.tryon.pipeline.long import order_key
        from noria.tryon.video.clips import still

        began = time.perf_counter()
        order = self.clips.order(wish)
        uploads = [order.clip] if wish.video is not None else []
        for shown in (*uploads, *(still(one, "garment") for one in order.garments)):
            if self.screen is not None:
                self.screen(shown)
        digest = pipeline_digest(self.pipeline)
        key = order_key(order, self.sampling, wish.seed, digest, screened=self.screened)
        home = self.folder / "try-ons" / key[:32]
        if not all((home / name).is_file() for name in FILES):
            self._make(order, wish, home, ChunkStore(home / "chunks", key), on_step)
        else:
            os.utime(home)  # its time begins anew
        return {
            "try_on": home.name,
            "note": GENERATED,
            **_about(order, wish),
            "seconds": time.perf_counter() - began,
        }

    def _make(
        self, order: Order, wish: Wish, home: Path, store: ChunkStore, on_step: Callable[[int, int], None]
    ) -> None:
        """Dress the person, and write the video and its first frame."""
        from noria.core.picture_files import png
        from noria.tryon.pipeline.long import dress
        from noria.tryon.video.clips import encode_clip

        result = dress(self.pipeline, order, self.sampling, seed=wish.seed, store=store, on_step=on_step)
        if self.screen is not None:
            self.screen(replace(order.clip, frames=result.frames, path=Path("result")))
        seconds = order.clip.seconds.tolist()
        record = self.clips.records.get(wish.clip)
        sound = None if record is None or len(seconds) < 2 else record.video  # an upload is there no more
        write_atomic(home / "result.mp4", encode_clip(result.frames, seconds, sound=sound, comment=GENERATED))
        write_atomic(home / "poster.png", png(_picture(result.frames[0])))
        store.clear()

    async def _file(self, request: Request) -> Response:
        name, number = request.path_params["file"], request.path_params["id"]
        if name not in FILES or not is_id(number):
            raise HttpError(404, "no_such_file", f"files: {', '.join(FILES)}")
        result = self.jobs.result(number, whose(request))
        path = self.folder / "try-ons" / str(result["try_on"]) / name
        try:
            return Response(read_bytes(path, limit=BODY), 200, {"content-type": FILES[name]})
        except DataError:
            raise HttpError(410, "gone", "the time of this video is over") from None

    def _forget_old(self) -> None:
        """Remove videos whose time is over."""
        for home in (self.folder / "try-ons").glob("*"):
            if home.is_dir() and home.stat().st_mtime < time.time() - KEEP:
                shutil.rmtree(home, ignore_errors=True)


def _picture(pixels: Any) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def _about(order: Order, wish: Wish) -> dict[str, Any]:
    height, width = order.clip.size
    return {"clip": wish.clip, "frames": len(order.clip.frames), "size": [width, height], "seed": wish.seed}
