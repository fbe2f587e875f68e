"""Tensors out of the bytes of a file: what torch's own pickles call to build them, done here without torch's code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.checkpoints.pickles import Builders, Fields, Name

_STORAGE_DTYPES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_WRAPPER = "torch._utils._rebuild_wrapper_subclass"
NO_VALUES = "without values (on the meta device)"
SHARDED = "sharded"


@dataclass(frozen=True, slots=True)
class NotPlain:
    """A tensor that is more than numbers in memory: quantized, sparse, a shard of another. It is not built.

    Attributes:
        kind: What it is.
        ndim: Number of its dimensions; -1 if that is unknown.
    """

    kind: str
    ndim: int = -1


@dataclass(frozen=True, slots=True)
class Storage:
    """The numbers that tensors are views of.

    Attributes:
        values: Them, in one dimension; None if they are not in the file.
        dtype: Their type, as the file names it.
    """

    values: torch.Tensor | None
    dtype: torch.dtype


def storage_dtype(name: object) -> torch.dtype:
    """The type of the numbers in a storage class; of quantized ones ``uint8``: they are not read.

    Raises:
        TypeError: It is no storage class.
    """
    if not isinstance(name, Name) or not name.name.endswith("Storage"):
        raise TypeError(f"no storage: {name}")
    if name.name in {"QInt32Storage"}:
        return torch.int32
    return _STORAGE_DTYPES.get(name.name, torch.uint8)


def view_bytes(data: torch.Tensor, start: int, dtype: torch.dtype, count: int) -> Storage:
    """Numbers in a file's bytes; a copy only where they are not aligned.

    Args:
        data: All bytes, uint8, [num_bytes].
        start: Offset of the first number, bytes.
        dtype: Type of the numbers.
        count: How many.

    Raises:
        ValueError: They are not all there.
    """
    end = start + count * dtype.itemsize
    if not 0 <= start <= end <= len(data):
        raise ValueError("numbers are missing")
    part = data[start:end]
    return Storage((part.clone() if start % dtype.itemsize else part).view(dtype), dtype)


def tensor_builders(load_storage: Callable[[bytes], object]) -> Builders:
    """The functions that build tensors, by the names that pickles have for them.

    Args:
        load_storage: Reads a storage that is a file within the file, as pickles have it that torch.save did not write.
    """
    return {
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor_v2,
        "torch._utils._rebuild_tensor_v3": _tensor_v3,
        "torch._utils._rebuild_parameter": _first,
        "torch._utils._rebuild_parameter_with_state": _first,
        "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
        "torch.nn.parameter.Parameter": _first,
        "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
        "torch._utils._rebuild_qtensor": lambda *args: NotPlain("quantized", _rank(args, 2)),
        "torch._utils._rebuild_sparse_tensor": lambda *_args: NotPlain("sparse"),
        "torch._utils._rebuild_sparse_csr_tensor": lambda *_args: NotPlain("sparse"),
        "torch._utils._rebuild_nested_tensor": lambda *_args: NotPlain("nested"),
        "torch._utils._rebuild_meta_tensor_no_storage": lambda *args: NotPlain(NO_VALUES, _rank(args, 1)),
        _WRAPPER: lambda cls, *args: NotPlain(f"a {cls}", _rank(args, 1)),
        "torch.storage._load_from_bytes": load_storage,
    }


def _ordered_dict(pairs: object = ()) -> Fields:
    """An ordered dict; Python 2 gives its items as an argument."""
    made = Fields()
    for pair in pairs if isinstance(pairs, list) else ():
        if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str):
            made[pair[0]] = pair[1]
    return made


def _first(value: object = None, *_others: object) -> object:
    return value


def _rank(args: tuple[Any, ...], place: int) -> int:
    """Number of dimensions of the shape among arguments."""
    shape = args[place] if len(args) > place else None
    return len(shape) if isinstance(shape, tuple) else -1


def _tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> object:
    """A view of a storage, whose numbers all lie in it and are not fewer than those of the tensor."""
    if isinstance(storage, NotPlain):
        return storage
    if not isinstance(storage, Storage):
        raise TypeError("no storage")
    size, stride = tuple(size), tuple(stride)
    if any(type(number) is not int or number < 0 for number in (offset, *size, *stride)) or len(size) != len(stride):
        raise ValueError("no shape")
    if storage.values is None:
        return NotPlain(NO_VALUES, len(size))
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count and last >= len(storage.values):
        raise ValueError("beyond its storage")
    if count > len(storage.values):
        return NotPlain("expanded from fewer numbers", len(size))
    return storage.values.as_strided(size, stride, storage.values.storage_offset() + (offset if count else 0))


def _tensor_v2(*args: Any) -> object:  # noqa: ANN401 - storage, offset, size, stride, gradient, hooks, flags
    return NotPlain("conjugated or negated", _rank(args, 2)) if args[6:] and args[6] else _tensor(*args[:4])


def _tensor_v3(*args: Any) -> object:  # noqa: ANN401 - as above, with the type of the numbers before the flags
    storage, named = args[0], args[6]
    dtype = getattr(torch, named.name, None) if isinstance(named, Name) and named.module == "torch" else None
    if not isinstance(dtype, torch.dtype) or not isinstance(storage, Storage):
        raise TypeError("no numbers")
    if storage.values is not None:
        storage = Storage(storage.values.view(dtype), dtype)
    return _tensor_v2(storage, *args[1:6], *args[7:])


def _tensor_of_class(function: object, cls: object, args: object, state: object) -> object:
    """A tensor of a subclass: its numbers, where the class is only a label on them."""
    args = args if isinstance(args, tuple) else ()
    shape = args[2] if len(args) > 2 else None
    if str(function) != _WRAPPER:
        build = _LABELLED.get(str(function))
        tensor = build(*args) if build else NotPlain(f"a {cls}")
        numbers = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        return tensor if numbers or str(cls).startswith("torch.") else NotPlain(f"a {cls}")
    if not str(cls).startswith("torch.distributed.") or not str(cls).endswith("DTensor"):
        return NotPlain(f"a {cls}", _rank(args, 2))
    return _whole_dtensor(_fields(state), shape)


def _fields(state: object) -> Mapping[str, Any]:
    """The attributes of an object: a dict, or a pair of one and of those in its slots."""
    parts = state if isinstance(state, tuple) else (state,)
    return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}


def _whole_dtensor(state: Mapping[str, Any], shape: object) -> object:
    """A distributed tensor whose part in this file is all of it."""
    local = state.get("_local_tensor")
    placements = _fields(getattr(state.get("_spec"), "state", None)).get("placements")
    partial = not isinstance(placements, tuple) or any("Partial" in str(getattr(p, "name", "")) for p in placements)
    if isinstance(local, torch.Tensor) and tuple(local.shape) == shape and not partial:
        return local
    return NotPlain(SHARDED, len(shape) if isinstance(shape, tuple) else -1)


_LABELLED: Mapping[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
}
