"""A vision-language model as a policy: requests of pictures and text in, log-probabilities and samples out.

It holds Qwen3-VL and Qwen2.5-VL models alike, from a plain Hugging Face folder. Axes: P prompt tokens, left-padded; T
tokens of a completion, right-padded; the picture's tokens are among P.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noria.core.errors import ModelError
from noria.editing.use.planners import PLANNER_INSTRUCTION

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT = 4096
"""Requests whose tokens and patches are kept, since a training comes back to them."""


@dataclass(frozen=True)
class Request:
    """A request to a planner: pictures, the first of which is edited, and an instruction."""

    images: tuple[Image, ...]
    instruction: str


@dataclass(frozen=True)
class Encoded:
    """Requests as the model reads them.

    Attributes:
        ids: [rows, P] tokens, left-padded.
        mask: [rows, P] 1 where there is a token.
        pixels: [patches, values] patches of all pictures, row after row.
        grids: [pictures, 3] patches of each picture in time, height and width.
        pictures: pictures of each row.
    """

    ids: Tensor
    mask: Tensor
    pixels: Tensor
    grids: Tensor
    pictures: tuple[int, ...]

    def to(self, device: torch.device) -> Encoded:
        """Copy the batch to a device."""
        ids, mask, pixels, grids = (t.to(device) for t in (self.ids, self.mask, self.pixels, self.grids))
        return Encoded(ids, mask, pixels, grids, self.pictures)

    def repeated(self, times: int) -> Encoded:
        """Each row, with its pictures, `times` in sequence."""
        rows = [row for row in range(len(self.ids)) for _ in range(times)]
        return self.rows(rows)

    def rows(self, rows: Sequence[int]) -> Encoded:
        """These rows, in this order, with their pictures."""
        firsts = [sum(self.pictures[:row]) for row in range(len(self.pictures))]
        chosen = [firsts[row] + n for row in rows for n in range(self.pictures[row])]
        sizes = self.grids.prod(1).tolist()
        patches = torch.split(self.pixels, sizes)
        index = torch.tensor(list(rows), device=self.ids.device)
        return Encoded(
            self.ids[index],
            self.mask[index],
            torch.cat([patches[n] for n in chosen]),
            self.grids[torch.tensor(chosen, device=self.grids.device)],
            tuple(self.pictures[row] for row in rows),
        )


@dataclass(frozen=True)
class Sampled:
    """Completions that a policy drew.

    Attributes:
        ids: [rows, T] tokens, the end token included; padding after it.
        mask: [rows, T] 1 where the policy wrote the token.
        logprobs: [rows, T] log-probabilities at the temperature of the draw; 0 in the padding.
        texts: completions as text, without special tokens.
    """

    ids: Tensor
    mask: Tensor
    logprobs: Tensor
    texts: tuple[str, ...]


class Policy:
    """A model, its tokenizer and its way to read pictures.

    Args:
        model: conditional-generation model, Qwen3-VL or Qwen2.5-VL.
        tokenizer: tokenizer of the model, with a chat template.
        processor: image processor of the model.
        system_text: system message of every request.
    """

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, *, system_text: str = PLANNER_INSTRUCTION
    ) -> None:
        self.model, self.tokenizer, self.processor = model, tokenizer, processor
        self.system_text = system_text
        self.image_token = int(model.config.image_token_id)
        self.pad = int(
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        )
        ends = getattr(model.generation_config, "eos_token_id", None)
        named = ends if isinstance(ends, list) else [ends]
        self.ends = sorted({int(end) for end in (tokenizer.eos_token_id, *named) if end is not None})
        # A picture's token inside of a completion would ask for a picture that is not there.
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        self.never = [n for name in names if (n := getattr(model.config, name, None)) is not None]
        self._read: OrderedDict[tuple[bytes, str], tuple[list[int], list[tuple[Tensor, Tensor]]]] = (
            OrderedDict()
        )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = next(self.model.parameters()).device
        return device

    # -- reading ------------------------------------------------------------------------------------------------

    def encode(self, requests: Sequence[Request]) -> Encoded:
        """Encode requests as one batch.

        Raises:
            ModelError: the chat template has not one place a picture.
        """
        read = [self._encoded(request) for request in requests]
        longest = max(len(ids) for ids, _ in read)
        ids = torch.full((len(read), longest), self.pad)
        mask = torch.zeros_like(ids)
        for row, (tokens, _) in enumerate(read):
            ids[row, longest - len(tokens) :] = torch.tensor(tokens)
            mask[row, longest - len(tokens) :] = 1
        pictures = [picture for _, found in read for picture in found]
        pixels = torch.cat([pixels for pixels, _ in pictures])
        grids = torch.stack([grid for _, grid in pictures])
        counts = tuple(len(found) for _, found in read)
        return Encoded(ids, mask, pixels, grids, counts).to(self.device)

    def _encoded(self, request: Request) -> tuple[list[int], list[tuple[Tensor, Tensor]]]:
        """Tokens of a request with its pictures' places filled, and the pictures' patches; kept for a while."""
        key = (b"".join(image.tobytes() for image in request.images), request.instruction)
        if key in self._read:
            self._read.move_to_end(key)
            return self._read[key]
        pictures = [self._picture(image) for image in request.images]
        counts = [int(grid.prod()) // self.processor.merge_size**2 for _, grid in pictures]
        plain = self.tokenizer(self._prompt(request), add_special_tokens=False)["input_ids"]
        if plain.count(self.image_token) != len(counts):
            raise ModelError(
                f"{plain.count(self.image_token)} image tokens in the prompt of {len(counts)} pictures",
                where="planner",
                mend="use the model's own chat template, and no image token in an instruction",
            )
        tokens: list[int] = []
        places = iter(counts)
        for token in plain:
            tokens += [token] * (next(places) if token == self.image_token else 1)
        self._read[key] = (tokens, pictures)
        while len(self._read) > KEPT:
            self._read.popitem(last=False)
        return tokens, pictures

    def _prompt(self, request: Request) -> str:
        content = [{"type": "image"} for _ in request.images]
        messages = [
            {"role": "system", "content": [{"type": "text", "text": self.system_text}]},
            {
                "role": "user",
                "content": [*content, {"type": "text", "text": f"Request: {request.instruction}"}],
            },
        ]
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def _picture(self, image: Image) -> tuple[Tensor, Tensor]:
        """Patches and grid of a picture."""
        read = self.processor(images=[image.convert("RGB")], return_tensors="pt")
        return read["pixel_values"], read["image_grid_thw"][0]

    def target(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens and mask [rows, T] of completions that end, right-padded."""
        end = self.tokenizer.eos_token_id
        lists = [self.tokenizer(text, add_special_tokens=False)["input_ids"] + [end] for text in texts]
        longest = max(map(len, lists))
        ids = torch.full((len(lists), longest), self.pad)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(lists):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        return ids.to(self.device), mask.to(self.device)

    # -- the model ----------------------------------------------------------------------------------------------

    def logprobs(
        self, prompts: Encoded, ids: Tensor, mask: Tensor, *, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of completions, and the entropies of their tokens, both [rows, T] in single precision.

        Args:
            prompts: requests, one a completion.
            ids, mask: [rows, T] completions.
            temperature: temperature that the policy is read at.
        """
        whole = torch.cat([prompts.ids, ids], 1)
        both = torch.cat([prompts.mask, mask], 1)
        output = self.model(
            input_ids=whole,
            attention_mask=both,
            pixel_values=prompts.pixels.to(self.model.dtype),
            image_grid_thw=prompts.grids,
            mm_token_type_ids=(whole == self.image_token).int(),
            use_cache=False,
            logits_to_keep=ids.shape[1] + 1,
        )
        scores = torch.log_softmax(self._allowed(output.logits[:, :-1]) / temperature, -1)
        entropy = -(scores.exp() * scores).sum(-1)
        return scores.gather(-1, ids[..., None])[..., 0], entropy

    def _allowed(self, logits: Tensor) -> Tensor:
        """Logits in single precision, where tokens of pictures are impossible."""
        barred = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        barred[self.never] = True
        return logits.float().masked_fill(barred, -1e9)

    @torch.no_grad()
    def sample(
        self,
        prompts: Encoded,
        *,
        each: int,
        longest: int,
        generator: torch.Generator,
        temperature: float = 1.0,
    ) -> Sampled:
        """Draw completions, `each` of every request in sequence; at temperature 0 the likeliest tokens.

        Args:
            prompts: requests.
            each: completions of each request.
            longest: most tokens of a completion.
            generator: draws the tokens.
            temperature: temperature of the draw.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            ids, mask, logprobs = self._draw(prompts, each, longest, generator, temperature)
        finally:
            self.model.train(was_training)
        texts = self.tokenizer.batch_decode(
            [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)], skip_special_tokens=True
        )
        return Sampled(ids, mask, logprobs, tuple(texts))

    def _draw(
        self, prompts: Encoded, each: int, longest: int, generator: torch.Generator, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        types = (prompts.ids == self.image_token).int()
        output = self.model(
            input_ids=prompts.ids,
            attention_mask=prompts.mask,
            pixel_values=prompts.pixels.to(self.model.dtype),
            image_grid_thw=prompts.grids,
            mm_token_type_ids=types,
            use_cache=True,
            logits_to_keep=1,
        )
        _, delta = self.model.model.get_rope_index(
            prompts.ids, mm_token_type_ids=types, image_grid_thw=prompts.grids, attention_mask=prompts.mask
        )
        cache = output.past_key_values
        cache.batch_repeat_interleave(each)
        delta, seen = delta.repeat_interleave(each, 0), prompts.mask.repeat_interleave(each, 0)
        logits = output.logits[:, -1].repeat_interleave(each, 0)
        rows = len(logits)
        alive = torch.ones(rows, dtype=torch.bool, device=self.device)
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        while True:
            token, score = _pick(self._allowed(logits), temperature, generator)
            token = torch.where(alive, token, self.pad)
            columns.append((token, alive, torch.where(alive, score, 0.0)))
            alive = alive & ~torch.isin(token, torch.tensor(self.ends, device=self.device))
            if len(columns) == longest or not alive.any():
                break
            seen = torch.cat([seen, columns[-1][1][:, None].to(seen)], 1)
            position = delta + seen.sum(1, keepdim=True) - 1  # the model counts tokens without the padding
            logits = self.model(
                input_ids=token[:, None],
                attention_mask=seen,
                past_key_values=cache,
                position_ids=position[None].expand(3, rows, 1),
                use_cache=True,
            ).logits[:, -1]
        ids, mask, scores = (torch.stack(column, 1) for column in zip(*columns, strict=True))
        return ids, mask.long(), scores


def _pick(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A token of each row by the Gumbel-max trick, and its log-probability."""
    if temperature <= 0:
        scores = torch.log_softmax(logits, -1)
        best = scores.max(-1)
        return best.indices, best.values
    scores = torch.log_softmax(logits / temperature, -1)
    noise = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp(1e-15, 1 - 1e-15)
    token = (scores - torch.log(-torch.log(noise)).to(scores)).argmax(-1)
    return token, scores.gather(-1, token[:, None])[:, 0]
