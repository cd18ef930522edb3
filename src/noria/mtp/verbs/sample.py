"""`noria mtp sample`: the policy's own text, to train and score a head on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.core.files import output_path
from noria.core.progress import Progress
from noria.core.runs.outputs import run_folder
from noria.mtp.config import SampleConfig, SamplingOptions, SourceOptions, refuse_unused
from noria.mtp.types import MAX_GAMMA, Rule
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.mtp.decoding.sample_files import SampleResult


class SampleJobConfig(SampleConfig, SamplingOptions, SourceOptions, OutputOption, QuietOption):
    """Settings of `noria mtp sample`."""

    prompts: Annotated[Path, Option(metavar="FILE")] = Field(
        description="Prompts or chats: .jsonl or .parquet."
    )
    gamma: int = Field(0, ge=0, le=MAX_GAMMA, description="Drafts of a round; 0 decodes without.")
    rule: Rule = Field("rejection", description="Rule by which drafts are verified.")
    output: Annotated[str | None, Option("-o", metavar="FILE", was=("--out",))] = Field(
        None, description="The .jsonl file to write (default: runs/mtp/samples-MODEL.jsonl)."
    )


@make_command(SampleJobConfig, extra="mtp", needs=("torch", "transformers"))
def command(config: SampleJobConfig) -> None:
    """Write the policy's own completions of prompts; the same command resumes a job that was stopped."""
    result = run(config, Progress(quiet=config.quiet))
    click.echo(f"samples  {result.path}   {result.samples:,} completions")
    if result.invalid:
        click.echo(f"warning  {result.invalid:,} ended early: the model's logits were not finite there")
    click.echo(f"next     noria mtp train --model {config.model or config.source} --data {result.path}")


def run(config: SampleJobConfig, progress: Progress) -> SampleResult:
    """Write completions of prompts to a file.

    Raises:
        NoriaError: anything that a user can mend.
    """
    if not config.gamma:
        refuse_unused(config, ("rule",), "without drafts (--gamma)")
    label = f"samples-{Path(config.source).stem or 'model'}.jsonl"
    path = run_folder("mtp", None, label) if config.output is None else output_path(config.output)
    if path.suffix != ".jsonl":
        raise ConfigError("the name does not end in .jsonl", where="--output", mend="write samples.jsonl")

    from noria.mtp.decoding.decoder import Decoder
    from noria.mtp.decoding.drafter import HeadDrafter
    from noria.mtp.decoding.sample_files import read_prompts, sample_to_file
    from noria.mtp.heads.loading import open_policy

    source = open_policy(config, head=bool(config.gamma))
    source.check_gamma(config.gamma)
    policy = source.policy
    prompts = read_prompts(config.prompts, policy.tokenizer)
    if getattr(policy.tokenizer, "chat_template", None) and any(prompt.plain for prompt in prompts):
        progress.say(
            "note: the model has a chat template, and plain prompts do not go through it; give chats as `messages` "
            "if the policy is trained and served with it"
        )
    drafter = None if source.head is None else HeadDrafter(source.head)
    decoder = Decoder(policy.model, drafter, gamma=config.gamma or 1, rule=config.rule, vocab=policy.vocab)
    params = source.sampling_params(config)
    return sample_to_file(decoder, policy.tokenizer, prompts, path, config, params=params, progress=progress)
