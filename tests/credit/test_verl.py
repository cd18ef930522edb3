"""Credit in verl's loop, against a stand-in that keeps its contract: an actor that packs and reorders, a driver."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.core.models.lm import small_lm
from noria.credit.config import named_credit
from noria.credit.credit import TokenCredit
from noria.credit.integrations.verl import (
    FALLBACKS,
    SCORES,
    SHARES,
    TappedActor,
    reweight,
    traces_of,
    with_credit,
)
from noria.credit.types import Fallback


class Actor:
    """As verl's data-parallel actor scores a batch: micro-batches in an order of its own, padding removed or not."""

    def __init__(self, module: Any, *, use_remove_padding: bool) -> None:
        self.actor_module, self.use_remove_padding = module, use_remove_padding

    def _forward_micro_batch(
        self, micro_batch: dict[str, Tensor], temperature: float, calculate_entropy: bool = False
    ) -> dict[str, Tensor]:
        ids, mask, length = (
            micro_batch["input_ids"],
            micro_batch["attention_mask"],
            micro_batch["responses"].shape[1],
        )
        if self.use_remove_padding:
            real = mask.bool()
            logits = torch.zeros(*ids.shape, self.actor_module.config.vocab_size)
            packed = self.actor_module(
                input_ids=ids[real][None],
                position_ids=micro_batch["position_ids"][real][None],
                use_cache=False,
            ).logits
            logits[real] = packed[0]
        else:
            logits = self.actor_module(
                input_ids=ids, attention_mask=mask, position_ids=micro_batch["position_ids"], use_cache=False
            ).logits
        logp = (logits[:, -length - 1 : -1] / temperature).log_softmax(-1)
        return {"log_probs": logp.gather(-1, micro_batch["responses"][..., None])[..., 0]}

    @torch.no_grad()
    def compute_log_prob(self, data: Any) -> Any:
        keys = ["responses", "input_ids", "attention_mask", "position_ids"]
        order = [3, 0, 5, 1, 4, 2]  # balanced by length, say
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), 2):
            rows = order[start : start + 2]
            out = self._forward_micro_batch({k: data.batch[k][rows] for k in keys}, temperature=1.0)
            found.update(zip(rows, out["log_probs"], strict=True))
        return proto({"old_log_probs": torch.stack([found[n] for n in range(len(order))])})


def proto(batch: dict[str, Tensor], **more: Any) -> Any:
    return SimpleNamespace(batch=batch, non_tensor_batch=more, meta_info={})


@pytest.fixture(name="policy", scope="module")
def _policy() -> Any:
    return small_lm()


def rollouts(tokenizer: Any) -> Any:
    """Two prompts of three responses each, one of them without an answer."""
    prompts = ["Q: 3+4\n"] * 3 + ["Q: 8*2-11\n"] * 3
    responses = [
        "3+4=7 #### 7",
        "3+4=8 #### 8",
        "no idea at all",
        "8*2=16 16-11=5 #### 5",
        "8*2=15 #### 4",
        "#### 5",
    ]
    ids = [tokenizer(p)["input_ids"] for p in prompts], [tokenizer(r)["input_ids"] for r in responses]
    wide = [max(map(len, part)) for part in ids]
    tokens = torch.full((6, sum(wide)), tokenizer.pad_token_id)
    mask = torch.zeros_like(tokens)
    for row, (prompt, response) in enumerate(zip(*ids, strict=True)):
        tokens[row, wide[0] - len(prompt) : wide[0] + len(response)] = torch.tensor([*prompt, *response])
        mask[row, wide[0] - len(prompt) : wide[0] + len(response)] = 1
    return proto(
        {
            "prompts": tokens[:, : wide[0]],
            "responses": tokens[:, wide[0] :],
            "input_ids": tokens,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
            "response_mask": mask[:, wide[0] :],
        },
        uid=["a"] * 3 + ["b"] * 3,
    )


def compute_advantage(data: Any, *_: Any, **__: Any) -> Any:
    """GRPO's, as verl leaves it: the same for every response token of a row."""
    gains = torch.tensor([1.2, -0.6, -0.6, 1.0, -1.0, 0.0])
    data.batch["advantages"] = gains[:, None] * data.batch["response_mask"]
    return data


@pytest.mark.parametrize("packed", [False, True])
def test_attention_is_read_in_the_actor_s_pass_and_weighs_the_driver_s_advantages(
    policy: Any, packed: bool
) -> None:
    model, tokenizer = policy
    credit = TokenCredit(named_credit("flow", longest_answer=0.9))
    data = rollouts(tokenizer)
    actor = Actor(model, use_remove_padding=packed)
    plain = actor.compute_log_prob(data).batch["old_log_probs"]
    with TappedActor(actor, credit, tokenizer) as tapped:
        output = tapped.attach(actor.compute_log_prob(data), data)
    assert torch.equal(output.batch["old_log_probs"], plain)
    assert "_forward_micro_batch" not in vars(actor)
    data.batch |= output.batch  # verl's union
    codes = [Fallback(code).name for code in data.batch[FALLBACKS].tolist()]
    assert codes[:5] == ["NONE", "NONE", "NO_ANSWER", "NONE", "NONE"]
    # The same as our own scores of the same rows.
    traces = traces_of(data.batch, tokenizer, lambda text: credit_find(text), credit)
    own = credit.score(model, traces)
    length = data.batch["responses"].shape[1]
    torch.testing.assert_close(
        data.batch[SCORES].nan_to_num(0), own.scores[:, -length:], atol=1e-5, rtol=1e-4
    )
    weighed = with_credit(compute_advantage, credit)(data, "grpo", gamma=1.0).batch["advantages"]
    expected = compute_advantage(proto({"response_mask": data.batch["response_mask"]})).batch["advantages"]
    factors = credit.weigh(own, traces).weights[:, -length:]
    torch.testing.assert_close(weighed, expected * factors)
    assert {1.0, 1.5} == set(
        (weighed[0] / 1.2)[data.batch["response_mask"][0].bool()].round(decimals=4).tolist()
    )
    assert (weighed[2] == expected[2]).all()  # no answer: even credit
    assert data.meta_info["metrics"]["credit/fallback"] >= 1 / 6


def test_the_coupled_rule_keeps_its_two_scores_on_the_way(policy: Any) -> None:
    model, tokenizer = policy
    credit, data = TokenCredit(named_credit("coupled")), rollouts(tokenizer)
    actor = Actor(model, use_remove_padding=True)
    with TappedActor(actor, credit, tokenizer) as tapped:
        data.batch |= tapped.attach(actor.compute_log_prob(data), data).batch
    shares = data.batch[SHARES].nan_to_num(0)
    assert (shares == 1).any()
    assert ((shares > 0) & (shares < 1)).any()  # anchors that share with the start of their chunk
    expected = compute_advantage(proto({"response_mask": data.batch["response_mask"]})).batch["advantages"]
    weighed = with_credit(compute_advantage, credit)(data).batch["advantages"]
    torch.testing.assert_close(weighed, expected * (1 + 0.5 * shares))


def credit_find(text: str) -> Any:
    from noria.credit.responses.answers import finder

    return finder("auto")(text)


def test_rivals_without_a_model_are_computed_by_the_driver(policy: Any) -> None:
    data = compute_advantage(rollouts(policy[1]))
    before = data.batch["advantages"].clone()
    weighed = reweight(data, TokenCredit(named_credit("ktae"))).batch["advantages"]
    assert not torch.equal(weighed, before)
    assert not weighed[~data.batch["response_mask"].bool()].any()
    assert torch.equal(weighed[5], before[5])  # no advantage, nothing to add to
    uniform = reweight(compute_advantage(rollouts(policy[1])), TokenCredit(named_credit("uniform")))
    torch.testing.assert_close(uniform.batch["advantages"], before * 1.2)


def test_what_is_missing_is_told(policy: Any) -> None:
    model, tokenizer = policy
    flow, random = TokenCredit(named_credit("flow")), TokenCredit(named_credit("random"))
    actor = Actor(model, use_remove_padding=False)
    with pytest.raises(ConfigError, match="reads no attention"):
        TappedActor(actor, random, tokenizer)
    with pytest.raises(ConfigError, match="enter TappedActor"):
        reweight(compute_advantage(rollouts(tokenizer)), flow)
    with pytest.raises(ConfigError, match="needs the model"):
        reweight(compute_advantage(rollouts(tokenizer)), TokenCredit(named_credit("oar_g")))
    with TappedActor(actor, flow, tokenizer) as tapped, pytest.raises(ConfigError, match="was not read"):
        tapped.attach(proto({}), rollouts(tokenizer))


def with_tool(data: Any) -> Any:
    """The batch, with the second and third token of each response written by a tool."""
    mask = data.batch["response_mask"].clone()
    mask[:, 1:3] = 0
    return proto({**data.batch, "response_mask": mask}, **data.non_tensor_batch)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["flow", "flow_emission"])
def test_tokens_of_tools_are_no_policys_in_the_actors_pass_though_verl_leaves_their_mask_out(
    policy: Any, packed: bool, name: str
) -> None:
    model, tokenizer = policy
    data, credit = with_tool(rollouts(tokenizer)), TokenCredit(named_credit(name))
    actor = Actor(model, use_remove_padding=packed)
    with TappedActor(actor, credit, tokenizer, data) as tapped:
        output = actor.compute_log_prob(data)
    scores = tapped.attach(output, data).batch[SCORES]
    expected = credit.score(model, traces_of(data.batch, tokenizer, tapped.find, credit))
    counted = expected.counted[:, -scores.shape[1] :]
    assert torch.equal(~scores.isnan(), counted)
    assert not counted[:, 1:3].any()
    torch.testing.assert_close(
        scores[counted], expected.scores[:, -scores.shape[1] :][counted], atol=1e-5, rtol=1e-4
    )


def test_a_loss_that_averages_the_advantages_of_a_response_is_refused(policy: Any) -> None:
    model, tokenizer = policy
    actor = Actor(model, use_remove_padding=False)
    actor.config = SimpleNamespace(policy_loss={"loss_mode": "geo_mean"})  # type: ignore[attr-defined]
    credit = TokenCredit(named_credit("flow"))
    with pytest.raises(ConfigError, match="averages the advantages of a response"):
        TappedActor(actor, credit, tokenizer)
    with pytest.raises(ConfigError, match="averages the advantages of a response"):
        with_credit(compute_advantage, credit, actor_config=actor.config)  # type: ignore[attr-defined]
    for mode in ("vanilla", "gspo"):
        actor.config.policy_loss["loss_mode"] = mode  # type: ignore[attr-defined]
        TappedActor(actor, credit, tokenizer)


@pytest.mark.parametrize("settings", [{"name": "ktae"}, {"name": "random", "applies": "positive"}])
def test_a_rule_that_needs_one_advantage_a_response_is_refused_where_tokens_have_their_own(
    policy: Any, settings: dict[str, Any]
) -> None:
    data = compute_advantage(rollouts(policy[1]))
    credit = TokenCredit(named_credit(**settings))
    reweight(compute_advantage(rollouts(policy[1])), credit)
    data.batch["advantages"][0, 2] += 0.5
    with pytest.raises(ConfigError, match="needs one advantage a response"):
        reweight(data, credit)
