"""Prompts and responses of questions, as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from noria.core.models.loading import LanguageModel
from noria.core.progress import Progress
from noria.credit.responses.rollout import end_and_pad, sample
from noria.credit.tasks.questions import Question, prompt_ids

__all__ = ["prompts_and_responses"]

_BATCH = 32


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
        policy: language model that writes responses, greedily.
        questions: questions to answer.
        max_new_tokens: most tokens of a response that the policy writes.
        own: whether a question's own response is taken where it has one.
        progress: display of the number of responses written.
    """
    tokenizer = policy.tokenizer
    prompts = [prompt_ids(question, tokenizer) for question in questions]
    responses: list[list[int]] = [
        list(tokenizer(q.solution, add_special_tokens=False)["input_ids"]) if own and q.given else []
        for q in questions
    ]
    missing = [n for n, ids in enumerate(responses) if not ids]
    eos, pad = end_and_pad(tokenizer)
    task = progress.task("answer", len(missing))
    for start in range(0, len(missing), _BATCH):
        part = missing[start : start + _BATCH]
        batch = [prompts[n] for n in part]
        rollouts = sample(policy.model, batch, new=max_new_tokens, temperature=0.0, eos=eos, pad=pad)
        for n, rollout in zip(part, rollouts, strict=True):
            responses[n] = rollout.tokens
        task.advance(len(part))
    if missing:
        task.done()
    return prompts, responses
