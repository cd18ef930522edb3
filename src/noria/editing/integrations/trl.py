"""TRL: the two rewards as reward functions of its GRPO trainer, and the streams as the advantage function of the core.

```python
rewards = TrlRewards(environment, tasks, root, settings)
trainer = ComponentGRPOTrainer(
    model=model,
    reward_funcs=rewards.functions,
    train_dataset=Dataset.from_list(expand(rows, settings)),  # rows with `task`; `stream` is added
    advantage_function=StreamAdvantages(settings),
    args=GRPOConfig(num_generations=settings.groups[0][1], …),
)
```

Under `split` each prompt is there twice, each time as a group of its own; a reward function returns None for rows of
the other stream, which TRL masks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.core.errors import DataError
from noria.editing.data.names import task_seed
from noria.editing.data.pictures import Scene, open_scene
from noria.editing.data.tasks import Task, image_paths
from noria.editing.environment.rewarding import RewardEnvironment, Rollout, ScoredRollout
from noria.editing.rewards.streams import Stream, StreamSettings, mask_for, stream_advantages

if TYPE_CHECKING:
    from noria.core.training.trl import Advantages, RewardBatch


class TrlRewards:
    """r_cog and r_vis as asynchronous reward functions: both are asked at once, and each rollout is rewarded once.

    Args:
        environment: rewards rollouts. TRL runs it on its own event loop.
        tasks: tasks that the rows of the data name in their column `task`.
        root: folder that the tasks' pictures are named from.
        seed: seed of the training; the editor's seed of a group follows from it, the task and the step.
    """

    def __init__(
        self, environment: RewardEnvironment, tasks: Sequence[Task], root: Path, *, seed: int = 0
    ) -> None:
        self.environment, self.root, self.seed = environment, root, seed
        self.tasks = {task.id: task for task in tasks}
        self._scenes: dict[str, Scene] = {}
        self._under_way: dict[tuple[Any, ...], asyncio.Future[ScoredRollout]] = {}

    @property
    def functions(self) -> list[Any]:
        """The reward functions, in the order of `PATHS`."""
        return [self.reward_cog, self.reward_vis]

    async def reward_cog(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """r_cog of each completion; None where it is masked or belongs to the other stream."""
        return await self._rewards("cognitive", completions, columns)

    async def reward_vis(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """r_vis of each completion; None where it is masked or belongs to the other stream."""
        return await self._rewards("visual", completions, columns)

    async def _rewards(
        self, path: Any, completions: Sequence[Any], columns: Mapping[str, Any]
    ) -> list[float | None]:
        names: Sequence[Any] = columns.get("task", ())
        if len(names) != len(completions):
            raise DataError("the rows have no task", where="task", mend="give each row the id of its task")
        streams: Sequence[Stream] = columns.get("stream") or ["both"] * len(names)
        step = int(getattr(columns.get("trainer_state"), "global_step", 0))
        pending = {
            row: self._scored(row, str(name), text_of(completion), stream, step)
            for row, (name, completion, stream) in enumerate(zip(names, completions, streams, strict=True))
            if mask_for(stream, path, 0.0) is not None
        }
        scored = dict(zip(pending, await asyncio.gather(*pending.values()), strict=True))
        log = columns.get("log_metric")
        if log is not None and scored:
            self._log(log, path, list(scored.values()))
        return [
            None if row not in scored else getattr(scored[row], path).value for row in range(len(completions))
        ]

    async def _scored(self, row: int, name: str, output: str, stream: Stream, step: int) -> ScoredRollout:
        """The rollout's rewards; whoever asks second waits for the first."""
        key = (step, row, name, output, stream)
        if key in self._under_way:
            return await self._under_way.pop(key)
        if name not in self.tasks:
            raise DataError(f"no task {name!r}", where="task", mend="give the tasks that the rows name")
        task = self.tasks[name]
        if name not in self._scenes:
            self._scenes[name] = open_scene(image_paths(task, self.root))
        seed = task_seed(f"{name} {step}", self.seed)
        rollout = Rollout(task, self._scenes[name], output, stream, seed, row)
        work = asyncio.ensure_future(self.environment.score(rollout))
        if stream == "both":
            self._under_way[key] = work
        return await work

    def _log(self, log: Any, path: str, scored: Sequence[ScoredRollout]) -> None:
        rewards = [getattr(one, path) for one in scored]
        log(f"coverage/{path}", sum(one.value is not None for one in rewards) / len(rewards))
        log(f"canaries/{path}", sum(one.why == "canary" for one in rewards) / len(rewards))
        strict = [one.strict for one in rewards if one.strict is not None]
        if strict:
            log(f"strict/{path}", sum(strict) / len(strict))
        log("editor_calls", float(self.environment.renderer.counts.calls))


class StreamAdvantages:
    """The rule of the streams as an `AdvantageFunction` of `noria.core.training.trl`.

    Args:
        settings: rule and its settings.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings

    def __call__(self, batch: RewardBatch) -> Advantages:
        """Advantages [rows] of r_cog and r_vis, whose columns come first and second."""
        from noria.core.training.trl import Advantages

        values = stream_advantages(batch.rewards, batch.group, self.settings)
        known = batch.rewards.isfinite().float().mean(0)
        share = (values != 0).float().mean()
        metrics = {"share_with_advantage": float(share)}
        return Advantages(
            values, metrics | {f"known/{n}": float(v) for n, v in zip(batch.names, known, strict=True)}
        )


def text_of(completion: Any) -> str:
    """Text of a completion: itself, or of its messages."""
    if isinstance(completion, str):
        return completion
    pieces = []
    for message in completion:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            pieces.append(content)
        elif isinstance(content, list):
            pieces += [str(part.get("text", "")) for part in content if isinstance(part, Mapping)]
    return "".join(pieces)
