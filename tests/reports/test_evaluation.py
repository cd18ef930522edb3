"""The ten metrics by their definitions, the judged path over a real server, image quality, and the released logic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st
from PIL import Image, ImageFilter

from noria.core.chat import ChatClient, ChatServer
from noria.core.errors import ConfigError, RunError
from noria.reports.agents.asking import Asker
from noria.reports.agents.models import ModelAgents
from noria.reports.agents.pipeline import Job
from noria.reports.checking.verify import verify_bundle
from noria.reports.document.blocks import sentences
from noria.reports.document.bundle import Bundle
from noria.reports.document.parsing import parse_report
from noria.reports.evaluation import metrics
from noria.reports.evaluation.automatic import evaluate_bundle, evaluate_text
from noria.reports.evaluation.comparing import changed_numbers, compare_scores
from noria.reports.evaluation.dual import evaluate_judged
from noria.reports.evaluation.duplicates import THRESHOLD, jaccard, near_duplicates, shingles
from noria.reports.evaluation.judged import score_item
from noria.reports.evaluation.official import (
    Draft,
    DraftReference,
    mended_polish,
    official_chart_consistency,
    official_support,
    released_polish,
    rewrite_captions,
)
from noria.reports.figures.quality import (
    aspect_score,
    duplicate_share,
    gray_of,
    image_quality,
    laplacian,
    official_sharpness,
    perceptual_hash,
    repaired_sharpness,
    report_quality,
)
from noria.reports.search.index import Index
from noria.reports.verbs import group
from tests.chat_server import Reply, chat_server
from tests.reports.conftest import REQUEST, png

anyio = pytest.mark.anyio


def test_bands_of_contradictions() -> None:
    bands = {
        0: 1.0,
        1: 0.9,
        2: 0.9,
        3: 0.8,
        5: 0.7,
        8: 0.6,
        10: 0.5,
        12: 0.4,
        14: 0.3,
        15: 0.2,
        17: 0.2,
        18: 0.1,
        99: 0.1,
    }
    assert {n: metrics.consistency(n) for n in bands} == bands
    assert metrics.consistency(None) is None


def test_unknown_sources_are_kept_apart() -> None:
    labels: list[Any] = ["supported", "partial", "unsupported", "unknown"]
    assert metrics.citation_support(labels) == 0.5
    assert metrics.citation_support(labels, unknown="zero") == official_support(labels) == 0.375
    assert metrics.citation_support(["unknown"]) is None
    assert metrics.citation_support([]) is None
    assert official_support([]) == 0


@pytest.mark.parametrize(
    ("topic", "images", "charts", "valid", "band"),
    [
        ("balanced", 3, 3, True, (9, 10)),
        ("balanced", 2, 5, True, (7, 8)),
        ("balanced", 1, 5, True, (5, 6)),
        ("balanced", 0, 3, True, (5, 6)),
        ("balanced", 2, 0, True, (3, 4)),
        ("data_heavy", 0, 4, True, (9, 10)),
        ("data_heavy", 9, 3, True, (7, 8)),
        ("technical_architectural", 1, 1, True, (5, 6)),
        ("data_heavy", 1, 0, True, (3, 4)),
        ("data_heavy", 9, 9, False, (1, 2)),
    ],
)
def test_bands_of_variety(topic: Any, images: int, charts: int, valid: bool, band: tuple[int, int]) -> None:
    assert metrics.variety_band(topic, images, charts, valid=valid) == band
    assert metrics.composition(10, 1, band) == (10 + band[0]) / 20


def test_totals_of_the_papers_table() -> None:
    """The row of TVIR-Agent with Claude-4.5-Sonnet: TA 70.12, VA 78.76, Overall 74.44."""
    row = (51.20, 81.09, 69.88, 72.22, 76.20, 87.17, 77.80, 74.49, 76.75, 77.58)
    totals = metrics.totals(dict(zip(metrics.METRICS, row, strict=True)))
    assert [round(totals[name] or 0, 2) for name in ("TA", "VA", "Overall")] == [70.12, 78.76, 74.44]
    assert metrics.totals(dict(zip(metrics.TEXTUAL, row[:5], strict=True)))["Overall"] is None


def test_charts_without_a_judgement_are_left_out_and_the_release_counts_them() -> None:
    assert metrics.chart_source_consistency([0, 9, 20, None]) == pytest.approx((1 + 0.1 + 0.1) / 3)
    entries = [{"cited": False, "contradictions": 0}, {"cited": True, "contradictions": 0}]
    assert official_chart_consistency(entries) == 0.5
    assert official_chart_consistency([]) == 0


@given(st.floats(1, 20))
def test_aspect_falls_without_a_jump_up(ratio: float) -> None:
    assert 0 <= aspect_score(ratio + 0.1) <= aspect_score(ratio) <= 1


def test_published_sharpness_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    gray = np.random.default_rng(0).integers(0, 256, (90, 120)).astype(np.float64)
    for size in (1, 3, 5):
        assert np.allclose(laplacian(gray, size), cv2.Laplacian(gray, cv2.CV_64F, ksize=size))


def test_laplacians_of_a_parabola_are_constant() -> None:
    """Each kernel is a multiple of the second derivative: 2 · its gain for x² (1, 2·... by the sum of weights)."""
    x = np.arange(20.0)
    field = np.tile(x**2, (20, 1))
    for size, gain in ((1, 2.0), (3, 8.0), (5, 128.0)):
        inner = laplacian(field, size)[4:-4, 4:-4]
        assert np.allclose(inner, inner[0, 0])
        assert inner[0, 0] == pytest.approx(gain)


def test_noise_is_sharp_by_the_published_measure_only() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    assert image_quality(noise).total == pytest.approx(1.0)
    assert repaired_sharpness(gray_of(noise)) < 0.1


def test_repaired_sharpness_falls_with_blur() -> None:
    import io

    image = Image.open(io.BytesIO(png(seed=5)))
    values = [repaired_sharpness(gray_of(image.filter(ImageFilter.GaussianBlur(r)))) for r in (0, 1, 2, 4, 8)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.5 > values[-1]
    assert official_sharpness(gray_of(image.filter(ImageFilter.GaussianBlur(2)))) == 1.0


def test_duplicates_cost_quality() -> None:
    import io

    one, other = (Image.open(io.BytesIO(png(seed=s))) for s in (1, 2))
    same = perceptual_hash(one.resize((320, 240)))
    assert (
        (perceptual_hash(one) ^ same).bit_count()
        <= 10
        < (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()
    )
    assert duplicate_share([perceptual_hash(one), same, perceptual_hash(other)]) == pytest.approx(1 / 3)
    assert report_quality([0.9, 0.9], [7, 7]) == pytest.approx(0.9 * 0.6)
    assert report_quality([], []) is None


def test_near_duplicates_are_found_as_by_all_pairs() -> None:
    rng = np.random.default_rng(0)
    base = [" ".join(f"w{n}" for n in rng.integers(0, 500, 16)) for _ in range(150)]
    texts = base + [one.replace("w1", "v", 1) for one in base]
    sets = [shingles(text) for text in texts]
    exact = {(a, b) for a in range(300) for b in range(a + 1, 300) if jaccard(sets[a], sets[b]) >= THRESHOLD}
    found = set(near_duplicates(texts))
    assert len(exact) >= 150
    assert found <= exact
    assert len(found) >= 0.98 * len(exact)


# -- the release ---


def _draft(body: str, *references: tuple[int, str, str]) -> Draft:
    return Draft(body, tuple(DraftReference(*one) for one in references))


def test_the_released_polishers_three_faults_and_the_mended_ones_none() -> None:
    drafts = [
        _draft('A <a href="#ref1">[1]</a>.', (1, "World Bank (2023). WDI.", "https://w.org/a")),
        _draft(
            'B <a href="#ref1">[1]</a>. C <a href="#ref3">[3]</a>.',
            (1, "World Bank (2024). WDI.", "https://w.org/b"),
        ),
        _draft('D <a href="#ref2">[2]</a>.', (2, "Else (2020). X.", "https://e.org")),
        _draft('E <a href="#ref2">[2]</a>.', (2, "More (2020). Y.", "https://m.org")),
    ]
    released, mended = released_polish("T", drafts), mended_polish("T", drafts)

    def cited(text: str) -> dict[str, list[str]]:
        parsed = parse_report(text)
        urls = {r.number: r.url for r in parsed.references}
        return {s.text[0]: [urls.get(n, "") for n in s.cites] for s in parsed.sentences}

    assert cited(released)["B"] == ["https://w.org/a"]
    assert cited(released)["C"] == ["https://m.org"]
    assert cited(mended) == {
        "A": ["https://w.org/a"],
        "B": ["https://w.org/b"],
        "C": [],
        "D": ["https://e.org"],
        "E": ["https://m.org"],
    }


def test_a_link_to_another_sections_figure_is_not_redirected() -> None:
    figure = '<figure><img src="charts/a.png"><figcaption id="fig1">Figure 1: X.</figcaption></figure>'
    drafts = [_draft(figure), _draft(f'See <a href="#fig2">Figure 2</a>.\n\n{figure}')]
    assert '<a href="#fig2">Figure 2</a>' in released_polish("T", drafts)
    assert "See Figure." in mended_polish("T", drafts)


def test_low_captions_are_replaced_in_the_released_order() -> None:
    text = '<figcaption id="fig1">bad</figcaption><figcaption id="fig2">good</figcaption>'
    assert rewrite_captions(text, {1: (6, "better"), 2: (7, "no")}) == text.replace("bad", "better")


# -- reports of ours ---


def test_a_report_of_ours_is_scored(made: tuple[Path, Bundle]) -> None:
    folder, _ = made
    scores = evaluate_bundle(folder, request=REQUEST)
    assert (scores["CS"], scores["CSC"], scores["FLC"], scores["visuals"], scores["integration"]) == (
        1,
        1,
        1,
        1,
        1,
    )
    assert scores["images"]["count"] == 1
    assert scores["structure"] == {"traceability": 0, "consistency": 0, "completeness": 0}


def test_a_report_without_figures_has_no_integration() -> None:
    scores = evaluate_text(
        "# T\n\n## A\n\nSo [1].\n\n## References\n\n[1] A https://a.org\n", None, request="Draw a line chart."
    )
    assert (scores["integration"], scores["visuals"]) == (None, 0)


def test_systems_are_compared_on_the_same_tasks() -> None:
    first = {f"t{n}": {"CS": 0.5 + 0.01 * n, "FLC": None} for n in range(8)}
    second = {f"t{n}": {"CS": 0.4 + 0.011 * n, "FLC": 1.0} for n in range(1, 9)}
    rows = {row["metric"]: row for row in compare_scores(first, second, ["CS", "FLC"])}
    assert rows["CS"]["tasks"] == 7
    assert rows["CS"]["low"] > 0
    assert rows["FLC"]["difference"] is None


def test_numbers_that_changed_are_listed(made: tuple[Path, Bundle]) -> None:
    _, bundle = made
    assert changed_numbers(bundle, bundle) == []


# -- models ---


def _judge(body: dict[str, Any], number: int) -> Reply:
    """A judge that gives eights, supports with a quote of the source, and invents one contradiction."""
    text = json.dumps(body["messages"])
    if "contradict" in text:
        return Reply('{"issues": [{"quote": "words that are nowhere", "why": "x"}]}')
    if "is the fact stated" in text.lower():
        return Reply('{"label": "supported", "quote": "est"}')
    if "Name the topic" in text:
        return Reply(
            '{"topic": "data_heavy", "image_types": ["photo"], "chart_types": ["line", "bar"], "variety": 10}'
        )
    if "Does the report do this" in text:
        return Reply('{"score": 1}')
    if "such a defect" in text:
        names = (
            "overlap",
            "misalignment",
            "visibility",
            "space",
            "text_size",
            "contrast",
            "text_rendering",
            "decoration",
            "overload",
            "redundant_labels",
        )
        return Reply(json.dumps(dict.fromkeys(names, False)))
    names = (
        "coherence",
        "clarity",
        "conciseness",
        "style",
        "causality",
        "depth",
        "criticism",
        "outlook",
        "breadth",
        "accuracy",
        "information",
        "relevance",
        "value",
        "layout",
        "variety",
    )
    return Reply("Sure: " + json.dumps(dict.fromkeys(names, 8)))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@anyio
async def test_all_ten_metrics_over_a_server(made: tuple[Path, Bundle]) -> None:
    folder, _ = made
    markdown = (folder / "report.md").read_text()
    sources = dict.fromkeys(range(1, 9), "7.4% (2024 est.)")
    with chat_server(_judge) as double:
        async with (
            ChatClient(ChatServer(url=double.url, model="m")) as one,
            ChatClient(ChatServer(url=double.url, model="m")) as two,
        ):
            result = await evaluate_judged(
                markdown, [one, two], folder=folder, sources=sources, checklist=["Is it?"]
            )
    scores = result["scores"]
    assert all(value is not None for value in scores.values())
    assert [scores[name] for name in ("WQ", "ADB", "FCQ", "FCI", "IA")] == pytest.approx(
        [0.8, 0.8, 0.8, 0.8, 1]
    )
    assert scores["FLC"] == 1.0
    assert result["details"]["FLC"]["dropped_quotes"] == 2
    assert scores["MC"] == (8 + 6) / 20
    assert result["text"]["before"] == result["text"]["after"]
    assert (result["questions"]["put"] > 20, result["questions"]["unanswered"]) == (True, 0)


@anyio
@pytest.mark.parametrize(
    "reply",
    [Reply("no json"), Reply(refusal="I cannot"), Reply(status=400), Reply("[1, 2")],
    ids=["prose", "refusal", "error", "cut"],
)
async def test_a_judge_that_does_not_answer_is_no_zero(made: tuple[Path, Bundle], reply: Reply) -> None:
    folder, _ = made
    with chat_server(lambda body, number: reply) as double:
        async with ChatClient(ChatServer(url=double.url, model="m", attempts=1)) as one:
            result = await evaluate_judged(
                (folder / "report.md").read_text(), [one], folder=folder, sources={}, checklist=["Is it?"]
            )
    assert {name for name, value in result["scores"].items() if value == 0} == set()
    assert result["totals"]["TA"] is None
    if reply.refusal or reply.status == 400:
        assert result["questions"]["unanswered"] == result["questions"]["put"] > 5
        assert result["questions"]["reason"].startswith("refusal: I cannot" if reply.refusal else "failure")


def test_an_evaluation_whose_judge_is_down_is_an_error_and_not_a_table_of_dashes(
    made: tuple[Path, Bundle], tmp_path: Path
) -> None:
    folder, _ = made
    words = ["evaluate", str(folder), "--model", "m", "-o", str(tmp_path / "s.json"), "--url"]
    for reply, why in ((Reply(status=400), "failure"), (Reply("prose"), "no reply could be read")):
        with (
            chat_server(lambda body, number, reply=reply: reply) as double,
            pytest.raises(RunError, match=why),
        ):
            raise CliRunner().invoke(group, [*words, double.url], standalone_mode=False).exception  # type: ignore[misc]
    assert not (tmp_path / "s.json").exists()
    with chat_server(lambda body, number: _judge(body, number) if number else Reply(status=400)) as double:
        given = CliRunner().invoke(group, [*words, double.url], standalone_mode=False)
    assert "of which 1 without an answer" in given.output


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--second-model", "m"],
        ["evaluate", "--repeats", "3"],
        ["evaluate", "--compat", "official"],
        ["ask", "Who?", "--budget", "1"],
        ["refresh", "--mcp-tool", "search"],
    ],
)
def test_an_option_that_nothing_would_honour_is_refused(made: tuple[Path, Bundle], words: list[str]) -> None:
    with pytest.raises(ConfigError, match=words[-2]):
        raise CliRunner().invoke(group, [words[0], str(made[0]), *words[1:]], standalone_mode=False).exception  # type: ignore[misc]


@anyio
@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 0} Wait, corrected: {"score": 1}', 1.0),
        ('<think>{"score": 0}</think>{"score": 1}', 1.0),
        ('{"score": 0} {"score": 1}', None),
        ('{"score": 0, "score": 1}', None),
    ],
)
async def test_a_judge_that_corrects_itself_is_read_by_its_last_word(reply: str, score: float | None) -> None:
    with chat_server(lambda body, number: Reply(reply)) as double:
        async with ChatClient(ChatServer(url=double.url, model="m")) as judge:
            assert await score_item(judge, "Is it?", "A report.") == score


OUTLINE = {
    "title": "Mine",
    "sections": [
        {
            "title": "Work",
            "words": 200,
            "measures": ["Unemployment rate", "Nonsense"],
            "visuals": [{"goal": "trend", "kind": "chart", "chart": "line"}],
        }
    ],
}


def _writer(body: dict[str, Any], number: int) -> Reply:
    """A writer that cites well, invents an id, and writes one number without support."""
    name = body["response_format"]["json_schema"]["name"]
    if name == "outline":
        return Reply("```json\n" + json.dumps(OUTLINE)[:-1])
    if name == "said":
        return Reply(json.dumps({"text": "It was 99% again.", "cites": ["S1#f0"]}))
    said = [
        {"text": "In 2024 the rate of France was 7.4%.", "cites": ["S1#f0", "S999#p1"]},
        {"text": "It was 98%.", "cites": ["S1#f0"]},
        {"text": "See https://evil.example for 12."},
    ]
    return Reply(json.dumps({"sentences": said}))


def test_a_model_that_invents_writes_nothing_unsupported(index: Index, tmp_path: Path) -> None:
    with chat_server(_writer) as double:
        agents = ModelAgents(Asker(ChatServer(url=double.url, model="m")))
        bundle = Job(tmp_path, index, agents=agents).write(REQUEST)
    body = [s.text for section, s in sentences(bundle.report) if section.title == "Work"]
    assert body[0] == "In 2024 the rate of France was 7.4%."
    assert not any(word in text for text in body for word in ("98", "99%", "evil"))
    assert bundle.report.title == "Mine"
    assert agents.tally.repaired == 1
    assert agents.tally.removed == 2
    assert agents.tally.invented >= 2
    assert verify_bundle(tmp_path).findings == []


@pytest.mark.parametrize(
    "reply",
    [Reply("{}"), Reply("no"), Reply(refusal="no"), Reply(status=400), Reply('{"sections": [')],
    ids=["empty", "prose", "refusal", "error", "cut"],
)
def test_a_model_that_fails_leaves_the_engines_report(index: Index, tmp_path: Path, reply: Reply) -> None:
    with chat_server(lambda body, number: reply) as double:
        agents = ModelAgents(Asker(ChatServer(url=double.url, model="m", attempts=1)))
        bundle = Job(tmp_path, index, agents=agents).write(REQUEST)
    assert agents.tally.lost >= 2
    assert verify_bundle(tmp_path).findings == []
    assert len(bundle.charts) == 2
