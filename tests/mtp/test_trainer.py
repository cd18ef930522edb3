"""Training a head: it learns, leaves the backbone alone, goes on where it was killed, and its score is what happens."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.config import load_config
from noria.core.errors import CheckpointError, ConfigError, DataError, DivergenceError
from noria.core.models.lm import small_lm
from noria.core.runs.run import Run, read_metrics
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.config import TrainConfig
from noria.mtp.data import Document, Rows, pack_documents
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.backbone import backbone_states
from noria.mtp.heads.head import MTPHead
from noria.mtp.heads.small import small_head
from noria.mtp.proof.small_heads import own_text, text_prompts
from noria.mtp.training.evaluate import evaluate_head
from noria.mtp.training.losses import LOSSES
from noria.mtp.training.trainer import HeadTrainer
from tests.mtp.tiny_models import BACKBONES, VOCAB, tiny


def config_of(**values: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 12, "batch_size": 4, "train_gamma": 3, "lr": 3e-3, "warmup": 0.0} | values)


@pytest.fixture(scope="module", name="own_text")
def _own_text() -> tuple[Any, Rows]:
    """A backbone, and text that it wrote."""
    model = tiny("qwen3", eos_token_id=None)
    requests = [Request([i % VOCAB], 31, seed=i) for i in range(96)]
    written = Decoder(model).generate(requests)
    rows = [[*r.prompt, *c.tokens] for r, c in zip(requests, written, strict=True)]
    return model, Rows.of(torch.tensor(rows))


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(BACKBONES))
def test_packed_documents_have_states_and_positions_of_their_own(family: str) -> None:
    """Also in linear attention, which does not look at positions, and whatever the lengths."""
    model = tiny(family)
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(VOCAB, (n,), generator=generator) for n in (6, 9, 3, 14, 1)]
    documents = [Document(text.tolist(), [True] * len(text)) for text in texts]
    packed = pack_documents(documents, 19).rows
    assert packed.positions[0].tolist() == [*range(6), *range(9), *range(3), 0]
    states = backbone_states(model, packed)
    alone = iter(backbone_states(model, Rows.of(text[None]))[0] for text in texts)
    for row, segments in zip(states, packed.segments, strict=True):
        for number in range(int(segments.max()) + 1):
            torch.testing.assert_close(row[segments == number], next(alone), rtol=1e-4, atol=1e-4)
    assert next(alone, None) is None


def test_every_row_comes_once_an_epoch_whatever_the_batch_size(own_text: tuple[Any, Rows]) -> None:
    model, rows = own_text
    rows = rows[slice(0, 10)]
    for size in (3, 10, 16):
        trainer = HeadTrainer(model, MTPHead(model), rows, config_of(batch_size=size))
        drawn = torch.cat([trainer.batch(step).tokens for step in range(40)])[:100]
        keys = [tuple(r) for r in drawn.tolist()]
        for epoch in range(10):
            assert len(set(keys[10 * epoch : 10 * epoch + 10])) == 10
        assert keys[:10] != keys[10:20]


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_makes_the_head_accept_more_and_leaves_the_backbone(
    own_text: tuple[Any, Rows], loss: Any
) -> None:
    model, rows = own_text
    before = {name: p.clone() for name, p in model.named_parameters()}
    head = MTPHead.fresh(model)
    start = evaluate_head(model, head, rows[slice(64, 96)])
    HeadTrainer(model, head, rows[slice(0, 64)], config_of(loss=loss, steps=40)).train()
    score = evaluate_head(model, head, rows[slice(64, 96)])
    gain = score.rules["rejection"].chains.length - start.rules["rejection"].chains.length
    assert gain > 0.01, (gain, start.rules["rejection"].chains.length)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(("layers", "attention"), [(1, "ttt"), (1, "parallel"), (3, None)])
def test_a_run_goes_on_to_the_bit(
    own_text: tuple[Any, Rows], tmp_path: Path, layers: int, attention: Any
) -> None:
    model, rows = own_text
    config = config_of(layers=layers, chain_attention=attention, checkpoint_every=4)
    whole, parts = MTPHead.fresh(model, layers=layers), MTPHead.fresh(model, layers=layers)
    with Run.open(tmp_path / "whole", config={}) as run:
        HeadTrainer(model, whole, rows, config).train(run)

    class Killed(Exception):
        pass

    def kill(step: int, _: object) -> None:
        if step == 7:
            raise Killed

    with pytest.raises(Killed), Run.open(tmp_path / "parts", config={}) as run:
        HeadTrainer(model, parts, rows, config).train(run, on_step=kill)
    with Run.open(tmp_path / "parts", config={}) as run:
        trainer = HeadTrainer(model, MTPHead.fresh(model, layers=layers, seed=9), rows, config)
        trainer.train(run)
    pairs = zip(whole.parameters(), trainer.head.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")
    assert [m["step"] for m in read_metrics(tmp_path / "parts")] == list(range(1, 13))


def test_another_heads_checkpoint_is_refused(own_text: tuple[Any, Rows], tmp_path: Path) -> None:
    model, rows = own_text
    with Run.open(tmp_path, config={}) as run:
        HeadTrainer(model, MTPHead.fresh(model), rows, config_of(steps=1)).train(run)
        with pytest.raises(CheckpointError, match="not this head's"):
            HeadTrainer(model, MTPHead.fresh(model, layers=3), rows, config_of(layers=3)).train(run)


def test_a_loss_that_is_not_finite_stops_the_run(own_text: tuple[Any, Rows]) -> None:
    model, rows = own_text
    head = MTPHead.fresh(model)
    trainer = HeadTrainer(model, head, rows, config_of(lr=1e30, steps=8))
    with pytest.raises(DivergenceError, match="lower lr"):
        trainer.train()


def test_text_too_short_for_a_chain_is_told(own_text: tuple[Any, Rows]) -> None:
    model, rows = own_text
    with pytest.raises(DataError, match="chain of 5 steps"):
        HeadTrainer(model, MTPHead(model), Rows.of(rows.tokens[:, :6]), config_of(train_gamma=5))
    with pytest.raises(DataError, match="chain of 3 steps"):
        evaluate_head(model, MTPHead(model), Rows.of(rows.tokens[:, :4]))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["layers=2", "train_gamma=3"], "more than a head of 2 layers has"),
        (["layers=5", "chain_attention=ttt"], "for a head of one layer"),
        (["step_weights=[1,1,1,1,1]"], "do not go with e2e_tv"),
        (["loss=ce", "step_weights=[1,1]"], "must be 5 numbers"),
        (["loss=tvd"], "loss"),
    ],
)
def test_settings_that_do_not_fit(override: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(TrainConfig, overrides=override)


# -- the score --------------------------------------------------------------------------------------------------------


@lru_cache
def written_at(params: SamplingParams) -> tuple[Any, MTPHead, list[list[int]], Rows]:
    """The small model and its head, prompts, and what it wrote behind them."""
    model, tokenizer = small_lm()
    prompts = text_prompts(tokenizer, 40, seed=3)
    return model, small_head(model), prompts, own_text(model, prompts, length=64, seed=3, params=params)


COOL = SamplingParams(temperature=0.7, top_k=12)


@pytest.mark.parametrize(
    ("rule", "params"),
    [(rule, SamplingParams()) for rule in ("rejection", "target_only", "match", "block")]
    + [("rejection", COOL)],
    ids=lambda value: value if isinstance(value, str) else f"T{value.temperature:g}",
)
def test_the_score_is_what_the_decoder_then_accepts(rule: Any, params: SamplingParams) -> None:
    """Predicted from text alone, measured by drafting: the same, within four standard errors, at each draft."""
    model, head, prompts, rows = written_at(params)
    score = evaluate_head(model, head, rows, rules=[rule], params=params, served=[1, 3]).rules[rule]
    requests = [Request(p, 64 - len(p), params, seed=i) for i, p in enumerate(prompts)]
    done = Decoder(model, HeadDrafter(head), gamma=3, rule=rule, eos=[]).generate(requests)
    for step, predicted in enumerate(score.served[3].rates):
        drafted, accepted = ([getattr(c, n)[step] for c in done] for n in ("drafted", "accepted"))
        measured = sum(accepted) / sum(drafted)
        # Rounds of one request go together, so a request is one observation.
        spread = sum((a - measured * d) ** 2 for a, d in zip(accepted, drafted, strict=True)) ** 0.5
        width = (predicted.high - predicted.low) / 3.92
        error = math.hypot(spread / sum(drafted), width)
        assert abs(measured - predicted.effect) < 4 * error, (step, measured, predicted)
        assert error < 0.08
    # Rounds stand where less is accepted, as half of this text is easy; of one draft that is told, too.
    assert score.served[3].length.effect < score.length.effect
    assert score.served[3].rates[0].effect < score.served[1].rates[0].effect < score.rates[0].effect
    assert score.length.low < score.chains.length < score.length.high
    assert score.served[3].chains.length == pytest.approx(score.served[3].length.effect)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        (SamplingParams(), None),
        (SamplingParams(temperature=0.6), "surprises the policy by +"),
        (SamplingParams(temperature=1.6), "surprises the policy by -"),
        (SamplingParams(top_p=0.5), "cannot have drawn"),
    ],
)
def test_text_that_is_not_the_policys_own_is_told(params: SamplingParams, told: str | None) -> None:
    """Whatever a text says, its tokens surprise the policy that drew it by its entropy on average."""
    model, head, _, rows = written_at(SamplingParams())
    score = evaluate_head(model, head, rows[slice(0, 24)], params=params)
    assert (score.warning is None) if told is None else told in str(score.warning)
    low, high = score.entropy_range
    assert low < score.target_entropy < high
