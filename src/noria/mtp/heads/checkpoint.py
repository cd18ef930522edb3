"""A head in the files of its model, under its vendor's names: what serving engines load without conversion.

Only safetensors are read. A model that gets a head is written as a new folder, which appears whole or not at all;
every tensor of the backbone is copied byte for byte.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noria.core.digests import DIGESTS, check_digests, weight_files, write_digests
from noria.core.errors import CheckpointError, ModelError
from noria.core.files import appearing, check_output
from noria.core.records import json_object
from noria.mtp.heads.backbone import decoder_of
from noria.mtp.heads.decoder_layers import as_stored, load_layer
from noria.mtp.heads.head import MTPHead
from noria.mtp.heads.layouts import LAYOUTS, PARTS, Layout, layers_in, layout_of
from noria.mtp.heads.model_files import INDEX, SINGLE, ModelFiles, open_safetensors

HEAD_FILE = "model-mtp.safetensors"
"""The shard that holds the head, in a model of several shards."""


def stored_layout(backbone: Any, folder: Path) -> Layout | None:
    """The layout of the head in a model's files, its family's own if there is one of that; None without a head.

    A GGUF file has none.

    Raises:
        ModelError: there are no safetensors weights.
        CheckpointError: an index or a file of it is missing or damaged.
    """
    if not folder.is_dir():
        return None
    own, depth = layout_of(backbone.config), backbone.config.get_text_config().num_hidden_layers
    where = ModelFiles.of(folder).where
    for layout in (own, *LAYOUTS.values()):
        if layers_in(where, layout, depth):
            return layout
    return None


def load_head(backbone: Any, folder: Path, *, layout: Layout | None = None) -> MTPHead:
    """The head in a model folder.

    Args:
        backbone: the model itself, opened from the same folder or one with the same weights.
        folder: folder of the model.
        layout: layout of the head; that of the files by default.

    Raises:
        ModelError: no weights, or no head in this layout.
        CheckpointError: a tensor is missing, of another shape or not finite: another model's head; or the folder has
            digests that Noria wrote, and a file differs from its own.
    """
    check_digests(folder)
    layout = layout or stored_layout(backbone, folder) or layout_of(backbone.config)
    depth = backbone.config.get_text_config().num_hidden_layers
    files = ModelFiles.of(folder)
    owned = [name for name in files.where if layout.owns(name, depth)]
    layers = layers_in(owned, layout, depth)
    if not layers:
        raise ModelError(
            f"no head in the {layout.name} layout",
            where=str(folder),
            mend=f"it would have tensors such as {layout.key('projection', 0, depth)}",
        )
    head = MTPHead(backbone, layout=layout, layers=layers)
    stored = files.tensors(owned)
    for number, part in enumerate(head.around):
        for name in PARTS:
            key = layout.key(name, number, depth)
            weight = getattr(part, name).weight
            _fill(weight, stored.pop(key, None), key, folder)
    for number, block in enumerate(head.blocks):
        prefix = layout.prefix(number, depth)
        load_layer(backbone, block, {k: t for k, t in stored.items() if k.startswith(prefix)}, prefix, folder)
    return head


def head_tensors(backbone: Any, head: MTPHead) -> dict[str, Tensor]:
    """A head's tensors under its vendor's names, on the CPU; the copies that the vendor's files hold are not in it.

    Raises:
        CheckpointError: a value is not finite.
    """
    layout, depth = head.layout, head.depth
    weights: dict[str, Tensor] = {}
    for number, part in enumerate(head.around):
        for name in PARTS:
            weights[layout.key(name, number, depth)] = getattr(part, name).weight
    for number, block in enumerate(head.blocks):
        weights.update(as_stored(backbone, block, layout.prefix(number, depth)))
    tensors = {key: t.detach().to("cpu").contiguous().clone() for key, t in weights.items()}
    for key, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError("values are not finite", where=key, mend="use an earlier checkpoint")
    return tensors


def save_with_head(
    backbone: Any,
    head: MTPHead,
    source: Path,
    output: Path,
    *,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model folder that holds the head: `source`, all its files, with the head instead of the one it had.

    Args:
        backbone: the model, as opened from `source`.
        head: what to write.
        source: the model's folder; not touched unless it is also `output`.
        output: a new folder, or, to `overwrite`, an earlier export or `source` itself.
        overwrite: replace what is at `output`.
        dtype: type of the head's tensors; that of the backbone's tensors of the same name in `source`, else that of its
            projections, by default.

    Returns:
        The folder.

    Raises:
        CheckpointError: the weights in `source` are not the backbone's, or the head is not finite.
        ModelError: they are quantised, which the head's would be taken for.
        RunError: `output` is there already, or the disk refuses; nothing is changed then.
    """
    source, output = source.expanduser().absolute(), output.expanduser().absolute()
    check_output(output, source, overwrite=overwrite, marks=("config.json",), in_place=True)
    files = ModelFiles.of(source)
    _check_backbone(backbone, files)
    config = _counted(source / "config.json", head)
    tensors = _as_files_have_them(head_tensors(backbone, head), head, files, dtype)
    gone = {n for n in files.where if any(layout.owns(n, head.depth) for layout in LAYOUTS.values())}
    with appearing(output) as partial:
        rewritten = {files.where[name] for name in gone} | {HEAD_FILE if files.sharded else SINGLE}
        for path in sorted(source.rglob("*")):
            name = str(path.relative_to(source))
            if path.is_dir():
                (partial / name).mkdir()
            elif name not in {"config.json", INDEX, DIGESTS} | rewritten:
                shutil.copyfile(path, partial / name)
        for file in sorted(rewritten):
            _rewrite(files, file, partial / file, gone, tensors if file in (HEAD_FILE, SINGLE) else {})
        if files.sharded:
            (partial / INDEX).write_text(_index(files, gone, tensors))
        (partial / "config.json").write_text(config)
        write_digests(partial, weight_files(partial))
    return output


def _as_files_have_them(
    tensors: Mapping[str, Tensor], head: MTPHead, files: ModelFiles, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """A head's tensors in the types of the files, with the copies of the backbone's that its vendor repeats."""
    stored = dtype or _stored_dtype(files, tensors)
    wide = {} if dtype else _own_dtypes(files, head)
    prefixes = tuple(head.layout.prefix(n, head.depth) for n in range(head.layers))

    def kind(key: str) -> torch.dtype:
        prefix = next((p for p in prefixes if key.startswith(p)), "")
        return wide.get(key.removeprefix(prefix), stored)

    result = {key: t.to(kind(key)) if t.is_floating_point() else t for key, t in tensors.items()}
    for number in range(head.layers):
        for template, which in head.layout.copies.items():
            module = head.embedding if which == "embedding" else head.output
            weight: Any = module.weight
            name = template.format(n=head.depth + number, i=number)
            result[name] = weight.detach().to("cpu", stored).clone()
    return result


def _rewrite(files: ModelFiles, file: str, path: Path, gone: Set[str], tensors: Mapping[str, Tensor]) -> None:
    """Write one file of weights anew, without the tensors that are gone and with those of the head."""
    from safetensors.torch import save_file

    kept = files.tensors([name for name, at in files.where.items() if at == file and name not in gone])
    note = {"format": "pt"}
    if (files.folder / file).exists():
        with open_safetensors(files.folder / file) as opened:
            note = opened.metadata() or note
    if kept := kept | dict(tensors):
        save_file(kept, path, metadata=note)


def _index(files: ModelFiles, gone: Set[str], tensors: Mapping[str, Tensor]) -> str:
    """The index of a model of several shards, with the head in one of its own."""
    index = json_object(files.folder / INDEX, "an index")
    where = {name: file for name, file in files.where.items() if name not in gone}
    index["weight_map"] = where | dict.fromkeys(tensors, HEAD_FILE)
    sizes = index.setdefault("metadata", {})
    removed = sum(t.nbytes for t in files.tensors(sorted(gone)).values())
    added = sum(t.nbytes for t in tensors.values())
    sizes["total_size"] = int(sizes.get("total_size", 0)) + added - removed
    return json.dumps(index, indent=2) + "\n"


# -- checks and small things -------------------------------------------------------------------------------------------


def _fill(weight: Tensor, stored: Tensor | None, key: str, folder: Path) -> None:
    if stored is None:
        raise CheckpointError(
            f"the head lacks {key}",
            where=str(folder),
            mend="give the model's complete files, or another layout",
        )
    if stored.shape != weight.shape:
        raise CheckpointError(
            f"{key} has shape {list(stored.shape)}, this model needs {list(weight.shape)}",
            where=str(folder),
            mend="it is another model's head",
        )
    if not bool(stored.isfinite().all()):
        raise CheckpointError(f"{key} holds values that are not finite", where=str(folder))
    with torch.no_grad():
        weight.copy_(stored)


def _check_backbone(backbone: Any, files: ModelFiles) -> None:
    """The final norm and a few values of the embedding tell one model's files from another's."""
    base = decoder_of(backbone)
    for what, weight in (
        ("embed_tokens.weight", base.get_input_embeddings().weight),
        ("norm.weight", base.norm.weight),
    ):
        names = [n for n in files.where if n.endswith(f".{what}") and n.count(".") <= 3 and "layers" not in n]
        if not names:
            continue
        stored = files.tensors(names[:1])[names[0]]
        same = stored.shape == weight.shape and torch.equal(
            stored.to(weight.dtype)[:64], weight.detach().to("cpu")[:64]
        )
        if not same:
            raise CheckpointError(
                f"{names[0]} is not that of the model the head was trained on",
                where=str(files.folder),
                mend="give the folder that the model was opened from",
            )


def _stored_dtype(files: ModelFiles, tensors: Mapping[str, Tensor]) -> torch.dtype:
    for name in files.where:
        if name.endswith("_proj.weight"):
            dtype = files.tensors([name])[name].dtype
            if dtype.is_floating_point and dtype.itemsize > 1:
                return dtype
    return next(iter(tensors.values())).dtype


def _own_dtypes(files: ModelFiles, head: MTPHead) -> dict[str, torch.dtype]:
    """Types of tensors that the backbone's layers store wider than their projections, by name in a layer."""
    dtypes: dict[str, torch.dtype] = {}
    names = [n for n in files.where if not head.layout.owns(n, head.depth) and not n.endswith("_proj.weight")]
    for name in names:
        layer = re.search(r"\blayers\.\d+\.(.+)", name)
        if layer and layer[1] not in dtypes:
            dtypes[layer[1]] = files.tensors([name])[name].dtype
    return {name: dtype for name, dtype in dtypes.items() if dtype.itemsize >= 4 and dtype.is_floating_point}


def _counted(path: Path, head: MTPHead) -> str:
    """The configuration with the number of the head's layers.

    Raises:
        ModelError: it says that weights are quantised.
    """
    config = json_object(path, "a model's configuration")
    inner = config.get("text_config") if head.layout.name == "qwen" else None
    if quantised := config.get("quantization_config"):
        raise ModelError(
            f"its weights are quantised by {quantised.get('quant_method', 'some method')}, and the head's are not",
            where=str(path.parent),
            mend="export into the model's unquantised folder, with --model",
        )
    counted = inner if isinstance(inner, dict) else config
    counted.update({layout.count: 0 for layout in LAYOUTS.values() if layout.count in counted})
    counted[head.layout.count] = head.layers
    if config.get("model_type") == "qwen3_next":
        counted["num_nextn_predict_layers"] = head.layers  # where vLLM looks
    return json.dumps(config, indent=2) + "\n"
