"""INPUTs that lead to the same place by different paths, by way of symbolic links.

Images are known by their paths. So what is given as a folder, and as a link to it or to something in it, would be
labelled twice. Where one path lies in the other as it is written, the plan takes each image once anyway.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from pipeline.errors import StorageError
from pipeline.inputs.listings import is_tar_name
from pipeline.stages.member_names import is_image_name
from pipeline.storage import absolute_uri, is_hidden


def find_same_places(names: Iterable[str]) -> dict[str, str]:
    """Find names to pass over: each with another name, which leads to all that is there.

    Of several that lead to the same place one without a link stays, or else the first: a link that is added later
    changes nothing.

    Args:
        names: INPUT arguments; only those of local files and folders are looked at.
    """
    path_of = {name: path for name in names if (path := _existing_path(name))}
    real_of = {name: os.path.realpath(path) for name, path in path_of.items()}
    stays_at: dict[str, str] = {}
    for name in sorted(path_of, key=lambda name: path_of[name] != real_of[name]):
        stays_at.setdefault(real_of[name], name)
    holders = {name: _holder(real_of[name], stays_at) for name in path_of}
    return {
        name: holder
        for name, holder in holders.items()
        if holder is not None and holder != name and not _is_written_inside(path_of[name], path_of[holder])
    }


def _existing_path(name: str) -> str:
    """The path of a local INPUT; empty for what is none: patterns, lists and ranges, or what is not there."""
    try:
        path = "" if name.startswith("@") else absolute_uri(name)
    except StorageError:
        return ""  # malformed, which is said where inputs are looked for
    return path.rstrip("/") if path and not path.startswith("s3://") and os.path.exists(path) else ""


def _holder(real: str, stays_at: Mapping[str, str]) -> str | None:
    """The name that leads to a place or to a folder above it, from which it is listed: the highest one."""
    found = stays_at.get(real)
    place, is_listed = real, os.path.isdir(real) or is_tar_name(real) or is_image_name(real)
    while is_listed and place not in ("", "/"):
        place, name = os.path.split(place)
        is_listed = not is_hidden(name)
        if is_listed and place in stays_at:
            found = stays_at[place]
    return found


def _is_written_inside(path: str, folder: str) -> bool:
    """Whether a path is another one, or lies in it, as both are written."""
    return path == folder or path.startswith(f"{folder}/")
