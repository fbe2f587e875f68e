"""Files that are beside a network, or a network in another form: one line that names the kind and the way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline.checkpoints.companions import GATHER_PARTS, MERGE_ADAPTER, SAVE_IN_ONE
from pipeline.checkpoints.pickles import Inert, Name
from pipeline.checkpoints.tensors import SHARDED, NotPlain

_ONE_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.(safetensors|bin)$")
_GATHER = (
    "gather it with torch.distributed.checkpoint.state_dict.get_model_state_dict(network, "
    "options=StateDictOptions(full_state_dict=True, cpu_offload=True)), and save that on rank 0"
)
_NUMPY = "numpy arrays: make them tensors, torch.from_numpy, and save those"
_PAGE_BEGINS = re.compile(rb"\s*<(!doctype|!--|html|\?xml)", re.IGNORECASE)
_PAGE = "a page of the web or its error, saved in the place of the file: download it again"
_ONNX = re.compile(rb"\x08[\x03-\x14](\x12.[\x20-\x7e]+|:)", re.DOTALL)  # the version of its format, then its producer
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_EXPORTED = re.compile(r"(^|/)(archive_format|serialized_exported_program\.json|models/\w+\.json)$")
# By what their first bytes are.
_OTHER_FORMATS = {
    b"\x89HDF": "an HDF5 file, as Keras writes it, and holds no network of torch",
    b"GGUF": "a GGUF file, which holds no network of torch as it was trained",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"BZh": "a bzip2 archive: unpack it first",
    b"\xfd7zXZ": "an xz archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"\x93NUMPY": _NUMPY,
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: git lfs pull",
}
# By the class of the object that a pickle holds.
_OBJECTS = {
    "fastai.": "what fastai's learn.export() writes, the learner with its code: save learn.model.state_dict()",
    "transformers.training_args": "settings of transformers' trainer; the weights are in model.safetensors beside it",
    "trl.": "the settings of a trainer; the weights are in model.safetensors beside it",
    "torch.fx.": "a traced network, which is built by running code: save its state dict",
    "torch.optim.": "an optimizer, not a network",
}
# By the end or a part of the names of its tensors.
_NAMES = (
    (
        re.compile(r"(^|\.)lora_|^base_model\.model\.|(^|\.)modules_to_save\."),
        MERGE_ADAPTER,
    ),
    (
        re.compile(r"_packed_params|(^|\.)(weight_scale|zero_point|qweight|weight_qdata)$"),
        "a quantised network: save the state dict of the network before it is quantised",
    ),
    (
        re.compile(r"\.weight_u$"),
        "a network with spectral_norm: torch.nn.utils.remove_spectral_norm(module) for each that has it, then save",
    ),
    (
        re.compile(r"\.weight_(orig|mask)$"),
        "a network under pruning: torch.nn.utils.prune.remove(module, 'weight') for each pruned one, then save",
    ),
    (
        re.compile(r"\.weight_[gv]$|\.parametrizations\.\w+\.original\d*$"),
        "a network whose weights are computed from others (weight_norm or another parametrization): "
        "torch.nn.utils.parametrize.remove_parametrizations, or remove_weight_norm, then save",
    ),
    (
        re.compile(r"^[01]\.\d+(\.\d+)*\.(\w+\.)*(weight|bias|running_mean)$"),
        "a network whose body and head are numbered, as of fastai's vision_learner, with another head than the "
        "architecture's: train the architecture itself, Learner(dls, network), and save learn.model.state_dict()",
    ),
)


def explain_bytes(uri: str, data: bytes) -> str | None:
    """What a file is by its name and its first bytes, if it holds no network."""
    name = PurePosixPath(uri).name
    if name.endswith(".distcp") or name == ".metadata":
        return f"a part of a distributed checkpoint, a folder: {GATHER_PARTS}"
    if data[:1] == b"{":
        return _explain_json(data)
    if data[_TAR_MAGIC_AT : _TAR_MAGIC_AT + len(_TAR_MAGIC)] == _TAR_MAGIC:
        return "a tar archive: unpack it first"
    if _ONNX.match(data[:64]):
        return "an ONNX file, a graph without torch's names of tensors: save the state dict of the network"
    if _PAGE_BEGINS.match(data[:64]):
        return _PAGE
    return next((what for start, what in _OTHER_FORMATS.items() if data.startswith(start)), None)


def explain_archive(names: Iterable[str]) -> str | None:
    """What a zip file is that torch.save has not written, by the names of its files."""
    listed = list(names)
    if any(_EXPORTED.search(name) for name in listed):
        return "what torch.export writes (.pt2), a graph: save the state dict of the network, torch.save"
    if listed and all(name.endswith(".npy") for name in listed):
        return _NUMPY
    if any(PurePosixPath(name).name == "data.pkl" for name in listed):
        return None
    return f"a zip archive of other files ({', '.join(listed[:3])}): unpack it first" if listed else None


def _explain_json(data: bytes) -> str | None:
    try:
        content = json.loads(data)
    except ValueError:
        return None
    if isinstance(content, dict) and isinstance(shards := content.get("weight_map"), dict):
        files = sorted({str(file) for file in shards.values()})
        return f"the index of a network in {len(files)} files ({files[0]} ...): {SAVE_IN_ONE}"
    return "a JSON file with settings, not weights"


def explain_object(value: Inert) -> str | None:
    """What an object in a pickle is, if it is known and no network."""
    full = str(value.name)
    return next((what for start, what in _OBJECTS.items() if full.startswith(start)), None)


def explain_tensors(uri: str, branches: Iterable[tuple[str, Mapping[Any, Any]]]) -> str | None:
    """Why none of the dicts in a file is a network's state dict, if they are of a known kind."""
    dicts = [branch for _, branch in branches]
    values = [value for branch in dicts for value in branch.values()]
    if any(isinstance(value, NotPlain) and value.kind == SHARDED for value in values):
        return f"one part of a sharded network (DTensor): {_GATHER}"
    if any("ShardedTensor" in name or "FlatParameter" in name for name in _classes(values)):
        return f"one part of a sharded network (FSDP): {_GATHER}"
    if any("zero_stage" in branch or "ds_version" in branch or "partition_count" in branch for branch in dicts):
        return "a part of a DeepSpeed ZeRO checkpoint: python zero_to_fp32.py FOLDER FILE, which lies in its folder"
    if any(isinstance(value, NotPlain) and value.kind == "quantized" for value in values) or any(
        name.startswith(("torch.ao.", "torchao.")) for name in _classes(values)
    ):
        return _NAMES[1][1]
    names = [key for branch in dicts for key, value in branch.items() if isinstance(key, str)]
    for pattern, what in _NAMES:
        if any(pattern.search(name) for name in names):
            return what
    if shard := _ONE_SHARD.search(uri):
        return f"file {int(shard[1])} of {int(shard[2])} of one network: {SAVE_IN_ONE}"
    if dicts and {"state", "param_groups"} <= dicts[0].keys():
        return "the state of an optimizer, not of a network"
    if any(name.startswith("numpy.") for name in _classes(values)):
        return _NUMPY
    return None


def _classes(values: Iterable[object]) -> set[str]:
    """Names of the classes among values."""
    found = {str(value.name) for value in values if isinstance(value, Inert) and isinstance(value.name, Name)}
    return found | {value.kind.removeprefix("a ") for value in values if isinstance(value, NotPlain)}
