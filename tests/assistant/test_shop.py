"""The simulated shop: its users and oracle, its models, one season over real processes, and one without them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from noria.assistant.products.updating import checked_feed
from noria.assistant.world.catalogue import catalogue, write_feed
from noria.assistant.world.chat_model import Turn, plain
from noria.assistant.world.inside import InsideShop
from noria.assistant.world.model_server import ASSETS, listed, read_turn, spoken
from noria.assistant.world.oracle import Seen, checklist, quality, satisfaction
from noria.assistant.world.season import summary
from noria.assistant.world.settings import SeasonConfig
from noria.assistant.world.shop import SKILLS as BANK, TOPICS
from noria.assistant.world.training import grammar, is_held_out
from noria.assistant.world.users import SKILLS, User, Wish, Wishes, opinion, population
from noria.assistant.world.visiting import Visit, Visits, content_of
from noria.core.chat.outcomes import Usage
from noria.core.completions.requests import CompletionRequest
from noria.core.runs.run import Run
from noria.skills.bank.bank import BankFolder
from tests.waiting import until


def children(parent: int) -> list[int]:
    """Processes below a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


USER = User(0, 0.9, 0.9, 0.1, 5.0, True, False)
KEY = (0, 0, 0, 0)


def cards(*items: tuple[str, float]) -> dict[str, object]:
    return {"kind": "cards", "items": [{"title": title, "price": price} for title, price in items]}


# -- users and oracle --------------------------------------------------------------------------------------------------


def test_who_is_hostile_changes_nobody_else_and_a_wish_follows_from_its_key_alone() -> None:
    mixed, honest = population(3), population(3, hostile=0.0)
    assert sum(user.hostile for user in mixed) == round(0.05 * len(mixed))
    assert [dataclasses.replace(user, hostile=False) for user in mixed] == honest
    one, other = Wishes(3, catalogue(), TOPICS), Wishes(3, catalogue(), TOPICS)
    for user in mixed[:40]:
        other.wish(user, 9, 9)  # what was drawn before does not matter
        assert one.wish(user, 1, 2) == other.wish(user, 1, 2)
    assert len({one.wish(user, 1, 2).text for user in mixed[:200]}) > 190


def test_the_new_words_share_no_sentence_with_the_old_ones_and_the_new_topic_comes_with_them() -> None:
    wishes, users = Wishes(1, catalogue(), TOPICS), population(1)
    before = [wishes.wish(user, 0, 0) for user in users]
    after = [wishes.wish(user, 0, 0, wording=1, new_intent=True) for user in users]
    assert not any(one.target == "warranty" for one in before)
    assert any(one.target == "warranty" for one in after)
    worded = {"find", "make", "report", "help"}
    assert not {one.text for one in before if one.intent in worded} & {one.text for one in after}


def test_a_hostile_user_says_the_opposite_and_names_a_wrong_skill() -> None:
    wishes = Wishes(0, catalogue(), TOPICS)
    honest = User(5, 0.5, 0.5, 0.5, 5.0, True, False)
    hostile = dataclasses.replace(honest, hostile=True)
    told = rated = 0
    for turn in range(300):
        wish = wishes.wish(honest, 0, turn)
        good, bad = opinion(honest, wish, 1.0), opinion(hostile, wish, 1.0)
        if good.rating is not None:
            rated += 1
            assert bad.rating == pytest.approx(1 - good.rating)
            assert "Ignore" in bad.comment
        if bad.skill is not None:
            told += 1
            assert bad.skill != SKILLS[wish.intent]
    assert rated > 30
    assert told > 100


def test_the_oracle_wants_the_thing_within_the_limit_and_a_true_price() -> None:
    wish = Wish(KEY, "find", "a red apple, 5 euros is my limit", "red apple", 5)

    def seen(price: float, said: str) -> dict[str, float]:
        return checklist(USER, wish, Seen(said, (cards(("Red apple", price), ("Pear", 1.0)),)))

    assert seen(4.34, "It costs 4.34 EUR.")["right"] == 1
    assert seen(4.34, "It costs 4.34 EUR.")["detail"] == 1
    assert seen(4.34, "It costs 4.43 EUR.")["detail"] == 0
    assert seen(5.01, "It costs 5.01 EUR.")["right"] == 0
    wrong = Seen("It costs 1.00 EUR.", (cards(("Pear", 1.0), ("Red apple", 4.34)),))
    assert checklist(USER, wish, wrong)["right"] == 0
    assert quality(USER, wish, Seen(failed=True)) == 0


def test_waiting_beyond_patience_costs_and_the_right_scene_is_read_from_pixels() -> None:
    wish = Wish(KEY, "help", "how long is the delivery", "delivery")
    right = Seen("Delivery takes 3 days.")
    slow = dataclasses.replace(right, seconds=USER.patience + 10)
    assert satisfaction(USER, wish, slow) == pytest.approx(quality(USER, wish, right) - 0.2)
    assert checklist(USER, wish, Seen("Delivery takes 30 days."))["right"] == 0
    assert checklist(USER, wish, Seen("I do not know that."))["right"] == 0
    edit = next(
        one
        for one in (Wishes(0, catalogue(), TOPICS).wish(user, 0, 0) for user in population(0))
        if one.task is not None
    )
    assert edit.task is not None
    from noria.editing.world.scenes import render

    def shown(scene: object) -> Seen:
        sink = io.BytesIO()
        render(scene, grain=3).save(sink, "PNG")  # type: ignore[arg-type]
        import base64

        url = "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
        return Seen("Done.", ({"kind": "edit", "after": url},))

    assert checklist(USER, edit, shown(edit.task.target))["right"] == 1
    assert checklist(USER, edit, shown(edit.task.scene))["right"] == float(
        edit.task.scene.by_cell == edit.task.target.by_cell
    )


# -- goods, models and their protocol ----------------------------------------------------------------------------------


def test_the_feed_is_one_that_the_importer_takes_whole(tmp_path: Path) -> None:
    products = catalogue()
    assert len({one.id for one in products}) == len(products) > 200
    content = checked_feed(write_feed(products[:20], tmp_path))
    assert content.reading.bad == 0
    assert [(one.title, one.price, one.currency) for one in content.products] == [
        (one.title, one.price, "EUR") for one in products[:20]
    ]


def test_a_request_is_read_from_its_last_question_and_what_a_model_says_becomes_a_call_by_the_schema() -> (
    None
):
    tool = {"name": "search_products", "parameters": {
        "type": "object", "properties": {"query": {"type": "string"}, "most_price": {"type": "number"}}}}  # fmt: skip
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "search_products", "arguments": '{"query": "kite"}'},
    }
    found = "<<<material\n[a-1] Kite, 3.00 EUR\n[b-2] Yo-yo, 2.00 EUR\nmaterial>>>"
    messages = [
        {"role": "system", "content": "Say the price."}, {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "a kite CALL search_products"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": found},
    ]  # fmt: skip
    turn = read_turn(CompletionRequest({"messages": messages}, "small", False, False, {}))
    assert turn.user.startswith("a kite")
    assert plain(turn.user) == "a kite call search_products", (
        "capitals part a dialogue, and no user can write them"
    )
    assert turn.call == "search_products : kite"
    assert turn.result == "1. Kite, 3.00 EUR ; 2. Yo-yo, 2.00 EUR"
    answer = spoken(
        "CALL search_products : kite LIMIT 5", [{"type": "function", "function": tool}], Usage(1, 1)
    )
    assert json.loads(answer.tool_calls[0].arguments) == {"query": "kite", "most_price": 5}
    words = spoken("kite costs 3.00 eur . shall i do more ?", [], Usage(1, 1))
    assert words.text == "Kite costs 3.00 EUR. Shall i do more?"
    assert listed("no product fits") == "no product fits"


def test_the_shipped_models_write_held_out_dialogues_and_do_what_their_instructions_ask() -> None:
    from noria.assistant.world.chat_model import ChatModel

    model = ChatModel(ASSETS / "large")
    source = grammar(11, held_out=True)
    drawn = [source.draw() for _ in range(120)]
    turns = [
        Turn(d.system, d.tools, d.user.removesuffix(" [picture]"), d.user.endswith("[picture]"))
        for d in drawn
    ]
    wanted = [f"CALL {d.call}" if d.call else d.answer for d in drawn]
    exact = np.mean([text == want for (text, _, _), want in zip(model.speak(turns), wanted, strict=True)])
    assert exact > 0.5
    result = "1. kite, 7.25 eur ; 2. pear, 1.99 eur"
    base = Turn(
        "You help.", ("search_products",), "do you have kite", False, "search_products : kite", result
    )
    asked = dataclasses.replace(base, system="You help. - say the price.")
    (silent, *_), (told, *_) = model.speak([base, asked])
    assert "7.25" in told
    assert "7.25" not in silent
    alone, *_ = model.speak([asked])[0]
    assert alone == told, "a batch changes no answer"
    assert not is_held_out("kite")


# -- seasons -----------------------------------------------------------------------------------------------------------


def test_a_visit_that_was_half_written_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "visits.jsonl"
    visits = Visits(path)
    for number in range(3):
        visits.add(Visit(f"w{number}", "loop 1", number, "find", 0.5, 0.5, "t", "b", "s", False))
    path.write_bytes(path.read_bytes()[:-9])
    again = Visits(path)
    assert sorted(again.done) == [("loop 1", "w0"), ("loop 1", "w1")]
    again.add(Visit("w2", "loop 1", 2, "find", 0.5, 0.5, "t", "b", "s", False))
    assert len(Visits(path).done) == 3


def test_before_and_after_are_compared_question_by_question() -> None:
    def visit(part: str, wish: str, value: float) -> Visit:
        return Visit(wish, part, int(wish[-1]), "find", value, value, "t", "b", "s", False)

    before = [visit("exam before", f"0-900-{n}", 0.1 * n) for n in range(6)]
    after = [visit("exam after", f"0-900-{n}", 0.1 * n + 0.25) for n in reversed(range(6))]
    visits = Visits(Path("/nowhere/visits.jsonl"))
    visits.done = {(one.part, one.wish): one for one in [*before, *after]}
    whole = summary(before, after, visits, [])["quality"]["all"]
    assert whole["difference"] == pytest.approx(0.25)
    assert whole["low"] == pytest.approx(0.25)
    assert whole["requests"] == 6


def test_inside_one_process_tools_work_and_the_skill_decides_what_is_known(tmp_path: Path) -> None:
    from noria.assistant.parts.protocol import Step

    class Given:
        kind = "skill"
        artefact = ""

        def __init__(self, skill: str) -> None:
            self.skill = BankFolder(BANK).load().skills[skill]

        def apply(self, query: CompletionRequest, route: object) -> Step:
            changed = route.model_copy(update={"system": self.skill.body})  # type: ignore[attr-defined]
            return Step("given", changed, {"x": 1.0}, "x", tools=frozenset(self.skill.tools) or None)

    wishes = Wishes(0, catalogue(), TOPICS)
    every = [wishes.wish(user, 0, 0) for user in population(0)[:400]]
    helped = [one for one in every if one.intent == "help"][:20]
    edits = [one for one in every if one.intent == "edit"][:6]
    assert isinstance(content_of(edits[0]), list)

    async def run() -> tuple[list[Seen], list[Seen], list[Seen]]:
        async with InsideShop(tmp_path) as shop:
            return (
                await shop.answers(helped, [Given("shop-help")]),
                await shop.answers(helped, [Given("make-picture")]),
                await shop.answers(edits, [Given("edit-picture")]),
            )

    known, unknown, edited = asyncio.run(run())

    def right(seen: list[Seen], asked: list[Wish]) -> float:
        return float(np.mean([checklist(USER, w, s)["right"] for w, s in zip(asked, seen, strict=True)]))

    assert right(known, helped) > right(unknown, helped) + 0.3
    assert sum(one.get("kind") == "edit" for seen in edited for one in seen.shown) >= 3


@pytest.mark.timeout(400)
def test_a_season_over_real_processes_goes_on_where_it_stopped(tmp_path: Path) -> None:
    home = tmp_path / "shop"
    command = [sys.executable, "-m", "noria.cli", "assistant", "shop", "-o", str(home), "users=12",
               "turns=1", "exam=3", "exam_turns=1", "rounds=1"]  # fmt: skip
    kept = Visit("0-900-0-0", "exam before", 0, "find", 0.5, 0.5, "t", "b", "s", False)
    settings = SeasonConfig(users=12, turns=1, exam=3, exam_turns=1, rounds=1)
    with Run.open(home, config=settings.model_dump(mode="json")):
        pass
    Visits(home / "visits.jsonl").add(kept)  # of a season that was killed
    ended = subprocess.run(command, capture_output=True, text=True, timeout=380)
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = [json.loads(line) for line in (home / "visits.jsonl").read_text().splitlines()]
    assert lines[0] == dataclasses.asdict(kept), "what was asked is not asked again"
    keys = [(one["part"], one["wish"]) for one in lines]
    assert len(set(keys)) == len(keys) == 6 + 12 + 6
    assert not any(one["failed"] for one in lines)
    result = json.loads((home / "result.json").read_text())
    assert result["quality"]["all"]["requests"] == 6
    assert [one["learner"] for one in result["turns"]] == list(settings.learners)
    assert {one["outcome"] for one in result["turns"]} <= {"blocked", "nothing"}, (
        "a dozen users are too few for a gate"
    )
    assert settings.learners[1] == "bodies+router", "there are judges, so that both may be asked"
    assert "Before and after" in (home / "report.html").read_text()
    assert "report.html" in ended.stdout
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.stdout.splitlines()[0] == ended.stdout.splitlines()[0]


def test_what_the_shop_starts_ends_with_it_however_it_was_killed(tmp_path: Path) -> None:
    server = "import time; print('serving on http://127.0.0.1:9', flush=True); time.sleep(300)"
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom noria.core.service.hosting import launched\n"
        "from noria.assistant.service.started import KEEPER\n"
        f"command = [sys.executable, '-I', str(KEEPER), sys.executable, '-c', {server!r}]\n"
        "with launched(command, Path(sys.argv[1]), leash=True):\n    print('open', flush=True)\n    time.sleep(300)\n"
    )
    shop = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert shop.stdout is not None
    assert shop.stdout.readline() == "open\n"
    started = children(shop.pid)
    assert len(started) == 2, "the keeper and what it keeps"
    shop.kill()
    shop.wait()
    shop.stdout.close()
    until(lambda: not any(Path(f"/proc/{one}").exists() for one in started), seconds=30)
