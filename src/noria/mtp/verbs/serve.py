"""`noria mtp serve`: a model that drafts with its heads, as an OpenAI-compatible server."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from noria.core.config import Option
from noria.mtp.config import SamplingOptions, SourceOptions, refuse_unused
from noria.mtp.types import MAX_GAMMA, Rule
from noria.verbs.command import command as make_command
from noria.verbs.options import ListenOptions


class ServeConfig(SourceOptions, SamplingOptions, ListenOptions):
    """Settings of `noria mtp serve`."""

    name: Annotated[str, Option("--as", metavar="NAME")] = Field(
        "mtp", min_length=1, description="Name of the model that the service answers to."
    )
    gamma: int = Field(3, ge=0, le=MAX_GAMMA, description="Drafts of a round; 0 decodes without.")
    rule: Rule = Field("rejection", description="Rule by which drafts are verified.")
    max_new_tokens: int = Field(512, ge=1, description="Most tokens of an answer.")
    batch_size: int = Field(16, ge=1, le=1024, description="Requests that are decoded together.")
    waiting: int = Field(256, ge=1, le=65_536, description="Requests that may wait; more are answered 429.")
    seconds: float = Field(300.0, gt=0, le=86_400, description="Most seconds of a request.")


@make_command(ServeConfig, extra="mtp", needs=("torch", "transformers"))
def command(config: ServeConfig) -> None:
    """Serve /v1/chat/completions: what the drafts met stands in each answer's usage and on /metrics.

    It is the reference for tests and small models; for large ones use vLLM or SGLang, see export.
    """
    if not config.gamma:
        refuse_unused(config, ("rule",), "without drafts (--gamma 0)")

    from noria.core.service.hosting import serve_routes
    from noria.core.service.serving import Limits
    from noria.mtp.decoding.decoder import Decoder
    from noria.mtp.decoding.drafter import HeadDrafter
    from noria.mtp.heads.loading import open_policy
    from noria.mtp.service.service import DraftingService

    source = open_policy(config, head=bool(config.gamma))
    source.check_gamma(config.gamma)
    drafter = None if source.head is None else HeadDrafter(source.head)
    policy = source.policy
    decoder = Decoder(policy.model, drafter, gamma=config.gamma or 1, rule=config.rule, vocab=policy.vocab)
    drafting = DraftingService(
        decoder, policy.tokenizer, config.name,
        params=source.sampling_params(config), longest=config.max_new_tokens,
        batch_size=config.batch_size, waiting=config.waiting, seconds=config.seconds,
    )  # fmt: skip
    limits = Limits(seconds=config.seconds)
    serve_routes("mtp", drafting.routes(), config, limits=limits, around=drafting.around)
