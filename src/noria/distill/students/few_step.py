"""Makes an exported student's own steps and guidance the defaults of its diffusers pipeline.

A stock diffusers pipeline cannot be told its defaults: Stable Diffusion 3's 28 steps at guidance 7 are written in
the signature of its call, and no config reaches them. An export therefore is a stock folder, which every diffusers
opens, with the σ grid and the call's settings recorded in its scheduler's config; what reads that record is one of

* :func:`register`, after which the plain call `pipe(prompt)` of every pipeline of the four families runs the exported
  grid, whichever way and whenever it was made;
* `pipeline.py` in the folder, the same written out, for who has no Noria:
  `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)`;
* the person: the model card spells out the call that a stock pipeline needs.

Without any of the three, a stock `pipe(prompt)` runs the family's usual many guided steps, which a student is not
made for. So does another pipeline that is given the student's parts (image to image, a ControlNet), whose call has
other arguments: there :func:`register` warns.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from noria.core.errors import require

RECORD = "_few_step"
"""Key of the record in the scheduler's config. diffusers keeps underscored keys and passes them over in silence."""

FAMILIES = ("StableDiffusion3Pipeline", "LongCatImagePipeline", "FluxPipeline", "QwenImagePipeline")


def student_arguments(pipeline: Any, call: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments of a pipeline's call, missing ones filled from the record in its scheduler's config.

    What the caller gives, wins. A different `num_inference_steps` gets that many evenly spaced pre-shift σ from 1
    down. Without a record the arguments stay as they are.
    """
    given = dict(inspect.signature(call).bind_partial(*args, **kwargs).arguments)
    record = pipeline.scheduler.config.get("_few_step")
    if record:
        if given.get("sigmas") is None:
            grid = list(record["sigmas"])
            steps = given.get("num_inference_steps") or len(grid)
            given["sigmas"] = grid if steps == len(grid) else [1 - i / steps for i in range(steps)]
        given["num_inference_steps"] = len(given["sigmas"])
        for name, value in record["call"].items():
            given.setdefault(name, value)
    return given


def register() -> None:
    """Let diffusers' pipelines honour the record of an exported student.

    The calls of the four supported classes are replaced in place, so it reaches `DiffusionPipeline`,
    `AutoPipelineForText2Image`, a class that was imported before, a pipeline that was made before, and subclasses.
    They differ only where there is a record: teachers and all other models behave as before. Another pipeline that
    asks a student's scheduler for another number of steps than the student's own gets a warning. Calling it again
    changes nothing.
    """
    diffusers = require("diffusers", "distill")
    for name in FAMILIES:
        pipeline = getattr(diffusers, name, None)
        if pipeline is not None:
            _replace(pipeline, "__call__", _few_step_call)
    _replace(diffusers.FlowMatchEulerDiscreteScheduler, "set_timesteps", _warning_set_timesteps)


def _replace(owner: type, name: str, wrapper: Callable[[Any], Any]) -> None:
    """Wrap a method in place, once."""
    stock = getattr(owner, name)
    if not getattr(stock, RECORD, False):
        wrapped = functools.wraps(stock)(wrapper(stock))
        setattr(wrapped, RECORD, True)
        setattr(owner, name, wrapped)


def _few_step_call(stock: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return stock(self, **student_arguments(self, functools.partial(stock, self), args, kwargs))

    return call


def _warning_set_timesteps(stock: Callable[..., Any]) -> Callable[..., Any]:
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(stock).bind_partial(self, *args, **kwargs).arguments
        record = self.config.get(RECORD)
        own = len(record["sigmas"]) if record else None
        chosen = given.get("sigmas") is not None or given.get("timesteps") is not None
        if record and not chosen and given.get("num_inference_steps") != own:
            warnings.warn(
                f"this is a few-step student, and its own defaults do not reach this pipeline, which asks for "
                f"{given.get('num_inference_steps')} steps; call it with num_inference_steps={own} and without "
                f"guidance ({record['call']})",
                stacklevel=2,
            )
        return stock(self, *args, **kwargs)

    return set_timesteps


def pipeline_source(name: str) -> str:
    """A `pipeline.py` that gives the pipeline class `name` its recorded defaults with diffusers alone."""
    return (
        '"""Few-step defaults for this folder\'s pipeline. Needs diffusers only; read it before you trust it."""\n\n'
        "import inspect\nfrom typing import Any\n\n"
        f"import diffusers\n\n\n{inspect.getsource(student_arguments)}\n\n"
        f'class {name}(diffusers.{name}):\n    """`diffusers.{name}` with the recorded defaults."""\n\n'
        "    def __call__(self, *args: Any, **kwargs: Any) -> Any:\n"
        '        """The pipeline\'s call, with the student\'s defaults."""\n'
        "        call = super().__call__\n"
        "        return call(**student_arguments(self, call, args, kwargs))\n"
    )
