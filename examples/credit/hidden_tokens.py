"""Hide the fifth of a solution's tokens that a score calls important, and count the answers that change.

The model is the small reasoner that ships; it needs the extra `credit` only, and takes under a minute on one CPU core.
"""

from __future__ import annotations

from noria.credit.config import MaskSettings, named_credit
from noria.credit.inspection.masking import answered_responses, mask_test
from noria.credit.responses.rollout import end_and_pad, sample
from noria.credit.tasks.chains import CHAIN_ANSWER, chains
from noria.credit.tasks.questions import prompt_ids
from noria.credit.tasks.small import small_model


def main() -> None:
    """Compare flow, attention and entropy with random tokens on 64 questions."""
    model, tokenizer = small_model()
    questions = chains(64, seed=1)
    prompts = [prompt_ids(question, tokenizer) for question in questions]
    eos, pad = end_and_pad(tokenizer)
    rollouts = sample(model, prompts, new=160, temperature=0.0, eos=eos, pad=pad)
    responses = [rollout.tokens for rollout in rollouts]
    answered, _ = answered_responses(questions, prompts, responses, tokenizer, CHAIN_ANSWER)
    credits = {name: named_credit(name) for name in ("flow", "attention", "entropy")}
    result = mask_test(model, tokenizer, answered, credits, MaskSettings(answer=CHAIN_ANSWER))
    for row in result.rows:
        changed = sum(row.changed) / len(row.changed)
        print(f"{row.name:9} {row.end:6} {changed:4.0%} of the answers change")


if __name__ == "__main__":
    main()
