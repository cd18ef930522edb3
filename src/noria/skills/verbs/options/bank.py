"""Options about the bank, its traffic and the rubric."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click
from pydantic import Field

from noria.core.config import Argument, Config
from noria.core.errors import ConfigError

if TYPE_CHECKING:
    from noria.skills.bank.bank import BankFolder
    from noria.skills.judging.rubric import Rubric
    from noria.skills.traffic.samples import Sample


class BankArgument(Config):
    """The bank that a verb works on."""

    bank: Annotated[Path, Argument()] = Field(description="Folder of the bank.")

    def folder(self) -> BankFolder:
        """The bank's folder."""
        from noria.skills.bank.bank import BankFolder

        return BankFolder(self.bank)


class ByOption(Config):
    """Option that names the person for the ledger."""

    by: str = Field("", description="Name in the ledger (default: the user of this machine).")
    dry_run: bool = Field(False, description="Compute and print everything, and publish nothing.")

    def name(self) -> str:
        """Name in the ledger."""
        return self.by or getpass.getuser()


def read_traffic(path: Path) -> list[Sample]:
    """The samples of a file; what was left out of it is said on standard error, with the reasons.

    Raises:
        DataError: it is none of samples, or most of it is left out.
    """
    from noria.skills.traffic.sources import SourceCounts, load_samples

    counts = SourceCounts()
    found = load_samples(path, counts=counts)
    if counts.skipped:
        click.echo(f"noria: warning: {path}: {counts}", err=True)
    return found


class TrafficOptions(Config):
    """The traffic that a verb learns from."""

    section: ClassVar[str] = "Traffic"

    data: Path | None = Field(
        None, description="Samples, traces or transcripts: a .jsonl, .json or .parquet file."
    )
    salt: str = Field("skills", min_length=1, description="Text that deals leakage groups to the pools.")

    def samples(self) -> list[Sample]:
        """The samples of the file.

        Raises:
            ConfigError: no file is given. DataError: it is none of samples, or most of it is left out.
        """
        if self.data is None:
            raise ConfigError("no traffic given", where="--data", mend="give --data FILE")
        return read_traffic(self.data)

    def pools(self) -> dict[str, list[Sample]]:
        """The samples, dealt to disjoint pools."""
        from noria.skills.traffic.pools import deal_pools

        return deal_pools(self.samples(), salt=self.salt)


class RubricOption(Config):
    """Option that names the rubric."""

    rubric: Path | None = Field(None, description="YAML file of the rubric and its rules.")

    def load(self) -> Rubric:
        """The rubric of the judging.

        Raises:
            ConfigError: the file is malformed.
        """
        from noria.skills.judging.rubric import load_rubric

        return load_rubric(self.rubric)
