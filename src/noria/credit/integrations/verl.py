"""Credit of tokens in verl, against its documented contract: `DataProto` batches and the actor's log-probability pass.

verl pins an older transformers than ours and is not installed beside it, so this module imports nothing from verl. It
relies on this: a batch has `.batch` (a mapping of tensors with `prompts`, `responses`, `input_ids`, `attention_mask`,
`response_mask`, and later `advantages`) and `.non_tensor_batch` (`uid` of each row's prompt); an actor has
`actor_module` and scores micro-batches in `_forward_micro_batch(micro_batch, …)`, padded or with padding removed, in
any order. Rows are matched by their tokens, so the order does not matter.

:class:`TappedActor` reads attention in the worker, :func:`with_credit` weighs the advantages in the trainer's process;
`docs/credit.md` shows both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.credit.credit import TokenCredit
from noria.credit.responses.answers import Finder, finder
from noria.credit.responses.traces import Traces, completion_traces
from noria.credit.signals import MODEL_SIGNALS, TokenScores, fallback_shares
from noria.credit.types import Fallback

SCORES = "credit_scores"
"""[rows, response tokens] in the batch: scores of the tokens, NaN where a token is not scored."""
SHARES = "credit_shares"
"""[rows, response tokens] in the batch, with the signal `coupled`: shares of γ − 1."""
FALLBACKS = "credit_fallback"
"""[rows] in the batch: the reason why a row has no scores, 0 where it has some."""


class TappedActor:
    """A context that reads attention in the actor's passes over a batch.

    Args:
        actor: verl's data-parallel actor.
        credit: credit to score for; its signal has to read attention.
        tokenizer: tokenizer of the policy.
        data: batch whose rows will be read. Its `response_mask`, which verl leaves out of micro-batches, tells the
            policy's tokens from those of tools; without it all tokens of a response count as the policy's.

    Raises:
        ConfigError: the signal reads no attention and needs no tap; use :func:`with_credit` alone. Or the actor's loss
            makes one advantage a response of those of its tokens.
    """

    def __init__(self, actor: Any, credit: TokenCredit, tokenizer: Any, data: Any = None) -> None:
        if not credit.reads:
            raise ConfigError(
                f"{credit.config.signal} reads no attention", where="credit", mend="leave the tap out"
            )
        _check_reaches_tokens(getattr(actor, "config", None))
        self.actor, self.credit, self.tokenizer = actor, credit, tokenizer
        self.written: dict[bytes, Tensor] = {}
        if data is not None and "response_mask" in data.batch.keys():  # noqa: SIM118
            self.written = dict(zip(_keys(data.batch), data.batch["response_mask"].bool(), strict=True))
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
        batch = {name: micro_batch[name] for name in micro_batch.keys()}  # noqa: SIM118
        if self.written:
            own = [self.written[key] for key in _keys(micro_batch)]
            batch["response_mask"] = torch.stack(own).to(micro_batch["input_ids"].device)
        traces = traces_of(batch, self.tokenizer, self.find, self.credit)
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
        length, columns = micro_batch["responses"].shape[1], {SCORES: scored.scores}
        if scored.shares is not None:
            columns[SHARES] = scored.shares
        for name, values in columns.items():
            values = _unpacked(values, valid) if packed else values
            columns[name] = torch.where(counted, values, torch.nan)[:, -length:].cpu()
        for row, (key, code) in enumerate(zip(_keys(micro_batch), scored.fallback.tolist(), strict=True)):
            self.rows[key] = ({name: values[row] for name, values in columns.items()}, code)
        return output

    def attach(self, output: Any, data: Any) -> Any:
        """Put the scores and fallbacks of `data`'s rows, in its order, into `output`, which verl merges into its batch.

        Raises:
            ConfigError: a row was not read.
        """
        keys = _keys(data.batch)
        if not self.rows.keys() >= set(keys):
            raise ConfigError(
                "a row of the batch was not read", where="verl", mend="enter the tap around its pass"
            )
        rows = [self.rows[key] for key in keys]
        for name in rows[0][0]:
            output.batch[name] = torch.stack([values[name] for values, _ in rows])
        output.batch[FALLBACKS] = torch.tensor([code for _, code in rows])
        return output


def with_credit(
    compute_advantage: Callable[..., Any],
    credit: TokenCredit,
    *,
    step: Callable[[], int] = lambda: 0,
    actor_config: Any = None,
) -> Callable[..., Any]:
    """Wrap verl's `compute_advantage` so that its advantages are weighed afterwards.

    Args:
        compute_advantage: verl's function.
        credit: credit that weighs the advantages.
        step: function that returns the training step, for a warm-up.
        actor_config: the actor's part of verl's configuration, `actor_rollout_ref.actor`, to check its loss.

    Raises:
        ConfigError: the actor's loss makes one advantage a response of those of its tokens.
    """
    _check_reaches_tokens(actor_config)

    @functools.wraps(compute_advantage)
    def weighed(data: Any, *args: Any, **options: Any) -> Any:
        return reweight(compute_advantage(data, *args, **options), credit, step=step())

    return weighed


def reweight(data: Any, credit: TokenCredit, *, step: int = 0) -> Any:
    """Multiply a batch's `advantages` by the tokens' weights; metrics go to `data.meta_info["metrics"]`.

    Args:
        data: batch with advantages, which change in place, and with `credit_scores` where the signal reads attention.
        credit: credit that weighs the advantages.
        step: training step.

    Raises:
        ConfigError: the batch has no scores of the signal; or the rule needs one advantage a response, and the
            estimator gave its tokens different ones.
    """
    batch = data.batch
    response = batch["response_mask"].bool()
    length = response.shape[1]
    device = response.device
    rows = len(response)
    uid = data.non_tensor_batch.get("uid", range(rows))
    numbers = {name: n for n, name in enumerate(dict.fromkeys(uid))}
    gains = _by_row(batch["advantages"], response)
    needs_one = credit.config.rule == "add" or credit.config.applies != "both"
    if needs_one and not torch.allclose(
        batch["advantages"][response], gains[:, None].expand_as(response)[response]
    ):
        raise ConfigError(
            "it needs one advantage a response, and the estimator gives tokens different ones",
            where="credit ktae" if credit.config.rule == "add" else f"applies {credit.config.applies}",
            mend="use an estimator of outcomes, such as grpo",
        )
    # The scores are there, so the traces hold responses only, without prompts.
    traces = Traces(
        tokens=batch["responses"],
        valid=torch.ones_like(response),
        question=torch.zeros_like(response),
        response=response,
        answer=torch.zeros_like(response),
        sequence=torch.arange(rows, device=device)[:, None].expand(-1, length),
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
            shares = batch[SHARES].to(device).where(counted, 0.0)
        scored = TokenScores(
            scores.where(counted, 0.0), counted, fallback, fallback_shares(fallback), shares=shares
        )
    elif credit.config.signal in MODEL_SIGNALS:
        raise ConfigError(
            f"{credit.config.signal} needs the model, which is not in this process",
            where="verl",
            mend="choose flow",
        )
    else:
        scored = credit.from_nothing(traces, step)
    weighed = credit.weigh(scored, traces, gains, step=step)
    batch["advantages"] = batch["advantages"] * weighed.weights
    data.meta_info.setdefault("metrics", {}).update(weighed.metrics)
    return data


def _check_reaches_tokens(actor_config: Any) -> None:
    """Refuse verl's loss that averages the advantages of a response, which undoes any credit of its tokens."""
    policy_loss = getattr(actor_config, "policy_loss", None) or {}
    mode = (
        policy_loss.get("loss_mode")
        if hasattr(policy_loss, "get")
        else getattr(policy_loss, "loss_mode", None)
    )
    if mode == "geo_mean":
        raise ConfigError(
            "its loss averages the advantages of a response, whatever credit its tokens get",
            where="policy_loss.loss_mode=geo_mean",
            mend="choose another loss, or leave the credit of tokens out",
        )


def traces_of(batch: Any, tokenizer: Any, find: Finder, credit: TokenCredit) -> Traces:
    """The traces of a (micro-)batch of verl: prompts padded on the left, responses on the right."""
    valid = batch["attention_mask"].bool()
    written = valid[:, -batch["responses"].shape[1] :]
    if "response_mask" in batch.keys():  # noqa: SIM118
        written = written & batch["response_mask"].bool()
    return completion_traces(batch["input_ids"], valid, written, tokenizer, find, credit.config)


def _keys(batch: Any) -> list[bytes]:
    """Keys that tell rows apart: their tokens, and which of them are not padding."""
    both = torch.stack([batch["input_ids"], batch["attention_mask"].to(batch["input_ids"])], 1).cpu()
    return [row.numpy().tobytes() for row in both]


def _packed(traces: Traces) -> Traces:
    """The rows one behind the other without their padding, as verl passes them to the model."""
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
    rows = torch.zeros(valid.shape, dtype=values.dtype, device=values.device)
    rows[valid] = values[0]
    return rows


def _by_row(advantages: Tensor, response: Tensor) -> Tensor:
    """The advantage of each row: its first response token's, as outcome estimators give all tokens the same."""
    if advantages.ndim == 1:
        return advantages
    first = response.float().argmax(1, keepdim=True)
    return advantages.gather(1, first)[:, 0] * response.any(1)
