"""Options about the router and the models behind proposals, answers and judgements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from noria.core.config import Config
from noria.core.errors import ConfigError
from noria.verbs.options import ServerOptions, refuse_given

if TYPE_CHECKING:
    from noria.core.chat import Budget
    from noria.skills.asking import Asker, TokenBudget
    from noria.skills.assistants.assistants import Assistant
    from noria.skills.bank.bank import Bank
    from noria.skills.judging.judges import BodyJudge
    from noria.skills.judging.rubric import Rubric
    from noria.skills.proposing.protocols import Proposer
    from noria.skills.routing.routers import Router
    from noria.skills.stages.route_optimizer import RouterMaker
    from noria.skills.traffic.samples import Sample


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

    @model_validator(mode="after")
    def _has_candidates(self) -> RouterOptions:
        if self.router != "hybrid":
            refuse_given(self, "candidates", because="only the hybrid router has candidates")
        return self

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
        from noria.skills.routing.encoders import shared_encoder
        from noria.skills.routing.routers import ChatRouter, EmbeddingRouter, HybridRouter

        shown = catalogue(
            bank.routed(self.project), budget=self.catalogue_chars, per_skill=self.description_chars
        )
        if self.router == "chat" and ask is not None:
            return ChatRouter(shown, ask)
        fast = EmbeddingRouter(shown.descriptions, shared_encoder(self.encoder)).fitted(fit_on)
        if self.router == "hybrid" and ask is not None:
            return HybridRouter(fast, ChatRouter(shown, ask), k=self.candidates)
        return fast


class ModelOptions(ServerOptions):
    """The models behind proposals, answers and judgements; all by default are --model on --url."""

    proposer: Literal["templates", "chat", "gepa"] = Field(
        "templates",
        description="Who proposes: counting, the model, or GEPA for descriptions (the model for all else).",
    )
    judge_model: str | None = Field(None, description="Name of the model that judges and gives feedback.")
    final_judge_model: str | None = Field(
        None, description="Name of the blind model that decides at the gate."
    )
    budget: float | None = Field(
        None, ge=0, description="Most that all requests may cost, in the prices' currency."
    )
    budget_tokens: int | None = Field(None, ge=1, description="Most tokens of all requests.")

    @model_validator(mode="after")
    def _has_models(self) -> ModelOptions:
        if self.url is None and self.model is None:
            asked = ("budget", "budget_tokens", "judge_model", "final_judge_model")
            refuse_given(self, *asked, because="no model is asked", mend="give --url and --model, too")
        return self

    @cached_property
    def _tokens(self) -> TokenBudget | None:
        """One budget of tokens for all models of a command."""
        from noria.skills.asking import TokenBudget

        return None if self.budget_tokens is None else TokenBudget(self.budget_tokens)

    @cached_property
    def _money(self) -> Budget | None:
        """One budget for all models of a command."""
        from noria.core.chat import Budget

        return None if self.budget is None else Budget(self.budget)

    def asker(self, folder: Path, model: str | None = None) -> Asker | None:
        """Sends requests, with the bank's cache; None without a server.

        Raises:
            ConfigError: the settings of the server are malformed.
        """
        from noria.core.chat import ChatCache
        from noria.skills.asking import server_asker, within_tokens

        if self.url is None and self.model is None:
            return None
        server = self.server()
        if model is not None:
            server = server.model_copy(update={"model": model})
        ask = server_asker(server, cache=ChatCache(folder / ".noria" / "cache"), budget=self._money)
        return within_tokens(ask, self._tokens)

    def proposing(self, folder: Path, make_router: RouterMaker | None = None) -> Proposer:
        """The proposer of the options; GEPA where there is a router that scores its descriptions, the model elsewhere.

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
        """Judge of the feedback, and the blind one of the gate; None for one that is not named.

        Raises:
            ConfigError: one model would be both.
        """
        from noria.skills.judging.judges import ChatBodyJudge

        if self.judge_model is not None and self.final_judge_model == self.judge_model:
            raise ConfigError(
                "the judge of the gate gave the feedback",
                where="--final-judge-model",
                mend="name another model",
            )
        feedback, final = (
            None
            if name is None or (ask := self.asker(folder, name)) is None
            else ChatBodyJudge(ask, rubric, name=name, blind=blind)
            for name, blind in ((self.judge_model, False), (self.final_judge_model, True))
        )
        return feedback, final
