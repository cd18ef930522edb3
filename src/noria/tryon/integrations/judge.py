"""A vision-language model as judge: does the action show, and may this clip be generated at all?

The protocol is ours; the paper's success rate (ISR) has none that is published. Frames are fixed: 12, evenly over an
action's span and half a span around it. Each action is asked `votes` times; the majority of the valid votes counts, and
a tie is invalid. An invalid verdict is left out of a rate and counted; it never lets a clip pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from noria.core.chat import ChatClient, ChatServer, Frame, Image, Text, Video
from noria.core.errors import DataError
from noria.core.judging import ChatJudge, Checklist, Item, Verdict, ask_panel, majority
from noria.tryon.actions.reading import Action
from noria.tryon.integrations.annotator import jpeg
from noria.tryon.video.clips import Clip

FRAMES = 12
SCREEN = Checklist(
    (
        Item("minor", "Could any person in these frames be younger than 18 years?", good="no"),
        Item("nudity", "Is any person in these frames nude, or wearing underwear alone?", good="no"),
    )
)
"""What an operator has a model look for before anything is generated."""


@dataclass(frozen=True)
class SuccessRate:
    """Actions that a judge saw.

    Attributes:
        shown, judged: actions that show, of those with a valid verdict.
        invalid: actions without one.
        verdicts: verdict on each action, in order.
    """

    shown: int
    judged: int
    invalid: int
    verdicts: list[Verdict]

    @property
    def rate(self) -> float | None:
        """Share of the judged actions that show; None where none was judged."""
        return self.shown / self.judged if self.judged else None


@dataclass(frozen=True)
class JudgedClips:
    """A judge's word on generated clips, and what that word is worth.

    Attributes:
        generated: actions of the generated clips.
        real: actions of the real clips, which show them: a judge to be trusted sees nearly all.
        others: actions of other clips on the real clips, which do not show them: it sees nearly none. None where
            all clips have the same captions.
    """

    generated: SuccessRate
    real: SuccessRate
    others: SuccessRate | None

    @property
    def trusted(self) -> bool | None:
        """Whether the judge tells what shows from what does not; None where that could not be tried.

        It must see at least .8 of what shows, and of what does not show at most .2, among its valid verdicts, and
        half of its verdicts must be valid.
        """
        parts = [self.real, self.others] if self.others is not None else []
        if not parts or any(part.rate is None for part in parts):
            return None
        valid = all(part.judged >= part.invalid for part in parts)
        seen, imagined = (part.rate or 0.0 for part in parts)
        return valid and seen >= 0.8 and imagined <= 0.2


def joined(rates: Sequence[SuccessRate]) -> SuccessRate:
    """The rate over all actions of several clips."""
    return SuccessRate(
        sum(rate.shown for rate in rates),
        sum(rate.judged for rate in rates),
        sum(rate.invalid for rate in rates),
        [verdict for rate in rates for verdict in rate.verdicts],
    )


def other_actions(actions: Sequence[Sequence[Action]]) -> list[list[Action]]:
    """For each clip its own times with captions of the clips after it, none of which is one of its own."""
    result = []
    for number, own in enumerate(actions):
        after = [action.caption for clip in (*actions[number + 1 :], *actions[:number]) for action in clip]
        foreign = [text for text in dict.fromkeys(after) if text not in {action.caption for action in own}]
        result.append([replace(a, caption=text) for a, text in zip(own, foreign, strict=False)])
    return result


def success_rate(clip: Clip, actions: Sequence[Action], server: ChatServer, *, votes: int = 3) -> SuccessRate:
    """Ask a judge whether each action shows in a clip.

    Run it on real clips with their true actions first: a judge that misses those cannot judge generated ones.

    Args:
        clip: the clip.
        actions: what should show.
        server: the judge's model.
        votes: times that each action is asked.
    """
    verdicts = []
    for number, action in enumerate(actions):
        question = f"Do the frames show a hand do this, and the garment respond to it? {action.caption}"
        half = (action.end - action.start) / 2
        rows = _rows(clip, action.start - half, action.end + half)
        checklist = Checklist((Item(f"action{number + 1}", question),))
        verdicts += _ask(clip, rows, checklist, server, votes)
    values = [verdict.value for verdict in verdicts]
    valid = len(values) - values.count("invalid")
    return SuccessRate(values.count("yes"), valid, values.count("invalid"), verdicts)


def screen(clip: Clip, server: ChatServer, checklist: Checklist = SCREEN) -> None:
    """Refuse a clip that a model does not clear; no answer is a refusal, too.

    Args:
        clip: the clip.
        server: the model that looks at it.
        checklist: questions, each with the answer that lets the clip pass.

    Raises:
        DataError: it is not cleared, with the questions that it fails.
    """
    verdicts = _ask(clip, _rows(clip, 0.0, clip.duration), checklist, server, 1)
    failed = [
        item.id for item, verdict in zip(checklist.items, verdicts, strict=True) if verdict.value != item.good
    ]
    if failed:
        raise DataError(f"not cleared by {server.model}: {', '.join(failed)}", where=clip.path.name)


def _rows(clip: Clip, start: float, end: float) -> list[int]:
    inside = np.flatnonzero((clip.seconds >= start) & (clip.seconds < end))
    inside = inside if len(inside) else np.array([int(np.abs(clip.seconds - start).argmin())])
    return sorted({int(row) for row in inside[np.linspace(0, len(inside) - 1, FRAMES).round().astype(int)]})


def _ask(
    clip: Clip, rows: Sequence[int], checklist: Checklist, server: ChatServer, votes: int
) -> list[Verdict]:
    frames = Video(tuple(Frame(Image(jpeg(clip, row)), float(clip.seconds[row])) for row in rows))

    async def ask() -> list[list[Verdict]]:
        async with ChatClient(server) as client:
            judges = [
                ChatJudge(client, f"vote {n + 1}", sample=n, temperature=0.7 if n else 0.0)
                for n in range(votes)
            ]
            return await ask_panel(judges, checklist, [Text("Frames of a video:"), frames])

    return majority(asyncio.run(ask()))
