"""Training of a policy that chooses once, on a replay table: exact resume, a log, and a router at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noria.core.errors import DataError, DivergenceError
from noria.core.progress import Progress
from noria.core.runs.outputs import check_run_folder
from noria.core.runs.run import Run, save_settings, settled
from noria.core.training.loop import training
from noria.core.training.state import TrainState
from noria.routing.config import NetworkTraining
from noria.routing.rewards.calibrator import Calibrator, diagnosis
from noria.routing.routers.baselines import mean_cost
from noria.routing.routers.features import TextFeatures
from noria.routing.routers.files import save_router
from noria.routing.routers.metrics import Score, judge
from noria.routing.routers.network import NetworkRouter, PolicyNetwork
from noria.routing.routers.page import write_run_page
from noria.routing.routers.replay import Disturbance, Replay, policy_gradient
from noria.routing.routers.scores import TrainResult, judge_baselines, score_record, table_digest, write_score
from noria.routing.tables.imports import import_table
from noria.routing.tables.table import Table


@dataclass(frozen=True)
class StepResult:
    """A step's number, from 1, and all that is logged of it."""

    step: int
    figures: Mapping[str, float]


class NetworkTrainer:
    """Trains a policy network by group-relative policy gradients on its own rollouts.

    What is random in a step depends on the seed and the step's number alone, so a run that was stopped resumes to the
    bit.

    Args:
        table: a table with scores.
        config: settings of the training.
        features: features of questions; learned from the training part by default.
        disturbance: what goes wrong in the rollouts.
        trade: quality by which the dearest route must be better when the policy is judged and used; training does not
            know it.

    Raises:
        DataError: the table has too few questions, no score, or no cost that thrift could be rewarded by.
    """

    def __init__(
        self,
        table: Table,
        config: NetworkTraining,
        *,
        features: TextFeatures | None = None,
        disturbance: Disturbance | None = None,
        trade: float = 0.0,
    ) -> None:
        self.config, self.trade = config, trade
        self.train, self.held = table.split(1 - config.held_out, seed=config.seed)
        if not (self.train.score == self.train.score).any():
            raise DataError("no score is known", where="table", mend="record it with answers")
        if config.thrift and not (self.train.cost == self.train.cost).any():
            raise DataError(
                "no cost is known, so thrift cannot be rewarded", where="table", mend="leave thrift at 0"
            )
        self.features = features or TextFeatures.fit(self.train.texts, width=config.width, seed=config.seed)
        self.network = PolicyNetwork(
            self.features.width, len(table.routes), hidden=config.hidden, seed=config.seed
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr)
        # Draws come from generators seeded by the step, so no global random state has to be restored.
        self.state = TrainState(dict(self.network.named_parameters()), self.optimizer, prefix="network")
        self.calibrator = Calibrator(config.calibrated())
        self._cost = mean_cost(self.train)
        self.replay = Replay(self.train, self.features(self.train.texts), disturbance=disturbance)
        self._held = self.features(self.held.texts)

    @property
    def step(self) -> int:
        """Number of steps made."""
        return self.state.step

    def advance(self) -> StepResult:
        """Make one step: roll out, calibrate, learn."""
        config = self.config
        generator = torch.Generator().manual_seed((config.seed << 32) + self.step)
        rolled = self.replay.roll(
            self.network, prompts=config.prompts, group=config.group, generator=generator
        )
        names = Replay.names
        calibrated = self.calibrator.calibrate(rolled.rewards, rolled.group, rolled.dataset, names=names)
        loss = policy_gradient(self.network, self.replay, rolled, calibrated.advantages)
        chances = self.network(self.replay.features[rolled.question[:: config.group]]).log_softmax(-1)
        entropy = -(chances.exp() * chances).sum(-1).mean()
        self.optimizer.zero_grad(set_to_none=True)
        (loss - config.entropy * entropy).backward()
        if not all(p.grad is None or p.grad.isfinite().all() for p in self.network.parameters()):
            raise DivergenceError(
                "the gradient is not finite",
                where=f"step {self.step + 1}",
                mend="lower lr; the last checkpoint is whole",
            )
        self.optimizer.step()
        self.state.step += 1
        figures = {"entropy": float(entropy.detach())}
        for column, name in enumerate(names):
            rewards = rolled.rewards[:, column]
            figures[f"reward/{name}"] = float(rewards[rewards.isfinite()].mean())
        signal = diagnosis(calibrated, rolled.group, rolled.dataset, names)
        figures |= {f"calibration/{name}": value for name, value in signal.items()}
        return StepResult(self.step, figures)

    def evaluate(self) -> Score:
        """Score the held-out questions, each sent to the most probable route, or to the best one at the trade."""
        held, router = self.held, self.router()
        choices = router.best(router.chances(self._held))
        return judge(choices, held.quality, held.cost, held.dataset, held.available)

    def router(self) -> NetworkRouter:
        """The current policy as a router."""
        return NetworkRouter(
            self.train.routes, self._cost, features=self.features, network=self.network, trade=self.trade
        )

    def run(self, run: Run, *, on_step: Callable[[int, Mapping[str, float]], None] | None = None) -> None:
        """Train to the last step, with a log and checkpoints on the way.

        Raises:
            DivergenceError: the gradient is not finite.
        """
        config = self.config
        if not self.step:
            run.log(0, **logged(self.evaluate()))
            self.save(run)
        while self.step < config.steps:
            figures = dict(self.advance().figures)
            last = self.step == config.steps
            if last or not self.step % config.eval_every:
                figures |= logged(self.evaluate())
            run.log(self.step, **figures)
            if last or not self.step % config.checkpoint_every:
                self.save(run)
            if on_step:
                on_step(self.step, figures)

    # -- checkpoints ------------------------------------------------------------------------------------------

    def save(self, run: Run) -> None:
        """Write a checkpoint."""
        self.state.save(run, self.features.tensors(), calibrator=self.calibrator.state_dict())

    def resume(self, run: Run) -> bool:
        """Resume from the run's newest checkpoint; False where there is none.

        Raises:
            CheckpointError: it is of another network.
        """
        checkpoint = self.state.resume(run)
        if checkpoint is not None:
            self.calibrator.load_state_dict(checkpoint.state["calibrator"])
        return checkpoint is not None


def train_network(
    config: NetworkTraining, folder: Path, *, trade: float = 0.0, progress: Progress | None = None
) -> TrainResult:
    """Train a policy that chooses once, or resume its training, in `folder`.

    Args:
        config: settings of the training.
        folder: folder of the run.
        trade: trade that the router is judged at and saved with.
        progress: shows how far the training is.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
        DivergenceError: the gradient is not finite.
    """
    check_run_folder(folder)
    table = import_table(Path(config.table or ""))
    trainer = NetworkTrainer(table, config, trade=trade)
    settings = config.model_dump(mode="json", exclude={"steps"})
    identity = settled(folder, settings, {"table": (str(config.table), table_digest(table))})
    with progress or Progress(quiet=True) as shown, Run.open(folder, config=identity) as run:
        save_settings(folder, config)
        with training(run, shown, config.steps, page=write_run_page) as task:

            def on_step(step: int, figures: Mapping[str, float]) -> None:
                macro = figures.get("eval/macro")
                task.at(step, None if macro is None else f"macro accuracy {macro:.3f}")

            trainer.resume(run)
            trainer.run(run, on_step=on_step)
        save_router(trainer.router(), folder / "router")
        score = trainer.evaluate()
        baselines = judge_baselines(trainer.train, trainer.held, trade)
        write_score(folder, trainer.step, score_record(score), baselines)
        page = write_run_page(folder)
    return TrainResult(folder, page, trainer.step, score, baselines)


def logged(score: Score) -> dict[str, Any]:
    """A score as figures of a log."""
    means = {name: getattr(score, name) for name in ("macro", "micro", "cost", "regret", "availability")}
    accuracy = {f"accuracy/{name}": value for name, value in score.accuracy.items()}
    return {f"eval/{name}": value for name, value in (means | accuracy).items()}
