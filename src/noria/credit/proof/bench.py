"""The cost of credit: a tapped pass against plain and eager ones, the flow against networkx, credit against a step.

The model is an untrained Qwen3 of 12 layers, 8 heads and width 512, of which credit reads five middle layers, its
default.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noria.core.proofs.bench import Benchmark, Row

__all__ = ["benchmarks"]

LENGTH = 2048
"""Tokens of the passes that are compared."""
BATCH, TOKENS = 64, 1024
"""Rows and tokens of the batch whose flow is traced."""


def benchmarks(*, rounds: int = 6) -> Benchmark:
    """Measure time and memory of reading attention, and of credit.

    Args:
        rounds: number of timed turns of each side.
    """
    import torch

    from noria.core.proofs.bench import Benchmark

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that neither side is helped by a core that happens to be free
    try:
        rows = [*_passes(rounds), *_flows(rounds), *_step(max(2, rounds // 3))]
    finally:
        torch.set_num_threads(threads)
    return Benchmark("credit", rows)


def _model() -> tuple[Any, Any]:
    """A model, and those of its layers that are read."""
    import torch
    import transformers

    from noria.core.models.lm import small_config
    from noria.credit.config import named_credit
    from noria.credit.credit import TokenCredit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Qwen3ForCausalLM(small_config(2048, width=512, heads=8, length=LENGTH)).eval()
    return model, TokenCredit(named_credit("flow")).layers(model)


def _passes(rounds: int) -> list[Row]:
    """Passes of the decoder alone, without its output layer, on one row."""
    import torch

    from noria.core.proofs.bench import Row, alternate, peak_memory
    from noria.credit.attention.readers import head_mean

    model, layers = _model()
    ids = torch.randint(2, 2048, (1, LENGTH), generator=torch.Generator().manual_seed(0))

    def ours() -> Any:
        return head_mean(model.model, layers, input_ids=ids)

    @torch.no_grad()
    def plain() -> Any:
        return model.model(ids, use_cache=False)

    @torch.no_grad()
    def eager() -> Any:
        model.set_attn_implementation("eager")
        try:
            every = model.model(ids, use_cache=False, output_attentions=True).attentions
            return torch.stack([every[layer.index].mean(1) for layer in layers]).mean(0)
        finally:
            model.set_attn_implementation("sdpa")

    torch.testing.assert_close(ours(), eager(), atol=1e-6, rtol=0)
    what = f"attention of 5 of 12 layers, {LENGTH:,} tokens"
    beside, against = (
        alternate(ours, plain, rounds=rounds),
        alternate(ours, eager, rounds=max(2, rounds // 2)),
    )
    memory = [[peak_memory(side) / 2**20] for side in (ours, eager)]
    return [
        Row.of(
            f"{what}: pass", "plain SDPA pass", "s", beside.ours, beside.theirs, better="lower", goal=1 / 1.6
        ),
        Row.of(f"{what}: pass", "eager pass", "s", against.ours, against.theirs, better="lower", goal=3.0),
        Row.of(f"{what}: memory", "eager pass", "MiB", *memory, better="lower", goal=3.0),
    ]


def _flows(rounds: int) -> list[Row]:
    """The flow of a batch, per row, against networkx's maximum flow of one row of the same attention."""
    import torch

    from noria.core.errors import require
    from noria.core.proofs.bench import Row
    from noria.credit.scores.flow import trace_flow

    networkx: Any = require("networkx", "proof")
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(BATCH, TOKENS, TOKENS, generator=generator)
    attention = scores.masked_fill_(torch.ones(TOKENS, TOKENS).triu(1).bool(), -torch.inf).softmax(-1)
    question = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    question[:, :128] = True
    answer = torch.zeros_like(question)
    answer[:, TOKENS - 4 : TOKENS - 1] = True

    def ours() -> None:
        trace_flow(attention, question, answer)

    graph = networkx.DiGraph()
    graph.add_weighted_edges_from(
        (
            (earlier, later, weight)
            for later, row in enumerate(attention[0].tolist())
            for earlier, weight in enumerate(row[:later])
        ),
        weight="capacity",
    )
    graph.add_edges_from(
        [("source", n) for n in range(128)] + [(n, "sink") for n in range(TOKENS - 4, TOKENS - 1)]
    )
    ours()
    mine, theirs = [], []
    for turn in range(max(2, rounds // 3)):
        began = time.perf_counter()
        for _ in range(5):
            ours()
        mine.append((time.perf_counter() - began) / 5 / BATCH)
        if turn == 0:  # minutes: once is enough
            began = time.perf_counter()
            networkx.maximum_flow_value(graph, "source", "sink")
            theirs.append(time.perf_counter() - began)
    return [
        Row.of(
            f"flow of a row of {TOKENS:,} tokens, in a batch of {BATCH}",
            "networkx maximum flow",
            "s",
            mine,
            theirs * len(mine),
            better="lower",
            goal=100.0,
        )
    ]


def _step(rounds: int) -> list[Row]:
    """The time that credit adds to a learning step, against five per cent of the step without it."""
    import torch

    from noria.core.proofs.bench import Row, alternate
    from noria.credit.config import named_credit
    from noria.credit.credit import TokenCredit
    from noria.credit.passes import inputs_of
    from noria.credit.responses.traces import Traces

    model, _ = _model()
    model.train()
    rows = 4
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 2048, (rows, TOKENS), generator=generator).tolist()
    spans = [(TOKENS - 128 - 4, TOKENS - 128 - 1)] * rows
    traces = Traces.of([row[:128] for row in ids], [row[128:] for row in ids], spans)
    credit, gains = TokenCredit(named_credit("flow")), torch.tensor([1.0, -1.0] * (rows // 2))

    def forward() -> Any:
        logp = model(**inputs_of(traces)).logits[:, :-1].log_softmax(-1)
        return logp.gather(-1, traces.tokens[:, 1:, None])[..., 0]

    def backward(new: Any, weights: Any) -> None:
        (-(new * weights[:, 1:] * gains[:, None])[traces.response[:, 1:]].mean()).backward()
        model.zero_grad(set_to_none=True)

    def with_credit() -> None:
        with credit.tap(model, lambda: traces.sequence) as tap:
            new = forward()
        scored = credit.from_read(tap.passes[0]["read"], traces)
        backward(new, credit.weigh(scored, traces, gains).weights)

    ones = torch.ones(rows, TOKENS)
    timing = alternate(with_credit, lambda: backward(forward(), ones), rounds=rounds)
    # A difference of two large times is as noisy as they are: it is taken turn by turn, and 1 ms is its floor.
    added = [max(1e-3, ours - theirs) for ours, theirs in zip(timing.ours, timing.theirs, strict=True)]
    return [
        Row.of(
            f"credit of {rows} × {TOKENS:,} tokens in a step of learning",
            "5 % of the step",
            "s",
            added,
            [0.05 * seconds for seconds in timing.theirs],
            better="lower",
            goal=1.0,
        )
    ]
