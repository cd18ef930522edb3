"""Groups of options that the verbs of `noria skills` share, and what they make of them."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from noria.core.config import Argument, Config
from noria.core.errors import ConfigError
from noria.verbs.options import ServerOptions

if TYPE_CHECKING:
    from noria.skills.asking import Asker
    from noria.skills.assistants.assistants import Assistant
    from noria.skills.bank.bank import Bank, BankFolder
    from noria.skills.judging.judges import BodyJudge
    from noria.skills.judging.rubric import Rubric
    from noria.skills.proposing.protocols import Proposer
    from noria.skills.routing.routers import Router
    from noria.skills.stages.chain import Chain
    from noria.skills.stages.route_optimizer import RouterMaker
    from noria.skills.traffic.samples import Sample


class BankArgument(Config):
    """The bank that a verb works on."""

    bank: Annotated[Path, Argument()] = Field(description="Folder of the bank.")

    def folder(self) -> BankFolder:
        """The bank's folder."""
        from noria.skills.bank.bank import BankFolder

        return BankFolder(self.bank)


class ByOption(Config):
    """Who does it, for the ledger."""

    by: str = Field("", description="Name in the ledger (default: the user of this machine).")
    dry_run: bool = Field(False, description="Compute and print everything, and publish nothing.")

    def name(self) -> str:
        """Name in the ledger."""
        return self.by or getpass.getuser()


class TrafficOptions(Config):
    """The traffic that a verb learns from."""

    section: ClassVar[str] = "Traffic"

    data: Path | None = Field(
        None, description="Samples, traces or transcripts: a .jsonl, .json or .parquet file."
    )
    salt: str = Field("skills", min_length=1, description="Text that deals leakage groups to the pools.")

    def samples(self) -> list[Sample]:
        """The samples of the files.

        Raises:
            ConfigError: no file is given. DataError: it is none of samples.
        """
        from noria.skills.traffic.sources import load_samples

        if self.data is None:
            raise ConfigError("no traffic given", where="--data", mend="give --data FILE")
        return load_samples(self.data)

    def pools(self) -> dict[str, list[Sample]]:
        """The samples, dealt to disjoint pools."""
        from noria.skills.traffic.pools import deal_pools

        return deal_pools(self.samples(), salt=self.salt)


class RouterOptions(Config):
    """The router that a client has."""

    section: ClassVar[str] = "Router"

    router: Literal["embedding", "chat", "hybrid"] = Field(
        "embedding", description="Router: vectors, a model, or both."
    )
    encoder: Literal["ngrams", "static"] = Field(
        "ngrams", description="Vectors: hashed n-grams, or static word embeddings (noria assets wordllama)."
    )
    catalogue_chars: int | None = Field(
        None, ge=100, description="Characters that the client's catalogue holds."
    )
    description_chars: int | None = Field(
        None, ge=20, description="Characters of a description that the client shows."
    )
    project: str | None = Field(None, description="Set of skills in bank.json that is offered.")
    candidates: int = Field(5, ge=2, le=50, description="Candidates that the hybrid router gives the model.")

    def maker(self, fit_on: Sequence[Sample], ask: Asker | None) -> RouterMaker:
        """Makes the router of a bank, fitted on labelled samples.

        Raises:
            ConfigError: a model's router without a server.
        """
        if self.router != "embedding" and ask is None:
            raise ConfigError(
                f"the {self.router} router asks a model", where="--router", mend="give --url and --model"
            )
        return partial(self._make, list(fit_on), ask)

    def _make(self, fit_on: Sequence[Sample], ask: Asker | None, bank: Bank) -> Router:
        from noria.skills.bank.catalogue import catalogue
        from noria.skills.routing.encoders import CachedEncoder, make_encoder
        from noria.skills.routing.routers import ChatRouter, EmbeddingRouter, HybridRouter

        shown = catalogue(
            bank.routed(self.project), budget=self.catalogue_chars, per_skill=self.description_chars
        )
        if self.router == "chat" and ask is not None:
            return ChatRouter(shown, ask)
        encoder = _ENCODERS.setdefault(self.encoder, CachedEncoder(make_encoder(self.encoder)))
        fast = EmbeddingRouter(shown.descriptions, encoder).fitted(fit_on)
        if self.router == "hybrid" and ask is not None:
            return HybridRouter(fast, ChatRouter(shown, ask), k=self.candidates)
        return fast


_ENCODERS: dict[str, CachedEncoder] = {}  # type: ignore[name-defined]  # noqa: F821


class ModelOptions(ServerOptions):
    """The models behind proposals, answers and judgements; all by default are --model on --url."""

    proposer: Literal["templates", "chat", "gepa"] = Field(
        "templates", description="Who proposes: counting, the model, or GEPA with the model (descriptions)."
    )
    judge_model: str | None = Field(None, description="Name of the model that judges and gives feedback.")
    final_judge_model: str | None = Field(
        None, description="Name of the blind model that decides at the gate."
    )
    budget: float | None = Field(
        None, ge=0, description="Most that all requests may cost, in the prices' currency."
    )
    budget_tokens: int | None = Field(None, ge=1, description="Most tokens of all requests.")

    def asker(self, folder: Path, model: str | None = None) -> Asker | None:
        """Sends requests, with the bank's cache; None without a server.

        Raises:
            ConfigError: the settings of the server are malformed.
        """
        from noria.core.chat import Budget, ChatCache
        from noria.skills.asking import server_asker, within_tokens

        if self.url is None and self.model is None:
            return None
        server = self.server()
        if model is not None:
            server = server.model_copy(update={"model": model})
        budget = None if self.budget is None else _BUDGETS.setdefault(id(self), Budget(self.budget))
        ask = server_asker(server, cache=ChatCache(folder / ".noria" / "cache"), budget=budget)
        return within_tokens(ask, self.budget_tokens)

    def proposing(self, folder: Path, make_router: RouterMaker | None = None) -> Proposer:
        """The proposer of the options; GEPA only where there is a router that scores its descriptions.

        Raises:
            ConfigError: the model's proposer without a server.
        """
        from noria.skills.proposing.chat import ChatProposer
        from noria.skills.proposing.templates import TemplateProposer

        if self.proposer == "templates":
            return TemplateProposer()
        ask = self.asker(folder)
        if ask is None:
            raise ConfigError(
                f"the {self.proposer} proposer asks a model",
                where="--proposer",
                mend="give --url and --model",
            )
        if self.proposer == "gepa" and make_router is not None:
            from noria.skills.integrations.gepa import GepaProposer

            return GepaProposer(ask, make_router)
        return ChatProposer(ask)

    def assistant(self, folder: Path) -> Assistant:
        """The assistant: the model where there is a server, else the recorded answers."""
        from noria.skills.assistants.assistants import ChatAssistant, RecordedAssistant

        ask = self.asker(folder)
        return RecordedAssistant() if ask is None else ChatAssistant(ask)

    def judges(self, folder: Path, rubric: Rubric) -> tuple[BodyJudge | None, BodyJudge | None]:
        """Judge of the feedback, and the blind one of the gate; rules alone without a server.

        Raises:
            ConfigError: one model would be both.
        """
        from noria.skills.judging.judges import ChatBodyJudge

        if self.judge_model is None:
            return None, None
        if self.final_judge_model == self.judge_model:
            raise ConfigError(
                "the judge of the gate gave the feedback",
                where="--final-judge-model",
                mend="name another model",
            )
        ask = self.asker(folder, self.judge_model)
        if ask is None:
            raise ConfigError(
                "a judge without a server", where="--judge-model", mend="give --url and --model"
            )
        feedback = ChatBodyJudge(ask, rubric, name=self.judge_model)
        if self.final_judge_model is None:
            return feedback, None
        final = self.asker(folder, self.final_judge_model)
        assert final is not None
        return feedback, ChatBodyJudge(final, rubric, name=self.final_judge_model, blind=True)


_BUDGETS: dict[int, Any] = {}  # one budget for all models of a command


class RubricOption(Config):
    """What answers are judged by."""

    rubric: Path | None = Field(None, description="YAML file of the rubric and its rules.")

    def load(self) -> Rubric:
        """The rubric of the judging.

        Raises:
            ConfigError: the file is malformed.
        """
        from noria.skills.judging.rubric import load_rubric

        return load_rubric(self.rubric)


def run_stage(config: Any, name: str, stage: Callable[[Any, Bank, Any], Any]) -> dict[str, Any]:
    """Run one stage on the bank of a verb's settings: its summary.

    Raises:
        DataError: the traffic cannot be read. RunError: another process writes the bank.
    """
    folder = config.folder()
    pools = config.pools() if config.data is not None or name != "create" else {"optimise": []}
    with folder.writing():
        bank = folder.load()
        chain = chain_of(config, folder, bank, pools)
        _, result = chain.stage(name, bank, lambda b: stage(config, b, pools))
    return result


def chain_of(config: Any, folder: BankFolder, bank: Bank, pools: Mapping[str, Sequence[Sample]]) -> Chain:
    """The chain of a verb's settings on its bank, whose lock is held."""
    from noria.skills.stages.chain import Chain

    settings = config.model_dump(exclude={"bank", "by", "dry_run", "as_json"})
    samples = [sample for pool in pools.values() for sample in pool]
    return Chain(folder, bank, settings, samples, by=config.name(), dry=config.dry_run)


def tools_of(bank: Bank, more: Sequence[str] = ()) -> list[str]:
    """Names of every tool that a skill of the bank may call, and more."""
    return sorted({tool for skill in bank.skills.values() for tool in skill.tools} | set(more))


def share(value: float | None) -> str:
    """A share as text with three digits; a dash where it is missing."""
    return "-" if value is None or value != value else f"{value:.3f}"


def label_rows(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> list[list[str]]:
    """Rows of a table of F1 before and after, by label."""
    return [[name, share(before.get(name)), share(value)] for name, value in after.items()]
