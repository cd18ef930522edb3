"""On an accelerator: the decoder and the trainer do what they do on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.config import TrainConfig
from noria.mtp.data import Rows
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.head import MTPHead
from noria.mtp.training.trainer import HeadTrainer
from tests.mtp.tiny_models import BACKBONES, VOCAB, head_of, tiny

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("family", list(BACKBONES))
@pytest.mark.parametrize("rule", ["rejection", "target_only", "match", "block"])
def test_drafts_leave_greedy_tokens_alone(family: str, rule: str) -> None:
    model = copy.deepcopy(tiny(family)).cuda()
    drafter = HeadDrafter(head_of(model, family))
    requests = [Request(p, 12, SamplingParams(temperature=0)) for p in ([3, 4, 5], [7], [9, 2, 9, 2, 9])]
    drafted = Decoder(model, drafter, gamma=3, rule=rule).generate(requests)  # type: ignore[arg-type]
    assert [c.tokens for c in drafted] == [c.tokens for c in Decoder(model).generate(requests)]


def test_the_same_seed_draws_the_same_numbers_as_on_a_cpu() -> None:
    model = tiny("qwen3")
    requests = [Request([3 + n, 4], 20, seed=n) for n in range(4)]
    here = Decoder(model, HeadDrafter(head_of(model, "qwen3")), gamma=3).generate(requests)
    moved = copy.deepcopy(model).cuda()
    there = Decoder(moved, HeadDrafter(head_of(moved, "qwen3")), gamma=3).generate(requests)
    assert [c.tokens for c in there] == [c.tokens for c in here]
    assert [c.accepted for c in there] == [c.accepted for c in here]


@pytest.mark.parametrize("loss", ["ce", "e2e_tv"])
def test_training_follows_the_cpus(loss: str) -> None:
    config = TrainConfig(steps=5, batch_size=4, train_gamma=3, lr=1e-3, loss=loss)  # type: ignore[arg-type]
    tokens = torch.randint(VOCAB, (16, 24), generator=torch.Generator().manual_seed(0))
    losses = []
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(tiny("qwen3")).to(device)
        trainer = HeadTrainer(model, MTPHead.fresh(model), Rows.of(tokens), config)
        losses.append([float(trainer.advance()[0].loss.detach()) for _ in range(config.steps)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
