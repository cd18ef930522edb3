"""Planners on chat servers, and the text that every planner is asked with."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image as Picture

from noria.core.chat import Answer, ChatModel, ChatRequest, Image as ImagePart, Message, Refusal, system, user
from noria.core.chat.reasoning import bare_text
from noria.core.errors import ModelError
from noria.core.picture_files import png
from noria.editing.plans import format_output

PLANNER_INSTRUCTION = """\
You plan edits for an image editor that renders exactly what it is told and works nothing out by itself. You see the \
picture to edit (the first one) and a request. The request may name an event, a rule or a puzzle without saying what \
comes of it.

Think first. Say what in the picture matters for the request; work out the result of the event, the cause, the change \
of place or the rule; list what must change and what must stay as it is.

Then write the plan: at most 120 words, complete by itself. Name things by what can be seen of them. Give end states \
that can be painted: colours, counts, poses, places, the exact letters of any text. Say what stays unchanged. No \
alternatives, no talk about the task.

Reply in this form and with nothing around it:
<think>your reasoning</think><answer>the plan</answer>"""
"""System message of a planner [RECONSTRUCTED: the paper's own wording is not public]."""


def planner_messages(
    images: Sequence[Picture], instruction: str, *, notes: str = "", system_text: str = PLANNER_INSTRUCTION
) -> tuple[Message, ...]:
    """Messages that ask a planner for one output.

    Args:
        images: pictures of the request; the first is the one that is edited.
        instruction: what the user asks for, in any language.
        notes: what an earlier try got wrong.
        system_text: system message.
    """
    text = f"Request: {instruction}"
    if notes:
        text += f"\n\nAn earlier plan was rendered and checked. What was not right then:\n{notes}"
    return system(system_text), user(*(ImagePart(png(image)) for image in images), text)


class ChatPlanner:
    """A planner that is a vision-language model on a chat server.

    Args:
        model: chat model.
        name: name of the planner.
        temperature: temperature of the draws; the first draw of a seeded server repeats.
        max_tokens: most tokens of an output.
        system_text: system message.
    """

    def __init__(
        self,
        model: ChatModel,
        name: str,
        *,
        temperature: float = 0.7,
        max_tokens: int = 2048,
        system_text: str = PLANNER_INSTRUCTION,
    ) -> None:
        self.model, self.name = model, name
        self.temperature, self.max_tokens, self.system_text = temperature, max_tokens, system_text

    async def write(
        self, images: Sequence[Picture], instruction: str, *, sample: int = 0, notes: str = ""
    ) -> str:
        """Ask the model once. Reasoning that the server returns apart is put back in front of the answer.

        Raises:
            ModelError: the model refused, or did not answer.
        """
        request = ChatRequest(
            planner_messages(images, instruction, notes=notes, system_text=self.system_text),
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=sample,
            sample=sample,
        )
        outcome = await self.model.ask(request)
        if isinstance(outcome, Refusal):
            raise ModelError(f"the planner refused: {outcome.text[:200]}", where=self.name)
        if not isinstance(outcome, Answer):
            raise ModelError(f"{outcome.kind}: {outcome.message}", where=self.name)
        if outcome.reasoning and "</think>" not in outcome.text:
            return f"<think>{outcome.reasoning}</think>{outcome.text}"
        return outcome.text


REWRITER_INSTRUCTION = """\
Rewrite the request for an image editor so that it is clear, complete and easy to follow. Do not see a picture into \
it that you were not shown. Reply with the rewritten request and nothing else."""


class Rewriter:
    """A prompt rewriter: the model rewrites the request without seeing the picture and without a reasoning contract.

    It is the rival that asks what of a planner's gain is mere wording.

    Args:
        model: chat model.
        name: name of the model.
        max_tokens: most tokens of the rewritten request.
    """

    def __init__(self, model: ChatModel, name: str, *, max_tokens: int = 512) -> None:
        self.model, self.name, self.max_tokens = model, f"rewriter {name}", max_tokens

    async def write(
        self, images: Sequence[Picture], instruction: str, *, sample: int = 0, notes: str = ""
    ) -> str:
        """Ask the model once; its text is the plan.

        Raises:
            ModelError: the model refused, or did not answer.
        """
        messages = (system(REWRITER_INSTRUCTION), user(f"Request: {instruction}"))
        outcome = await self.model.ask(
            ChatRequest(messages, temperature=0.0, max_tokens=self.max_tokens, seed=sample, sample=sample)
        )
        if not isinstance(outcome, Answer):
            what = "refused" if isinstance(outcome, Refusal) else f"{outcome.kind}: {outcome.message}"
            raise ModelError(what, where=self.name)
        return format_output("", bare_text(outcome.text))


class DirectPlanner:
    """No planner: the instruction itself is the plan. The arm that every planner is compared with."""

    name = "no planner"

    async def write(
        self, images: Sequence[Picture], instruction: str, *, sample: int = 0, notes: str = ""
    ) -> str:
        """The instruction as an output."""
        return f"<think></think><answer>{instruction}</answer>"
