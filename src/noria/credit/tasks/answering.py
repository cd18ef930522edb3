"""Prompts and responses of questions, as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from noria.core.models.loading import LanguageModel
from noria.core.progress import Progress
from noria.credit.responses.rollout import sample
from noria.credit.tasks.questions import Question, prompt_ids

__all__ = ["prompts_and_responses"]

_TOGETHER = 32  # responses written together


def prompts_and_responses(
    policy: LanguageModel,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    own: bool,
    progress: Progress,
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of each question's prompt and response.

    Args:
        policy: writes responses, greedily.
        questions: those that are answered.
        max_new_tokens: most tokens of a response that the policy writes.
        own: take a question's own response where it has one.
        progress: shows how many are written.
    """
    tokenizer, model = policy.tokenizer, policy.model
    prompts = [prompt_ids(question, tokenizer) for question in questions]
    responses: list[list[int]] = [
        list(tokenizer(q.solution, add_special_tokens=False)["input_ids"]) if own and q.given else []
        for q in questions
    ]
    missing = [n for n, ids in enumerate(responses) if not ids]
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    task = progress.task("answer", len(missing))
    for start in range(0, len(missing), _TOGETHER):
        part = missing[start : start + _TOGETHER]
        rollouts = sample(
            model,
            [prompts[n] for n in part],
            new=max_new_tokens,
            temperature=0.0,
            eos=[] if eos is None else [int(eos)],
            pad=int(pad if pad is not None else eos or 0),
        )
        for n, rollout in zip(part, rollouts, strict=True):
            responses[n] = rollout.tokens
        task.advance(len(part))
    if missing:
        task.done()
    return prompts, responses
