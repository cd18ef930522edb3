"""Requests for images, made or edited, and their answers; as forms with files or as JSON with `data:` URLs."""

from __future__ import annotations

import base64
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from noria.core.chat.messages import Image
from noria.core.chat.wire import data_url
from noria.core.errors import DataError, needing
from noria.core.service.responses import HttpError, read_json
from noria.core.service.serving import Request

with needing("serve"):
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException

MOST_IMAGES = 16
"""Most images that a request may send, and most that it may ask for."""
MOST_WORDS = 32_000
"""Most characters of a prompt, as OpenAI has it."""
_READ = frozenset(
    {"model", "prompt", "image", "image[]", "images", "mask", "n", "size", "seed", "response_format"}
)

_IGNORED = frozenset({"user", "moderation"})
"""Fields of OpenAI's clients that ask for nothing of the picture."""
_SERVED: Mapping[str, tuple[Any, ...]] = {
    "output_format": ("png",),
    "background": ("auto", "opaque"),
    "quality": ("auto", "standard"),
    "output_compression": (100,),
}
"""Values that say what is served anyway."""


@dataclass(frozen=True)
class ImageRequest:
    """A request for images.

    Attributes:
        prompt: description of the pictures, or of the change to a given picture.
        model: name of the model; empty where the request has none.
        images: images that are edited; empty where images are made.
        mask: image whose transparent places may change; None for all of it.
        n: number of images.
        size: width and height in pixels; None where the server chooses.
        seed: seed of the random generator; None where the server chooses.
        extra: further fields, as they came.
    """

    prompt: str
    model: str = ""
    images: tuple[Image, ...] = ()
    mask: Image | None = None
    n: int = 1
    size: tuple[int, int] | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


async def read_generation(request: Request) -> ImageRequest:
    """Read the body of `/v1/images/generations`.

    Raises:
        HttpError: 400, it is none of the protocol's.
    """
    fields = read_json(await request.body())
    if not isinstance(fields, dict):
        raise HttpError(400, "bad_json", "the body is not a JSON object")
    return _request({name: value for name, value in fields.items() if value is not None}, (), None)


async def read_edit(request: Request) -> ImageRequest:
    """Read the body of `/v1/images/edits`: a form with files, or JSON whose images are `data:` URLs.

    Raises:
        HttpError: 400, it is none of the protocol's, or has no image.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        fields, images, mask = await _form(request)
    else:
        fields = read_json(await request.body())
        if not isinstance(fields, dict):
            raise HttpError(400, "bad_json", "the body is not a JSON object")
        fields = {name: value for name, value in fields.items() if value is not None}
        given = fields.get("image", fields.get("images", []))
        images = [_url_bytes(one) for one in (given if isinstance(given, list) else [given])]
        mask = _url_bytes(fields["mask"]) if "mask" in fields else None
    if not images:
        raise HttpError(400, "no_image", "there is no image to edit", param="image")
    if len(images) > MOST_IMAGES:
        raise HttpError(
            400, "too_many_images", f"at most {MOST_IMAGES} images are edited at once", param="image"
        )
    pictures = tuple(_image(content, "image") for content in images)
    return _request(fields, pictures, None if mask is None else _image(mask, "mask"))


def refuse_fields(asked: ImageRequest, *, honoured: Collection[str] = ()) -> None:
    """Refuse further fields of a request that its server does not honour, unless they say what is served anyway.

    Args:
        asked: the request.
        honoured: names of further fields that the server honours.

    Raises:
        HttpError: 400, there is one.
    """
    for name in sorted(asked.extra.keys() - _IGNORED - frozenset(honoured)):
        served = _SERVED.get(name, ())
        if asked.extra[name] not in served:
            only = f"; leave it out, or send {served[0]!r}" if served else ""
            raise HttpError(400, "unsupported_field", f"{name} is not honoured here{only}", param=name)


def images_answer(
    images: Sequence[bytes], *, more: Mapping[str, Any] | None = None, each: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Write the answer of both routes: images in base64.

    Args:
        images: files of the images.
        more: further fields of the answer, such as its usage.
        each: further fields of each image, such as its `revised_prompt`.
    """
    data: list[dict[str, Any]] = [{"b64_json": base64.b64encode(content).decode()} for content in images]
    for one, fields in zip(data, each, strict=False):
        one |= dict(fields)
    return {"created": int(time.time()), "data": data} | dict(more or {})


async def _form(request: Request) -> tuple[dict[str, Any], list[bytes], bytes | None]:
    """Fields and files of a form."""
    fields: dict[str, Any] = {}
    images: list[bytes] = []
    mask = None
    try:
        form = await request.form(max_files=MOST_IMAGES + 1, max_fields=64, max_part_size=1 << 20)
    except HTTPException as error:
        raise HttpError(400, "bad_form", error.detail) from None
    async with _closing(form):
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields[name] = value
            elif name in ("image", "image[]"):
                images.append(await value.read())
            elif name == "mask":
                mask = await value.read()
            else:
                raise HttpError(400, "bad_form", "a file is an image or a mask", param=name[:80])
    for name in ("n", "seed"):
        if name in fields:
            try:
                fields[name] = int(fields[name])
            except ValueError:
                raise HttpError(400, "bad_form", f"{name} is a whole number", param=name) from None
    return fields, images, mask


class _closing:
    """Closes the temporary files of a form."""

    def __init__(self, form: Any) -> None:
        self.form = form

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        await self.form.close()


def _url_bytes(value: Any) -> bytes:
    url = value.get("image_url", value.get("url")) if isinstance(value, dict) else value
    try:
        return data_url(url)[1]
    except DataError as error:
        raise HttpError(400, "bad_image", error.what, param="image") from None


def _image(content: bytes, name: Literal["image", "mask"]) -> Image:
    try:
        return Image(content)
    except DataError as error:
        raise HttpError(400, "bad_image", error.what, param=name) from None


def _is_side(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 5 and 0 < int(text) <= 8192


def _request(fields: Mapping[str, Any], images: tuple[Image, ...], mask: Image | None) -> ImageRequest:
    def check(right: bool, name: str, what: str) -> None:
        if not right:
            raise HttpError(400, f"bad_{name}", f"{name} is {what}", param=name)

    prompt, model, n = fields.get("prompt"), fields.get("model", ""), fields.get("n", 1)
    check(isinstance(prompt, str) and 0 < len(prompt) <= MOST_WORDS, "prompt", "a text")
    check(isinstance(model, str), "model", "a name")
    check(type(n) is int and 1 <= n <= MOST_IMAGES, "n", f"a whole number from 1 to {MOST_IMAGES}")
    check(fields.get("response_format", "b64_json") == "b64_json", "response_format", "b64_json here")
    seed = fields.get("seed")
    check(seed is None or (type(seed) is int and 0 <= seed < 2**63), "seed", "a whole number")
    size, given = None, fields.get("size", "auto")
    if given != "auto":
        numbers = given.split("x") if isinstance(given, str) else []
        check(len(numbers) == 2 and all(map(_is_side, numbers)), "size",
              "WIDTHxHEIGHT in pixels, up to 8192 each")  # fmt: skip
        size = (int(numbers[0]), int(numbers[1]))
    extra = {name: value for name, value in fields.items() if name not in _READ}
    return ImageRequest(str(prompt), model, images, mask, n, size, seed, extra)
