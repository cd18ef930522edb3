"""The router that writes: its tokens, who owns them, what they earn, and its training by TRL."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.errors import ConfigError, DataError
from noria.core.models.lm import save_lm, small_config, train_tokenizer
from noria.routing.config import WriterTraining
from noria.routing.pool.config import DEFAULT_STRATEGIES
from noria.routing.pool.pool import ReplayPool
from noria.routing.tables.answers import Thrift
from noria.routing.tables.table import Cell, Table, table_of, write_table
from noria.routing.writer.environment import Environment, Limits
from noria.routing.writer.judging import score_rollouts
from noria.routing.writer.writer import PlayedRollout, Writer, credit_of, play
from tests.routing.tables import small_table

pytest.importorskip("trl")
TABLE = small_table(24)
TRACE = "Question: {q}\n<think>hm</think><route>{r}: it</route>\n<information> {a} </information>\n<answer>{a}</answer>"


def schooled(table: Table = TABLE, steps: int = 110) -> tuple[Any, Any]:
    """A tiny model that has read well-formed rollouts."""
    import transformers

    texts = [
        TRACE.format(q=q.text, r=route.label, a=(cell.response or "")[:20])
        for (n, r), cell in table.cells.items()
        for q, route in [(table.questions[n], table.routes[r])]
    ]
    tokenizer = train_tokenizer(texts, 400)
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(
        small_config(len(tokenizer), width=48, layers=2, heads=2, length=256)
    )
    rows = [[*tokenizer(text)["input_ids"], 0] for text in texts]
    padded = torch.full((len(rows), max(map(len, rows))), 1)
    for n, tokens in enumerate(rows):
        padded[n, : len(tokens)] = torch.tensor(tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = padded[torch.randint(len(padded), (16,), generator=generator)]
        goal = batch[:, 1:].masked_fill(batch[:, 1:] == 1, -100)
        loss = torch.nn.functional.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), goal.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    model, tokenizer = schooled()
    folder = tmp_path_factory.mktemp("router")
    save_lm(model, tokenizer, folder)
    return model, tokenizer, folder


def environment(calls: int = 2) -> Environment:
    return Environment(
        ReplayPool(TABLE), limits=Limits(calls=calls, information=30), thrift=Thrift.of(TABLE.cost)
    )


def played(
    router: tuple[Any, Any, Path],
    number: int = 12,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    size: int = 64,
) -> list[PlayedRollout]:
    model, tokenizer, _ = router
    env = environment()
    writer = Writer(model, tokenizer, env.grammar.stops, turn_tokens=40, batch_size=size)
    questions = TABLE.questions[:number]
    prompts = [writer.ids(f"Question: {q.text}\n") for q in questions]
    return asyncio.run(
        play(writer, env, questions, prompts, temperature=temperature, seed=seed, completion_tokens=120)
    )


def test_tokens_owners_and_probabilities_go_together(router: tuple[Any, Any, Path]) -> None:
    model, tokenizer, _ = router
    rollouts = played(router)
    assert any(p.rollout.calls for p in rollouts)
    for p in rollouts:
        assert len(p.tokens) == len(p.ours) == len(p.logprobs) <= 120
        own = [s.text for s in p.rollout.segments if s.ours]
        assert "".join(own) == "".join(
            tokenizer.decode([t for t in tokens if t != 0]) for _, tokens in p.turns
        )
        # Log-probabilities are the model's own of the whole text, environment included.
        with torch.no_grad():
            logits = model(torch.tensor([[*p.prompt, *p.tokens]])).logits[0, len(p.prompt) - 1 : -1]
        logp = logits.log_softmax(-1)[range(len(p.tokens)), p.tokens]
        for mine, true, own_token in zip(p.logprobs, logp.tolist(), p.ours, strict=True):
            assert mine == pytest.approx(true, abs=2e-3) if own_token else mine == 0


def test_draws_are_the_seeds(router: tuple[Any, Any, Path]) -> None:
    texts = lambda **k: [p.rollout.text for p in played(router, **k)]  # noqa: E731
    assert texts() == texts()
    assert texts() != texts(seed=1)
    assert texts(temperature=0.0, size=3) == texts(temperature=0.0, size=64)


def test_credit_goes_to_tags_names_and_everything(router: tuple[Any, Any, Path]) -> None:
    model, tokenizer, _ = router
    env = environment()
    writer = Writer(model, tokenizer, env.grammar.stops)
    p = next(p for p in played(router, 24) if p.rollout.flaw is None and p.rollout.calls)
    credit = credit_of(p, writer, Environment.names)
    assert credit.shape == (len(p.tokens), 3)
    assert (credit[~torch.tensor(p.ours)] == 0).all()
    assert (credit[torch.tensor(p.ours), 1] == 1).all()

    def words(column: int) -> str:
        kept = [t for t, c in zip(p.tokens, credit[:, column].tolist(), strict=True) if c]
        return str(tokenizer.decode(kept))

    assert p.rollout.calls[0].route.label in words(2)
    assert "</think>" in words(0)
    assert len(words(2)) < len(words(0)) < len(words(1))


def test_a_rollout_without_room_is_broken(router: tuple[Any, Any, Path]) -> None:
    model, tokenizer, _ = router
    env = environment()
    writer = Writer(model, tokenizer, env.grammar.stops, turn_tokens=40)
    q = TABLE.questions[0]
    (short,) = asyncio.run(
        play(
            writer,
            env,
            [q],
            [writer.ids(f"Question: {q.text}\n")],
            temperature=0.0,
            seed=0,
            completion_tokens=5,
        )
    )
    assert len(short.tokens) == 5
    assert short.rollout.flaw in ("unclosed", "no_answer", "no_thought", "outside")
    assert env.rewards(short.rollout)[0] == 0


def training(folder: Path, table: Path, **more: Any) -> WriterTraining:
    settings: dict[str, Any] = {
        "table": str(table),
        "model": str(folder),
        "instruct": False,
        "prompts": 4,
        "group": 4,
        "turn_tokens": 30,
        "completion_tokens": 100,
        "information": 30,
        "calls": 2,
        "lr": 1e-3,
        "steps": 4,
        "checkpoint_every": 2,
        "seed": 3,
    }
    return WriterTraining(**settings | more)


def test_it_is_trained_by_trl_and_goes_on_where_it_was_stopped(
    router: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    from noria.routing.writer.lm_training import train_writer

    _, _, folder = router
    table = tmp_path / "table.jsonl"
    write_table(table, TABLE)
    whole = train_writer(training(folder, table), tmp_path / "whole", device="cpu")
    train_writer(training(folder, table, steps=2), tmp_path / "part", device="cpu")
    part = train_writer(training(folder, table), tmp_path / "part", device="cpu")
    read = lambda run, name: (run.folder / name).read_bytes()  # noqa: E731
    assert read(whole, "policy/model.safetensors") == read(part, "policy/model.safetensors")
    assert read(whole, "metrics.jsonl") == read(part, "metrics.jsonl")
    log = [line for line in read(whole, "metrics.jsonl").decode().split("\n") if line]
    assert len(log) == 4
    for name in ("reward/form", "reward/answer", "calibration/share/form", "rollout/calls"):
        assert f'"{name}"' in log[-1]
    assert whole.report.is_file()
    assert 0 <= whole.score.micro <= 1


def test_a_trained_writer_is_judged_served_and_falls_back(
    router: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    """Through the verbs' own jobs: its run is evaluated, and answers as a chat model in front of its pool."""
    import httpx2

    from noria.core.chat import Answer, Usage
    from noria.core.service.hosting import running
    from noria.routing.pool.pool import Pool
    from noria.routing.service.service import routing_service
    from noria.routing.verbs.evaluate import EvaluateConfig, run as evaluate
    from noria.routing.writer.lm_training import train_writer
    from noria.routing.writer.router import writer_router

    table, run = tmp_path / "table.jsonl", tmp_path / "run"
    write_table(table, TABLE)
    train_writer(training(router[2], table, steps=1), run, device="cpu")
    config = EvaluateConfig(router=run, table=table, output=str(tmp_path / "evaluation"))
    result = evaluate(config)
    assert 0 <= result.score.micro <= 1
    assert '"form"' in result.file.read_text()
    with pytest.raises(ConfigError, match="no trade"):
        evaluate(config.model_copy(update={"trades": (0.1,)}))

    class Says:
        async def ask(self, request: Any) -> Answer:
            return Answer("answer 7", usage=Usage(1, 1), cost=0.5)

    pool = Pool({route.model: Says() for route in TABLE.routes}, TABLE.routes, strategies=DEFAULT_STRATEGIES)
    with running(routing_service(writer_router(run, pool), pool, access_log=False)) as url:
        found = [
            httpx2.post(
                f"{url}/v1/chat/completions",
                json={"model": "auto", "messages": [{"role": "user", "content": q.text}]},
                timeout=60,
            )
            for q in TABLE.questions[:4]
        ]
    assert {answer.status_code for answer in found} == {200}
    who = [answer.headers["x-noria-route"] for answer in found]
    assert "run" in who or all(answer.headers.get("x-noria-tried") for answer in found)


def test_calls_that_wait_are_answered_together() -> None:
    from noria.routing.pool.batching import Batcher

    batches: list[int] = []

    async def run(calls: Any) -> list[int]:
        batches.append(len(calls))
        await asyncio.sleep(0.01)
        if 13 in calls:
            raise ValueError("unlucky")
        return [2 * call for call in calls]

    async def go() -> list[Any]:
        together: Batcher[int, int] = Batcher(run, key=lambda n: n % 2, most=3)
        return await asyncio.gather(*(together.ask(n) for n in (0, 2, 4, 6, 1, 13)), return_exceptions=True)

    found = asyncio.run(go())
    assert found[:4] == [0, 4, 8, 12]
    assert all(isinstance(error, ValueError) for error in found[4:])
    assert batches == [3, 1, 2]


def test_components_can_go_to_their_tokens(router: tuple[Any, Any, Path], tmp_path: Path) -> None:
    from noria.routing.writer.lm_training import train_writer

    table = tmp_path / "table.jsonl"
    write_table(table, TABLE)
    done = train_writer(
        training(router[2], table, credit="spans", steps=1, calibration="gdpo"),
        tmp_path / "run",
        device="cpu",
    )
    assert done.step == 1


def test_what_cannot_be_trained_is_told(router: tuple[Any, Any, Path], tmp_path: Path) -> None:
    from noria.routing.writer.lm_training import train_writer

    table = tmp_path / "table.jsonl"
    write_table(table, TABLE)
    with pytest.raises(ConfigError, match=r"do not fit|are more than"):
        train_writer(training(router[2], table, completion_tokens=500), tmp_path / "a", device="cpu")
    assert not (tmp_path / "a").exists()
    mute = table_of((q, r, Cell(0.5, 1.0), "") for q in TABLE.questions for r in TABLE.routes)
    write_table(table, mute)
    with pytest.raises(DataError, match="no responses"):
        train_writer(training(router[2], table), tmp_path / "b", device="cpu")


def test_a_lost_call_earns_nothing(router: tuple[Any, Any, Path]) -> None:
    nothing = table_of((q, r, Cell(failure="timeout: x"), "") for q in TABLE.questions for r in TABLE.routes)
    env = Environment(ReplayPool(nothing), limits=Limits(calls=2, information=30), thrift=Thrift(0.0, 4.0))
    model, tokenizer, _ = router
    writer = Writer(model, tokenizer, env.grammar.stops, turn_tokens=40)
    questions = nothing.questions[:8]
    found = asyncio.run(
        play(
            writer, env, questions, [writer.ids(f"Question: {q.text}\n") for q in questions],
            temperature=0.0, seed=0, completion_tokens=120,
        )
    )  # fmt: skip
    lost = [env.rewards(p.rollout) for p in found if p.rollout.calls]
    assert lost
    assert all(answer == 0 and math.isnan(thrift) for _, answer, thrift in lost)
    score = score_rollouts(found, env, nothing.rows(range(8))).score
    assert (score.scored, score.micro) == (8, 0)
    assert score.availability == 1 - len(lost) / 8
    assert score.failed == len(lost)
