"""Plugs with the outside: the MCP server by its own client, inspect_ai's evaluation, GEPA's search."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from noria.skills.bank.bank import BankFolder
from noria.skills.bank.skill import make_skill
from noria.skills.routing.encoders import NgramEncoder
from noria.skills.routing.routers import EmbeddingRouter
from noria.skills.traffic.samples import Sample
from tests.chat_server import Body, Reply, chat_server
from tests.skills.scripted_model import respond
from tests.skills.shop import make_shop, run, run_well


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_an_mcp_client_lists_reads_and_chooses_and_sees_what_is_published(tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    bank = make_shop(tmp_path)
    words = ["-m", "noria.cli", "skills", "serve-mcp", str(bank)]
    server = StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        assert {tool.name for tool in (await session.list_tools()).tools} == {
            "list_skills",
            "read_skill",
            "choose_skill",
        }

        async def call(tool: str, **fields: str) -> tuple[bool, str]:
            result = await session.call_tool(tool, fields)
            return bool(result.is_error), result.content[0].text  # type: ignore[union-attr]

        before = json.loads((await call("list_skills"))[1])
        assert [one["name"] for one in before] == ["invoices", "returns", "sizes"]
        assert "Say until when" in (await call("read_skill", name="returns"))[1]
        wrong, why = await call("read_skill", name="../../etc/passwd")
        assert wrong
        assert "there is no skill" in why
        run_well("route", bank, "--data", tmp_path / "traffic.jsonl")
        after = json.loads((await call("list_skills"))[1])
        assert after != before
        assert json.loads((await call("choose_skill", request="refund please"))[1])["skill"] == "returns"


def test_an_mcp_server_of_no_bank_is_refused(tmp_path: Path) -> None:
    assert run("serve-mcp", tmp_path / "gone") == 2


def test_inspect_counts_what_is_no_decision_as_unscored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.model import get_model

    from noria.skills.integrations.inspect_ai import route_task

    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    bank = BankFolder(make_shop(tmp_path, requests=20)).load()
    queries = {"send it back": "returns", "which size": "returns", "weather": "none", "???": "sizes"}
    samples = [Sample(str(n), q, str(n), (name,)) for n, (q, name) in enumerate(queries.items())]

    def reply(body: Body, number: int) -> Reply:
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        said = str(body["messages"][-1]["content"])
        return (
            Reply("I cannot say", usage=usage)
            if "???" in said
            else Reply(respond(body, number).text, usage=usage)
        )

    with chat_server(reply) as server:
        model = get_model("openai-api/noria/m", base_url=server.url, api_key="none")
        (log,) = inspect_ai.eval(
            route_task(bank.routed(), samples), model=model, log_dir=str(tmp_path / "logs"), display="none"
        )
    assert log.status == "success", log.error
    values = [str(one.scores["routed"].value) for one in log.samples]
    assert values == ["C", "I", "C", "nan"]


def test_gepa_finds_a_description_that_routes(tmp_path: Path) -> None:
    pytest.importorskip("gepa")
    from noria.skills.integrations.gepa import improve_text

    skill = make_skill("returns", "Handles questions about an order.", "# R\n")
    cases = [
        ("can I send it back", "returns"),
        ("refund please", "returns"),
        ("which size fits", "sizes"),
    ] * 4

    def evaluate(text: str, batch: object) -> tuple[list[float], list[str]]:
        router = EmbeddingRouter({"returns": text, "sizes": "Which size fits."}, NgramEncoder())
        found = router.choose([query for query, _ in batch])  # type: ignore[attr-defined]
        scores = [float(a == b) for a, (_, b) in zip(found, batch, strict=True)]  # type: ignore[call-overload]
        return scores, ["wrong"] * len(scores)

    better = "Returns: send it back, refund please, exchange."
    found = improve_text(
        skill, "description", cases, cases, evaluate, lambda prompt: f"```\n{better}\n```", calls=60
    )
    assert found == better


def test_gepas_descriptions_go_through_the_gate(tmp_path: Path) -> None:
    pytest.importorskip("gepa")
    bank = make_shop(tmp_path)

    def reply(body: Body, number: int) -> Reply:
        text = str(body["messages"][-1]["content"])
        if "went to the wrong skill" in str(body["messages"][0]["content"]):
            return respond(body, number)
        for name, better in {
            "money": "Money: invoice; charged; pay; price; receipt; bill; taxes.",
            "order": "Orders: send back; return; broken; refund; exchange; drop off; changed my mind.",
            "thing": "Sizes: size; fit; small; large; tight; long; measurements; centimetres.",
        }.items():
            if f"about {name}" in text or f"about a {name}" in text or f"about an {name}" in text:
                return Reply(f"```\n{better}\n```")
        return Reply("```\nnothing\n```")

    with chat_server(reply) as server:
        data = ("--data", tmp_path / "traffic.jsonl", "--url", server.url, "--model", "m")
        run_well("route", bank, *data, "--proposer", "gepa")
    assert [e.get("stage") for e in BankFolder(bank).ledger.entries() if "version" in e] == ["init", "route"]


def test_a_dspy_program_describes_and_its_failure_proposes_nothing() -> None:
    """The program is a function with DSPy's calling form; the real one was tried in an environment of its own."""
    from noria.skills.integrations.dspy import with_program
    from noria.skills.proposing.protocols import DescribeTask
    from noria.skills.proposing.templates import TemplateProposer

    skill = make_skill("returns", "Handles orders.", "# R\n")
    task = DescribeTask(skill, {"sizes": "Sizes."}, [Sample("1", "refund please", "1")], [], [])

    def program(**fields: object) -> object:
        assert fields["missed"] == ["refund please"]
        return type("Prediction", (), {"new_description": "Returns: refunds and exchanges."})()

    def broken(**fields: object) -> object:
        raise RuntimeError("no server")

    assert with_program(TemplateProposer(), program).describe(task) == "Returns: refunds and exchanges."
    assert with_program(TemplateProposer(), broken).describe(task) is None
    assert with_program(TemplateProposer(terms=3), broken).name == "dspy"
