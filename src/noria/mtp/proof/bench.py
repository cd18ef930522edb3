"""Speed of the decoder and of the fused loss, each against what a user would otherwise run.

Every pair runs the same model with the same head in one process, in alternation: transformers' `generate`, its own
`use_mtp`, the package `economize`, and the TV loss written with softmax on whole logits.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noria.core.proofs.bench import Benchmark, Row

NEW = 128
"""Tokens of each completion."""
GAMMA = 3
VOCAB = 152_064
"""Size of the vocabulary of Qwen's models."""


def benchmarks(*, rounds: int = 8) -> Benchmark:
    """Tokens a second of decoding, at temperature 1 and three drafts a round; time and memory of the loss.

    Args:
        rounds: timed turns of each side.
    """
    import torch

    from noria.core.proofs.bench import Benchmark

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small are slower on two cores, for every side
    try:
        rows = [
            *_against_generate(rounds),
            *_against_use_mtp(rounds),
            *_against_economize(rounds),
            *_loss(rounds),
        ]
    finally:
        torch.set_num_threads(threads)
    return Benchmark("mtp", rows)


def _against_generate(rounds: int) -> list[Row]:
    """The small model on text that it knows well, and on text that it does not: entropy 0.6 and 3.5 nats a token."""
    import torch

    from noria.core.models.lm import small_lm
    from noria.mtp.decoding.decoder import Decoder, Request
    from noria.mtp.decoding.drafter import HeadDrafter
    from noria.mtp.heads.small import small_head
    from noria.mtp.proof.small_heads import text_prompts

    model, tokenizer = small_lm()
    decoder = Decoder(model, HeadDrafter(small_head(model)), gamma=GAMMA, eos=[])
    rows = []
    for kind, goal in (("arithmetic", 1.6), ("code", 1.0)):
        prompts = text_prompts(tokenizer, 2 * (rounds + 1), seed=5_555, kinds=(kind,))
        turns = {side: iter(range(rounds + 1)) for side in ("ours", "theirs")}

        def ours(prompts: Any = prompts, turns: Any = turns) -> None:
            turn = 2 * next(turns["ours"])
            for number in (turn, turn + 1):
                decoder.generate([Request(prompts[number], NEW, seed=number)])

        def theirs(prompts: Any = prompts, turns: Any = turns) -> None:
            turn = 2 * next(turns["theirs"])
            for number in (turn, turn + 1):
                torch.manual_seed(number)
                _generate(model, prompts[number], NEW)

        name = f"decoding, 1 request, {kind}"
        rows.append(_throughput(name, "generate", ours, theirs, 2 * NEW, rounds, goal=goal))
    return rows


def _against_use_mtp(rounds: int) -> list[Row]:
    """A small DeepSeek-V3 at random and its head, as transformers itself reads it.

    Transformers drafts as many tokens as the head has layers: one with the single layer that DeepSeek ships.
    """
    import torch
    import transformers

    from noria.core.models.loading import quiet_loading
    from noria.mtp.decoding.decoder import Decoder, Request
    from noria.mtp.decoding.drafter import HeadDrafter
    from noria.mtp.heads.checkpoint import load_head, save_with_head
    from noria.mtp.heads.head import MTPHead

    depth = 8
    kind = transformers.DeepseekV3ForCausalLM
    config = transformers.DeepseekV3Config(
        vocab_size=2048,
        hidden_size=144,
        intermediate_size=384,
        num_hidden_layers=depth,
        first_k_dense_replace=2,
        moe_intermediate_size=96,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        num_attention_heads=6,
        num_key_value_heads=6,
        q_lora_rank=48,
        kv_lora_rank=32,
        qk_rope_head_dim=16,
        qk_nope_head_dim=16,
        v_head_dim=24,
        max_position_embeddings=1024,
        eos_token_id=0,
        pad_token_id=1,
        num_nextn_predict_layers=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
    rows = []
    for layers, goal in ((1, 1.2), (GAMMA, 1.0)):
        with tempfile.TemporaryDirectory() as place, quiet_loading(transformers):
            plain, whole = Path(place) / "plain", Path(place) / "whole"
            model.save_pretrained(plain)
            save_with_head(model, MTPHead.fresh(model, layers=layers), plain, whole)
            with _shared_mtp(kind, depth, layers, whole) as opened:
                decoder = Decoder(opened, HeadDrafter(load_head(opened, whole)), gamma=GAMMA, eos=[])
                prompt = torch.randint(2, 2048, (32,), generator=torch.Generator().manual_seed(0)).tolist()
                turns = {side: iter(range(rounds + 1)) for side in ("ours", "theirs")}

                def ours(decoder: Any = decoder, prompt: Any = prompt, turns: Any = turns) -> None:
                    decoder.generate([Request(prompt, NEW, seed=next(turns["ours"]))])

                def theirs(opened: Any = opened, prompt: Any = prompt, turns: Any = turns) -> None:
                    torch.manual_seed(next(turns["theirs"]))
                    _generate(opened, prompt, NEW, use_mtp=True)

                name = f"decoding, 1 request, DeepSeek head of {layers} layer{'s' * (layers > 1)}"
                rows.append(_throughput(name, "use_mtp", ours, theirs, NEW, rounds, goal=goal))
    return rows


@contextlib.contextmanager
def _shared_mtp(kind: Any, depth: int, layers: int, folder: Path) -> Iterator[Any]:
    """The model, whose head transformers reads once instead of in every call."""
    import transformers

    mtp: Any = transformers.modeling_layers.MtpModel
    known, opens = kind._keys_to_ignore_on_load_unexpected, mtp.from_pretrained
    places = "|".join(str(depth + n) for n in range(layers))
    kind._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.({places})\..*"]
    try:
        model = kind.from_pretrained(folder).eval()
        loaded = opens(model).eval()
        mtp.from_pretrained = lambda *_, **__: loaded
        yield model
    finally:
        kind._keys_to_ignore_on_load_unexpected, mtp.from_pretrained = known, opens


def _against_economize(rounds: int) -> list[Row]:
    """The small model and its head on arithmetic; both draw from the draft and verify by rejection."""
    import torch

    from noria.core.errors import require
    from noria.core.models.lm import small_lm
    from noria.mtp.decoding.decoder import Decoder, Request
    from noria.mtp.decoding.drafter import HeadDrafter
    from noria.mtp.heads.small import small_head
    from noria.mtp.proof.small_heads import text_prompts

    economize: Any = require("economize", "proof")
    vendor: Any = require("economize.techniques.vendor_mtp", "proof")
    model, tokenizer = small_lm()
    head = small_head(model)
    decoder = Decoder(model, HeadDrafter(head), gamma=GAMMA, eos=[])
    peer = economize.apply(model, vendor.VendorMTPConfig(family="qwen3_next"))
    (module,) = [part for part in peer.modules() if isinstance(part, vendor.MTPModule)]
    around = {
        "enorm": "embedding_norm",
        "hnorm": "hidden_norm",
        "eh_proj": "projection",
        "norm": "final_norm",
    }
    own = head.state_dict()
    module.load_state_dict(
        {
            name: own[
                name.replace("block.", "blocks.0.", 1)
                if name.startswith("block.")
                else f"parts.0.{around[name.split('.')[0]]}.weight"
            ]
            for name in module.state_dict()
        }
    )
    rows = []
    for batch in (1, 8):
        turns = max(2, rounds // 2) if batch > 1 else rounds
        prompts = text_prompts(tokenizer, batch * (turns + 1), seed=7_777, kinds=("arithmetic",))
        turn = {"ours": 0, "theirs": 0}

        def chosen(
            side: str, prompts: Any = prompts, turn: Any = turn, batch: int = batch
        ) -> list[list[int]]:
            turn[side] += 1
            part: list[list[int]] = prompts[(turn[side] - 1) * batch : turn[side] * batch]
            return part

        def ours(chosen: Callable[[str], list[list[int]]] = chosen) -> None:
            decoder.generate([Request(p, NEW, seed=n) for n, p in enumerate(chosen("ours"))])

        def theirs(chosen: Callable[[str], list[list[int]]] = chosen) -> None:
            peer.decode_batch(
                [torch.tensor(p) for p in chosen("theirs")],
                NEW,
                decoding=economize.DecodeConfig(cycle_length=GAMMA + 1, verifier="rejection"),
                selector=economize.TopPSampler(temperature=1.0, top_p=1.0, seed=0, device="cpu"),
            )

        name = f"decoding, {batch} request{'s' * (batch > 1)}, arithmetic"
        rows.append(_throughput(name, "economize", ours, theirs, batch * NEW, turns, goal=1.0))
    return rows


def _loss(rounds: int) -> list[Row]:
    """Forward and backward of the TV loss from hidden states, at the vocabulary of Qwen's models."""
    import torch

    from noria.core.proofs.bench import Row, alternate, peak_memory
    from noria.mtp.training.losses import loss_from_hidden
    from noria.mtp.training.reads import LMHead

    width, positions = 128, 512
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCAB, width, generator=generator) * width**-0.5
    teacher = torch.randn(positions, width, generator=generator) * 3
    student = (teacher + torch.randn(positions, width, generator=generator)).requires_grad_()

    def ours() -> Any:
        student.grad = None
        terms = loss_from_hidden("tv", student[:, None], LMHead(weight), teacher=teacher[:, None])
        terms.loss.backward()  # type: ignore[no-untyped-call]
        return terms.loss.detach()

    def theirs() -> Any:
        student.grad = None
        q, p = (student @ weight.T).softmax(-1), (teacher @ weight.T).softmax(-1)
        loss = (1 - torch.minimum(p, q).sum(-1)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-5)
    memory = [[peak_memory(side) / 2**20] for side in (ours, theirs)]
    timing = alternate(ours, theirs, rounds=max(2, rounds // 2))
    name = f"TV loss, {positions} positions of {VOCAB:,} logits"
    return [
        Row.of(f"{name}, memory", "softmax", "MiB", *memory, better="lower", goal=5.0),
        Row.of(f"{name}, time", "softmax", "s", timing.ours, timing.theirs, better="lower", goal=1.0),
    ]


# -- helpers ----------------------------------------------------------------------------------------------------------


def _throughput(
    name: str,
    peer: str,
    ours: Callable[[], None],
    theirs: Callable[[], None],
    tokens: int,
    rounds: int,
    *,
    goal: float,
) -> Row:
    from noria.core.proofs.bench import Row, alternate

    timing = alternate(ours, theirs, rounds=rounds)
    speeds = [[tokens / seconds for seconds in side] for side in (timing.ours, timing.theirs)]
    return Row.of(name, peer, "tokens/s", *speeds, better="higher", goal=goal)


def _generate(model: Any, prompt: list[int], new: int, **options: Any) -> None:
    import torch

    ids = torch.tensor([prompt])
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=True,
        top_k=0,
        eos_token_id=None,
        pad_token_id=1,
        **options,
    )
