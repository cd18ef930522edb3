"""Rendering: an editor within bounds, whose every answer is a picture of the source's size and place, or a failure."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field, replace

from PIL.Image import Image as Picture

from noria.editing.data.pictures import Scene, kept_outside
from noria.editing.data.registration import Registration, register
from noria.editing.environment.cache import RenderCache, render_key
from noria.editing.plans import LONGEST_PLAN
from noria.editing.types import Editor, EditorError, Failure, Rendering


@dataclass(frozen=True)
class RenderSettings:
    """Limits of the calls of an editor.

    Attributes:
        in_flight: renders under way at once.
        seconds: longest time of one attempt.
        attempts: most attempts of a render whose fault may pass.
        backoff: wait before the second attempt, in seconds; it doubles.
        register: whether a shift and a zoom are taken back.
        longest_plan: most characters of a plan that is sent.
    """

    in_flight: int = 4
    seconds: float = 120.0
    attempts: int = 3
    backoff: float = 0.5
    register: bool = True
    longest_plan: int = LONGEST_PLAN


@dataclass
class RenderCounts:
    """Counts of editor calls, cache hits and failures so far.

    Attributes:
        calls: calls of the editor, those that failed among them.
        hits: renders from the cache.
        shared: renders that waited for an equal one under way.
        failures: renders without a picture, by kind.
    """

    calls: int = 0
    hits: int = 0
    shared: int = 0
    failures: Counter[Failure] = field(default_factory=Counter)


class Renderer:
    """Renders plans with one editor. Use it from one event loop.

    Equal requests are rendered once: from the cache, or by waiting for the one under way. Whatever the editor does, the
    outcome is a `Rendering`.

    Args:
        editor: editor that is asked.
        settings: bounds.
        cache: cache of renders; None renders everything anew.
    """

    def __init__(
        self,
        editor: Editor,
        settings: RenderSettings | None = None,
        *,
        cache: RenderCache | None = None,
    ) -> None:
        self.editor, self.settings, self.cache = editor, settings or RenderSettings(), cache
        self.counts = RenderCounts()
        self._places = asyncio.Semaphore(self.settings.in_flight)
        self._under_way: dict[str, asyncio.Task[Rendering]] = {}
        self._waiting: Counter[asyncio.Task[Rendering]] = Counter()

    async def render(self, scene: Scene, plan: str, seed: int) -> Rendering:
        """Render a plan.

        Args:
            scene: pictures of the request, and its mask.
            plan: text of the plan.
            seed: seed of the editor's noise.
        """
        if len(plan) > self.settings.longest_plan:
            return self._failed("broken", f"a plan of {len(plan):,} characters", 0.0, 0)
        key = render_key(scene.digests, plan, self.editor.name, seed)
        if self.cache is not None and (picture := self.cache.get(key)) is not None:
            self.counts.hits += 1
            return Rendering(picture, cached=True, attempts=0)
        shared = key in self._under_way and self.cache is not None
        if shared:
            self.counts.shared += 1
        else:
            self._under_way[key] = asyncio.ensure_future(self._render(scene, plan, seed, key))
        task = self._under_way[key]
        self._waiting[task] += 1
        try:
            outcome = await asyncio.shield(task)
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
                task.cancel()  # nobody pays for a render that nobody waits for; a finished one does not mind
            if self._under_way.get(key) is task and (task.done() or task not in self._waiting):
                del self._under_way[key]
        return replace(outcome, cached=True, attempts=0) if shared else outcome

    async def _render(self, scene: Scene, plan: str, seed: int, key: str) -> Rendering:
        began, attempt = time.perf_counter(), 0
        while True:
            attempt += 1
            try:
                async with self._places:
                    self.counts.calls += 1
                    async with asyncio.timeout(self.settings.seconds):
                        picture = await self.editor.edit(scene.images, plan, seed, mask=scene.mask)
                fitted = await asyncio.to_thread(self._fitted, scene, picture)
            except EditorError as error:
                if error.retry and attempt < self.settings.attempts:
                    await asyncio.sleep(self.settings.backoff * 2 ** (attempt - 1))
                    continue
                return self._failed(error.kind, str(error), time.perf_counter() - began, attempt)
            except TimeoutError:
                if attempt < self.settings.attempts:
                    continue
                what = f"no picture in {self.settings.seconds:g} s"
                return self._failed("timeout", what, time.perf_counter() - began, attempt)
            except Exception as error:  # an editor that breaks has made no picture
                what = f"{type(error).__name__}: {error}"[:300]
                return self._failed("broken", what, time.perf_counter() - began, attempt)
            if self.cache is not None:
                self.cache.put(key, fitted.image)
            seconds = time.perf_counter() - began
            return Rendering(fitted.image, seconds=seconds, attempts=attempt, registered=str(fitted))

    def _fitted(self, scene: Scene, picture: Picture) -> Registration:
        """The editor's picture on its source; outside of the mask, the source itself."""
        if not isinstance(picture, Picture):
            raise EditorError(f"the editor returned {type(picture).__name__}, no picture")
        fitted = register(scene.source, picture.convert("RGB"), move=self.settings.register)
        if scene.mask is None:
            return fitted
        return replace(fitted, image=kept_outside(scene.source, fitted.image, scene.mask))

    def _failed(self, kind: Failure, message: str, seconds: float, attempts: int) -> Rendering:
        self.counts.failures[kind] += 1
        return Rendering(None, kind, message, seconds, attempts=attempts)
