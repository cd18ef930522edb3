"""Rollouts on Ray while the learner learns: the loop of `noria.mtp.rl.policy` with writers in processes of their own.

Batch n is written by the policy of update n − staleness, as in the loop of one process, with the same random numbers:
on one kind of machine both train the same policy. With `staleness` 0 nothing overlaps.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch

from noria.core.errors import ConfigError, RunError, require
from noria.mtp.decoding.decoder import Decoder
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.head import MTPHead
from noria.mtp.rl.config import RLConfig
from noria.mtp.rl.policy import PolicyTrainer
from noria.mtp.rl.rollout import Batch, Reward, roll_out


class _Writer:
    """A policy and its head in a process of its own, which writes and scores batches."""

    def __init__(
        self, parts: tuple[Any, MTPHead | None], reward: Reward, config: RLConfig, how: Mapping[str, Any]
    ) -> None:
        torch.set_num_threads(how["threads"])
        model, head = copy.deepcopy(parts)  # what Ray stores can only be read
        drafter = HeadDrafter(head) if head is not None and config.gamma else None
        self.parts = {"policy": model, "head": head}
        self.reward, self.config, self.version = reward, config, 0
        self.decoder = Decoder(
            model, drafter, gamma=config.gamma or 1, rule=config.rule, eos=how["eos"], vocab=how["vocab"]
        )

    @torch.no_grad()
    def load(self, version: int, weights: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take in the weights of an update."""
        for name, values in weights.items():
            own = dict(self.parts[name].named_parameters())
            for key, value in values.items():
                own[key].copy_(value)
        self.version = version

    def write(self, number: int, prompts: Sequence[Sequence[int]]) -> Batch:
        """Roll out and score."""
        return roll_out(self.decoder, prompts, self.reward, self.config, number=number, version=self.version)


class RayTrainer(PolicyTrainer):
    """Trains as `PolicyTrainer` does, with writers that are Ray actors. Use it as a context, or call `close`.

    Args:
        policy, more: arguments of `PolicyTrainer`; Ray pickles model, head and reward.
        writers: number of actors, which take batches in turn.
        resources: resources of each actor, as `ray.remote` takes them (`num_gpus=1`); one CPU by default.
        threads: PyTorch's threads in each actor.

    Raises:
        MissingExtra: Ray is absent.
        ConfigError: fewer than one writer.
    """

    def __init__(
        self,
        *policy: Any,
        writers: int = 1,
        resources: Mapping[str, Any] | None = None,
        threads: int = 1,
        **more: Any,
    ) -> None:
        if writers < 1:
            raise ConfigError(f"{writers} writers", where="writers", mend="give at least 1")
        super().__init__(*policy, **more)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.ray: Any = require("ray", "ray")
        self._started = not self.ray.is_initialized()
        if self._started:
            self.ray.init(include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        actor = self.ray.remote(**{"num_cpus": 1} | dict(resources or {}))(_Writer)
        how = {"threads": threads, "eos": self.decoder.eos, "vocab": self.vocab}
        parts = self.ray.put((self.model, self.head))
        self._writers = [actor.remote(parts, self.reward, self.config, how) for _ in range(writers)]
        self._sent = 0

    def ask(self, number: int) -> Any:
        """Ask a writer for a batch; it gets the present weights before it begins."""
        if self._sent != self.step:
            weights = {
                name: {key: p.detach().cpu() for key, p in updates.parameters.items()}
                for name, updates in self.updates.items()
            }
            stored = self.ray.put(weights)
            for writer in self._writers:
                writer.load.remote(self.step, stored)
            self._sent = self.step
        writer = self._writers[number % len(self._writers)]
        return writer.write.remote(number, self.chosen(number))

    def ready(self, pending: Any) -> Batch:
        """Wait for a batch.

        Raises:
            NoriaError: as the writer raised it.
            RunError: the writer died.
        """
        if isinstance(pending, Batch):
            return pending
        try:
            batch: Batch = self.ray.get(pending)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self.ray.exceptions.RayActorError as error:
            raise RunError(
                "a writer died", where="Ray", mend="look at its log; the same run resumes from its checkpoint"
            ) from error
        return batch

    def close(self) -> None:
        """Stop the writers, and Ray if it was started here."""
        for writer in self._writers:
            self.ray.kill(writer)
        self._writers = []
        if self._started:
            self.ray.shutdown()

    def __enter__(self) -> RayTrainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
