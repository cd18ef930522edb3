"""A chain that is killed anywhere ends, when the same command runs again, as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from noria.skills.bank.bank import BankFolder
from tests.chat_server import ChatServerDouble, chat_server
from tests.skills.scripted_model import respond
from tests.skills.shop import make_shop, run, run_well, texts

ROOT = Path(__file__).parents[2]
POINTS = (
    "before the version is kept",
    "after the version is kept",
    "between two skills",
    "before the ledger's line",
    "after the ledger's line",
    "between two stages",
)


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[ChatServerDouble]:
    with chat_server(respond) as double:
        yield double


def command(bank: Path, server: ChatServerDouble) -> tuple[object, ...]:
    data = ("--data", bank.parent / "traffic.jsonl", "--rubric", bank.parent / "rubric.yaml")
    return ("run", bank, *data, "--url", server.url, "--model", "m")


def story(bank: Path) -> list[tuple[str, str]]:
    return [(e["event"], e.get("stage", "")) for e in BankFolder(bank).ledger.entries()]


@pytest.fixture(scope="module", name="whole")
def _whole(
    tmp_path_factory: pytest.TempPathFactory, server: ChatServerDouble
) -> tuple[dict[str, bytes], int]:
    """Texts of the bank after an undisturbed chain, and the number of requests that it took."""
    bank = make_shop(tmp_path_factory.mktemp("whole"))
    before = len(server.seen)
    run_well(*command(bank, server))
    assert story(bank) == [("publish", "init"), ("publish", "route"), ("publish", "refine")]
    return texts(bank), len(server.seen) - before


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_chain_ends_as_if_nothing_had_happened(
    tmp_path: Path, server: ChatServerDouble, whole: tuple[dict[str, bytes], int], point: str
) -> None:
    bank = make_shop(tmp_path)
    before = len(server.seen)
    words = [str(word) for word in command(bank, server)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.skills.killed_chain", point, *words], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 9, done.stderr[-500:]
    BankFolder(bank).load()  # a reader is served at once
    run_well(*words)
    assert texts(bank) == whole[0]
    assert story(bank) == [("publish", "init"), ("publish", "route"), ("publish", "refine")]
    # Every answer is paid once; of equal requests that are under way together, each is sent.
    assert abs(len(server.seen) - before - whole[1]) <= 5
    assert not (bank / ".noria" / "publish.json").exists()


def test_two_runs_on_one_bank_do_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = make_shop(tmp_path, requests=20)
    with BankFolder(bank).writing():
        assert run("rollback", bank) == 2
    assert "another process" in capsys.readouterr().err


def test_a_bank_edited_by_hand_is_taken_as_it_is(tmp_path: Path) -> None:
    """An edit between two runs starts another run; it does not vanish under a version of before."""
    bank = make_shop(tmp_path)
    run_well("route", bank, "--data", tmp_path / "traffic.jsonl")
    path = bank / "sizes" / "SKILL.md"
    path.write_text(path.read_text() + "- Be kind.\n")
    run_well("route", bank, "--data", tmp_path / "traffic.jsonl")
    assert path.read_text().endswith("- Be kind.\n")
    assert len([e for e in BankFolder(bank).ledger.entries() if e.get("stage") == "route"]) == 2
