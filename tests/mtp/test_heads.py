"""Heads of every layout: what training computes is what drafting computes, and documents do not see each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from noria.core.errors import ConfigError, DataError, ModelError
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.decoding.drafter import HeadDrafter
from noria.mtp.heads.chain import align, visible
from noria.mtp.heads.head import MTPHead
from noria.mtp.heads.layouts import LAYOUTS, layers_in, layout_of
from tests.mtp.tiny_models import BACKBONES, LAYOUT_OF, VOCAB, head_of, tiny

GREEDY = SamplingParams(temperature=0)


def text_of(rows: int, n: int, seed: int = 5) -> Tensor:
    return torch.randint(VOCAB, (rows, n), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def states_of(model: Any, tokens: Tensor) -> Tensor:
    return model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state


# -- alignment --------------------------------------------------------------------------------------------------------


def test_alignment_is_what_the_convention_says() -> None:
    tokens = text_of(3, 11)
    segments = torch.tensor([[0] * 11, [0] * 4 + [1] * 7, [0] * 5 + [1] * 3 + [-1] * 3])
    mask = torch.rand(3, 11, generator=torch.Generator().manual_seed(2)) > 0.15
    aligned = align(tokens, 3, segments=segments, mask=mask)
    counted = 0
    for row in range(3):
        for t in range(11):
            for k in range(1, 4):
                inside = t + k + 1 < 11 and segments[row, t] >= 0
                whole = inside and all(
                    bool(segments[row, t + i] == segments[row, t] and mask[row, t + i])
                    for i in range(1, k + 2)
                )
                assert bool(aligned.valid[row, t, k - 1]) == whole
                if whole:
                    counted += 1
                    assert aligned.tokens[row, t, k - 1] == tokens[row, t + k + 1]
                    assert aligned.teacher[row, t, k - 1] == row * 11 + t + k
    assert counted > 10


def test_alignment_refuses_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="segments"):
        align(text_of(2, 5), 2, segments=torch.zeros(2, 4))
    with pytest.raises(DataError, match="at least one"):
        align(text_of(2, 5), 0)


def test_a_document_sees_itself_up_to_here() -> None:
    segments = torch.tensor([[0, 0, 1, 1]])
    whole = visible(segments, 0, 4)[0, 0]
    assert whole.tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, True, True],
    ]
    assert torch.equal(visible(segments, 1, 3)[0, 0], whole[1:3, :3])


@pytest.mark.parametrize("attention", ["ttt", "parallel"])
def test_long_rows_are_attended_to_in_blocks_without_keeping_their_weights(
    attention: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen3")
    head = MTPHead.fresh(model, seed=1)
    tokens, n = text_of(2, 50), 50
    segments = torch.cat([torch.full((2, 20), 3), torch.full((2, 22), 5), torch.full((2, 8), -1)], 1)
    hidden = torch.randn(2, n, model.config.hidden_size, generator=torch.Generator().manual_seed(0))

    def run() -> tuple[Tensor, list[Tensor], int]:
        kept: list[int] = []

        def pack(x: Tensor) -> Tensor:
            kept.append(x.shape[-1] if x.ndim > 3 else 0)
            return x

        head.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = head(hidden, tokens, steps=3, segments=segments, chain_attention=attention)
        out.square().sum().backward()
        return out.detach(), [p.grad.clone() for p in head.parameters() if p.grad is not None], max(kept)

    out, grads, widest = run()
    assert widest >= n  # weights, or the mask
    monkeypatch.setattr("noria.mtp.heads.chain.BLOCK", 16)
    blocked, again, narrow = run()
    torch.testing.assert_close(blocked, out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, grads, rtol=1e-3, atol=1e-4)
    assert narrow < n


# -- training computes what drafting computes -----------------------------------------------------------------------


def drafted_along(
    head: Any, hidden: Tensor, tokens: Tensor, roots: list[list[int]], gamma: int
) -> dict[Any, Tensor]:
    """Logits of each row, root and step when chains are drafted round by round, the data forced as drafts.

    A draft that the next round refuses, as it goes on from a root before it, is a wrong token; steps behind it are left
    out.
    """
    rows, n = tokens.shape
    drafter = HeadDrafter(head)
    drafter.begin(rows, n + gamma + 4)
    found: dict[Any, Tensor] = {}
    before = [-1] * rows
    rounds = list(zip(*roots, strict=True))
    for at, after in zip(rounds, [*rounds[1:], rounds[-1]], strict=True):
        accepted = [max(0, next_ - now - 1) for now, next_ in zip(at, after, strict=True)]
        counts = torch.tensor([a - b for a, b in zip(at, before, strict=True)])
        width = int(counts.max())
        positions = torch.stack([torch.arange(b + 1, b + 1 + width) for b in before])
        inside = positions.clamp(max=n - 1)
        garbage = torch.arange(width) >= counts[:, None]
        states = torch.stack([hidden[r, inside[r]] for r in range(rows)]).masked_fill(garbage[..., None], 7.0)
        following = torch.stack([tokens[r, (inside[r] + 1).clamp(max=n - 1)] for r in range(rows)])

        def pick(
            step: int, logits: Tensor, at: tuple[int, ...] = at, accepted: list[int] = accepted
        ) -> Tensor:
            for row in range(rows):
                if step <= accepted[row]:
                    found[row, at[row], step] = logits[row]
            right = torch.tensor([int(tokens[r, at[r] + 2 + step]) for r in range(rows)])
            return torch.where(torch.tensor(accepted) > step, right, (right + 1) % VOCAB)

        drafter.propose(states, following.masked_fill(garbage, 3), positions, counts, gamma, pick)
        before = list(at)
    return found


@pytest.mark.parametrize(("family", "layers"), [(f, n) for f in BACKBONES for n in (1, 3)])
def test_a_chain_drafted_is_the_chain_trained(family: str, layers: int) -> None:
    """Ragged rounds with refused and accepted drafts in between make no difference."""
    model, tokens = tiny(family), text_of(2, 20)
    head, hidden = head_of(model, family, layers=layers), states_of(tiny(family), tokens)
    gamma = 3
    with torch.no_grad():
        states = head(hidden, tokens, steps=gamma)
        roots = [[0, 3, 4, 8, 12, 14], [5, 8, 9, 11, 12, 15]]
        found = drafted_along(head, hidden, tokens, roots, gamma)
        for (row, root, step), logits in found.items():
            wanted = head.output(states[row, root, step])
            torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert len(found) == sum(
        min(gamma, max(1, b - a)) for row in roots for a, b in zip(row, [*row[1:], 0], strict=True)
    )


def test_a_shared_layer_trained_in_parallel_is_another_chain() -> None:
    """From the second step on: that is the mismatch `ttt` avoids."""
    model, tokens = tiny("qwen3"), text_of(1, 12)
    head, hidden = head_of(model, "qwen3"), states_of(model, tokens)
    with torch.no_grad():
        ttt = head(hidden, tokens, steps=3)
        parallel = head(hidden, tokens, steps=3, chain_attention="parallel")
    torch.testing.assert_close(ttt[:, :, 0], parallel[:, :, 0])
    assert (ttt[:, :, 1] - parallel[:, :, 1]).abs().max() > 1e-2


@pytest.mark.parametrize("layers", [1, 2])
def test_packed_documents_are_computed_as_if_alone(layers: int) -> None:
    model = tiny("glm4_moe")
    head = head_of(model, "glm4_moe", layers=layers)
    one, two = text_of(1, 7, seed=1), text_of(1, 9, seed=2)
    hidden = torch.cat([states_of(model, one), states_of(model, two)], 1)
    segments = torch.tensor([[0] * 7 + [1] * 9])
    positions = torch.tensor([[*range(7), *range(9)]])
    with torch.no_grad():
        packed = head(hidden, torch.cat([one, two], 1), steps=2, segments=segments, positions=positions)
        valid = align(torch.cat([one, two], 1), 2, segments=segments).valid
        for part, tokens, start in ((one, one, 0), (two, two, 7)):
            alone = head(states_of(model, part), tokens, steps=2)
            counts = valid[0, start : start + part.shape[1], -1]
            assert counts.sum() == part.shape[1] - 3
            torch.testing.assert_close(
                packed[0, start : start + part.shape[1]][counts], alone[0][counts], rtol=1e-4, atol=1e-4
            )


def test_the_gradient_flows_back_through_the_chain_and_into_the_head_alone() -> None:
    model, tokens = tiny("qwen3"), text_of(1, 8)
    head, hidden = head_of(model, "qwen3"), states_of(model, tokens).requires_grad_()
    head(hidden, tokens, steps=3)[:, :, 2].square().sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0
    assert all(p.grad is not None for p in head.parameters())
    assert {n.split(".")[0] for n, _ in head.named_parameters()} == {"parts", "blocks"}


# -- layouts --------------------------------------------------------------------------------------------------------


def test_layouts_differ_in_what_they_compute() -> None:
    """The same weights under another vendor's convention are another head."""
    model, tokens = tiny("qwen3"), text_of(1, 10)
    hidden = states_of(model, tokens)
    found = {}
    for name, layout in LAYOUTS.items():
        head = MTPHead(model, layout=layout)
        head.load_state_dict(head_of(model, "qwen3").state_dict())
        with torch.no_grad():
            found[name] = head.eval()(hidden, tokens, steps=2)
    qwen, deepseek, mimo = found["qwen"], found["deepseek"], found["mimo"]
    assert (qwen[:, :, 0] - mimo[:, :, 0]).abs().max() > 1e-2, "the projection reads them in another order"
    assert (qwen[:, 0, 0] - deepseek[:, 0, 0]).abs().max() > 1e-2, "the first embedding is zero"
    assert (qwen[:, 3:, 1] - deepseek[:, 3:, 1]).abs().max() > 1e-2, (
        "the second step reads what was not normed"
    )


@pytest.mark.parametrize("family", BACKBONES)
def test_each_family_has_its_layout(family: str) -> None:
    config = tiny(family).config
    if family == "mimo":
        config.model_type = "mimo"
    assert layout_of(config).name == LAYOUT_OF[family]
    assert layout_of(config, "deepseek").name == "deepseek"
    with pytest.raises(ConfigError, match="one of qwen, deepseek, mimo"):
        layout_of(config, "eagle")


def test_layers_are_counted_behind_the_backbone() -> None:
    keys = ["model.layers.0.enorm.weight", "model.layers.2.enorm.weight", "model.layers.3.mlp.gate.weight"]
    assert layers_in(keys, LAYOUTS["deepseek"], depth=2) == 2
    assert layers_in(keys, LAYOUTS["deepseek"], depth=4) == 0
    assert layers_in(["mtp.layers.0.x", "mtp.layers.1.x", "mtp.fc.weight"], LAYOUTS["qwen"], depth=9) == 2
    assert LAYOUTS["qwen"].owns("mtp.fc.weight", 3)
    assert not LAYOUTS["deepseek"].owns("model.layers.1.mlp.up_proj.weight", 2)


# -- heads that decode ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "layers"), [(f, n) for f in BACKBONES for n in (1, 3)])
def test_a_head_drafts_and_the_tokens_stay_the_models(family: str, layers: int) -> None:
    model = tiny(family)
    drafter = HeadDrafter(head_of(model, family, layers=layers))
    prompts = [[3, 4, 5], [7], [9, 2, 9, 2, 9, 2, 9], [1, 1]]
    requests = [Request(p, 12, GREEDY) for p in prompts]
    together = Decoder(model, drafter, gamma=3).generate(requests)
    plain = Decoder(model).generate(requests)
    assert [c.tokens for c in together] == [c.tokens for c in plain]


def test_what_is_drafted_does_not_depend_on_the_company() -> None:
    model = tiny("qwen3")
    drafter = HeadDrafter(head_of(model, "qwen3"))
    requests = [Request([3 + i, 4, 5][: 1 + i % 3], 15 - i, seed=i) for i in range(5)]
    together = Decoder(model, drafter, gamma=3).generate(requests)
    for request, completion in zip(requests, together, strict=True):
        alone = Decoder(model, drafter, gamma=3).generate([request])[0]
        assert (alone.tokens, alone.drafted, alone.accepted) == (
            completion.tokens,
            completion.drafted,
            completion.accepted,
        )


def test_a_fresh_head_starts_from_the_last_layer_and_drafts_better_than_chance() -> None:
    model, tokens = tiny("qwen3"), text_of(1, 12)
    head = MTPHead.fresh(model, seed=3)
    last = model.get_decoder().layers[-1].state_dict()
    assert all(torch.equal(t, last[n]) for n, t in head.blocks[0].state_dict().items())
    again = MTPHead.fresh(model, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    assert not torch.equal(
        MTPHead.fresh(model, seed=4).around[0].projection.weight, head.around[0].projection.weight
    )
    assert head(states_of(model, tokens), tokens, steps=3).isfinite().all()
    assert (
        head.blocks[0].self_attn.q_proj.weight is not model.get_decoder().layers[-1].self_attn.q_proj.weight
    )


def test_errors_say_what_to_do() -> None:
    model, tokens = tiny("qwen3"), text_of(1, 8)
    with pytest.raises(ConfigError, match="at least 1"):
        MTPHead(model, layers=0)
    head, hidden = head_of(model, "qwen3", layers=2), states_of(model, tokens)
    with pytest.raises(ConfigError, match="3 steps of a head with 2 layers"):
        head(hidden, tokens, steps=3)
    with pytest.raises(ConfigError, match="ttt is for a head of one layer"):
        head(hidden, tokens, steps=2, chain_attention="ttt")
    with pytest.raises(ConfigError, match="3 steps of a head with 2 layers"):
        Decoder(model, HeadDrafter(head), gamma=3).generate([Request([1, 2], 4)])
    import transformers

    config = transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1)
    with pytest.raises(ModelError, match="no layers with a final norm"):
        MTPHead(transformers.GPT2LMHeadModel(config))
