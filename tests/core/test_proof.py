import importlib
import importlib.metadata
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from scipy import stats as reference

import noria
from noria.core.errors import DataError, MissingExtra, RunError
from noria.core.files import lock
from noria.core.pages.charts import Figure
from noria.core.progress import Progress
from noria.core.proofs.arms import Arm
from noria.core.proofs.catalogue import registered_proofs
from noria.core.proofs.fingerprint import code_digest, reached_modules
from noria.core.proofs.proof import Check, Claim, Evidence, versions
from noria.core.proofs.proving import ProofResult, prove

NUMBERS = st.floats(-1e3, 1e3)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=8)


def claim(ours, theirs, **more) -> Claim:
    given = {
        "id": "c",
        "statement": "Ours is better",
        "metric": "error",
        "better": "lower",
        "subject": "ours",
        "baseline": "theirs",
        "arms": {"ours": ours, "theirs": theirs},
    }
    return Claim(**(given | more))


# --- one claim -----------------------------------------------------------------------------------------------


def test_the_effect_is_the_improvement_whichever_way_is_better():
    lower = claim([1.0, 2.0, 1.5], [3.0, 5.0, 4.0])
    assert lower.effect == pytest.approx(2.5)
    assert lower.verdict == "supported"
    higher = claim([1.0, 2.0, 1.5], [3.0, 5.0, 4.0], better="higher")
    assert higher.effect == pytest.approx(-2.5)
    assert higher.verdict == "refuted"


@given(PAIRS)
def test_swapping_the_arms_swaps_supported_and_refuted(pairs):
    ours, theirs = zip(*pairs, strict=True)
    one = claim(ours, theirs)
    other = claim(ours, theirs, subject="theirs", baseline="ours")
    assert other.effect == pytest.approx(-one.effect)
    swapped = {"supported": "refuted", "refuted": "supported", "inconclusive": "inconclusive"}
    assert other.verdict == swapped[one.verdict]


@given(PAIRS, st.sampled_from(["lower", "higher"]))
def test_a_verdict_needs_an_interval_clear_of_zero(pairs, better):
    ours, theirs = zip(*pairs, strict=True)
    one = claim(ours, theirs, better=better)
    low, high = one.ci95
    assert low <= one.effect <= high
    expected = "supported" if low > 0 else "refuted" if high < 0 else "inconclusive"
    assert one.verdict == expected


def test_no_verdict_on_one_seed_on_none_or_on_a_draw():
    for ours, theirs in (([1.0], [9.0]), ([], []), ([1.0, 2.0], [1.0, 2.0]), ([1.0, None], [9.0, 9.0])):
        assert claim(ours, theirs).verdict == "inconclusive"
    assert claim([1.0], [9.0]).effect == 8.0
    assert claim([1.0], [9.0]).ci95 is None
    assert claim([], []).effect is None


def test_of_true_nothings_one_in_forty_looks_supported():
    draws = np.random.default_rng(0).normal(size=(3000, 2, 3))
    supported = sum(claim(a.tolist(), b.tolist()).verdict == "supported" for a, b in draws)
    assert reference.binomtest(supported, 3000, 0.025).pvalue > 1e-3


def test_a_margin_is_what_the_whole_interval_has_to_clear():
    ours, theirs = [1.0, 1.1, 0.9], [3.0, 3.0, 3.0]  # better by 2 ± 0.25
    assert claim(ours, theirs, margin=1.7).verdict == "supported"
    assert claim(ours, theirs, margin=1.9).verdict == "inconclusive"
    assert claim(ours, theirs, margin=2.3).verdict == "refuted"
    for margin in (-0.1, math.nan):
        with pytest.raises(ValueError, match="a draw, or worse, would be a success"):
            claim(ours, theirs, margin=margin)


@given(
    st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)), min_size=2, max_size=8),
    st.floats(1e-3, 1e3),
)
def test_a_log_ratio_does_not_depend_on_the_unit(pairs, unit):
    ours, theirs = zip(*pairs, strict=True)
    plain = claim(ours, theirs, comparison="log_ratio")
    scaled = claim([unit * x for x in ours], [unit * x for x in theirs], comparison="log_ratio")
    assert scaled.ci95 == pytest.approx(plain.ci95, abs=1e-9)
    assert plain.effect == pytest.approx(float(np.mean(np.log(np.array(theirs) / np.array(ours)))), abs=1e-9)


@given(PAIRS, st.integers(0, 8), st.sampled_from([None, math.nan, math.inf]), st.booleans())
def test_a_missing_value_drops_its_seed_and_no_other(pairs, position, gap, of_ours):
    ours, theirs = map(list, zip(*pairs, strict=True))
    whole = claim(ours, theirs)
    position = min(position, len(ours))
    ours.insert(position, gap if of_ours else 1.0)
    theirs.insert(position, 2.0 if of_ours else gap)
    assert claim(ours, theirs).interval == whole.interval
    assert claim(ours, theirs).to_json()["arms"]["ours" if of_ours else "theirs"][position] is None


def test_arms_that_cannot_be_compared_are_told():
    with pytest.raises(DataError, match=r"claim c: 2 and 1 seeds do not pair"):
        _ = claim([1.0, 2.0], [1.0]).effect
    with pytest.raises(DataError, match=r"claim c: there is no arm 'nobody'"):
        _ = claim([1.0], [1.0], baseline="nobody").verdict


@given(PAIRS)
def test_evidence_is_strict_json_of_the_promised_shape(pairs):
    ours, theirs = zip(*pairs, strict=True)
    assume(max(map(abs, ours)) < 1e3)
    evidence = Evidence("toy", [claim([*ours, math.nan], [*theirs, 1.0])], 12.34, {"python": "3"})
    record = json.loads(json.dumps(evidence.to_json(), allow_nan=False))
    assert {"system", "claims", "seconds", "versions"} <= record.keys()
    (told,) = record["claims"]
    assert {"id", "statement", "metric", "better", "arms", "effect", "ci95", "verdict"} <= told.keys()
    assert told["arms"] == {"ours": [*ours, None], "theirs": [*theirs, 1.0]}
    low, high = told["ci95"]
    assert low <= told["effect"] <= high


def test_versions_are_those_installed():
    found = versions("numpy")
    assert found["numpy"] == np.__version__
    assert found["noria"] == noria.__version__


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (claim([1.0, 2.0], [2.0, 4.0], comparison="log_ratio"), "2× [2×, 2×]"),
        (claim([1.0, 2.0], [2.0, 3.0]), "+1 [+1, +1]"),
        (claim([1.0], [0.5]), "-0.5, no interval from one seed"),
        (claim([None], [0.5]), "undefined, no seed has both values"),
    ],
)
def test_an_effect_reads_as_a_difference_or_as_a_factor(told, words):
    table = ProofResult(
        [Evidence("toy", [told], 1.0, {})], Path("report.html"), Path("evidence.json")
    ).table()
    assert f"ours against theirs: {words}" in table


# --- all claims of a system ------------------------------------------------------------------------------------


def family(count, seeds=5, effect=0.0, seed=0):
    """As many claims, each with normal noise on its own."""
    draws = np.random.default_rng(seed).normal(size=(count, 2, seeds))
    draws[:, 1] += effect
    return [claim(ours.tolist(), theirs.tolist(), id=f"c{n}") for n, (ours, theirs) in enumerate(draws)]


def test_of_true_nothings_a_whole_family_errs_at_most_at_the_level():
    families = [Evidence("toy", family(10, seed=seed), 1.0, {}) for seed in range(400)]
    alone = sum(any(c.verdict != "inconclusive" for c in f.claims) for f in families)
    together = sum(any(v != "inconclusive" for v in f.verdicts.values()) for f in families)
    assert alone > 120  # 1 - .95^10 is .40
    assert reference.binomtest(together, 400, 0.05, alternative="greater").pvalue > 1e-3


def test_a_corrected_verdict_is_never_bolder_and_one_claim_is_not_corrected():
    claims = family(8, effect=2.0)
    evidence = Evidence("toy", claims, 1.0, {})
    assert any(c.verdict == "supported" for c in claims)
    for c in claims:
        assert evidence.p_values[c.id] >= c.p_value
        assert evidence.verdicts[c.id] in (c.verdict, "inconclusive")
    assert Evidence("toy", claims[:1], 1.0, {}).verdicts == {"c0": claims[0].verdict}


@given(PAIRS, st.floats(0, 5), st.sampled_from([0.0, 0.25, 1.0]))
def test_the_p_value_and_the_interval_agree(pairs, margin, overlap):
    ours, theirs = zip(*pairs, strict=True)
    one = claim(ours, theirs, margin=margin, overlap=overlap)
    low, high = one.ci95
    assume(min(abs(low - margin), abs(high - margin)) > 1e-9 * (1 + abs(margin)))
    assert (one.p_value < 0.05) == (not low <= margin <= high)


def test_overlapping_splits_widen_the_interval_by_nadeau_and_bengio():
    ours, theirs = [1.0, 1.4, 0.9, 1.2], [2.0, 2.1, 2.3, 1.9]
    plain, wide = claim(ours, theirs).interval, claim(ours, theirs, overlap=0.25).interval
    assert (wide.high - wide.low) / (plain.high - plain.low) == pytest.approx(math.sqrt(1 + 4 * 0.25))


def test_claims_whose_arms_were_not_paid_alike_say_so():
    alike = {name: Arm(name, "tokens", 1000, 6, (7,)) for name in ("ours", "theirs")}
    cheap = alike | {"theirs": Arm("theirs", "tokens", 260, 6, (7,))}
    start = alike | {"theirs": Arm("theirs", "tokens", 0)}
    claims = [
        claim([1.0, 2.0], [2.0, 3.0], id=name, paid=paid)
        for name, paid in {"alike": alike, "cheap": cheap, "start": start, "silent": {}}.items()
    ]
    evidence = Evidence("toy", claims, 1.0, {}, config={"seeds": [0, 1]})
    assert list(evidence.unfair()) == ["cheap", "silent"]
    assert Evidence("toy", claims[:1], 1.0, {}, config={"seeds": [7]}).unfair() == {
        "alike": ["ours was tuned on seed 7, which is judged", "theirs was tuned on seed 7, which is judged"]
    }
    assert "theirs 260" in json.dumps(evidence.to_json(), allow_nan=False)


def test_checks_stand_apart_from_claims_and_a_failed_one_is_named():
    checks = [Check("sum", "Credits sum to the reward", True, "largest difference 1e-15"),
              Check("mass", "Mass is one", np.bool_(False), "off by .2")]  # fmt: skip
    result = ProofResult(
        [Evidence("toy", [], 1.0, {}, checks=checks)], Path("report.html"), Path("evidence.json")
    )
    assert result.failed_checks == ["toy/mass"]
    json.dumps(result.evidences[0].to_json(), allow_nan=False)
    assert result.table().splitlines() == [
        "toy: no claims; 1 of 2 checks hold (1.0 s)",
        "  check holds   Credits sum to the reward: largest difference 1e-15",
        "  CHECK FAILS   Mass is one: off by .2",
    ]


# --- a run of proofs -----------------------------------------------------------------------------------------

JOBS = """
import os, time
def measure(folder, arm, seed):
    with open(os.path.join(folder, "calls"), "a") as file:
        file.write(f"{arm} {seed}\\n")
    time.sleep(0.3)
    return {"error": {"ours": 1.0, "theirs": 2.0}[arm] + seed / 10}
"""

PROOF = """
import toy_jobs
from noria.core.pages.charts import Figure
from noria.core.proofs.proof import Claim, Evidence

def prove(context):
    seeds = context.seeds or [0, 1, 2]
    jobs = {f"{arm} {seed}": (str(context.folder), arm, seed) for arm in ("ours", "theirs") for seed in seeds}
    results = context.map(toy_jobs.measure, jobs, label="arms")
    errors = [result["error"] for result in results]
    arms = {"ours": errors[:len(seeds)], "theirs": errors[len(seeds):]}
    claim = Claim(id="better", statement="Ours errs less", metric="error", better="lower",
                  subject="ours", baseline="theirs", arms=arms)
    figure = Figure.table("Errors", ["arm", "mean"], [[name, sum(v) / len(v)] for name, v in arms.items()])
    return Evidence("toy", [claim], 0.25, {"python": "3"}, [figure], [f"scale {context.scale}"])
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Systems that are there for this test: `toy`, `crashing` and `needy`."""
    systems = tmp_path / "systems"
    for name, text in {
        "toy": PROOF,
        "crashing": "def prove(context):\n    raise ZeroDivisionError('a fault')\n",
        "needy": "import absent_package\n",
        "lazy": "def prove(context):\n    import absent_package\n",
    }.items():
        (systems / name / "proof").mkdir(parents=True)
        (systems / name / "__init__.py").touch()
        (systems / name / "proof" / "__init__.py").write_text(
            "from noria.core.proofs.catalogue import ProofEntry\n"
            f"PROOFS = (ProofEntry({name!r}, 'noria.{name}.proof.claims', inputs={{'table': 'A table.'}}),)\n"
        )
        (systems / name / "proof" / "claims.py").write_text(text)
    (systems / "toy_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(systems))
    monkeypatch.setattr(noria, "__path__", [*noria.__path__, str(systems)])
    yield systems
    for name in [
        name
        for name in sys.modules
        if name.startswith(("toy_jobs", "noria.toy", "noria.crashing", "noria.needy", "noria.lazy"))
    ]:
        del sys.modules[name]


def run(tmp_path, *systems, **more):
    return prove(
        list(registered_proofs(systems).values()),
        out=tmp_path / "out",
        progress=Progress(quiet=True),
        workers=2,
        **more,
    )


def test_a_run_leaves_evidence_a_report_and_a_table(tmp_path, toy):
    proven = run(tmp_path, "toy", seeds=[0, 1, 2, 3])
    (record,) = json.loads(proven.evidence.read_text())
    assert record["system"] == "toy"
    assert record["claims"][0]["arms"] == {"ours": [1.0, 1.1, 1.2, 1.3], "theirs": [2.0, 2.1, 2.2, 2.3]}
    assert record["claims"][0]["verdict"] == "supported"
    assert record["claims"][0]["effect"] == pytest.approx(1.0)
    page = proven.report.read_text()
    for words in (
        "Ours errs less",
        "supported",
        "scale quick",
        f"noria prove toy --quick --seeds 4 --out {tmp_path}",
    ):
        assert words in page
    assert proven.table().splitlines() == [
        "toy: 1 supported (0.2 s)",
        "  supported     Ours errs less",
        "                ours against theirs: +1 [+1, +1], P 1.6e-48",
        "                not alike: nothing says what ours was paid",
        "                not alike: nothing says what theirs was paid",
    ]


def test_run_again_nothing_is_measured_twice_and_the_time_is_still_told(tmp_path, toy):
    first = run(tmp_path, "toy")
    again = run(tmp_path, "toy")
    assert len((tmp_path / "out" / "toy" / "calls").read_text().splitlines()) == 6
    assert again.evidences[0].claims == first.evidences[0].claims
    assert first.evidences[0].seconds == 0.25
    assert again.evidences[0].seconds >= 0.25 + 6 * 0.3 / 2
    more = run(tmp_path, "toy", seeds=[0, 1, 2, 3])
    assert len((tmp_path / "out" / "toy" / "calls").read_text().splitlines()) == 8
    assert len(more.evidences[0].claims[0].arms["ours"]) == 4


def test_changed_code_measures_anew(tmp_path, toy):
    calls = tmp_path / "out" / "toy" / "calls"
    run(tmp_path, "toy")
    file = toy / "toy_jobs.py"
    file.write_text('"""What is measured."""\n' + file.read_text())  # a docstring changes no number
    run(tmp_path, "toy")
    assert len(calls.read_text().splitlines()) == 6
    file.write_text(file.read_text() + "\nMORE = 1\n")
    run(tmp_path, "toy")
    assert len(calls.read_text().splitlines()) == 12


def test_changed_data_that_was_given_measures_anew(tmp_path, toy):
    table = tmp_path / "table"
    table.mkdir()
    (table / "rows.jsonl").write_text("one")
    calls = tmp_path / "out" / "toy" / "calls"
    for _ in range(2):
        run(tmp_path, "toy", given={"table": table})
    assert len(calls.read_text().splitlines()) == 6
    (table / "rows.jsonl").write_text("two, now")
    run(tmp_path, "toy", given={"table": table})
    assert len(calls.read_text().splitlines()) == 12


SOURCES = {
    "__init__": "",
    "arms": "import math\nfrom fingertoy import middle\nfrom fingertoy.far import f\n",
    "middle": "def g():\n    from fingertoy import late\n    return late\n",
    "late": "import fingertoy.arms\n",
    "far": "def f():\n    'Says what it does.'\n    return 1\n",
    "typed": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fingertoy.far\n",
    "page": "import fingertoy.arms\n",
}


@pytest.fixture
def sources(tmp_path, monkeypatch):
    home = tmp_path / "fingertoy"
    (home / "assets").mkdir(parents=True)
    (home / "assets" / "weights").write_bytes(b"one")
    for name, text in SOURCES.items():
        (home / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return home


def test_a_number_depends_on_what_its_module_reaches(sources):
    reached = {name.removeprefix("fingertoy").lstrip(".") for name in reached_modules("fingertoy.arms")}
    assert reached == {"", "arms", "middle", "late", "far"}
    assert reached_modules("fingertoy.typed") == {"fingertoy.typed"}
    assert "fingertoy" not in sys.modules  # nothing was imported to find out


@pytest.mark.parametrize(
    ("name", "text", "counts"),
    [
        ("far.py", "def f():\n    return 2\n", True),
        ("late.py", "import fingertoy.arms\nX = 1\n", True),
        ("assets/weights", "two", True),
        ("far.py", "def f():  # quickly\n    'Does something.'\n    return (1)\n", False),
        ("page.py", "X = 2\n", False),
    ],
)
def test_the_digest_changes_with_what_can_change_a_number(sources, name, text, counts):
    before = code_digest("fingertoy.arms")
    assert before == code_digest("fingertoy.arms")
    (sources / name).write_text(text)
    assert (code_digest("fingertoy.arms") != before) == counts


def test_a_crash_in_a_later_proof_leaves_the_earlier_ones_report(tmp_path, toy):
    with pytest.raises(ZeroDivisionError, match="a fault"):
        run(tmp_path, "toy", "crashing")
    (record,) = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert record["system"] == "toy"
    assert "Ours errs less" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("system", ["needy", "lazy"])
def test_a_package_that_a_proof_needs_is_named(tmp_path, toy, system):
    with pytest.raises(MissingExtra, match=r"'absent_package' is not installed; .*\[proof\]"):
        run(tmp_path, system)


def test_two_runs_do_not_write_one_folder(tmp_path, toy):
    with lock(tmp_path / "out"), pytest.raises(RunError, match="in use by another process"):
        run(tmp_path, "toy")


def test_a_folder_in_the_way_is_one_line(tmp_path, toy):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunError, match="cannot write"):
        run(tmp_path, "toy")


def test_a_figure_of_hostile_text_stays_text(tmp_path):
    from noria.core.proofs.report import write_report

    text = "<script>alert(1)</script>"
    figure = Figure.table(text, [text], [[text]], text)
    hostile = claim([1.0], [2.0], statement=text, metric=text, source=text)
    write_report(
        tmp_path / "report.html",
        title=text,
        evidences=[Evidence(text, [hostile], 1.0, {text: text}, [figure], [text], {text: text})],
        intro=text,
        rerun=text,
        footer=text,
    )
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") >= 12
