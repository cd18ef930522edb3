"""What is checked before a planner trains: that it sees its picture, and that the editor stays as it was."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from PIL import Image as Pictures

from noria.core.errors import CheckError, ModelError
from noria.editing.planner.policy import Policy, Request

LEAST_DIFFERENCE = 1e-5
"""Least change of a log-probability that another picture makes in a policy that sees; rounding is below it."""


def check_sees(policy: Policy, request: Request) -> float:
    """Check that the policy sees its picture on the training path: another picture gives other log-probabilities.

    Returns:
        Largest difference of the log-probabilities of one output under the picture and under its negative.

    Raises:
        ModelError: there is none.
    """
    negative = tuple(
        Pictures.eval(image.convert("RGB"), lambda level: 255 - level) for image in request.images
    )
    prompts = policy.encode([request, Request(negative, request.instruction)])
    ids, mask = policy.target(["<think> what is here </think> <answer> a plan </answer>"] * 2)
    with torch.no_grad():
        logprobs, _ = policy.logprobs(prompts, ids, mask)
    difference = float((logprobs[0] - logprobs[1]).abs().max())
    if not difference > LEAST_DIFFERENCE:
        raise ModelError(
            f"two pictures with one text give log-probabilities that differ by {difference:.1e}: it does not see",
            where="planner",
            mend="see that its chat template has a place for the picture, and that its vision tower is loaded",
        )
    return difference


def editor_digest(editor: Any) -> str | None:
    """SHA-256 of all that an editor in this process renders with; None for a server, whose weights are elsewhere."""
    own = getattr(editor, "digest", None)
    if isinstance(own, str):
        return own
    pipeline = getattr(editor, "pipeline", None)
    if pipeline is None:
        return None
    parts = getattr(pipeline, "components", None) or {"pipeline": pipeline}
    digest = hashlib.sha256()
    for name, module in sorted(parts.items()):
        if isinstance(module, torch.nn.Module):
            for key, tensor in sorted(module.state_dict().items()):
                raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(f"{name}.{key}{list(tensor.shape)}".encode() + raw.numpy().tobytes())
    return digest.hexdigest()


def check_frozen(before: str | None, after: str | None) -> None:
    """Check that an editor is the one that it was.

    Raises:
        CheckError: it changed.
    """
    if before != after:
        raise CheckError("the editor changed during the training", where=f"{before} became {after}")
