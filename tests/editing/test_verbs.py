"""Every verb as a user calls it, against servers of chat and pictures on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from starlette.responses import JSONResponse, Response

from noria.core.records import read_json
from noria.editing.data.tasks import read_tasks
from tests.chat_server import ChatServerDouble, Reply, chat_server
from tests.editing.doubles import (
    ITEMS,
    REFERENCE,
    Edits,
    colour_of,
    edits_server,
    everyone,
    output,
    picture_answer,
    square,
    words_of,
)

Call = Callable[..., SimpleNamespace]


@pytest.fixture(name="chat")
def _chat() -> Iterator[ChatServerDouble]:
    with chat_server(everyone) as double:
        yield double


@pytest.fixture(name="edits")
def _edits() -> Iterator[Edits]:
    with edits_server() as double:
        yield double


def planner(chat: ChatServerDouble) -> list[str]:
    return ["--url", chat.url, "--model", "m"]


def editor(edits: Edits) -> list[str]:
    return ["--editor-url", edits.url]


def judge(chat: ChatServerDouble) -> list[str]:
    return ["--judge-url", chat.url, "--judge-model", "m"]


def task(name: str, instruction: str, *, checklist: bool = True, **more: Any) -> dict[str, Any]:
    entry = {"id": name, "image": "square.png", "instruction": instruction, "reference": REFERENCE} | more
    if checklist:
        items = {
            path: [{"id": f"{path[0]}{n}"} | one for n, one in enumerate(rows)]
            for path, rows in ITEMS.items()
        }
        entry["checklist"] = {"version": 1, **items}
    return entry


def write(here: Path, *entries: dict[str, Any], name: str = "tasks.jsonl") -> Path:
    square().save(here / "square.png")
    (here / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return here / name


# -- edit -------------------------------------------------------------------------------------------------------------


def test_edit_from_a_picture_to_a_page(noria: Call, here: Path, chat: ChatServerDouble, edits: Edits) -> None:
    square("red", (320, 240)).save("in.jpg")
    result = noria("edit", "in.jpg", "Wie sieht das nach dem Regen aus?", *planner(chat), *editor(edits), *judge(chat),
                   "-o", "out")  # fmt: skip
    assert result.code == 0, result.err
    assert "reward of the picture  1.00" in result.out
    made = Image.open("out/edited.png")
    assert (made.size, colour_of(made)) == ((320, 240), "green")
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "paint the square green" in page
    assert page.count("data:image/png;base64,") == 2
    content = read_json(Path("out/result.json"))
    assert content["instruction"].startswith("Wie sieht")
    assert content["tries"][0]["cognitive"]["value"] == 1.0
    sent = edits.seen[0]
    assert (sent["prompt"], sent["n"], len(sent["image"])) == ("paint the square green", "1", 1)


def test_edit_with_a_trained_planner_in_this_process(noria: Call, here: Path, edits: Edits) -> None:
    Image.new("RGB", (96, 96), "white").save("in.png")
    packaged = files("noria.editing") / "assets" / "planner"
    words = ["edit", "in.png", "mirror everything left to right", "--planner", str(packaged)]
    result = noria(*words, "--max-new-tokens", "80", "--temperature", "0", *editor(edits), "-o", "out")
    assert result.code == 0, result.err
    content = read_json(Path("out/result.json"))
    assert content["tries"][0]["plan"], "the likeliest plan of the weights that ship"
    assert edits.seen[0]["prompt"] == content["tries"][0]["plan"]


def test_edit_with_a_mask_and_several_pictures(
    noria: Call, here: Path, chat: ChatServerDouble, edits: Edits
) -> None:
    square().save("in.png")
    square("blue").save("other.png")
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    mask.save("mask.png")
    result = noria("edit", "in.png", "after the rain", "--also", "other.png", "--mask", "mask.png", *planner(chat),
                   *editor(edits), "-o", "out")  # fmt: skip
    assert result.code == 0, result.err
    assert len(edits.seen[0]["image[]"]) == 2
    assert "mask" in edits.seen[0]
    made = Image.open("out/edited.png")
    assert made.getpixel((30, 24)) != made.getpixel((34, 24)) == square().getpixel((34, 24))
    refused = noria("edit", "in.png", "x", "--mask", "mask.png", "--editor-refuses", "mask", *planner(chat),
                    *editor(edits), "-o", "no")  # fmt: skip
    assert refused.code == 1
    assert "unsupported" in refused.out


def test_edit_tries_again_with_what_was_wrong(noria: Call, here: Path, edits: Edits) -> None:
    def respond(body: Any, number: int) -> Reply:
        text = words_of(body)
        if "You plan edits" in text:
            return Reply(
                output(
                    "paint the square green" if "Is the square green?" in text else "paint the square blue"
                )
            )
        return everyone(body)

    square().save("in.png")
    with chat_server(respond) as chat:
        parts = [*planner(chat), *editor(edits), *judge(chat)]
        once = noria("edit", "in.png", "after the rain", *parts, "-o", "one")
        assert colour_of(Image.open("one/edited.png")) == "blue", once.err
        noria("edit", "in.png", "after the rain", *parts, "--tries", "3", "-o", "three")
    assert colour_of(Image.open("three/edited.png")) == "green"
    assert len(read_json(Path("three/result.json"))["tries"]) == 2  # the second was right


def test_a_batch_resumes_and_asks_failed_tasks_again(noria: Call, here: Path, chat: ChatServerDouble) -> None:
    down = [True]

    def answer(number: int, image: Image.Image) -> Response:
        if down[0] and number == 2:
            return JSONResponse({"error": {"message": "moderation_blocked"}}, 400)
        return picture_answer(image)

    file = write(here, task("a/../b", "after the rain"), task("b", "after the snow"))
    with edits_server(answer) as edits:
        call = [
            "edit",
            file,
            *planner(chat),
            *editor(edits),
            *judge(chat),
            "-o",
            "out",
            "-q",
            "in_flight=1",
            "renders=1",
        ]
        first = noria(*call)
        assert (first.code, "1 edited, 1 without a picture" in first.out) == (1, True), first.err
        lines = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
        assert {line["id"]: bool(line["picture"]) for line in lines} == {"a/../b": True, "b": False}
        assert "declined" in lines[1]["why"]
        down[0] = False
        seen = len(edits.seen)
        again = noria(*call)
        assert (again.code, "1 edited, 0 without a picture, 1 done before" in again.out) == (0, True)
        assert len(edits.seen) == seen + 1
    assert [p.parent.name for p in Path("out").rglob("*.png")] == ["pictures"] * 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["in.png", "x", "--direct"], "no editor"),
        (["in.png", "x", "--editor-url", "URL"], "no planner"),
        (["in.png", "x", "--editor-url", "URL", "--direct", "--planner", "."], "two planners"),
        (["in.png", "--editor-url", "URL", "--direct"], "no request"),
        (["no.png", "x", "--editor-url", "URL", "--direct"], "no.png"),
        (["in.png", "x", "--editor-url", "URL", "--direct", "--steps", "3"], "--steps"),
        (["in.png", "x", "--editor-url", "URL", "--direct", "--judge-url", "URL"], "half a judge"),
        (
            ["in.png", "x", "--editor-url", "URL", "--direct", "--editscore", "qwen3vl"],
            "nobody judges the plans",
        ),
        (
            [
                "in.png",
                "x",
                "--editor-url",
                "URL",
                "--direct",
                "--editscore",
                "b",
                "--judge-url",
                "URL",
                "--judge-model",
                "j",
            ],
            "[editscore]",
        ),
        (["in.png", "x", "--pipeline", ".", "--direct"], "model_index.json"),
        (["in.png", "x", "--editor-url", "URL", "--direct", "--mask", "small.png"], "same size"),
        (["in.png", "x", "--editor-url", "URL", "--direct", "--checklist", "c.json"], "without a judge"),
    ],
    ids=[
        "editor",
        "planner",
        "two",
        "request",
        "picture",
        "steps",
        "judge",
        "plans",
        "editscore",
        "pipeline",
        "mask",
        "checklist",
    ],
)
def test_what_is_missing_is_one_line(
    noria: Call, here: Path, edits: Edits, arguments: list[str], what: str
) -> None:
    square().save("in.png")
    square(size=(9, 9)).save("small.png")
    result = noria("edit", *(edits.url if one == "URL" else one for one in arguments), "-o", "out")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert what in result.err
    assert not Path("out").exists()


# -- data -------------------------------------------------------------------------------------------------------------


def test_synthesize_then_checklist_then_curate(
    noria: Call, here: Path, chat: ChatServerDouble, edits: Edits
) -> None:
    made = noria("synthesize", *planner(chat), "--images-url", edits.url, "--families", "rise.temporal", "-n", "2",
                 "--size", "64", "-o", "s", "-q")  # fmt: skip
    assert made.code == 0, made.err
    tasks = read_tasks(Path("s/tasks.jsonl"))
    assert len(tasks) == 4  # one of each leaf: the second gives its outcome away, the third is no task
    assert "the request states its outcome 4" in made.out
    written = noria("checklist", "s/tasks.jsonl", *planner(chat), *judge(chat), "-o", "c", "-q")
    assert written.code == 0, written.err
    checked = read_tasks(Path("c/tasks.jsonl"))
    assert len(checked) == 4
    validation = [json.loads(line) for line in Path("c/validation.jsonl").read_text().splitlines()]
    # This world's judge never flips on the keep item of the plan: it tells nothing, and is dropped.
    assert validation[0]["dropped"] == {"c2": "never flips, whatever is wrong"}
    assert validation[0]["kill_rate"]["cognitive"] > 0.5
    kept = noria("curate", "c/tasks.jsonl", *planner(chat), *editor(edits), *judge(chat), "--rollouts", "2",
                 "--oracle", "0.6", "-o", "k", "-q")  # fmt: skip
    # The painter knows `paint the square`, and not `The square is green`: there is no right picture.
    assert kept.code == 1
    assert "1 of 1 were rendered, and the judge calls none of these right" in kept.err


def test_curate_drops_what_the_editor_cannot_do(
    noria: Call, here: Path, chat: ChatServerDouble, edits: Edits
) -> None:
    can, cannot = (REFERENCE | {"outcome": words} for words in ("paint the square green", "It is green now."))
    entries = [task("a", "after the rain", reference=can), task("b", "mirror the row", reference=cannot)]
    entries.append(task("c", "after the rain", reference=can))
    kept = noria("curate", write(here, *entries), *planner(chat), *editor(edits), *judge(chat), "--rollouts", "2",
                 "--oracle", "0.6", "-o", "k", "-q")  # fmt: skip
    assert (kept.code, "the editor cannot do it" in kept.out) == (1, True), kept.err
    assert "near-duplicate" in kept.out
    assert "the editor cannot do it" in Path("k/report.html").read_text(encoding="utf-8")


def test_curate_keeps_away_from_a_benchmark(noria: Call, here: Path) -> None:
    words = "what would this bronze statue look like after a hundred years outside in the rain"
    file = write(
        here, task("a", words), task("b", "mirror the row"), task("c", "count the dots and paint as many")
    )
    square().transpose(Image.Transpose.ROTATE_90).resize((64, 48)).crop((10, 0, 64, 30)).save("other.png")
    bench = task("x", f"Tell me {words}, please", image="other.png")
    (here / "bench.jsonl").write_text(json.dumps(bench) + "\n")
    result = noria("curate", file, "--against", "bench.jsonl", "--rollouts", "0", "-o", "k", "-q")
    assert result.code == 0, result.err
    assert "words of bench" in result.out
    kept = read_tasks(Path("k/tasks.jsonl"))
    assert [one.id for one in kept] == ["b", "c"]
    assert kept[0].provenance["decontam"]["against"] == ["bench"]
    bench["image"] = "square.png"
    (here / "bench.jsonl").write_text(json.dumps(bench | {"instruction": "other words"}) + "\n")
    none = noria("curate", file, "--against", "bench.jsonl", "--rollouts", "0", "-o", "k", "-q")
    assert (none.code, "a picture of bench" in none.out) == (1, True)


def test_a_judge_that_fails_on_everything_is_found_before_any_rollout(
    noria: Call, here: Path, edits: Edits
) -> None:
    file = write(here, task("a", "after the rain"), task("b", "after the snow, and the wind"))
    with chat_server(lambda body, number: Reply("I would rather not")) as chat:
        result = noria(
            "curate", file, *planner(chat), *editor(edits), *judge(chat), "--rollouts", "2", "-o", "k", "-q"
        )
        assert (
            result.code,
            "2 of 2 were rendered, and the judge calls none of these right" in result.err,
        ) == (1, True)
        assert not any("You plan edits" in words_of(body) for body in chat.seen)


def test_a_judge_that_says_yes_to_everything_is_found_before_any_rollout(
    noria: Call, here: Path, edits: Edits
) -> None:
    def respond(body: Any, number: int) -> Reply:
        if "You plan edits" in words_of(body):
            return everyone(body)
        count = words_of(body).partition("Questions:")[2].count("\n")
        return Reply(json.dumps({"answers": [{"number": n, "answer": "yes"} for n in range(1, count + 1)]}))

    file = write(here, task("a", "after the rain"), task("b", "after the snow, and the wind"))
    with chat_server(respond) as chat:
        result = noria("curate", file, *planner(chat), *editor(edits), *judge(chat), "--rollouts", "2",
                       "--canaries", "0", "-o", "k", "-q")  # fmt: skip
        assert (result.code, "does not score wrong pictures below right ones" in result.err) == (1, True)
        assert not any("You plan edits" in words_of(body) for body in chat.seen)


# -- measuring --------------------------------------------------------------------------------------------------------


def test_attribute_says_whether_planner_or_editor_is_to_blame(noria: Call, here: Path, edits: Edits) -> None:
    def respond(body: Any, number: int) -> Reply:
        text = words_of(body)
        if "You plan edits" in text:
            plans = {
                "snow": "paint the square blue",
                "gap": "turn it green",
                "rain": "paint the square green",
            }
            return Reply(output(next(plan for word, plan in plans.items() if word in text)))
        return everyone(body)

    oracle = REFERENCE | {"outcome": "paint the square green"}
    entries = [task(word, f"after the {word}", reference=oracle) for word in ("rain", "snow", "gap")]
    file = write(here, *entries)
    with chat_server(respond) as chat:
        call = ["attribute", file, *planner(chat), *editor(edits), *judge(chat), "-o", "out", "-q"]
        result = noria(*call)
        assert result.code == 0, result.err
        row = result.out.splitlines()[1].split()
        assert row == ["all", "1", "0", "1", "1", "0", "33%", "100%", "0%"]
        assert "Train the planner" in result.out
        seen = len(edits.seen)
        assert noria(*call).out == result.out
        assert len(edits.seen) == seen  # the second call has all of it on the disk
    assert "plan right, picture wrong" in Path("out/report.html").read_text(encoding="utf-8")


def rise(here: Path) -> Path:
    square().save(here / "square.png")
    items = [
        {"index": "t1", "category": "temporal_reasoning", "subtask": "Life Progression",
         "instruction": "after the rain",
         "image": "square.png", "reference": "it is green"},
        {"index": "l1", "category": "logical_reasoning", "subtask": "Puzzle Solving", "instruction": "after the snow",
         "image": "square.png", "reference_txt": "green"},
    ]  # fmt: skip
    (here / "rise.json").write_text(json.dumps(items))
    return here / "rise.json"


def test_evaluate_compares_with_the_same_editor_without_a_planner(
    noria: Call, here: Path, chat: ChatServerDouble, edits: Edits
) -> None:
    call = ["evaluate", rise(here), *planner(chat), *editor(edits), *judge(chat), "-o", "out", "-q"]
    result = noria(*call)
    assert result.code == 0, result.err
    assert "2 gained, 0 lost, McNemar P = 0.5" in result.out
    scores = read_json(Path("out/scores.json"))
    whole = {arm: rows[-1] for arm, rows in scores["arms"].items()}
    assert (whole["planner"]["accuracy"], whole["no planner"]["accuracy"]) == (1.0, 0.0)
    asked = len(chat.seen)
    assert noria(*call).out == result.out
    assert len(chat.seen) == asked


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--recorded", "judged.json", "--temperature", "0.1"], "--temperature"),
        (["--recorded", "judged.json", "--editor-url", "http://127.0.0.1:9/v1"], "--editor-url"),
        (["--recorded", "judged.json", "--judge-model", "j"], "--judge-model"),
        (["--recorded", "judged.json", "--rival", "r"], "--rival"),
        (["--recorded", "judged.json", "--rewriter"], "--rewriter"),
        (["--recorded", "judged.json", "--seed", "4"], "--seed"),
        (["--judge-url", "http://127.0.0.1:9/v1", "--judge-model", "j", "--canaries", "2"], "--canaries"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_evaluate_refuses_what_it_would_not_use(
    noria: Call, here: Path, given: list[str], named: str
) -> None:
    (here / "judged.json").write_text(json.dumps({"t1": {"judge1": None}}))
    result = noria("evaluate", rise(here), *given, "-o", "out", "-q")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert f"{named}: it has no effect here" in result.err


def test_serve_is_an_editor_that_shows_its_plan(here: Path, chat: ChatServerDouble, edits: Edits) -> None:
    import contextlib
    from collections.abc import AsyncIterator

    import httpx

    from noria.core.chat import ChatClient, ChatServer
    from noria.core.picture_files import open_picture, png
    from noria.core.service.hosting import running
    from noria.core.service.serving import Limits, Service
    from noria.editing.editors.server import ServerEditor
    from noria.editing.service.service import BODY, EditService
    from noria.editing.use.planners import ChatPlanner
    from noria.editing.use.session import ThinkThenEdit

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[ThinkThenEdit]:
        async with (
            ChatClient(ChatServer(url=chat.url, model="m")) as client,
            ServerEditor(ChatServer(url=edits.url, model="e")) as inner,
        ):
            yield ThinkThenEdit(ChatPlanner(client, "m"), inner)

    service = EditService(opened, "think-then-edit")
    hosted = Service(
        "editing", service.routes(), limits=Limits(body_bytes=BODY, seconds=60), around=service.around
    )
    with running(hosted) as url, httpx.Client(base_url=url, timeout=60) as client:
        form = {"image": ("a.png", png(square()), "image/png")}
        answer = client.post(
            "/v1/images/edits", data={"prompt": "after the rain", "show_thinking": "true"}, files=form
        )
        assert answer.status_code == 200, answer.text
        one = answer.json()["data"][0]
        assert one["revised_prompt"] == "paint the square green"
        assert one["noria"]["thinking"] == "rain washes colour away"
        import base64

        assert colour_of(open_picture(base64.b64decode(one["b64_json"]))) == "green"
        own = client.post(
            "/v1/images/edits",
            data={"prompt": "x", "plan": "paint the square blue", "tries": "1", "output_format": "png"},
            files=form,
        )
        assert own.json()["data"][0]["revised_prompt"] == "paint the square blue"
        for fields, code in (
            ({"prompt": "x", "quality": "high"}, "unsupported_field"),
            ({"prompt": "x", "output_format": "jpeg"}, "unsupported_field"),
            ({"prompt": "x", "plan": "paint the square blue", "tries": "2"}, "unsupported_field"),
            ({"prompt": "x", "plan": "paint the square blue", "samples": "3"}, "unsupported_field"),
            ({"prompt": "x", "size": "32x32"}, "bad_size"),
            ({"prompt": "x", "tries": "99"}, "bad_tries"),
            ({"prompt": "x", "tries": "2"}, "no_judge"),
            ({"prompt": "x", "model": "other"}, "model_not_found"),
        ):
            refused = client.post("/v1/images/edits", data=fields, files=form)
            assert refused.status_code in (400, 404)
            assert refused.json()["error"]["code"] == code
        assert client.get("/v1/models").json()["data"][0]["id"] == "think-then-edit"


SECRET = "Traceback: postgres://admin:hunter2@10.0.0.9"


@pytest.mark.parametrize(
    ("planned", "edited", "status", "code", "line"),
    [
        (500, 200, 502, "planner_failed", "no plan: a model that it needs gave no answer"),
        (200, 500, 502, "unreachable", "the editor does not answer"),
        (200, 401, 502, "broken", "the editor made no picture"),
    ],
)
def test_what_servers_behind_an_edit_say_is_for_the_log(
    planned: int, edited: int, status: int, code: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    import contextlib
    from collections.abc import AsyncIterator

    import httpx

    from noria.core.chat import ChatClient, ChatServer
    from noria.core.picture_files import png
    from noria.core.service.hosting import running
    from noria.core.service.serving import Service
    from noria.editing.editors.server import ServerEditor
    from noria.editing.environment.rendering import Renderer, RenderSettings
    from noria.editing.service.service import EditService
    from noria.editing.use.planners import ChatPlanner
    from noria.editing.use.session import ThinkThenEdit

    plan = "<think>so</think><answer>paint the square green</answer>"

    def said(body: Any, number: int) -> Reply:
        secret = json.dumps({"error": {"message": SECRET}}).encode()
        return Reply(plan) if planned == 200 else Reply(status=planned, body=secret)

    def painted(number: int, image: Any) -> Response:
        return JSONResponse({"error": {"message": SECRET}}, edited)

    with chat_server(said) as chat, edits_server(painted) as edits:

        @contextlib.asynccontextmanager
        async def opened() -> AsyncIterator[ThinkThenEdit]:
            async with (
                ChatClient(ChatServer(url=chat.url, model="m", attempts=1)) as client,
                ServerEditor(ChatServer(url=edits.url, model="e", attempts=1)) as inner,
            ):
                renderer = Renderer(inner, RenderSettings(attempts=1))
                yield ThinkThenEdit(ChatPlanner(client, "m"), renderer)

        service = EditService(opened, "think-then-edit")
        hosted = Service("editing", service.routes(), around=service.around)
        with running(hosted) as url, httpx.Client(base_url=url, timeout=60) as client:
            form = {"image": ("a.png", png(square()), "image/png")}
            answer = client.post("/v1/images/edits", data={"prompt": "after the rain"}, files=form)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"].startswith(line)
    assert not [word for word in ("hunter2", "127.0.0.1", "Traceback") if word in answer.text]
    assert "hunter2" in caplog.text
