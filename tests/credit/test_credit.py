"""Credit by name: every rule runs on one batch, the flow's is what its parts say, and trouble is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from noria.core.errors import ConfigError
from noria.credit.attention.readers import head_mean
from noria.credit.config import NAMES, named_credit
from noria.credit.credit import TokenCredit
from noria.credit.passes import inputs_of
from noria.credit.responses.traces import Traces
from noria.credit.scores.flow import answer_nodes, trace_flow
from noria.credit.scores.influence import by_gradient, by_perturbation
from noria.credit.signals import TokenScores
from noria.credit.types import Fallback
from tests.credit.tiny_models import VOCAB, tiny


@pytest.fixture(name="model", scope="module")
def _model() -> Any:
    return tiny("qwen3")


def rollouts(*, left: bool = False, number: int = 4) -> Traces:
    """Prompts and responses of several lengths, with answers near the end, in two groups."""
    generator = torch.Generator().manual_seed(5)

    def ids(n: int) -> list[int]:
        return torch.randint(1, VOCAB, (n,), generator=generator).tolist()

    prompts = [ids(4 + n) for n in range(number)]
    responses = [ids(12 + 3 * n) for n in range(number)]
    spans = [(len(r) - 4, len(r) - 2) for r in responses]
    return Traces.of(
        prompts,
        responses,
        spans,
        left=left,
        group=torch.arange(number) // 2,
        correct=torch.arange(number) % 2 == 0,
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_name_gives_weights(name: str, model: Any) -> None:
    traces = rollouts()
    credit = TokenCredit(named_credit(name))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    found = credit.weigh(credit.score(model, traces), traces, advantages)
    assert found.weights.shape == traces.tokens.shape
    assert torch.isfinite(found.weights).all()
    assert (found.weights[~traces.response] == 1).all()
    assert found.metrics["credit/fallback"] == 0
    if name not in ("none", "ktae"):
        assert found.chosen.any()
        assert (found.weights[traces.response] != 1).any()
    if name == "none":
        assert (found.weights == 1).all()
    if name == "uniform":
        assert found.weights[traces.response].unique().tolist() == [pytest.approx(1.2)]
    if name == "entropy":  # 80 % of tokens learn nothing
        assert found.metrics["credit/mean_weight"] == pytest.approx(0.2, abs=0.03)
    if name in ("flow_mass", "oar_g", "oar_p"):
        assert found.metrics["credit/mean_weight"] == pytest.approx(1, abs=1e-5)
    if name == "flow":
        # round(0.4 n) of the tokens up to the answer: 10, 13, 16, 19 of 66 response tokens.
        assert int(found.chosen.sum()) == 4 + 5 + 6 + 8
        assert found.metrics["credit/mean_weight"] == pytest.approx(1 + 0.5 * 23 / 66, abs=1e-6)
        assert found.metrics["credit/conservation"] < 1e-5


def test_the_flow_s_credit_is_its_parts_put_together(model: Any) -> None:
    traces = rollouts(left=True)
    credit = TokenCredit(named_credit("flow", batch_size=64))
    scored = credit.score(model, traces)
    attention = head_mean(model, credit.layers(model), **inputs_of(traces))
    nodes = answer_nodes(traces.answer, "predictor")
    flow = trace_flow(attention, traces.question, nodes, valid=traces.valid)
    counted = traces.before_end()
    torch.testing.assert_close(scored.scores[counted], flow.throughput[counted])
    assert torch.equal(scored.counted, counted)
    weights = credit.weigh(scored, traces).weights
    for row in range(4):
        places = counted[row].nonzero()[:, 0]
        k = int(0.4 * len(places) + 0.5)
        best = places[flow.throughput[row, places].argsort(descending=True, stable=True)[:k]]
        expected = torch.ones_like(weights[row])
        expected[best] = 1.5
        assert torch.equal(weights[row], expected)


def test_parts_of_a_batch_sides_of_padding_and_packing_change_nothing(model: Any) -> None:
    right, left = rollouts(), rollouts(left=True)
    whole, parts = (TokenCredit(named_credit("flow", batch_size=n)) for n in (64, 3))
    scored = whole.score(model, right)
    other = parts.score(model, right)
    torch.testing.assert_close(other.scores, scored.scores, atol=1e-5, rtol=1e-4)
    assert other.fallback.tolist() == scored.fallback.tolist() == [0, 0, 0, 0]
    assert other.metrics["path_length"] == pytest.approx(scored.metrics["path_length"], rel=1e-4)
    padded = whole.score(model, left)
    torch.testing.assert_close(padded.scores[left.valid], scored.scores[right.valid], atol=1e-5, rtol=1e-4)
    lengths = right.valid.sum(1)
    packed = Traces(
        tokens=right.tokens[right.valid][None],
        valid=torch.ones(1, int(lengths.sum()), dtype=torch.bool),
        question=right.question[right.valid][None],
        response=right.response[right.valid][None],
        answer=right.answer[right.valid][None],
        sequence=torch.repeat_interleave(torch.arange(4), lengths)[None],
        known=right.known,
        positions=torch.cat([torch.arange(int(n)) for n in lengths])[None],
    )
    together = whole.score(model, packed)
    torch.testing.assert_close(together.scores[0], scored.scores[right.valid], atol=1e-5, rtol=1e-4)
    weights = whole.weigh(together, packed).weights[0]
    assert torch.equal(weights, whole.weigh(scored, right).weights[right.valid])
    # FAI and WAAD look around within their own sequence, too.
    for name, more in (("fai", {"horizon": (2, 6)}), ("waad", {})):
        credit = TokenCredit(named_credit(name, **more))
        torch.testing.assert_close(
            credit.score(model, packed).scores[0],
            credit.score(model, right).scores[right.valid],
            atol=1e-5,
            rtol=1e-4,
        )
    with pytest.raises(ConfigError, match="rows are packed"):
        TokenCredit(named_credit("oar_g")).score(model, packed)
    with pytest.raises(ConfigError, match="positions"):
        whole.score(model, Traces(**{**vars(packed), "positions": None}))


def test_long_sequences_are_streamed_to_the_same_scores(model: Any) -> None:
    traces = rollouts()
    kept, streamed = (TokenCredit(named_credit("flow", stream_above=n)) for n in (16_384, 1))
    torch.testing.assert_close(
        streamed.score(model, traces).scores, kept.score(model, traces).scores, atol=1e-5, rtol=1e-4
    )


def test_trouble_is_even_credit_and_is_counted(model: Any) -> None:
    prompts = [[1, 2], [3, 4], [5, 6], [], [7, 8], [9, 10]]
    responses = [[11, 12, 13, 14], [15, 16, 17, 18], [19, 20, 21, 22], [23, 24, 25, 26], [], [27, 28, 29, 30]]
    spans = [None, (3, 6), (0, 4), (2, 3), (0, 1), (2, 3)]
    traces = Traces.of(prompts, responses, spans)
    limited = Traces.from_masks(
        traces.tokens, traces.valid, traces.question, traces.response, spans, longest_answer=0.5
    )
    assert [Fallback(code).name for code in limited.known.tolist()] == [
        "NO_ANSWER",
        "BAD_ANSWER",
        "LONG_ANSWER",
        "NONE",
        "NO_RESPONSE",
        "NONE",
    ]
    credit = TokenCredit(named_credit("flow"))
    scored = credit.score(model, limited)
    assert [Fallback(code).name for code in scored.fallback.tolist()] == [
        "NO_ANSWER",
        "BAD_ANSWER",
        "LONG_ANSWER",
        "NO_QUESTION",
        "NO_RESPONSE",
        "NONE",
    ]
    found = credit.weigh(scored, limited)
    assert (found.weights[:5] == 1).all()
    assert (found.weights[5] != 1).any()
    assert found.metrics["credit/fallback"] == pytest.approx(5 / 6)
    assert found.metrics["credit/fallback_no_question"] == pytest.approx(1 / 6)
    # A signal that is not about answers needs none.
    other = TokenCredit(named_credit("fai"))
    assert other.score(model, limited).fallback.tolist() == [0, 0, 0, 0, Fallback.NO_RESPONSE, 0]


def test_parts_that_fall_back_for_other_reasons_are_joined(model: Any) -> None:
    prompts, responses = [[1, 2]] * 4, [[11, 12, 13, 14, 15, 16]] * 4
    traces = Traces.of(prompts, responses, [(4, 5), (4, 5), None, (0, 9)])
    whole, parts = (TokenCredit(named_credit("flow", batch_size=n)).score(model, traces) for n in (4, 1))
    assert parts.metrics["fallback"] == whole.metrics["fallback"] == 0.5
    assert parts.metrics["fallback_no_answer"] == whole.metrics["fallback_no_answer"] == 0.25
    assert parts.metrics["fallback_bad_answer"] == whole.metrics["fallback_bad_answer"] == 0.25
    assert parts.metrics["path_length"] == pytest.approx(whole.metrics["path_length"], rel=1e-4)


def test_a_span_that_reaches_into_the_prompt_or_is_empty_is_a_bad_answer() -> None:
    traces = Traces.of([[1, 2]] * 3, [[3, 4, 5]] * 3, [(-1, 1), (2, 2), (2, 3)])
    assert traces.known.tolist() == [Fallback.BAD_ANSWER, Fallback.BAD_ANSWER, Fallback.NONE]
    assert not traces.answer[:2].any()


def test_tokens_of_tools_carry_flow_and_get_no_credit(model: Any) -> None:
    traces = rollouts()
    tool = torch.zeros_like(traces.response)
    tool[:, 12:15] = traces.response[:, 12:15]
    spans = [(12 + 3 * n - 4, 12 + 3 * n - 2) for n in range(4)]
    masked = Traces.from_masks(traces.tokens, traces.valid, traces.question, traces.response & ~tool, spans)
    torch.testing.assert_close(masked.answer, traces.answer)
    credit = TokenCredit(named_credit("flow"))
    plain, found = credit.score(model, traces), credit.score(model, masked)
    torch.testing.assert_close(found.scores[~tool], plain.scores[~tool])
    assert (credit.weigh(found, masked).weights[tool] == 1).all()


def test_marks_of_a_template_are_no_source(model: Any) -> None:
    prompts, responses = [[50, 7, 8, 51]], [[11, 12, 13, 14, 15]]
    traces = Traces.of(prompts, responses, [(3, 4)], skip=[50, 51])
    assert traces.question[0].int().tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0]


def test_the_share_of_a_batch_may_go_to_some_responses_only() -> None:
    traces = rollouts()
    scores = torch.where(traces.index == 3, 1.0, 0.5).where(traces.response, 0.0)
    scored = TokenCredit(named_credit("entropy")).from_scores(scores, traces)
    found = TokenCredit(named_credit("entropy")).weigh(scored, traces)
    assert int(found.chosen.sum()) == round(0.2 * int(traces.response.sum()))
    assert not found.chosen[:3].any()
    each = TokenCredit(named_credit("entropy", within="response")).weigh(scored, traces)
    assert each.chosen.any(1).all()


def test_signs_and_warm_up() -> None:
    traces = rollouts()
    scored = TokenScores(torch.rand(traces.tokens.shape), traces.response, torch.zeros(4, dtype=torch.long))
    advantages = torch.tensor([1.0, -1.0, 0.0, 2.0])
    positive, negative, warm = (
        TokenCredit(named_credit("flow", **more)).weigh(scored, traces, advantages, step=1).weights
        for more in ({"applies": "positive"}, {"applies": "negative"}, {"warmup_steps": 4})
    )
    touched = [(w != 1).any(1).tolist() for w in (positive, negative, warm)]
    assert touched == [[True, False, False, True], [False, True, False, False], [True] * 4]
    assert warm.max() == pytest.approx(1.125)


def test_ktae_is_added_to_the_advantage() -> None:
    traces = rollouts()
    credit = TokenCredit(named_credit("ktae"))
    values = torch.zeros(traces.tokens.shape)
    values[0, 10] = 0.6
    scored = TokenScores(values, traces.response, torch.zeros(4, dtype=torch.long))
    advantages = torch.tensor([0.5, -0.5, 0.0, 2.0])
    found = credit.weigh(scored, traces, advantages)
    assert float(found.weights[0, 10] * 0.5) == pytest.approx(0.5 + 0.6)
    assert (found.weights != 1).sum() == 1
    with pytest.raises(ConfigError, match="there are none"):
        credit.weigh(scored, traces)
    with pytest.raises(ConfigError, match="give group and correct"):
        credit.score(None, Traces.of([[1]], [[2, 3]], [(1, 2)]))


def test_random_credit_is_the_seed_s_and_the_step_s() -> None:
    traces = rollouts()
    draws = [
        TokenCredit(named_credit("random", seed=seed)).score(None, traces, step=step).scores
        for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def test_influence_by_gradient_and_by_trying(model: Any) -> None:
    traces = rollouts()
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    scores = by_gradient(model, traces)
    after = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    assert before == after
    # d φ(s e_t)/ds at s = 1, by differences.
    row, place = 2, 9
    embeds = model.get_input_embeddings()(traces.tokens[row : row + 1]).detach()

    def phi(scale: float) -> float:
        moved = embeds.clone()
        moved[0, place] *= scale
        logp = (
            model(inputs_embeds=moved, attention_mask=traces.valid[row : row + 1].long())
            .logits[0]
            .log_softmax(-1)
        )
        places = traces.answer[row].nonzero()[:, 0]
        return float(logp[places - 1, traces.tokens[row, places]].mean())

    with torch.no_grad():
        slope = (phi(1.01) - phi(0.99)) / 0.02
    assert float(scores[row, place]) == pytest.approx(abs(slope), rel=0.02, abs=1e-5)
    tried = by_perturbation(model, traces, replacement=0, batch_size=5)
    assert (tried >= -1e-6).all()
    wanted = traces.before_end() & ~traces.answer
    assert not tried[~wanted].any()
    changed = traces.tokens.clone()
    changed[row, place] = 0
    nodes = traces.answer[row].nonzero()[:, 0] - 1
    with torch.no_grad():
        p, q = (
            model(t[row : row + 1], attention_mask=traces.valid[row : row + 1].long())
            .logits[0, nodes]
            .log_softmax(-1)
            for t in (traces.tokens, changed)
        )
    assert float(tried[row, place]) == pytest.approx(
        float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3, abs=1e-6
    )


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("flo", {}, "no credit 'flo'"),
        ("flow", {"gama": 2}, "did you mean 'gamma'"),
        ("flow", {"fraction": 0}, "fraction"),
        ("flow", {"emission": 1}, "emission"),
        ("flow", {"rule": "add"}, "ktae"),
        ("random", {"rule": "bilevel"}, "needs a signal"),
        ("fai", {"values": True}, "values weigh"),
        ("entropy", {"emission": 0.2}, "emission: the credit entropy does not read it"),
        ("ktae", {"gamma": 2}, "gamma: the credit ktae does not read it"),
        ("flow", {"horizon": (1, 5)}, "horizon: the credit flow does not read it"),
        ("oar_g", {"within": "batch"}, "within: the credit oar_g does not read it"),
        ("flow_soft", {"rest": 0.5}, "rest: the credit flow_soft does not read it"),
        ("uniform", {"mass": "preserve"}, "changes nothing"),
    ],
)
def test_settings_out_of_range_are_told(name: str, more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        named_credit(name, **more)


def test_attention_flow_of_long_rollouts_is_refused(model: Any) -> None:
    traces = Traces.of([[1] * 20], [[2] * 600], [(590, 592)])
    with pytest.raises(ConfigError, match="hours"):
        TokenCredit(named_credit("attention_flow")).score(model, traces)
