"""Whatever drafts, the decoder's tokens are the model's own: exactly where it is greedy, in law where it is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from noria.core.errors import ConfigError, DataError, ModelError
from noria.core.models.lm import small_config
from noria.mtp.acceptance.sampling import SamplingParams, processed
from noria.mtp.acceptance.streams import Streams
from noria.mtp.decoding.decoder import Completion, Decoder, Pick, Request
from noria.mtp.engines.audit import audit
from noria.mtp.engines.engine import Engine
from noria.mtp.heads.head import MTPHead

VOCAB = 24
GREEDY = SamplingParams(temperature=0)


class TableDrafter:
    """Drafts from a table of logits by the last token; right, stale or nonsense, as the table is."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.seen: list[list[int]] = []

    def begin(self, rows: int, capacity: int) -> None:
        self.seen = [[] for _ in range(rows)]

    def propose(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, counts: Tensor, gamma: int, pick: Pick
    ) -> None:
        assert hidden.shape[:2] == tokens.shape == positions.shape
        for row, count in enumerate(counts.tolist()):
            assert positions[row, 0] == len(self.seen[row]), "every committed position comes once, in order"
            self.seen[row] += tokens[row, :count].tolist()
        last = tokens.gather(1, (counts - 1)[:, None])[:, 0]
        for step in range(gamma):
            last = pick(step, self.table[last])

    def keep(self, rows: Tensor) -> None:
        self.seen = [self.seen[row] for row in rows.tolist()]


def model_of(vocab: int, seed: int = 0, **more: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(small_config(vocab, width=32, layers=2, heads=2, **more)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim > 1 else 1)
    return model


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return model_of(VOCAB, eos_token_id=None)


@pytest.fixture
def drafter(model: Qwen3ForCausalLM) -> TableDrafter:
    """What the model says after one token alone: right often enough."""
    with torch.no_grad():
        return TableDrafter(model(torch.arange(VOCAB)[:, None]).logits[:, 0])


PROMPTS = [[3, 4, 5], [7], [9, 2, 9, 2, 9, 2, 9], [1, 1]]


def requests(params: SamplingParams = GREEDY, limits: Sequence[int] = (12, 5, 9, 1)) -> list[Request]:
    return [Request(p, n, params, seed=50 + i) for i, (p, n) in enumerate(zip(PROMPTS, limits, strict=True))]


@pytest.mark.parametrize("rule", ["rejection", "target_only", "match", "block"])
@pytest.mark.parametrize("gamma", [1, 3, 6])
def test_greedy_is_transformers_greedy(model: Any, drafter: TableDrafter, rule: Any, gamma: int) -> None:
    got = Decoder(model, drafter, gamma=gamma, rule=rule).generate(requests())
    for completion, request in zip(got, requests(), strict=True):
        ids = torch.tensor([list(request.prompt)])
        wanted = model.generate(ids, max_new_tokens=request.max_new_tokens, do_sample=False, pad_token_id=0)
        assert completion.tokens == wanted[0, ids.shape[1] :].tolist()
        assert completion.finish == "length"
        assert completion.logprobs == [0.0] * request.max_new_tokens
    drafted, accepted = [sum(sum(v) for v in (getattr(c, n) for c in got)) for n in ("drafted", "accepted")]
    assert 0 < accepted < drafted


def test_matching_drafts_leave_every_sampled_token_as_it_is(model: Any, drafter: TableDrafter) -> None:
    """The match rule emits what plain sampling emits with the same seed."""
    params = SamplingParams(temperature=0.8, top_p=0.95)
    plain = Decoder(model).generate(requests(params))
    fast = Decoder(model, drafter, rule="match").generate(requests(params))
    assert [c.tokens for c in plain] == [c.tokens for c in fast]
    assert sum(sum(c.accepted) for c in fast) > 0


@pytest.mark.parametrize("rule", ["rejection", "target_only", "match", "block"])
def test_target_only_drafts_the_best_token_and_the_others_draw(model: Any, rule: Any) -> None:
    """p(ŷ) is largest where ŷ is the most probable; a drawn ŷ would be accepted as rarely as by `match`."""

    class Noting(TableDrafter):
        def propose(
            self, hidden: Tensor, tokens: Tensor, positions: Tensor, counts: Tensor, gamma: int, pick: Pick
        ) -> None:
            def noting(step: int, logits: Tensor) -> Tensor:
                token = pick(step, logits)
                best.extend((token == logits.argmax(-1)).tolist())
                return token

            super().propose(hidden, tokens, positions, counts, gamma, noting)

    best: list[bool] = []
    with torch.no_grad():
        table = Noting(model(torch.arange(VOCAB)[:, None]).logits[:, 0])
    Decoder(model, table, rule=rule).generate([Request([t], 40, seed=t) for t in range(VOCAB)])
    share = sum(best) / len(best)
    assert share == 1 if rule == "target_only" else share < 0.9


@pytest.mark.parametrize("rule", ["rejection", "block"])
def test_a_request_does_not_depend_on_its_company(model: Any, drafter: TableDrafter, rule: Any) -> None:
    params = SamplingParams(temperature=1.2)
    together = Decoder(model, drafter, rule=rule).generate(requests(params))
    for request, wanted in zip(requests(params), together, strict=True):
        (alone,) = Decoder(model, drafter, rule=rule).generate([request])
        assert alone.tokens == wanted.tokens
        assert alone.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)


def test_logprobs_are_the_processed_models(model: Any, drafter: TableDrafter) -> None:
    params = SamplingParams(temperature=0.7, top_k=9)
    for request, completion in zip(
        requests(params), Decoder(model, drafter).generate(requests(params)), strict=True
    ):
        ids = torch.tensor([[*request.prompt, *completion.tokens]])
        with torch.no_grad():
            p = processed(model(ids).logits[0], params).probs
        at = len(request.prompt) - 1
        wanted = [math.log(p[at + n, token]) for n, token in enumerate(completion.tokens)]
        assert completion.logprobs == pytest.approx(wanted, abs=1e-3)


def test_an_end_token_ends_inside_a_block(model: Any, drafter: TableDrafter) -> None:
    (long,) = Decoder(model, drafter).generate([Request([3, 4, 5], 12, GREEDY)])
    for place in range(1, 6):
        end = long.tokens[place]
        first = long.tokens.index(end)
        (short,) = Decoder(model, drafter, gamma=6, eos=[end]).generate([Request([3, 4, 5], 12, GREEDY)])
        assert (short.tokens, short.finish) == (long.tokens[: first + 1], "stop")


def test_end_tokens_are_those_of_generate() -> None:
    """A chat model's turns end with tokens that only its generation configuration names."""
    model = model_of(VOCAB, eos_token_id=1)
    model.generation_config.eos_token_id = [1, 5]
    assert Decoder(model).eos == [1, 5]
    model.generation_config.eos_token_id = None
    assert Decoder(model).eos == [1]
    assert Decoder(model, eos=[]).eos == []


def test_nothing_asked_nothing_given(model: Any) -> None:
    assert Decoder(model).generate([]) == []
    assert Decoder(model).generate([Request([1], 0)]) == [Completion()]


@pytest.mark.parametrize("rule", ["rejection", "target_only", "block"])
def test_the_audit_acquits_the_decoder(rule: Any) -> None:
    """Output laws, seeds, batches, ends and log-probabilities, on a model small enough to enumerate."""
    vocab = 5
    model = model_of(vocab, seed=3, eos_token_id=None)
    with torch.no_grad():
        table = model(torch.arange(vocab)[:, None]).logits[:, 0]

    def decoder(logits: Tensor = table, eos: Sequence[int] = ()) -> Decoder:
        return Decoder(model, TableDrafter(logits), gamma=2, rule=rule, eos=eos)

    def run(
        prompt: Any,
        n: int,
        params: SamplingParams,
        seed: int,
        length: int = 4,
        eos: Any = (),
        logits: Tensor = table,
    ) -> Any:
        seeds = Streams.derived(seed, n).seeds.tolist()
        return decoder(logits, eos).generate([Request(prompt, length, params, s) for s in seeds])

    def sample(prompt: Any, n: int, params: SamplingParams, seed: int) -> Any:
        return [c.tokens for c in run(prompt, n, params, seed)]

    def law(prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        with torch.no_grad():
            return torch.stack(
                [model(torch.tensor([prefix])).logits[0, -1].softmax(-1) for prefix in prefixes]
            )

    def logprobs(prompt: Any, n: int, params: SamplingParams, seed: int) -> Any:
        got = run(prompt, n, params, seed)
        return [c.tokens for c in got], [c.logprobs for c in got]

    def batch(asked: Any) -> Any:
        return [c.tokens for c in decoder().generate([Request(r.prompt, 4, r.params, r.seed) for r in asked])]

    engine = Engine(
        sample=sample,
        logprobs=logprobs,
        batch=batch,
        stop=lambda prompt, n, params, seed, end, length: [
            c.tokens for c in run(prompt, n, params, seed, length, [end])
        ],
        stale=lambda prompt, n, params, seed: [
            c.tokens for c in run(prompt, n, params, seed, logits=table.roll(1, 0))
        ],
    )
    report = audit(engine, law, [(1, 2), (3,)], samples=2000, depth=3)
    assert report.failures() == (), report.table()


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], 3), "request 0: the prompt is empty"),
        (Request([1, VOCAB], 3), "outside the vocabulary"),
        (Request([1] * 1000, 100), "the model holds 1024"),
    ],
)
def test_requests_that_make_no_sense(model: Any, request_: Request, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Decoder(model).generate([request_])


def test_settings_that_make_no_sense(model: Any, drafter: TableDrafter) -> None:
    for gamma in (0, 33):
        with pytest.raises(ConfigError, match="drafts a round"):
            Decoder(model, drafter, gamma=gamma)


def test_a_model_that_scales_its_logits_is_refused(model: Any) -> None:
    class Scaled(Qwen3ForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = 2 * out.logits
            return out

    scaled = Scaled(model.config)
    for made in (Decoder, MTPHead):
        with pytest.raises(ModelError, match="are not those of its output layer"):
            made(scaled)


def test_logits_that_are_not_numbers_end_their_request_alone(drafter: TableDrafter) -> None:
    model = model_of(VOCAB, eos_token_id=None, tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = math.nan
    good, bad = Decoder(model, drafter).generate([Request([3, 4], 6, GREEDY), Request([9, 2], 6, GREEDY)])
    assert (bad.tokens, bad.finish) == ([], "invalid")
    assert len(good.tokens) == 6 or good.finish == "invalid"
    assert all(token >= 0 for token in good.tokens)
