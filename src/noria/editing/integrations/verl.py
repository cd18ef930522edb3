"""verl: `compute_score` for its reward managers. The stream is the `data_source` of a row, such as editing/cognitive.

verl asks for one number a row, and groups rows by their prompt's uid; give the two streams of a prompt uids of their
own, and each has its own group. verl knows no masked reward: by default one is an error, since a made-up number would
be learnt from; with `drop_masked` it is NaN beside `masked: 1`, which the run must be set to drop.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, get_args

from noria.core.errors import DataError
from noria.editing.environment.rewarding import RewardEnvironment, Rollout, ScoredRollout
from noria.editing.rewards.streams import Stream

PREFIX = "editing/"


def stream_of(data_source: str) -> Stream:
    """The stream that a data source names.

    Raises:
        DataError: it names none.
    """
    name = data_source.removeprefix(PREFIX)
    for stream in get_args(Stream):
        if data_source.startswith(PREFIX) and stream == name:
            known: Stream = stream
            return known
    raise DataError(
        f"no stream in {data_source!r}", where="data_source", mend=f"write {PREFIX}cognitive, {PREFIX}visual"
    )


class ComputeScore:
    """A `compute_score` function over one environment, which runs on an event loop in a thread of its own.

    Args:
        environment: makes the environment on that loop.
        rollout: makes a rollout of a task's id, an output and a stream.
        drop_masked: whether a masked row gets NaN and `masked: 1` in the place of an error.
    """

    def __init__(
        self,
        environment: Callable[[], RewardEnvironment],
        rollout: Callable[[str, str, Stream], Rollout],
        *,
        drop_masked: bool = False,
    ) -> None:
        self.rollout, self.drop_masked = rollout, drop_masked
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

        async def make() -> RewardEnvironment:
            return environment()

        self._environment = asyncio.run_coroutine_threadsafe(make(), self._loop).result()

    def __call__(
        self,
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, float]:
        """Score one output; verl's workers call it from many threads.

        Args:
            data_source: name of the stream.
            solution_str: text that the policy wrote.
            ground_truth: id of the task.
            extra_info: not used.

        Raises:
            DataError: the reward is masked and `drop_masked` is off, or a name is unknown.
        """
        stream = stream_of(data_source)
        rollout = self.rollout(str(ground_truth), solution_str, stream)
        scored = asyncio.run_coroutine_threadsafe(self._environment.score(rollout), self._loop).result()
        return self._scores(scored, stream)

    def _scores(self, scored: ScoredRollout, stream: Stream) -> dict[str, float]:
        parts = {"cognitive": scored.cognitive, "visual": scored.visual}
        asked = [parts[stream]] if stream != "both" else list(parts.values())
        values = [one.value for one in asked]
        whole = None if None in values else sum(value for value in values if value is not None)
        if whole is None and not self.drop_masked:
            why = ", ".join(one.why for one in asked if one.value is None)
            raise DataError(f"a masked reward ({why})", where=scored.rollout.task.id, mend="set drop_masked")
        return {
            "score": math.nan if whole is None else whole,
            "masked": float(whole is None),
            "r_cog": math.nan if scored.cognitive.value is None else scored.cognitive.value,
            "r_vis": math.nan if scored.visual.value is None else scored.visual.value,
        }
