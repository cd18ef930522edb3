"""Speed of the reward path: latency hidden, renders replayed, judgements scored.

The editor sleeps 200 ms and the judge 50 ms, each behind real HTTP on loopback, four renders at once. Peers: the
editor by itself, which is a bound; a synchronous reward function as TRL documents it, which renders and judges one
completion after the other; rendering again in the place of the cache; a loop over rollouts in the place of columns.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

    from noria.core.proofs.bench import Benchmark
    from noria.editing.environment.rewarding import RewardEnvironment, Rollout
    from noria.editing.rewards.columns import VerdictColumns
    from noria.editing.types import Editor

EDITOR_SECONDS, JUDGE_SECONDS = 0.2, 0.05
AT_ONCE = 4
"""Renders that the editor's server takes at once."""
SENT = 2 * AT_ONCE
"""Renders that are sent at once, on both sides: the server always has one waiting."""
ROLLOUTS = 48
SYNCHRONOUS = 8
"""Rollouts of the synchronous peer in a turn: it takes .3 s for each."""
JUDGEMENTS = 10_000


def benchmarks(*, rounds: int = 5) -> Benchmark:
    """Rollouts a second against the editor alone and a synchronous reward; replay; scoring of judgements.

    Args:
        rounds: timed turns of each side.
    """
    from noria.core.proofs.bench import Benchmark, Row, alternate

    ours, alone, synchronous, cached, rendered = asyncio.run(_throughput(rounds))
    columns, lists = judgements()
    timing = alternate(lambda: _by_columns(columns), lambda: _by_loop(lists), rounds=rounds)
    scored = [[JUDGEMENTS / seconds for seconds in side] for side in (timing.ours, timing.theirs)]
    unit = "rollouts/s"
    return Benchmark(
        "editing",
        [
            Row.of("reward path", "the editor alone (bound 1)", unit, ours, alone, better="higher", goal=0.9),
            Row.of(
                "reward path",
                "synchronous reward, as in TRL",
                unit,
                ours,
                synchronous,
                better="higher",
                goal=2.0,
            ),
            Row.of(
                "replay of renders",
                "rendering again",
                "renders/s",
                cached,
                rendered,
                better="higher",
                goal=10.0,
            ),
            Row.of(
                "recorded judgements",
                "loop over rollouts",
                "judgements/s",
                *scored,
                better="higher",
                goal=5.0,
            ),
        ],
    )


async def _throughput(rounds: int) -> tuple[list[float], ...]:
    """Rollouts or renders a second of each side, one a round; the sides alternate."""
    ours, alone, synchronous, cached, rendered = ([] for _ in range(5))  # type: ignore[var-annotated]
    async with _servers() as (images, chat):
        from noria.core.chat import ChatClient, ChatServer
        from noria.core.judging import ChatJudge
        from noria.editing.editors.server import ServerEditor

        async with (
            ServerEditor(ChatServer(url=images, model="editor", in_flight=SENT)) as editor,
            ChatClient(ChatServer(url=chat, model="judge", in_flight=64)) as client,
        ):
            judge = ChatJudge(client, "judge")
            for turn in range(rounds):
                rollouts = _rollouts(ROLLOUTS, turn)
                ours.append(ROLLOUTS / await _seconds(_environment(editor, judge), rollouts))
                began = time.perf_counter()
                plans = [f"plan {turn} {n}" for n in range(ROLLOUTS)]
                await asyncio.gather(*(editor.edit(rollouts[0].scene.images, plan, 0) for plan in plans))
                alone.append(ROLLOUTS / (time.perf_counter() - began))
                few = _rollouts(SYNCHRONOUS, turn)
                environment, began = _environment(editor, judge), time.perf_counter()
                for rollout in few:
                    await _one_after_the_other(environment, rollout)
                synchronous.append(SYNCHRONOUS / (time.perf_counter() - began))
            with tempfile.TemporaryDirectory() as folder:
                await _replay(editor, Path(folder), rounds, cached, rendered)
    return ours, alone, synchronous, cached, rendered


async def _replay(
    editor: Editor, folder: Path, rounds: int, cached: list[float], rendered: list[float]
) -> None:
    """Renders a second from the disk, and from the editor."""
    from noria.editing.environment.cache import RenderCache
    from noria.editing.environment.rendering import Renderer, RenderSettings

    scene, settings = _rollouts(1, 0)[0].scene, RenderSettings(in_flight=SENT)
    for turn in range(rounds):
        plans = [f"replay {turn} {n}" for n in range(2 * AT_ONCE)]
        for side in (rendered, cached):
            renderer = Renderer(editor, settings, cache=RenderCache(folder))
            began = time.perf_counter()
            results = await asyncio.gather(*(renderer.render(scene, plan, 0) for plan in plans))
            side.append(len(plans) / (time.perf_counter() - began))
            assert all(one.cached == (side is cached) for one in results)


async def _seconds(environment: RewardEnvironment, rollouts: Sequence[Rollout]) -> float:
    began, done = time.perf_counter(), 0
    async for scored in environment.score_all(rollouts):
        assert scored.visual.value is not None, scored.visual.why
        done += 1
    assert done == len(rollouts)
    return time.perf_counter() - began


async def _one_after_the_other(environment: RewardEnvironment, rollout: Rollout) -> None:
    """What a synchronous reward function does with a completion: judge the plan, render it, judge the picture."""
    task, plan = rollout.task, f"plan {rollout.number}"
    await environment.judges.judge_plan(task.checklist, task.instruction, rollout.scene, plan)
    rendering = await environment.renderer.render(rollout.scene, f"{plan} alone", 0)
    assert rendering.image is not None, rendering.message
    await environment.judges.judge_picture(task.checklist, task.instruction, rollout.scene, rendering.image)


def _environment(editor: Editor, judge: Any) -> RewardEnvironment:
    from noria.editing.environment.judges import AtomicJudges, JudgeSettings
    from noria.editing.environment.rendering import Renderer, RenderSettings
    from noria.editing.environment.rewarding import EnvironmentSettings, RewardEnvironment

    return RewardEnvironment(
        Renderer(editor, RenderSettings(in_flight=SENT)),
        AtomicJudges(judge, judge, JudgeSettings(in_flight=64)),
        EnvironmentSettings(in_flight=2 * SENT),
    )


def _rollouts(number: int, turn: int) -> list[Rollout]:
    """Rollouts of one task, with plans of their own: none is in any cache."""
    from PIL import Image

    from noria.core.judging.items import Checklist
    from noria.editing.checklists.items import EditItem
    from noria.editing.data.pictures import Scene
    from noria.editing.data.tasks import Task
    from noria.editing.environment.rewarding import Rollout
    from noria.editing.plans import format_output

    items = [
        EditItem(f"{path[0]}{n}", f"Is fact {n} there?", path)
        for path in ("cognitive", "visual")
        for n in range(5)
    ]
    task = Task("t", ("a",), "after the rain?", checklist=Checklist(tuple(items)))
    scene = Scene((Image.linear_gradient("L").resize((512, 512)).convert("RGB"),))
    outputs = [format_output("", f"turn {turn}, plan {n}") for n in range(number)]
    return [Rollout(task, scene, text, "both", 0, n) for n, text in enumerate(outputs)]


@contextlib.asynccontextmanager
async def _servers() -> AsyncIterator[tuple[str, str]]:
    """An editor and a judge on loopback; each answers at once after its sleep, the editor `AT_ONCE` at a time."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from noria.core.picture_files import png

    picture = _rollouts(1, 0)[0].scene.source
    edited = base64.b64encode(png(_marked(picture))).decode()
    reply = json.dumps({"data": [{"b64_json": edited}]}).encode()
    places = asyncio.Semaphore(AT_ONCE)
    yes = [{"number": n, "answer": "yes" if n < 6 else "no", "reason": "seen"} for n in range(1, 7)]
    message = {"role": "assistant", "content": json.dumps({"answers": yes})}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    verdict = json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}
    )

    async def edit(request: Request) -> Response:
        await request.body()
        async with places:
            await asyncio.sleep(EDITOR_SECONDS)
        return Response(reply, media_type="application/json")

    async def judge(request: Request) -> Response:
        await request.body()
        await asyncio.sleep(JUDGE_SECONDS)
        return Response(verdict, media_type="application/json")

    routes = [
        Route("/v1/images/edits", edit, methods=["POST"]),
        Route("/v1/chat/completions", judge, methods=["POST"]),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes), host="127.0.0.1", port=0, log_level="critical", lifespan="off"
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    try:
        yield url, url
    finally:
        server.should_exit = True
        await running


def _marked(picture: Picture) -> Picture:
    marked = picture.copy()
    marked.paste((200, 40, 40), (100, 100, 200, 200))
    return marked


# -- scoring ----------------------------------------------------------------------------------------------------------


def judgements(
    number: int = JUDGEMENTS, *, items: int = 6
) -> tuple[VerdictColumns, list[tuple[Any, list[Any]]]]:
    """Random judgements of six items and a canary: as columns, and as (checklist, verdicts) of each."""
    import numpy as np

    from noria.core.judging.items import Checklist, Verdict
    from noria.editing.checklists.items import EditItem
    from noria.editing.rewards.columns import VerdictColumns

    generator = np.random.default_rng(0)
    values = generator.choice(["yes", "no", "invalid"], size=(number, items + 1), p=[0.6, 0.35, 0.05])
    values[:, -1] = generator.choice(["no", "yes"], size=number, p=[0.98, 0.02])
    weights = np.tile(np.append(1.0 + np.arange(items) % 3, 1.0), (number, 1))
    good = np.array(["yes" if n % 2 == 0 else "no" for n in range(items)] + ["no"])
    canary = np.tile(np.arange(items + 1) == items, (number, 1))
    flat: dict[str, np.ndarray] = {
        "weight": weights, "valid": values != "invalid", "good": values == good, "canary": canary,
    }  # fmt: skip
    rows = np.repeat(np.arange(number), items + 1)
    columns = VerdictColumns(rows, **{name: value.ravel() for name, value in flat.items()})
    entries: list[Any] = [
        EditItem(f"i{n}", "so?", "visual", float(weights[0, n]), "yes" if n % 2 == 0 else "no")
        for n in range(items)
    ]
    canary_item = EditItem(f"i{items}", "so?", "visual", good="no", role="canary")
    checklist = Checklist((*entries, canary_item))
    lists = [(checklist, [Verdict(f"i{n}", str(v)) for n, v in enumerate(row)]) for row in values]  # type: ignore[arg-type]
    return columns, lists


def _by_columns(columns: VerdictColumns) -> np.ndarray:
    from noria.editing.rewards.columns import rewards_of

    return rewards_of(columns, int(columns.rollout[-1]) + 1)


def _by_loop(lists: Sequence[tuple[Any, list[Any]]]) -> list[float | None]:
    from noria.editing.rewards.atomic import visual_reward

    return [visual_reward(checklist, verdicts).value for checklist, verdicts in lists]
