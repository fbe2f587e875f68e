"""The files that torch.save writes: a zip file of a pickle and its storages, or, before torch 1.6, pickles in a row."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.checkpoints.pickles import Machine, MalformedPickleError
from pipeline.checkpoints.tensors import NotPlain, Storage, storage_dtype, tensor_builders, view_bytes

_ZIP_MAGIC = b"PK\3\4"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER_BYTES = 30
_MOST_EXPANSION = 20  # of a compressed record; numbers do not shrink by more
_MOST_NESTED = 2


class TorchScriptError(ValueError):
    """A file holds a TorchScript program."""


def load_torch_file(data: bytes, nested: int = 0) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read what torch.save, or pickle, wrote. Tensors are views of the bytes where that is possible.

    Args:
        data: The file.
        nested: In how many files it lies.

    Raises:
        MalformedPickleError: It is damaged, or something else.
        CodeInPickleError: It names what starts programs.
        TorchScriptError: It is a program.
        zipfile.BadZipFile, ValueError, KeyError: It is damaged.
    """
    if nested > _MOST_NESTED or not data:
        raise MalformedPickleError("nothing to read")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bytes cannot be written to, and nothing here does
        content = torch.frombuffer(data, dtype=torch.uint8)
    load_storage = _StorageFiles(nested)
    if data.startswith(_ZIP_MAGIC):
        return _load_zip(data, content, load_storage)
    file = io.BytesIO(data)
    first = Machine({}, _no_storage).run(file)
    if type(first) is int and first == _LEGACY_MAGIC:
        return _load_legacy(file, content, load_storage)
    return Machine(tensor_builders(load_storage), _no_storage).run(io.BytesIO(data))


class _StorageFiles:
    """Reads storages that are files of their own within a pickle."""

    def __init__(self, nested: int) -> None:
        self._nested = nested

    def __call__(self, data: object) -> object:
        storage = load_torch_file(data, self._nested + 1) if isinstance(data, bytes) else None
        if not isinstance(storage, Storage | NotPlain):
            raise TypeError("no storage")
        return storage


def _no_storage(_identity: object) -> object:
    raise MalformedPickleError("a storage outside of the file")


def _load_zip(data: bytes, content: torch.Tensor, load_storage: _StorageFiles) -> Any:  # noqa: ANN401 - any content
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist() if "/" in info.filename}
        if "constants.pkl" in records:
            raise TorchScriptError
        if sum(info.file_size for info in records.values()) > _MOST_EXPANSION * len(data):
            raise ValueError("records of impossible sizes")
        if "byteorder" in records and _record(archive, records["byteorder"]) != b"little":
            raise ValueError("big-endian numbers")

        def load_persistent(identity: Any) -> object:  # noqa: ANN401 - ("storage", class, record, device, count)
            kind, cls, key, location, count = identity
            if kind != "storage":
                raise ValueError(kind)
            dtype = storage_dtype(cls)
            if location == "meta":
                return Storage(None, dtype)
            info = records[f"data/{key}"]
            if count * dtype.itemsize > info.file_size:
                raise ValueError("numbers are missing")
            if info.compress_type == zipfile.ZIP_STORED:
                return view_bytes(content, _start(data, info), dtype, count)
            unpacked = torch.frombuffer(bytearray(_record(archive, info)), dtype=torch.uint8)
            return view_bytes(unpacked, 0, dtype, count)

        machine = Machine(tensor_builders(load_storage), load_persistent)
        return machine.run(io.BytesIO(_record(archive, records["data.pkl"])))


def _record(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The content of a record, which may be compressed.

    Raises:
        MalformedPickleError: It is damaged, or encrypted.
    """
    try:
        return archive.read(info)
    except Exception as error:  # each compression has errors of its own
        raise MalformedPickleError(info.filename) from error


def _start(data: bytes, info: zipfile.ZipInfo) -> int:
    """Where the content of a stored record begins: after its local header, which has a name and padding."""
    header = data[info.header_offset : info.header_offset + _LOCAL_HEADER_BYTES]
    if not header.startswith(_ZIP_MAGIC):
        raise zipfile.BadZipFile(info.filename)
    return (
        info.header_offset
        + _LOCAL_HEADER_BYTES
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )


def _load_legacy(file: io.BytesIO, content: torch.Tensor, load_storage: _StorageFiles) -> Any:  # noqa: ANN401 - any content
    """Read the pickles: version, machine, object, keys of storages; then the storages. The object is read twice."""
    for _ in ("version", "machine"):
        Machine({}, _no_storage).run(file)
    begin = file.tell()
    dtypes: dict[str, torch.dtype] = {}

    def note(identity: Any) -> object:  # noqa: ANN401 - ("storage", class, key, device, count, view)
        if identity[0] == "storage":
            dtypes[str(identity[2])] = storage_dtype(identity[1])
        return None

    Machine({}, note).run(file)
    keys = Machine({}, _no_storage).run(file)
    storages: dict[str, Storage] = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        storages[str(key)] = view_bytes(content, file.tell(), dtypes[str(key)], count)
        file.seek(count * dtypes[str(key)].itemsize, io.SEEK_CUR)
    file.seek(begin)
    return Machine(tensor_builders(load_storage), lambda identity: _legacy_storage(identity, storages)).run(file)


def _legacy_storage(identity: Any, storages: Mapping[str, Storage]) -> object:  # noqa: ANN401 - as above
    kind, *rest = identity
    if kind == "module":  # the class of a network, with its source
        return rest[0]
    _, key, location, count, *view = rest
    if location == "meta":
        return Storage(None, storage_dtype(rest[0]))
    storage = storages[str(key)]
    if not view or view[0] is None or storage.values is None:
        return storage
    _, offset, count = view[0]
    return Storage(storage.values[offset : offset + count], storage.dtype)
