"""Training a head on the frozen backbone's own text (Bebop, sec. 4 and 6.1); killed, it resumes to the bit.

Batches are a function of the seed and the step, so there is no generator to restore. The backbone runs once a batch;
all steps of all chains are compared with its states, and no more logits than a chunk's exist at once. Of several
processes each takes its rows of the batch, and the numbers do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import DataError, DivergenceError
from noria.core.runs.run import Run
from noria.core.training.parallel import Parallel
from noria.core.training.updates import Updates
from noria.mtp.acceptance.chains import accept_length
from noria.mtp.config import TrainConfig
from noria.mtp.data import Rows, rows_of_step
from noria.mtp.heads.backbone import backbone_states
from noria.mtp.heads.chain import align
from noria.mtp.heads.head import MTPHead
from noria.mtp.training.losses import LossTerms, loss_from_hidden
from noria.mtp.training.reads import LMHead


def lm_head(head: MTPHead, *, temperature: float = 1.0, vocab_size: int | None = None) -> LMHead:
    """The backbone's LM head as the losses take it."""
    output: Any = head.output
    return LMHead(
        output.weight.detach(),
        None if output.bias is None else output.bias.detach(),
        scale=1 / temperature,
        vocab_size=vocab_size,
    )


def head_loss(backbone: Any, head: MTPHead, rows: Rows, config: TrainConfig, output: LMHead) -> LossTerms:
    """The configured loss of a head on some text, and its terms. The backbone gets no gradient.

    Args:
        backbone: the model.
        head: the model's head.
        rows: text to train on.
        config: settings, of which loss, depth, chain attention and step weights are read.
        output: the LM head, from :func:`lm_head`.
    """
    hidden = backbone_states(backbone, rows)
    steps = config.train_gamma
    aligned = align(rows.tokens, steps, segments=rows.segments, mask=rows.mask)
    states = head(
        hidden,
        rows.tokens,
        steps=steps,
        segments=rows.segments,
        positions=rows.positions,
        chain_attention=config.chain_attention,
    )
    return loss_from_hidden(
        config.loss,
        states,
        output,
        teacher=hidden.flatten(0, 1),
        teacher_rows=aligned.teacher,
        tokens=aligned.tokens,
        valid=aligned.valid,
        step_weights=config.step_weights,
    )


class HeadTrainer:
    """Trains a head.

    Args:
        backbone: frozen; in the same precision as the head.
        head: trained in place.
        rows: the policy's own text.
        config: settings of the training.
        vocab_size: how many logits are real tokens; all by default.
        parallel: the distributed setting; one process by default. With FSDP2 the backbone's blocks are sharded, and
            what the head shares with it stays whole, as the head does.

    Raises:
        DataError: no text, or none that holds one whole chain.
        ConfigError: a batch does not divide over the processes.
    """

    def __init__(
        self,
        backbone: Any,
        head: MTPHead,
        rows: Rows,
        config: TrainConfig,
        *,
        vocab_size: int | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        self.backbone, self.head, self.rows, self.config = backbone.eval(), head, rows, config
        self.parallel = parallel or Parallel("mtp")
        self.share = self.parallel.share(config.batch_size)
        if self.parallel.sharded:
            self.parallel.place(backbone, rest=False)
        self.device = next(head.parameters()).device
        self.lm_head = lm_head(head, temperature=config.temperature, vocab_size=vocab_size)
        for p in backbone.parameters():
            p.requires_grad_(False)
        weights = dict(head.named_parameters())
        self.updates = Updates(
            weights,
            prefix="head",
            fixed={name: t for name, t in head.state_dict().items() if name not in weights},
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        if not len(rows) or not self._holds_a_chain():
            raise DataError(
                f"no document is long enough for a chain of {config.train_gamma} steps",
                where="data",
                mend=f"give text of {config.train_gamma + 2} tokens or more that the policy wrote",
            )

    @property
    def step(self) -> int:
        """Number of steps made so far."""
        return self.updates.state.step

    def train(
        self, run: Run | None = None, *, on_step: Callable[[int, LossTerms], None] | None = None
    ) -> None:
        """Train up to the configured step; with a run, resume from its checkpoint and keep new ones.

        Args:
            run: run that takes metrics and checkpoints.
            on_step: called with the step and the terms of its loss.

        Raises:
            DivergenceError: the loss or a gradient is not finite; the last checkpoint is whole.
            CheckpointError: the run's checkpoint is of another head.
        """
        config = self.config
        if run is not None:
            self.resume(run)
        self.head.train()
        while self.step < config.steps:
            terms, norm = self.advance()
            if run is not None and (self.step % config.log_every == 0 or self.step == config.steps):
                run.log(self.step, **self.figures(terms), grad_norm=norm, lr=self._rate(self.step - 1))
            if run is not None and (self.step % config.checkpoint_every == 0 or self.step == config.steps):
                self.updates.state.save(run)
                self.parallel.barrier()
            if on_step is not None:
                on_step(self.step, terms)
        self.head.eval()

    def advance(self) -> tuple[LossTerms, float]:
        """Make one step; return the terms of its loss, and the gradient's norm before clipping."""
        config = self.config
        terms = self.loss(self.batch(self.step)[self.share])
        self.updates.zero()
        terms = self._backward(terms)
        norm = self.updates.clip(config.grad_clip)
        if not bool(terms.loss.isfinite() & norm.isfinite()):
            raise DivergenceError(
                f"the loss is {float(terms.loss.detach()):g} and its gradient {float(norm):g}",
                where=f"step {self.step + 1}",
                mend="lower lr; the last checkpoint is whole",
            )
        self.updates.step(self._rate(self.step))
        self.updates.state.step += 1
        return terms, float(norm)

    def _backward(self, terms: LossTerms) -> LossTerms:
        """Backward through the loss of the whole batch; its terms, over all processes."""
        if self.parallel.processes == 1:
            terms.loss.backward()  # type: ignore[no-untyped-call]
            return terms
        # Processes have unequally many chains that count: their means weigh by how many.
        weight = self.parallel.sum(terms.weight)
        share = terms.weight / weight.clamp(min=torch.finfo(weight.dtype).tiny)
        whole: Tensor = terms.loss * share * self.parallel.processes
        whole.backward()  # type: ignore[no-untyped-call]
        self.parallel.average_gradients(self.head.parameters())
        rows = terms.overlap.flatten(0, -2)
        counts = self.parallel.sum(rows.isfinite().sum(0))
        return replace(
            terms,
            loss=self.parallel.sum(terms.loss.detach() * share),
            weight=weight,
            count=self.parallel.sum(terms.count),
            excluded=self.parallel.sum(terms.excluded),
            acceptance=self.parallel.sum(rows.nansum(0)) / counts,
        )

    def loss(self, rows: Rows) -> LossTerms:
        """The loss of a batch, forward only."""
        return head_loss(self.backbone, self.head, rows, self.config, self.lm_head)

    def batch(self, step: int) -> Rows:
        """The rows of a step: each row once an epoch, in an order of the seed's."""
        config = self.config
        chosen = rows_of_step(step, config.batch_size, len(self.rows), config.seed)
        return self.rows[chosen].to(self.device)

    @staticmethod
    def figures(terms: LossTerms) -> dict[str, Any]:
        """Figures of the log: the loss, each step's acceptance, and the accept length of the paper's product."""
        alphas = terms.acceptance.double().cpu()
        return {
            "loss": terms.loss,
            "chains": terms.count,
            "excluded": terms.excluded,
            "accept_length_factorised": float(accept_length(alphas.cumprod(0))),
            **{f"conditional_rate_{step}": float(alpha) for step, alpha in enumerate(alphas, start=1)},
        }

    def resume(self, run: Run) -> bool:
        """Restore the run's newest checkpoint, and say whether there was one.

        Raises:
            CheckpointError: it is of another head.
        """
        return self.updates.resume(run) is not None

    def _rate(self, step: int) -> float:
        """Warm-up, then constant."""
        warm = self.config.warmup * self.config.steps
        return self.config.lr * min(1.0, (step + 1) / max(1.0, warm))

    def _holds_a_chain(self) -> bool:
        for start in range(0, len(self.rows), 256):
            rows = self.rows[slice(start, start + 256)]
            valid = align(rows.tokens, self.config.train_gamma, segments=rows.segments, mask=rows.mask).valid
            if bool(valid.all(-1).any()):
                return True
        return False
