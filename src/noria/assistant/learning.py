"""Turns of the wheel on a gateway's own traffic: which learner, on what, judged by whom, with how much money."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from noria.assistant.companion.judging import checklist_of
from noria.assistant.config import AssistantConfig
from noria.assistant.folder import data_salt, open_control, open_versions
from noria.assistant.parts.protocol import prepare
from noria.assistant.service.bundles import CHAMPION, Bundles
from noria.core.chat import ChatClient, Message
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import ConfigError, DataError, NoriaError
from noria.core.judging.judges import ChatJudge
from noria.core.learning.dataset import FreezeConfig
from noria.core.learning.learner import Evaluator, Learner
from noria.core.learning.plan import TurnConfig, TurnPlan, open_turn, plan_turn
from noria.core.learning.replay import Replay, ReplayConfig
from noria.core.learning.route import Route
from noria.core.learning.route_learner import RouteLearner
from noria.core.learning.routes import Backend
from noria.core.learning.turn import Turn
from noria.core.storage.journal_file import JournalReader
from noria.core.traces.ids import Clock
from noria.core.traces.store import read_views


@asynccontextmanager
async def opened_turn(
    folder: Path, config: AssistantConfig, *, by: str, reason: str
) -> AsyncIterator[tuple[Turn, TurnPlan]]:
    """The next turn of a gateway, or the one that did not end, beside the gateway while it serves.

    The learner chooses among the configured routes, and prompts that a writer writes. Its estimates and the gate have
    judges of their own: a candidate that pleased the learner's judge has to please another one.

    Args:
        folder: folder of the gateway.
        config: settings of the gateway.
        by: who starts it.
        reason: why it is due, in words.

    Raises:
        ConfigError: learning has no judge of the gate or no checklist, or the judges are one.
        DataError: nothing serves yet.
    """
    _check(config)
    JournalReader(folder).close()  # nothing is made where there is no gateway's folder
    control = open_control(folder, config)
    store = open_versions(folder, config)
    bundles = Bundles(control, store, config)
    async with AsyncExitStack() as stack:
        stack.callback(control.close)
        make = _routes if config.learning.learner == "routes" else _descriptions
        learner, evaluator = await make(stack, folder, config, bundles)
        plan = open_turn(control)
        if plan is None:
            move = bundles.pointers.present(CHAMPION)
            if move is None:
                raise DataError("nothing serves yet", where=str(folder), mend="start the gateway first")
            plan = plan_turn(
                control, parent=move.bundle, learner=learner.name, reason=reason, now=time.time(), by=by
            )
        settings = TurnConfig(
            freeze=FreezeConfig(salt=data_salt(control)),
            least_rated=config.learning.least_rated if config.learning.learner == "routes" else 0,
            money=config.learning.money,
            seconds=config.learning.seconds,
            experiment=dict(config.learning.experiment),
        )
        yield (
            Turn(
                folder / "turns" / f"{plan.number:06d}",
                plan,
                settings,
                learner=learner,
                evaluator=evaluator,
                store=store,
                control=control,
                views=lambda: read_views(folder),
                checklists=[checklist_of(config.judging)] if config.judging.checklist else [],
            ),
            plan,
        )


def _check(config: AssistantConfig) -> None:
    """Check that a turn has what it needs, before anything is opened.

    Raises:
        ConfigError: it has not.
    """
    learning = config.learning
    if learning.learner == "descriptions":
        if config.parts.skills is None:
            raise ConfigError("there are no skills to learn", where="parts.skills", mend="name a bank")
    elif not config.judging.checklist or not learning.gate_judge:
        raise ConfigError(
            "a gate needs a judge and a checklist",
            where="learning.gate_judge, judging.checklist",
            mend="give both in the gateway's configuration",
        )


async def _routes(
    stack: AsyncExitStack, folder: Path, config: AssistantConfig, bundles: Bundles
) -> tuple[Learner, Evaluator]:
    """The learner of routes, and the replay that compares its candidates, each with a judge of its own.

    Both answer through the parts of the bundle that serves; tools do not act.
    """
    learning = config.learning
    assert learning.gate_judge is not None
    checklist = checklist_of(config.judging)
    reader = stack.enter_context(JournalReader(folder))
    backends: dict[str, Backend] = {}
    for name, server in config.backends.items():
        # Without a cache: an answer from there costs nothing, and the receipt would depend on what ran before.
        client = await stack.enter_async_context(ChatClient(server))
        backends[name] = Backend(client, server.prices)
    move = bundles.pointers.present(CHAMPION)
    parts = () if move is None else bundles.parts_of(move.bundle)[0]

    def through(route: Route, messages: Sequence[Message]) -> Route:
        query = CompletionRequest({"messages": [one.wire() for one in messages]}, "", False, False, {})
        return prepare(query, route, parts, Clock()).route

    def replay(judge: str) -> Replay:
        settings = ReplayConfig(most_items=learning.most_items, judge_cost=config.judging.most_cost)
        named = ChatJudge(backends[judge].model, judge)
        return Replay(backends, named, checklist, settings, reader.blob, through if parts else None)

    learner = RouteLearner(
        list(config.routes.values()),
        replay(learning.judge or learning.gate_judge),
        backends[learning.writer] if learning.writer else None,
    )
    return learner, replay(learning.gate_judge)


async def _descriptions(
    stack: AsyncExitStack, folder: Path, config: AssistantConfig, bundles: Bundles
) -> tuple[Learner, Evaluator]:
    """The learner of skill descriptions, and the accuracy on labelled requests that compares its candidates."""
    from noria.assistant.parts.descriptions import DescriptionLearner, RouteAccuracy

    return DescriptionLearner(), RouteAccuracy()


def told(receipt: dict[str, Any], folder: Path) -> str:
    """The end of a turn, in lines for a terminal."""
    lines = [f"{receipt['outcome']}: {receipt['reason']}"]
    gate = receipt.get("gate")
    if gate:
        lines.append(f"gate      {gate.get('reason', '')}")
    lines += [f"receipt   {folder / 'receipt.json'}", f"page      {folder / 'report.html'}"]
    return "\n".join(lines)


def main() -> None:
    """Run the turn that is due for a companion, whose settings are the first line of stdin.

    It ends with its stdin, so with the companion; the turn resumes when it is started again.
    """
    folder, reason = Path(sys.argv[1]), sys.argv[2]
    config = AssistantConfig.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()

    async def run() -> None:
        async with opened_turn(folder, config, by="schedule", reason=reason) as (turn, _):
            print(told(await turn.run(), turn.folder), flush=True)

    try:
        asyncio.run(run())
    except NoriaError as error:
        raise SystemExit(f"error: {error}") from None


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(3)  # killed at any moment, a turn resumes to the byte


if __name__ == "__main__":
    main()
