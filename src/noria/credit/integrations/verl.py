"""Credit of tokens in verl, against its documented contract: `DataProto` batches and the actor's log-probability pass.

verl pins an older transformers than we test with and is not installed beside us, so this module imports nothing of it.
What it relies on is: a batch has `.batch` (a mapping of tensors with `prompts`, `responses`, `input_ids`,
`attention_mask`, `response_mask`, and later `advantages`) and `.non_tensor_batch` (`uid` of each row's prompt); an
actor has `actor_module` and scores micro-batches in `_forward_micro_batch(micro_batch, …)`, padded or with padding
removed, in whatever order. Rows are matched by their tokens, so the order does not matter.

In the worker, read attention in the pass that is made anyway:

```python
class CreditWorker(ActorRolloutRefWorker):
    def compute_log_prob(self, data):
        with TappedActor(self.actor, credit, self.tokenizer) as tapped:
            output = super().compute_log_prob(data)
        return tapped.attach(output, data)
```

In the trainer's process, weigh the advantages once they are there:

```python
ray_trainer.compute_advantage = with_credit(ray_trainer.compute_advantage, credit)
```
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.credit.credit import Scored, TokenCredit, counts_of
from noria.credit.responses.answers import finder
from noria.credit.responses.traces import Traces, find_answers
from noria.credit.types import Fallback

__all__ = ["FALLBACKS", "SCORES", "SHARES", "TappedActor", "reweight", "with_credit"]

SCORES = "credit_scores"
"""[rows, response tokens] in the batch: scores of the tokens, NaN where a token is not scored."""
SHARES = "credit_shares"
"""Likewise, where the signal is the coupled rhythm: shares of γ − 1."""
FALLBACKS = "credit_fallback"
"""[rows] in the batch: why a row has none."""


class TappedActor:
    """A context in which the actor's passes over a batch are read.

    Args:
        actor: verl's data-parallel actor.
        credit: what to read for; its signal has to be one of attention.
        tokenizer: of the policy.

    Raises:
        ConfigError: the signal reads no attention, and needs no tap: use :func:`with_credit` alone.
    """

    def __init__(self, actor: Any, credit: TokenCredit, tokenizer: Any) -> None:
        if not credit.reads:
            raise ConfigError(
                f"{credit.config.signal} reads no attention", where="credit", mend="leave the tap out"
            )
        self.actor, self.credit, self.tokenizer = actor, credit, tokenizer
        self.find = finder(credit.config.answer)
        self.rows: dict[bytes, tuple[dict[str, Tensor], int]] = {}

    def __enter__(self) -> TappedActor:
        self._original = self.actor._forward_micro_batch
        self.actor._forward_micro_batch = self._tapped
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.actor._forward_micro_batch  # the class's own shows again

    def _tapped(self, micro_batch: Any, *args: Any, **options: Any) -> Any:
        traces = traces_of(micro_batch, self.tokenizer, self.find, self.credit)
        valid = traces.valid
        results: list[dict[str, Any]] = []
        packed = bool(getattr(self.actor, "use_remove_padding", False))
        seen = _packed(traces) if packed else traces
        with self.credit.tap(
            self.actor.actor_module,
            lambda: seen.sequence,
            length=seen.tokens.shape[1],
            on_pass=results.append,
        ):
            output = self._original(micro_batch, *args, **options)
        if len(results) != 1:
            raise ConfigError(
                f"a micro-batch took {len(results)} passes", where="verl", mend="turn prefix grouping off"
            )
        scored = self.credit.from_read(results[0]["read"], seen)
        counted = _unpacked(scored.counted, valid) if packed else scored.counted
        length, found = micro_batch["responses"].shape[1], {SCORES: scored.scores}
        if scored.shares is not None:
            found[SHARES] = scored.shares
        for name, values in found.items():
            values = _unpacked(values, valid) if packed else values
            found[name] = torch.where(counted, values, torch.nan)[:, -length:].cpu()
        for row, (key, code) in enumerate(zip(_keys(micro_batch), scored.fallback.tolist(), strict=True)):
            self.rows[key] = ({name: values[row] for name, values in found.items()}, code)
        return output

    def attach(self, output: Any, data: Any) -> Any:
        """Put scores and fallbacks of `data`'s rows, in its order, into `output`, which verl merges into its batch.

        Raises:
            ConfigError: a row was not read.
        """
        found = []
        for key in _keys(data.batch):
            if key not in self.rows:
                raise ConfigError(
                    "a row of the batch was not read", where="verl", mend="enter the tap around its pass"
                )
            found.append(self.rows[key])
        for name in found[0][0]:
            output.batch[name] = torch.stack([values[name] for values, _ in found])
        output.batch[FALLBACKS] = torch.tensor([code for _, code in found])
        return output


def with_credit(
    compute_advantage: Callable[..., Any], credit: TokenCredit, *, step: Callable[[], int] = lambda: 0
) -> Callable[..., Any]:
    """A `compute_advantage` like verl's, whose advantages are weighed afterwards.

    Args:
        compute_advantage: verl's.
        credit: the rule.
        step: tells the step of training, for a warm-up.
    """

    @functools.wraps(compute_advantage)
    def weighed(data: Any, *args: Any, **options: Any) -> Any:
        return reweight(compute_advantage(data, *args, **options), credit, step=step())

    return weighed


def reweight(data: Any, credit: TokenCredit, *, step: int = 0) -> Any:
    """Multiply a batch's `advantages` by what each token gets, in place; metrics go to `data.meta_info["metrics"]`.

    Args:
        data: a batch with advantages; with `credit_scores` where the signal reads attention.
        credit: the rule.
        step: of training.

    Raises:
        ConfigError: the signal's scores are not there.
    """
    batch = data.batch
    response = batch["response_mask"].bool()
    length = response.shape[1]
    device = response.device
    rows = len(response)
    uid = data.non_tensor_batch.get("uid", range(rows))
    numbers = {name: n for n, name in enumerate(dict.fromkeys(uid))}
    gains = _by_row(batch["advantages"], response)
    # Credit after the fact looks at responses only: the prompt's part of a row is not needed any more.
    sequence = torch.arange(rows, device=device)[:, None].expand(-1, length)
    traces = Traces(
        tokens=batch["responses"],
        valid=torch.ones_like(response),
        question=torch.zeros_like(response),
        response=response,
        answer=torch.zeros_like(response),
        sequence=sequence,
        known=torch.where(response.any(1), 0, int(Fallback.NO_RESPONSE)),
        group=torch.tensor([numbers[name] for name in uid], device=device),
        correct=gains > 0,
    )
    if credit.reads:
        if SCORES not in batch.keys():  # noqa: SIM118  (a TensorDict has no `in`)
            raise ConfigError(
                f"the batch has no {SCORES}", where="verl", mend="enter TappedActor in the worker"
            )
        scores = batch[SCORES].to(device)
        counted = ~scores.isnan() & response
        fallback = batch[FALLBACKS].to(device)
        shares = None
        if credit.config.signal == "coupled":
            shares = batch[SHARES].to(device).nan_to_num(0.0)
        scored = Scored(scores.where(counted, 0.0), counted, fallback, counts_of(fallback), shares=shares)
    elif credit.config.signal in ("random", "ktae", "none"):
        scored = credit.from_nothing(traces, step)
    else:
        raise ConfigError(
            f"{credit.config.signal} needs the model, which is not in this process",
            where="verl",
            mend="choose flow",
        )
    found = credit.weigh(scored, traces, gains, step=step)
    batch["advantages"] = batch["advantages"] * found.weights
    data.meta_info.setdefault("metrics", {}).update(found.metrics)
    return data


def traces_of(batch: Any, tokenizer: Any, find: Any, credit: TokenCredit) -> Traces:
    """A (micro-)batch of verl as traces: prompts padded on the left, responses on the right."""
    tokens, valid = batch["input_ids"], batch["attention_mask"].bool()
    length = batch["responses"].shape[1]
    question, response = valid.clone(), valid.clone()
    question[:, -length:] = False
    response[:, :-length] = False
    if "response_mask" in batch.keys():  # noqa: SIM118
        response[:, -length:] &= batch["response_mask"].bool()
    responses = [row[-length:][own[-length:]] for row, own in zip(tokens, valid, strict=True)]
    return Traces.from_masks(
        tokens,
        valid,
        question,
        response,
        find_answers(responses, tokenizer, find),
        skip=tokenizer.all_special_ids if credit.config.skip_special else (),
        longest_answer=credit.config.longest_answer,
    )


def _keys(batch: Any) -> list[bytes]:
    """What tells rows apart: their tokens, and which of them are real."""
    both = torch.stack([batch["input_ids"], batch["attention_mask"].to(batch["input_ids"])], 1).cpu()
    return [row.numpy().tobytes() for row in both]


def _packed(traces: Traces) -> Traces:
    """Rows one behind the other without their padding, as verl passes them to the model."""
    kept = traces.valid
    lengths = kept.sum(1)
    places = torch.cat([torch.arange(int(n), device=kept.device) for n in lengths])
    return Traces(
        tokens=traces.tokens[kept][None],
        valid=torch.ones(1, int(lengths.sum()), dtype=torch.bool, device=kept.device),
        question=traces.question[kept][None],
        response=traces.response[kept][None],
        answer=traces.answer[kept][None],
        sequence=traces.sequence[kept][None],
        known=traces.known,
        positions=places[None],
    )


def _unpacked(values: Tensor, valid: Tensor) -> Tensor:
    found = torch.zeros(valid.shape, dtype=values.dtype, device=values.device)
    found[valid] = values[0]
    return found


def _by_row(advantages: Tensor, response: Tensor) -> Tensor:
    """The advantage of each row: that of its first response token, as outcome estimators give all of them the same."""
    if advantages.ndim == 1:
        return advantages
    first = response.float().argmax(1, keepdim=True)
    return advantages.gather(1, first)[:, 0] * response.any(1)
