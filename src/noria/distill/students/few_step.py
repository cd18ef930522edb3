"""Makes an exported student's own steps and guidance the defaults of its diffusers pipeline.

A stock diffusers pipeline cannot be told its defaults: Stable Diffusion 3's 28 steps at guidance 7 are written in
the signature of its call, and no config reaches them. An export therefore is a stock folder, which every diffusers
opens, with the σ grid and the call's settings recorded in its scheduler's config; what reads that record is one of

* :func:`register`, after which `DiffusionPipeline.from_pretrained(folder)` returns a pipeline whose plain call
  `pipe(prompt)` runs the exported grid;
* `pipeline.py` in the folder, the same class written out, for who has no Noria:
  `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)`;
* the person: the model card spells out the call that a stock pipeline needs.

Without any of the three, a stock `pipe(prompt)` runs the family's usual many guided steps, which a student is not
made for.
"""

from __future__ import annotations

import inspect
from typing import Any

from noria.core.errors import require

__all__ = ["RECORD", "FewStep", "pipeline_source", "register"]

RECORD = "_few_step"
"""Key of the record in the scheduler's config. diffusers keeps underscored keys and passes them over in silence."""

FAMILIES = ("StableDiffusion3Pipeline", "LongCatImagePipeline", "FluxPipeline", "QwenImagePipeline")


class FewStep:
    """Fills a call's missing arguments from the record in the scheduler's config; mix in before a pipeline class.

    What the caller gives, wins. A different `num_inference_steps` gets that many evenly spaced pre-shift σ from 1
    down.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's call, with the student's defaults."""
        call: Any = super().__call__  # type: ignore[misc]
        record = self.scheduler.config.get("_few_step")  # type: ignore[attr-defined]
        if record:
            kwargs = dict(inspect.signature(call).bind_partial(*args, **kwargs).arguments)
            args = ()
            if kwargs.get("sigmas") is None:
                grid = list(record["sigmas"])
                steps = kwargs.get("num_inference_steps", len(grid))
                kwargs["sigmas"] = grid if steps == len(grid) else [1 - i / steps for i in range(steps)]
            kwargs["num_inference_steps"] = len(kwargs["sigmas"])
            for name, value in record["call"].items():
                kwargs.setdefault(name, value)
        return call(*args, **kwargs)


def register() -> None:
    """Let diffusers' pipeline classes honour the record of an exported student.

    Each supported class in the `diffusers` namespace is replaced by a subclass of the same name that differs only
    where there is a record, so that teachers and all other models behave as before. Calling it again changes
    nothing.
    """
    diffusers = require("diffusers", "distill")
    for name in FAMILIES:
        stock = getattr(diffusers, name, None)
        if stock is not None and not issubclass(stock, FewStep):
            setattr(diffusers, name, type(name, (FewStep, stock), {"__module__": stock.__module__}))


def pipeline_source(name: str) -> str:
    """A `pipeline.py` that gives the pipeline class `name` its recorded defaults with diffusers alone."""
    return (
        '"""Few-step defaults for this folder\'s pipeline. Needs diffusers only; read it before you trust it."""\n\n'
        "import inspect\nfrom typing import Any\n\n"
        f"import diffusers\n\n\n{inspect.getsource(FewStep)}\n\n"
        f'class {name}(FewStep, diffusers.{name}):\n    """`diffusers.{name}` with the recorded defaults."""\n'
    )
