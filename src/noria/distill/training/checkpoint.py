"""Checkpoints of a distillation: weights, averages, both optimizers and counters.

`noria.core.training.state.TrainState` is for one network, one optimizer and whole tensors; here are two of each, on
tensors that FSDP2 may have sharded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from noria.core.errors import CheckpointError
from noria.core.runs.checkpoints import optimizer_tensors
from noria.distill.training.roles import like, load_parameters, whole
from noria.distill.types import Role

if TYPE_CHECKING:
    from noria.core.runs.run import Run
    from noria.distill.training.trainer import Distiller

TRAINED: tuple[Role, ...] = ("student", "critic")


@dataclass
class Work:
    """Network evaluations, counted a sample, since the start; those of the monitors are left out.

    Attributes:
        rollout: evaluations of the student in its simulation.
        student, critic, teacher: evaluations of each network elsewhere.
        backward: evaluations, among those of student and critic, that were differentiated.
    """

    rollout: int = 0
    student: int = 0
    critic: int = 0
    teacher: int = 0
    backward: int = 0

    @property
    def price(self) -> int:
        """Evaluations at one price: 1 a forward pass of whichever network, and 2 more a backward pass.

        A backward pass multiplies each weight matrix twice, for the gradients of inputs and of weights, where a forward
        pass does once.
        """
        return self.rollout + self.student + self.critic + self.teacher + 2 * self.backward


def snapshot(distiller: Distiller) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights, EMA, both optimizers and counters: what a resumed run needs (a collective call when sharded)."""
    tensors: dict[str, Tensor] = {}
    for role in TRAINED:
        parameters = _named(distiller, role)
        tensors |= parameters | optimizer_tensors(distiller.optimizers[role], parameters)
    tensors |= _averages(distiller)
    return {name: whole(tensor) for name, tensor in tensors.items()}, {
        "iteration": distiller.iteration,
        "student_steps": distiller.student_steps,
        "ema_updates": distiller.ema.updates,
        "work": vars(distiller.work),
    }


def restore(distiller: Distiller, run: Run) -> bool:
    """Restore the run's newest checkpoint, and say whether there was one.

    Every draw is a function of seed and iteration, so no random state is restored.

    Raises:
        CheckpointError: it is of another model.
    """
    checkpoint = run.latest()
    if checkpoint is None:
        return False
    tensors, where = checkpoint.tensors, f"checkpoint {checkpoint.step}"
    for role in TRAINED:
        parameters = _named(distiller, role)
        if extra := sorted(n for n in tensors if n.startswith(f"{role}.") and n not in parameters):
            raise CheckpointError(
                f"{extra[0].removeprefix(f'{role}.')} is not a parameter of this model",
                where=where,
                mend="the checkpoint is of another model or training mode; use another output folder",
            )
        load_parameters(parameters, tensors, where=where)
        for name, p in parameters.items():
            prefix = f"optimizer.{name}."
            slots = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            if slots:  # the step stays on the CPU, as the optimizer wants it
                distiller.optimizers[role].state[p] = {
                    slot: value.clone() if slot == "step" else like(p, value).clone()
                    for slot, value in slots.items()
                }
    for name, mean in _averages(distiller).items():
        mean.copy_(like(mean, tensors[name]))
    distiller.iteration = int(checkpoint.state["iteration"])
    distiller.student_steps = int(checkpoint.state["student_steps"])
    distiller.ema.updates = int(checkpoint.state["ema_updates"])
    distiller.work = Work(**checkpoint.state["work"])
    return True


def _named(distiller: Distiller, role: Role) -> dict[str, nn.Parameter]:
    """Parameters of a role under the names that they have in a checkpoint."""
    return {f"{role}.{name}": p for name, p in distiller.roles.parameters(role).items()}


def _averages(distiller: Distiller) -> dict[str, Tensor]:
    names = distiller.roles.parameters("student")
    return {f"ema.{name}": mean for name, mean in zip(names, distiller.ema.average, strict=True)}
