"""Turns of the wheel on a gateway's own traffic: which learner, on what, judged by whom, with how much money."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.config.learning import JUDGELESS
from noria.assistant.folder import ABLATIONS_FOLDER, TURNS_FOLDER, data_salt, open_control, open_versions
from noria.assistant.learners.ablation import Contribution, ablate, next_folder
from noria.assistant.learners.around import Around, check, check_judged, open_learners
from noria.assistant.learners.settings import AblationConfig
from noria.assistant.service.bundles import CHAMPION, Bundles
from noria.core.chat import ChatClient
from noria.core.errors import DataError, MissingExtra, NoriaError
from noria.core.judging import Checklist
from noria.core.judging.live import standard_rules
from noria.core.learning.dataset import FreezeConfig, is_shown
from noria.core.learning.ending import remove_old_texts, stop_turn
from noria.core.learning.in_order import InOrder
from noria.core.learning.learner import Parent
from noria.core.learning.plan import TurnConfig, TurnPlan, open_turn, plan_turn, rejected_candidates
from noria.core.learning.routes.backends import Backend
from noria.core.learning.turn import Turn
from noria.core.storage.journal_file import JournalReader
from noria.core.traces.store import read_views


@asynccontextmanager
async def opened_turn(
    folder: Path,
    config: AssistantConfig,
    *,
    by: str,
    reason: str,
    tell: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[tuple[Turn, TurnPlan]]:
    """The next turn of a gateway, or the one that did not end, beside the gateway while it serves.

    The configured learners are asked in their order. A learner's estimates and its gate have judges of their own: a
    candidate that pleased the learner's judge has to please another one. A turn that did not end and whose settings
    have changed since ends as stopped, with a receipt of what it paid, and the next one takes its place.

    Args:
        folder: folder of the gateway.
        config: settings of the gateway.
        by: who starts it.
        reason: reason for which the turn is due, in words.
        tell: hears that a turn was stopped, and why.

    Raises:
        ConfigError: a learner lacks what it needs: a judge of the gate, a checklist, skills.
        DataError: nothing serves yet.
        RunError: another process works at the turn that did not end.
    """
    check(config)
    JournalReader(folder).close()  # nothing is made where there is no gateway's folder
    async with AsyncExitStack() as stack:
        opening = _Opening(stack, folder, config)
        plan = open_turn(opening.control)
        if plan is not None:
            turn, changed = await opening.resumed(plan)
            if turn is not None:
                yield turn, plan
                return
            receipt = stop_turn(opening.home(plan), plan, opening.control, changed)
            tell(f"turn {plan.number} {receipt['outcome']}: {receipt['reason']}; "
                 f"it spent {receipt['spent']['money']:.6g}")  # fmt: skip
            if by == "schedule":
                reason = plan.reason
        turn = await opening.planned(reason, by)
        remove_old_texts(folder / TURNS_FOLDER, opening.control)
        yield turn, turn.plan


def end_open_turn(folder: Path, config: AssistantConfig, reason: str) -> tuple[Path, dict[str, Any]]:
    """End the turn that did not end as stopped, such as one whose learner fails each time; its folder and receipt.

    Args:
        folder: folder of the gateway.
        config: settings of the gateway.
        reason: reason in words, for the receipt.

    Raises:
        DataError: no turn is open.
        RunError: a process works at it.
    """
    JournalReader(folder).close()
    with contextlib.closing(open_control(folder, config)) as control:
        plan = open_turn(control)
        if plan is None:
            raise DataError("no turn is open", where=str(folder))
        home = folder / TURNS_FOLDER / f"{plan.number:06d}"
        return home, stop_turn(home, plan, control, reason)


class _Opening:
    """A gateway's folder as turns need it, open until the stack closes."""

    def __init__(self, stack: AsyncExitStack, folder: Path, config: AssistantConfig) -> None:
        self.stack, self.folder, self.config = stack, folder, config
        self.control = open_control(folder, config)
        stack.callback(self.control.close)
        self.store = open_versions(folder, config)
        self.bundles = Bundles(self.control, self.store, config)
        self.salt = data_salt(
            self.control
        )  # before the plan, so that one that was killed at once has the same one
        move = self.bundles.pointers.present(CHAMPION)
        if move is None:
            raise DataError("nothing serves yet", where=str(folder), mend="start the gateway first")
        self.champion = move.bundle

    def home(self, plan: TurnPlan) -> Path:
        return self.folder / TURNS_FOLDER / f"{plan.number:06d}"

    async def resumed(self, plan: TurnPlan) -> tuple[Turn | None, str]:
        """The turn that did not end; None where it cannot resume, and why."""
        learners = await self._learners(plan.parent)
        if plan.learner != learners.name:
            return None, f"its learners have changed: they were {plan.learner}, and are {learners.name}"
        turn = self._turn(plan, learners)
        changed = turn.changed()
        return (None if changed else turn), changed

    async def planned(self, reason: str, by: str) -> Turn:
        """The next turn."""
        learners = await self._learners(self.champion)
        plan = plan_turn(
            self.control, parent=self.champion, learner=learners.name, reason=reason, now=time.time(), by=by
        )
        return self._turn(plan, learners)

    async def _learners(self, parent: str) -> InOrder:
        around = await _around(self.stack, self.folder, self.config, self.bundles, parent)
        return open_learners(around, rejected_candidates(self.control, parent))

    def _turn(self, plan: TurnPlan, learners: InOrder) -> Turn:
        learning = self.config.learning
        judged = any(name not in JUDGELESS for name in learning.order)
        settings = TurnConfig(
            freeze=FreezeConfig(salt=self.salt, callers=learning.callers, most_traces=learning.most_traces),
            least_rated=learning.least_rated if judged else 0,
            money=learning.money,
            seconds=learning.seconds,
            gate=learning.gate,
            experiment=dict(learning.experiment),
        )
        return Turn(
            self.home(plan),
            plan,
            settings,
            learner=learners,
            evaluator=learners,
            store=self.store,
            control=self.control,
            views=lambda: read_views(self.folder, limit=learning.most_traces, wanted=is_shown),
            checklists=_checklists(self.config),
        )


async def _around(
    stack: AsyncExitStack, folder: Path, config: AssistantConfig, bundles: Bundles, parent: str
) -> Around:
    """What the learners work with, open until the turn ends."""
    reader = stack.enter_context(JournalReader(folder))
    backends: dict[str, Backend] = {}
    if config.learning.gate_judge is not None or any(n not in JUDGELESS for n in config.learning.order):
        for name, server in config.backends.items():
            # Without a cache: an answer from there costs nothing, and the receipt would depend on what ran before.
            client = await stack.enter_async_context(ChatClient(server))
            backends[name] = Backend(client, server.prices)
    parts = bundles.parts_of(parent)[0]
    return Around(config, config.judging.as_checklist(), backends, reader.blob, parts)


def _checklists(config: AssistantConfig) -> list[Checklist]:
    """The checklists by which the verdicts on traces are read: of the rules, of the panel, and of the grounding."""
    found = [standard_rules(seconds=config.judging.slow).checklist]
    if config.judging.checklist:
        found.append(config.judging.as_checklist())
    if config.judging.grounding is not None:
        with contextlib.suppress(MissingExtra):  # then nobody judged it here
            found.append(import_module("noria.assistant.parts.grounding").CHECKLIST)
    return found


async def ablated(
    folder: Path,
    config: AssistantConfig,
    settings: AblationConfig,
    *,
    again: bool = False,
    money: float | None = None,
    seconds: float | None = None,
    seen: Callable[[Contribution], None] = lambda one: None,
) -> tuple[Path, dict[str, Any]]:
    """Leave out each part of the bundle that serves, in turn; the folder, and what each contributes.

    Args:
        folder: folder of the gateway, which may serve meanwhile.
        config: settings of the gateway.
        settings: the sample.
        again: whether an ablation that did not end is left as it is, and a new one begun.
        money: most that it may cost.
        seconds: longest time of it.
        seen: hears each contribution when it is known.

    Raises:
        ConfigError: the gate has no judge, or there is no checklist.
        DataError: nothing serves yet, or no request can be sent again.
    """
    check_judged(config)
    JournalReader(folder).close()
    async with AsyncExitStack() as stack:
        control = open_control(folder, config)
        stack.callback(control.close)
        store = open_versions(folder, config)
        bundles = Bundles(control, store, config)
        move = bundles.pointers.present(CHAMPION)
        if move is None:
            raise DataError("nothing serves yet", where=str(folder), mend="start the gateway first")
        around = await _around(stack, folder, config, bundles, move.bundle)
        place = next_folder(folder / ABLATIONS_FOLDER, move.bundle, again=again)
        parent = Parent(store.load_bundle(move.bundle), store)
        most = config.learning.most_traces
        result = await ablate(
            place, parent, around, lambda: read_views(folder, limit=most, wanted=is_shown), settings,
            money=money, seconds=seconds, seen=seen,
        )  # fmt: skip
        return place, result


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
        async with opened_turn(folder, config, by="schedule", reason=reason, tell=print) as (turn, _):
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
