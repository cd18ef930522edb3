"""Loading of models to trace, test and train: any that the core loads, and the small ones that ship."""

from __future__ import annotations

from noria.core.models.config import ModelOptions
from noria.core.models.loading import LanguageModel, open_language_model
from noria.credit.tasks.small import SHIPPED, small_folder

__all__ = ["open_policy"]


def open_policy(name: str, options: ModelOptions) -> LanguageModel:
    """Load a model by folder, GGUF file, hub id, `small` or `small-start`.

    Raises:
        ModelError: there is no such model, or it is of another kind.
    """
    path = str(small_folder(SHIPPED[name])) if name in SHIPPED else name
    return open_language_model(path, **options.part(ModelOptions).model_dump())
