"""What readers load of a dataset by default, where that is less than all of it: they go by extensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

# What torchvision.datasets.ImageFolder takes for an image, of the extensions that an export writes.
TORCHVISION = frozenset({"jpg", "png", "ppm", "bmp", "pgm", "tif", "webp"})
# What webdataset, and datasets for its tars, do not take for an image.
NOT_IN_TARS = frozenset({"avif", "heic", "pfm", "qoi", "jxl", "dng", "cr2", "nef", "arw", "img"})
# What Pillow does not read by itself.
NEEDS_PLUGIN = frozenset({"heic"})
_MAX_LISTED = 8  # kinds or classes in a line
_IN_TORCHVISION = rf"\.({'|'.join(sorted(TORCHVISION))})$"


def labels_with_images(rows: pa.Table) -> tuple[set[int], set[int]]:
    """The labels of a table of images, and those of which torchvision's ``ImageFolder`` finds an image.

    Args:
        rows: The columns ``label`` and ``file_name``.
    """
    found = pc.match_substring_regex(rows["file_name"], _IN_TORCHVISION)
    return set(rows["label"].unique().to_pylist()), set(rows["label"].filter(found).unique().to_pylist())


def describe_readers(kind: str, extensions: Mapping[str, int], unread_classes: Sequence[str] = ()) -> tuple[str, ...]:
    """What the usual readers leave out of a dataset, one line each; empty where they load all of it.

    Args:
        kind: Format of the dataset.
        extensions: Images by extension.
        unread_classes: Folders of classes in which torchvision's ``ImageFolder`` finds no image, which it refuses.
    """
    lines = []
    order = by_frequency(extensions)
    total = sum(extensions.values())
    if kind == "webdataset" and len(order) > 1:
        lines.append(
            f"datasets.load_dataset loads {extensions[order[0]]:,} of {total:,} images, those of .{order[0]}; give the "
            f"name of a configuration for each other kind: {_listed(order[1:], extensions)}"
        )
    kinds = {name.rpartition(".")[2] for name in extensions}
    folder_reader = "torchvision's ImageFolder loads"
    if unread_classes:
        lines.append(
            "torchvision's ImageFolder raises FileNotFoundError, because it finds no image in the folders of these "
            f"classes: {list_some(unread_classes)}"
        )
        folder_reader = "torchvision's ImageFolder with allow_empty=True loads"
    for reader, of, unread in (
        (folder_reader, {"imagefolder"}, kinds - TORCHVISION),
        ("webdataset's decode() decodes, as does datasets,", {"webdataset"}, NOT_IN_TARS),
        ("Pillow without pillow-heif decodes", {"imagefolder", "parquet"}, NEEDS_PLUGIN),
    ):
        left_out = [name for name in order if kind in of and name.rpartition(".")[2] in unread]
        if left_out:
            loaded = total - sum(extensions[name] for name in left_out)
            lines.append(f"{reader} {loaded:,} of {total:,} images, not {_listed(left_out, extensions)}")
    return tuple(lines)


def by_frequency(extensions: Mapping[str, int]) -> list[str]:
    """Extensions, the most frequent first."""
    return sorted(extensions, key=lambda name: (-extensions[name], name))


def list_some(names: Sequence[str]) -> str:
    """Names for a line of text: the first ones, and how many more there are."""
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _listed(names: Sequence[str], extensions: Mapping[str, int]) -> str:
    return list_some([f".{name} ({extensions[name]:,})" for name in names])
