"""Credit of tokens by name: passes of the model → scores (`signals`) → weights of advantages (`rules`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError
from noria.credit.attention.layers import AttentionLayer, attention_layers, choose_layers, depth_of
from noria.credit.attention.tap import AttentionTap
from noria.credit.config import CreditConfig
from noria.credit.passes import evaluating, inputs_of, one_logit
from noria.credit.responses.traces import Traces
from noria.credit.rules import RULES
from noria.credit.scores.weights import chosen_share, with_mass
from noria.credit.signals import (
    READERS,
    SIGNALS,
    SignalInput,
    TokenScores,
    counted_tokens,
    join_scores,
    token_scores,
)


@dataclass(frozen=True)
class TokenWeights:
    """Weights of a batch's tokens.

    Attributes:
        weights: [batch, tokens] to multiply advantages with; 1 outside of responses.
        chosen: [batch, tokens] tokens that the rule chose to get more than the others.
        metrics: figures for a log, their names beginning with `credit/`.
    """

    weights: Tensor
    chosen: Tensor
    metrics: Mapping[str, float]


class TokenCredit:
    """Scores and weighs the tokens of rollouts by one configuration.

    ```python
    credit = TokenCredit(named_credit("flow"))
    scored = credit.score(model, traces)
    weights = credit.weigh(scored, traces, advantages).weights  # advantages[:, None] * weights is all a trainer needs
    ```

    Args:
        config: signal, rule and their settings.
        replacement: token id without a meaning, for `oar_p`.
    """

    def __init__(self, config: CreditConfig, *, replacement: int = 0) -> None:
        self.config, self.replacement = config, replacement

    @property
    def reads(self) -> bool:
        """Whether the signal needs attention, so that a pass of the model has to be tapped."""
        return self.config.signal in READERS

    def layers(self, model: nn.Module) -> list[AttentionLayer]:
        """The layers of a model that are read.

        Raises:
            ModelError: the model has no such layer.
        """
        layers, config = attention_layers(model), self.config
        return choose_layers(
            layers,
            config.layers,
            depth=depth_of(model, layers),
            number=config.number_of_layers,
            sliding=True if config.signal == "rollout" and config.sliding is None else config.sliding,
        )

    def check(self, model: nn.Module) -> None:
        """Refuse a model without the layers that would be read, before anything else is done.

        Raises:
            ModelError: the model has no such layer.
        """
        if self.reads:
            self.layers(model)

    def tap(
        self,
        model: nn.Module,
        sequence: Callable[[], Tensor],
        *,
        length: int = 0,
        on_pass: Callable[[dict[str, Any]], None] | None = None,
    ) -> AttentionTap:
        """A tap that reads what the signal needs, under the name `read` of its results.

        Args:
            model: language model whose passes are read.
            sequence: called when a pass begins, for [batch, tokens] sequence numbers, −1 for padding.
            length: length of the longest sequence; beyond `stream_above` rows are recomputed instead of kept.
            on_pass: called with the results of each pass, as :class:`AttentionTap` does.
        """
        config = self.config
        readers = {"read": lambda: READERS[config.signal](config, sequence(), length)}
        return AttentionTap(model, self.layers(model), readers, on_pass=on_pass)

    def score(self, model: Any, traces: Traces, *, step: int = 0) -> TokenScores:
        """Score a batch by passes of its own, `batch_size` rows at a time.

        Args:
            model: causal language model, wrapped or not.
            traces: the batch.
            step: training step; random scores depend on it and on the seed.
        """
        if traces.number != len(traces.tokens):  # packed: one row is one pass
            return self._one_pass(model, traces, step)
        size = self.config.batch_size
        parts = [
            self._one_pass(model, traces.rows(slice(start, start + size)), step * 65_537 + start)
            for start in range(0, len(traces.tokens), size)
        ]
        return join_scores(parts)

    def _one_pass(self, model: Any, traces: Traces, step: int) -> TokenScores:
        read = None
        if self.reads:
            tap = self.tap(model, lambda: traces.sequence, length=traces.tokens.shape[1])
            with evaluating(model), torch.no_grad(), tap:
                model(**inputs_of(traces), **one_logit(model))
            read = tap.passes[0]["read"]
        return self._scores(SignalInput(self.config, traces, read, model, step, self.replacement))

    def _scores(self, inputs: SignalInput) -> TokenScores:
        return SIGNALS[self.config.signal](inputs)

    def counted(self, traces: Traces, fallback: Tensor) -> Tensor:
        """Tokens that are ranked: of responses that did not fall back; up to the answer's end where there is one."""
        return counted_tokens(traces, fallback, self.config)

    def from_read(self, read: Any, traces: Traces) -> TokenScores:
        """Scores out of the result `read` of a tapped pass."""
        return self._scores(SignalInput(self.config, traces, read))

    def from_nothing(self, traces: Traces, step: int) -> TokenScores:
        """Scores of a signal that needs no model: random ones, KTAE's, none."""
        return self._scores(SignalInput(self.config, traces, step=step))

    def from_scores(self, scores: Tensor, traces: Traces) -> TokenScores:
        """Scores [batch, tokens] that a caller has already."""
        return token_scores(scores, traces, self.config)

    def weigh(
        self, scored: TokenScores, traces: Traces, advantages: Tensor | None = None, *, step: int = 0
    ) -> TokenWeights:
        """Weights of a batch.

        Args:
            scored: scores of the same traces.
            traces: the batch.
            advantages: [sequences]; needed by `applies` and `ktae`.
            step: training step, for the warm-up.
        """
        config, index = self.config, traces.index
        weights, chosen = RULES[config.rule](config, scored, traces, advantages)
        if config.rule != "add":
            weights = with_mass(weights, traces.response, traces.sequence, traces.number, config.mass)
        if config.applies != "both":
            if advantages is None:
                raise ConfigError(
                    f"only {config.applies} advantages are weighted, and there are none", where="applies"
                )
            sign = 1 if config.applies == "positive" else -1
            weights = torch.where((sign * advantages > 0)[index], weights, 1.0)
        if step < config.warmup_steps:
            weights = 1 + (weights - 1) * (step / config.warmup_steps)
        weights = torch.where(traces.response, weights, 1.0)
        chosen = chosen & traces.response
        number = max(1, int(traces.response.sum()))
        metrics = {
            **scored.metrics,
            "mean_weight": float(weights[traces.response].sum()) / number,
            "chosen": float(chosen.sum()) / number,
        }
        if advantages is not None:
            metrics["advantage_on_chosen"] = chosen_share(
                chosen, advantages[index] * weights, traces.response
            )
        finite = {f"credit/{name}": value for name, value in metrics.items() if math.isfinite(value)}
        return TokenWeights(weights, chosen, finite)
