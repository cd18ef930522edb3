"""A watch over drafts: silent while heads are as calibrated, an alarm where they fall behind their policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.config.parts import DraftingConfig
from noria.assistant.parts.drafting import Counts, DraftingWatches, Watch, read_counts
from noria.core.errors import DataError
from tests.assistant.gateways import settings

RATES = (0.8, 0.6, 0.4)
OURS = """# HELP noria_mtp_drafted_total Rounds.
# TYPE noria_mtp_drafted_total counter
noria_mtp_drafted_total{step="1"} 100.0
noria_mtp_drafted_total{step="2"} 100.0
# TYPE noria_mtp_accepted_total counter
noria_mtp_accepted_total{step="1"} 80.0
noria_mtp_accepted_total{step="2"} 55.0
"""
VLLM = """# TYPE vllm:spec_decode_num_drafts counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 60.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 40.0
# TYPE vllm:spec_decode_num_accepted_tokens counter
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 135.0
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 80.0
"""


def config(**more: Any) -> DraftingConfig:
    return DraftingConfig.model_validate(
        {"metrics": "http://m/metrics", "prefix_rates": RATES, "every": 0.05} | more
    )


def looks(rates: tuple[float, ...], rounds: int, seed: int = 0) -> Iterator[Counts]:
    """Counts of a server at one look after the other, whose drafts pass by these shares."""
    rng = np.random.default_rng(seed)
    exactly = -np.diff([1.0, *rates, 0.0])  # chance of 0, 1, 2, … accepted drafts
    total = Counts(0, 0)
    while True:
        yield total
        accepted = rng.multinomial(rounds, exactly) @ np.arange(len(exactly))
        total = Counts(total.rounds + rounds, total.accepted + float(accepted))


@pytest.mark.parametrize("text", [OURS, VLLM], ids=["ours", "vllm"])
def test_counts_of_both_servers_are_read(text: str) -> None:
    assert read_counts(text) == Counts(100, 135)


@pytest.mark.parametrize("text", ["", "<html>", "noria_mtp_drafted_total{step=", "up 1\n"])
def test_what_holds_no_counts_is_an_error(text: str) -> None:
    with pytest.raises(DataError):
        read_counts(text)


def test_it_is_silent_while_heads_are_as_calibrated() -> None:
    for seed in range(5):
        watch = Watch(config(tolerance=0.0))  # without the tolerance, which alone would keep it silent
        alarms = [watch.look(one) for one, _ in zip(looks(RATES, 400, seed), range(2000), strict=False)]
        assert not any(alarms)
    assert watch.calibrated == pytest.approx(2.8)
    assert watch.last == pytest.approx(2.8, abs=0.3)


@pytest.mark.parametrize(("rates", "most"), [((0.6, 0.35, 0.2), 4), ((0.72, 0.52, 0.33), 20)])
def test_heads_that_fall_behind_are_an_alarm(rates: tuple[float, ...], most: int) -> None:
    watch = Watch(config())
    alarms = [watch.look(one) for one, _ in zip(looks(rates, 400), range(most), strict=False)]
    assert alarms[-1]
    assert not alarms[0], "the first look has nothing to compare with"


def test_few_rounds_wait_and_a_server_that_was_started_again_is_no_fall() -> None:
    watch = Watch(config(least=50))
    for counts in (Counts(1000, 1800), Counts(1010, 1800), Counts(1040, 1800)):
        assert not watch.look(counts)
    assert watch.last is None, "40 rounds are too few"
    watch.look(Counts(0, 0))
    assert watch.last is None, "counts that fell are another server's"
    watch.look(Counts(100, 180))
    assert watch.last == pytest.approx(2.8)


def test_an_alarm_is_told_once_and_so_is_its_end() -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    total = Counts(0, 0)
    broken = False

    def fetch(url: str) -> str:
        if broken:
            raise OSError("refused")
        drafted = f'noria_mtp_drafted_total{{step="1"}} {total.rounds}'
        return f'{drafted}\nnoria_mtp_accepted_total{{step="1"}} {total.accepted}\n'

    watches = DraftingWatches(
        {"m": config(every=0.05)}, lambda what, **more: told.append((what, more)), fetch
    )
    for number in range(60):
        share = 0.9 if 10 <= number < 30 else 1.8
        total = Counts(total.rounds + 400, total.accepted + 400 * share)
        broken = number in (55, 56)
        watches._next["m"] = 0.0
        watches.step()
    assert [what for what, _ in told] == ["drafts drift", "drafts recovered", "drafts unknown"]
    assert told[0][1]["backend"] == "m"
    assert told[0][1]["calibrated"] == pytest.approx(2.8)
    assert told[0][1]["accept_length"] == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("drafting", "what"),
    [
        ({"prefix_rates": []}, "at least 1"),
        ({"prefix_rates": [0.2, 0.5]}, "later step"),
        ({"prefix_rates": [1.2]}, "1"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(drafting: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        config(**drafting)
    other = {"drafting": {"nobody": {"metrics": "http://m", "prefix_rates": [0.5]}}}
    with pytest.raises(ValueError, match="no backend"):
        AssistantConfig.model_validate(settings("http://127.0.0.1:9/v1", parts=other))


def test_it_reads_a_server_that_drafts(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from importlib.resources import files

    from noria.core.models.lm import small_lm
    from noria.mtp.decoding.decoder import Decoder
    from noria.mtp.decoding.drafter import HeadDrafter
    from noria.mtp.heads.checkpoint import load_head
    from tests.mtp.test_service import chat, serving

    policy, tokenizer = small_lm()
    head = load_head(policy, Path(str(files("noria.mtp"))) / "assets" / "e2e_tv")
    decoder = Decoder(policy, HeadDrafter(head), gamma=3, vocab=len(tokenizer))
    told: list[str] = []
    with serving((policy, tokenizer, decoder)) as url:
        given = {"m": config(metrics=f"{url}/metrics", prefix_rates=(1.0, 1.0, 1.0), least=5)}
        watches = DraftingWatches(given, lambda what, **more: told.append(what))
        for number in range(4):
            watches._next["m"] = 0.0
            watches.step()
            chat(url, max_tokens=40, temperature=1.0, seed=number)
    assert told == ["drafts drift"], "no head is always right"
    assert watches.watches["m"].last is not None
    assert 1.0 < watches.watches["m"].last < 4.0
