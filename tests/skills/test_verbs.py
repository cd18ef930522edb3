"""Every verb of `noria skills` as a user runs it, on the example's shop and a scripted model behind a real server."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from noria.core.chat import Answer, ChatRequest, Outcome, Usage, user
from noria.skills.asking import TokenBudget, within_tokens
from noria.skills.bank.bank import BankFolder
from noria.skills.verbs.refine import RefineVerbConfig
from tests.chat_server import ChatServerDouble, Reply, chat_server
from tests.skills.scripted_model import SAY, respond
from tests.skills.shop import make_shop, run, run_well, texts, week, write_lines


@pytest.fixture(name="bank")
def _bank(tmp_path: Path) -> Path:
    return make_shop(tmp_path)


@pytest.fixture(name="server")
def _server() -> Iterator[ChatServerDouble]:
    with chat_server(respond) as double:
        yield double


def model(server: ChatServerDouble) -> tuple[str, ...]:
    return ("--url", server.url, "--model", "m")


def versions(bank: Path) -> list[tuple[str, str]]:
    return [(e["event"], e.get("stage") or "") for e in BankFolder(bank).ledger.entries() if "version" in e]


# -- init, diff, rollback ---------------------------------------------------------------------------------------------


def test_a_bank_begins_once_and_a_dry_run_begins_none(tmp_path: Path, bank: Path) -> None:
    run_well("init", bank)
    assert versions(bank) == [("publish", "init")]
    run_well("init", tmp_path / "other", "--source", bank, "--dry-run")
    assert not (tmp_path / "other" / ".noria").exists()


def test_a_bank_of_a_broken_skill_does_not_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b" / "x").mkdir(parents=True)
    (tmp_path / "b" / "x" / "SKILL.md").write_text("no frontmatter")
    assert run("init", tmp_path / "b") == 2
    assert "the frontmatter is missing" in capsys.readouterr().err
    assert not (tmp_path / "b" / ".noria").exists()


def test_a_verb_makes_no_bank_where_there_is_none(tmp_path: Path, bank: Path) -> None:
    for words in (("route", "gone", "x"), ("import", "gone", bank), ("rollback", "gone"), ("report", "gone")):
        assert run(words[0], tmp_path / words[1], *words[2:]) == 2
    assert not (tmp_path / "gone").exists()


def test_a_roll_back_is_byte_exact_and_the_chain_runs_again_after_it(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = texts(bank)
    run_well("route", bank, "--data", tmp_path / "traffic.jsonl")
    after = texts(bank)
    assert after != before
    run_well("diff", bank, "head~1")
    assert "# invoices: description" in capsys.readouterr().out
    run_well("rollback", bank, "--reason", "try")
    assert texts(bank) == before
    run_well("route", bank, "--data", tmp_path / "traffic.jsonl")
    assert texts(bank) == after
    assert [event for event, _ in versions(bank)] == ["publish", "publish", "rollback", "publish"]
    assert run("rollback", bank, "head~9") == 2


# -- route ------------------------------------------------------------------------------------------------------------


def test_descriptions_are_repaired_once_and_only_descriptions(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skills = BankFolder(bank).load().skills
    run_well("route", bank, "--data", tmp_path / "traffic.jsonl", "--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["before"]["macro_f1"] < 0.5 < 0.95 < summary["after"]["macro_f1"]
    for name, skill in BankFolder(bank).load().skills.items():
        changed = {k for k, v in skill.components.items() if v != skills[name].components[k]}
        assert changed == {"description"}
    ledger = (bank / ".noria" / "ledger.jsonl").read_bytes()
    run_well(
        "route", bank, "--data", tmp_path / "traffic.jsonl"
    )  # finished: nothing is done or written again
    assert (bank / ".noria" / "ledger.jsonl").read_bytes() == ledger


def test_a_dry_run_publishes_nothing(tmp_path: Path, bank: Path) -> None:
    before = texts(bank), (bank / ".noria" / "ledger.jsonl").read_bytes()
    run_well("route", bank, "--data", tmp_path / "traffic.jsonl", "--dry-run")
    assert (texts(bank), (bank / ".noria" / "ledger.jsonl").read_bytes()) == before


def test_too_few_groups_change_nothing(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"group": row["group"].split()[1][0]} for row in week(tmp_path / "few.jsonl")]
    run_well("route", bank, "--data", write_lines(tmp_path / "few.jsonl", rows))
    assert "leakage groups, 30 needed" in capsys.readouterr().out
    assert versions(bank) == [("publish", "init")]


@pytest.mark.parametrize("router", ["chat", "hybrid"])
def test_a_model_routes_and_its_failure_is_an_error_and_not_none(
    bank: Path, server: ChatServerDouble, router: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("can I send it back", "what is the weather")
    run_well("route", bank, *words, "--router", router, *model(server))
    rows = capsys.readouterr().out.splitlines()
    assert "returns" in rows[1]
    assert "none" in rows[2]
    server.respond = lambda body, number: Reply("I would rather not")
    assert run("route", bank, "what is it", "--router", router, *model(server)) == 1
    said = capsys.readouterr()
    assert "error" in said.out
    assert "1 of 1 requests have no decision" in said.err
    assert run("route", bank, "x", "--router", router) == 2


def test_a_query_like_no_description_goes_to_none(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_well("route", bank, "zzz qqq")
    out = capsys.readouterr().out
    assert "none" in out.splitlines()[1]
    assert "not fitted" in out


def test_what_a_small_catalogue_leaves_out_is_said(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_well("route", bank, "size", "--catalogue-chars", 250)
    assert "not in the catalogue of 250 characters" in capsys.readouterr().out


# -- refine and run ---------------------------------------------------------------------------------------------------


def test_bodies_are_repaired_by_rules_and_only_bodies(
    tmp_path: Path, bank: Path, server: ChatServerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", tmp_path / "traffic.jsonl", "--rubric", tmp_path / "rubric.yaml")
    before = BankFolder(bank).load().skills
    run_well("refine", bank, *data, *model(server), "--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["score_after"] == 100 > summary["score_before"]
    for name, skill in BankFolder(bank).load().skills.items():
        assert {k for k, v in skill.components.items() if v != before[name].components[k]} == {"body"}
        assert SAY in skill.body
    asked = len(server.seen)
    run_well("refine", bank, *data, *model(server))
    assert len(server.seen) == asked


def test_recorded_answers_are_judged_and_nothing_is_repaired(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", tmp_path / "traffic.jsonl", "--rubric", tmp_path / "rubric.yaml")
    run_well("refine", bank, *data)
    assert "repair" in capsys.readouterr().out
    assert versions(bank) == [("publish", "init")]


def test_an_edited_rubric_is_another_run(tmp_path: Path, bank: Path, server: ChatServerDouble) -> None:
    data = ("--data", tmp_path / "traffic.jsonl", "--rubric", tmp_path / "rubric.yaml")
    rubric = (tmp_path / "rubric.yaml").read_text()
    (tmp_path / "rubric.yaml").write_text("least_answers: 9999\n" + rubric)
    run_well("refine", bank, *data, *model(server))
    assert versions(bank) == [("publish", "init")]
    (tmp_path / "rubric.yaml").write_text(rubric)
    run_well("refine", bank, *data, *model(server))
    assert versions(bank)[-1] == ("publish", "refine")


def test_an_outage_never_edits_prose(tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    week(tmp_path / "traffic.jsonl", 300)
    data = ("--data", tmp_path / "traffic.jsonl", "--rubric", tmp_path / "rubric.yaml")
    with chat_server(lambda body, number: Reply(status=400)) as server:
        run_well("refine", bank, *data, *model(server), "--json")
    summary = json.loads(capsys.readouterr().out)
    assert set(summary["blame"]) <= {"infrastructure", "routing"}
    assert not summary["rounds"]


def test_the_chain_waits_for_a_person_and_goes_on_after_the_yes(
    tmp_path: Path, bank: Path, server: ChatServerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    judges = ("--proposer", "chat", "--judge-model", "j", "--final-judge-model", "f")
    words = ("run", bank, tmp_path / "tasks.yaml", "--data", tmp_path / "traffic.jsonl", "--rubric",
             tmp_path / "rubric.yaml", *model(server), *judges)  # fmt: skip
    run_well(*words)
    assert "create gift-cards: waiting" in capsys.readouterr().out
    assert versions(bank) == [("publish", "init"), ("publish", "route"), ("publish", "refine")]
    path = bank / ".noria" / "review" / "gift-cards" / "decision.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"decision": "approve", "by": "Ann"}))
    run_well(*words)
    assert "create gift-cards: added" in capsys.readouterr().out
    assert (bank / "gift-cards" / "SKILL.md").exists()
    ledger = BankFolder(bank).ledger.entries()
    assert (
        ledger[-1]["stage"] == "refine" or ledger[-1]["stage"] == "route" or ledger[-1]["stage"] == "create"
    )
    human = [o["human"]["by"] for e in ledger for o in e.get("summary", {}).get("created", [])]
    assert human[-1] == "Ann"


def test_one_model_cannot_judge_at_the_gate_what_it_gave_feedback_on(
    tmp_path: Path, bank: Path, server: ChatServerDouble
) -> None:
    words = ("--data", tmp_path / "traffic.jsonl", "--judge-model", "j", "--final-judge-model", "j")
    assert run("refine", bank, *words, *model(server)) == 2


def test_a_budget_of_tokens_ends_the_asking_and_the_failures_are_counted(
    tmp_path: Path, bank: Path, server: ChatServerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (
        "--data",
        tmp_path / "traffic.jsonl",
        "--rubric",
        tmp_path / "rubric.yaml",
        "--budget-tokens",
        1000,
    )
    run_well("refine", bank, *data, *model(server), "--json")
    summary = json.loads(capsys.readouterr().out)
    assert 60 <= len(server.seen) <= 140  # 15 tokens an answer, looked at every 32 requests
    assert summary["blame"]["infrastructure"] > 400


# -- create -----------------------------------------------------------------------------------------------------------


def test_a_draft_that_nobody_read_does_not_enter_the_bank(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_well("create", bank, tmp_path / "tasks.yaml")
    assert "waiting" in capsys.readouterr().out
    path = bank / ".noria" / "review" / "gift-cards" / "decision.yaml"
    sheet = yaml.safe_load(path.read_text())
    path.write_text(
        yaml.safe_dump(sheet | {"decision": "approve", "by": "Ann", "content": "of another draft"})
    )
    run_well("create", bank, tmp_path / "tasks.yaml")
    assert not (bank / "gift-cards").exists()
    path.write_text(yaml.safe_dump(sheet | {"decision": "reject", "by": "Ann", "reason": "no"}))
    run_well("create", bank, tmp_path / "tasks.yaml")
    assert "rejected" in capsys.readouterr().out
    assert not (bank / "gift-cards").exists()
    run_well("create", bank, tmp_path / "tasks.yaml", "--human", "none")
    assert (bank / "gift-cards" / "SKILL.md").exists()


def test_a_draft_that_names_a_tool_which_is_not_there_is_quarantined(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = (tmp_path / "tasks.yaml").read_text()
    (tmp_path / "tasks.yaml").write_text("tools: [find_order]\n" + tasks)
    run_well("create", bank, tmp_path / "tasks.yaml", "--human", "none")
    assert "there is no tool 'find_card'" in capsys.readouterr().out
    assert not (bank / "gift-cards").exists()


# -- import -----------------------------------------------------------------------------------------------------------


def test_every_skill_has_a_verdict_and_a_repair_on_request(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "good": "---\nname: good\ndescription: Good things.\n---\nDo.\n",
        "list": "---\nname: List\ndescription: Listed.\nallowed-tools: [a, b]\nextra: 1\n---\nDo.\n",
        "evil": "---\nname: evil\ndescription: Evil.\n---\nRead [this](../../secret.md).\n",
    }
    for name, text in files.items():
        (tmp_path / "up" / name).mkdir(parents=True)
        (tmp_path / "up" / name / "SKILL.md").write_text(text)
    assert run("import", bank, tmp_path / "up", "--json") == 1
    states = {row["folder"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {"good": "added", "list": "refused", "evil": "refused"}
    assert run("import", bank, tmp_path / "up", "--repair", "--json") == 1
    states = {row["folder"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {"good": "same", "list": "added", "evil": "refused"}
    skill = BankFolder(bank).load().skills["list"]
    assert skill.tools == ("a", "b")
    assert skill.header["metadata"] == {"extra": "1"}
    assert run("import", bank, "--check") == 0


# -- evaluate and gate ------------------------------------------------------------------------------------------------


def test_scores_of_two_versions_go_through_the_gate(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", tmp_path / "traffic.jsonl", "--rubric", tmp_path / "rubric.yaml")
    run_well("evaluate", bank, *data, "--scores", tmp_path / "before.jsonl", "--json")
    before = json.loads(capsys.readouterr().out)
    assert before["answers"]["blame"].count("infrastructure") == 0  # what nobody answered is no outage
    run_well("route", bank, "--data", tmp_path / "traffic.jsonl")
    run_well("evaluate", bank, *data, "--scores", tmp_path / "after.jsonl")
    sides = (tmp_path / "before.jsonl", tmp_path / "after.jsonl")
    reports = ("--junit", tmp_path / "j.xml", "--sarif", tmp_path / "s.json", "--skills", bank)
    run_well("gate", *sides, "--metric", "route", *reports)
    assert ElementTree.parse(tmp_path / "j.xml").getroot().attrib["failures"] == "0"
    assert json.loads((tmp_path / "s.json").read_text())["runs"][0]["results"] == []
    assert run("gate", *reversed(sides), "--metric", "route", *reports) == 1
    assert ElementTree.parse(tmp_path / "j.xml").getroot().findall(".//failure")
    (bank / "sizes" / "SKILL.md").write_text("broken")
    assert run("gate", *sides, "--metric", "route", *reports) == 1
    results = json.loads((tmp_path / "s.json").read_text())["runs"][0]["results"]
    assert any("frontmatter" in one["message"]["text"] for one in results)
    rows = (tmp_path / "after.jsonl").read_text().splitlines()
    (tmp_path / "after.jsonl").write_text("\n".join(rows[1:]) + "\n")
    assert run("gate", *sides, "--metric", "route") == 2


# -- drift and ab -----------------------------------------------------------------------------------------------------


def test_drift_is_silent_without_one_and_names_what_is_asked_anew(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = week(tmp_path / "traffic.jsonl")
    phrases = ("a gift card for the {x} shop", "what is left on my voucher for the {x}", "gift voucher that pays a {x}",
               "when does the gift card for a {x} expire", "send a voucher to a friend who likes a {x}")  # fmt: skip
    new = [
        {"id": f"n{n}", "query": phrases[n % 5].format(x=rows[n]["group"]), "group": rows[n]["group"]}
        for n in range(120)
    ]
    first = write_lines(tmp_path / "1.jsonl", rows[:800])
    same = write_lines(tmp_path / "2.jsonl", rows[800:])
    moved = write_lines(tmp_path / "3.jsonl", [*rows[800:1300], *new])
    run_well("drift", bank, first, same, "--json")
    assert json.loads(capsys.readouterr().out)["missing"] == []
    assert run("drift", bank, first, moved, "--json") == 1
    (queue,) = json.loads(capsys.readouterr().out)["missing"]
    assert abs(queue["requests"] - 120) <= 12
    assert "voucher" in queue["terms"]


def test_a_test_is_planned_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_well("ab", "--effect", 0.05)
    assert "users of both arms find 0.05 with power 0.8" in capsys.readouterr().out
    rows = [
        {"arm": arm, "value": float(n % 10 < bar)}
        for n in range(4000)
        for arm, bar in (("control", 5), ("treatment", 6))
    ]
    run_well("ab", write_lines(tmp_path / "users.jsonl", rows), "--effect", 0.05, "--json")
    read = json.loads(capsys.readouterr().out)
    assert read["reading"] == "treatment is better"
    assert read["interval"]["low"] > 0
    run_well("ab", write_lines(tmp_path / "users.jsonl", rows[:200]), "--effect", 0.05)
    assert "underpowered" in capsys.readouterr().out
    half = [row | {"value": None} if row["arm"] == "control" and n % 3 else row for n, row in enumerate(rows)]
    run_well("ab", write_lines(tmp_path / "users.jsonl", half), "--effect", 0.05)
    assert "not comparable" in capsys.readouterr().out


# -- report -----------------------------------------------------------------------------------------------------------


def test_the_page_shows_every_edit_with_its_gate(
    tmp_path: Path, bank: Path, server: ChatServerDouble
) -> None:
    data = ("--data", tmp_path / "traffic.jsonl", "--rubric", tmp_path / "rubric.yaml")
    run_well("run", bank, *data, *model(server))
    run_well("report", bank, "-o", tmp_path / "pages")
    page = (tmp_path / "pages" / "report.html").read_text()
    for words in (
        "Confusion before",
        "Poor shares",
        "End with",
        "gain +",
        "refine",
        "Use when the user asks",
    ):
        assert words in page, words


# -- nothing to judge by ----------------------------------------------------------------------------------------------


def test_an_evaluation_without_rules_and_judge_scores_routes_and_no_answers(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"response": "%%%", "skill": "sizes"} for row in week(tmp_path / "traffic.jsonl", 40)]
    data = ("--data", write_lines(tmp_path / "traffic.jsonl", rows), "--pool", "all")
    capsys.readouterr()
    run_well("evaluate", bank, *data, "--scores", tmp_path / "s.jsonl")
    out = capsys.readouterr().out
    assert "40 answers are not scored" in out
    assert "of 100" not in out
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert {line["score"] for line in lines} == {None}
    assert {line["route"] for line in lines} <= {0, 1}
    run_well("evaluate", bank, *data, "--rubric", tmp_path / "rubric.yaml")
    assert "of 100 in CA over" in capsys.readouterr().out


def test_bodies_are_not_refined_where_nothing_judges_at_the_gate(
    tmp_path: Path, bank: Path, server: ChatServerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", tmp_path / "traffic.jsonl")
    assert run("refine", bank, *data, *model(server), "--judge-model", "j") == 2
    assert "neither rules nor a judge for the gate" in capsys.readouterr().err
    assert server.seen == []


def test_drift_without_rules_compares_no_poor_answers_and_says_so(
    tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = week(tmp_path / "traffic.jsonl", 400)
    sides = [write_lines(tmp_path / f"{n}.jsonl", rows[200 * n :][:200]) for n in (0, 1)]
    capsys.readouterr()
    run("drift", bank, *sides)
    assert "Poor answers are not compared" in capsys.readouterr().out
    run("drift", bank, *sides, "--rubric", tmp_path / "rubric.yaml")
    assert "Poor answers" not in capsys.readouterr().out


def test_a_person_reads_whether_the_examples_of_a_draft_were_judged(tmp_path: Path, bank: Path) -> None:
    rows = [
        {"query": f"gift card {n} of mine", "expected": "gift-cards", "response": "%%%", "group": f"g{n}"}
        for n in range(60)
    ]
    data = ("--data", write_lines(tmp_path / "gifts.jsonl", rows))
    sheet = bank / ".noria" / "review" / "gift-cards" / "decision.yaml"
    run_well("create", bank, tmp_path / "tasks.yaml", *data)
    assert " unjudged and " in yaml.safe_load(sheet.read_text())["why"]


# -- options ----------------------------------------------------------------------------------------------------------

UNUSED = {
    "final judge without a server": (("refine", "--final-judge-model", "f"), "--final-judge-model: it has no effect"),
    "judge without a server": (("evaluate", "--judge-model", "j"), "--judge-model: it has no effect here: no model"),
    "tokens without a server": (("refine", "--budget-tokens", 5), "--budget-tokens: it has no effect here: no model"),
    "money without a server": (("create", "--budget", 5), "--budget: it has no effect here: no model is asked"),
    "candidates": (("evaluate", "--candidates", 7), "--candidates: it has no effect here: only the hybrid router"),
    "probes": (("evaluate", "--probes", 7), "--probes: it has no effect here: no model judges"),
    "proposer of nothing": (("evaluate", "--proposer", "chat"), "--proposer: it has no effect here: nothing is"),
    "gepa for bodies": (("refine", "--proposer", "gepa"), "--proposer: it has no effect here: GEPA proposes descr"),
    "gepa for skills": (("create", "--proposer", "gepa"), "--proposer: it has no effect here: GEPA proposes descr"),
    "a repair of nothing": (("route", "how big", "--route-rounds", 2), "--route-rounds: it has no effect here"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSED)
def test_an_option_that_would_not_be_honoured_is_refused_by_name(
    tmp_path: Path, bank: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (verb, *words), said = UNUSED[case]
    assert run(verb, bank, *words, "--data", tmp_path / "traffic.jsonl") == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_judge_of_routes_and_a_final_judge_of_drafts_are_refused(
    tmp_path: Path, bank: Path, server: ChatServerDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", tmp_path / "traffic.jsonl")
    assert run("route", bank, *data, *model(server), "--judge-model", "j") == 2
    assert run("create", bank, *data, *model(server), "--final-judge-model", "j") == 2
    assert capsys.readouterr().err.count("it has no effect here") == 2
    assert server.seen == []


def test_a_final_judge_decides_without_a_judge_of_the_feedback(
    tmp_path: Path, bank: Path, server: ChatServerDouble
) -> None:
    data = ("--data", tmp_path / "traffic.jsonl", "--rubric", tmp_path / "rubric.yaml")
    run_well("refine", bank, *data, *model(server), "--final-judge-model", "f")
    judged = [body for body in server.seen if "You judge an answer" in str(body["messages"][0]["content"])]
    assert {body["model"] for body in judged} == {"f"}
    assert all("gaps" not in str(body["messages"][0]["content"]) for body in judged)


def test_the_tokens_of_a_command_are_those_of_all_its_models_together() -> None:
    def ask(requests: Sequence[ChatRequest]) -> list[Outcome]:
        return [Answer("x", usage=Usage(60, 40)) for _ in requests]

    budget = TokenBudget(100)
    request = ChatRequest.of(user("x"))
    outcomes = [within_tokens(ask, budget)([request])[0] for _ in range(4)]
    assert [isinstance(one, Answer) for one in outcomes] == [True, False, False, False]
    assert budget.spent == 100
    config = RefineVerbConfig(bank=Path("b"), url="http://127.0.0.1:9/v1", model="m", budget_tokens=100)
    assert config._tokens is config._tokens


def test_a_command_with_four_askers_spends_its_tokens_once(
    tmp_path: Path, bank: Path, server: ChatServerDouble
) -> None:
    data = (
        "--data",
        tmp_path / "traffic.jsonl",
        "--rubric",
        tmp_path / "rubric.yaml",
        "--budget-tokens",
        100,
    )
    judges = ("--proposer", "chat", "--judge-model", "j", "--final-judge-model", "f")
    run("refine", bank, *data, *model(server), *judges)
    assert 0 < len(server.seen) <= 32  # one look at the budget, whoever asks


def test_requests_are_routed_to_json_where_json_is_wanted(
    bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run_well("route", bank, "which size fits me", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["routes"][0]["request"] == "which size fits me"
    assert set(found["routes"][0]) == {"request", "skill", "confidence", "margin", "reason"}
    assert (found["dropped"], found["fitted"]) == ([], False)


@pytest.mark.parametrize("value", ["Infinity", "NaN", "-0.1", "52.5", '"1"', "true"])
def test_a_gate_takes_shares_and_nothing_else(
    tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"r{n}", "group": f"g{n}", "slice": "all", "score": 0.5} for n in range(40)]
    before = write_lines(tmp_path / "before.jsonl", rows)
    (tmp_path / "after.jsonl").write_text(before.read_text().replace('"score": 0.5', f'"score": {value}'))
    assert run("gate", before, tmp_path / "after.jsonl") == 2
    err = capsys.readouterr().err
    assert "after.jsonl:1: score is" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["evaluate", "route", "drift", "refine"])
def test_a_verb_says_what_it_left_out_of_the_traffic(
    tmp_path: Path, bank: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"type": "user", "message": {"role": "user", "content": f"which size is number {n}"}}
        for n in range(20)
    ]
    path = write_lines(tmp_path / "t.jsonl", [*rows, {"type": "user", "text": "of a later format"}])
    data = (path, path) if verb == "drift" else ("--data", path, "--rubric", tmp_path / "rubric.yaml")
    run(verb, bank, *(data if verb != "route" else data[:2]), "--json")
    said = capsys.readouterr()
    assert f"noria: warning: {path}: 20 requests read; left out: 1 lines of type 'user'" in said.err
    if verb == "drift":
        assert json.loads(said.out)["requests"] == [{"read": 20, "compared": 20}] * 2
