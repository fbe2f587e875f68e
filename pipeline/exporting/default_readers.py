"""What readers load of a dataset by default, where that is less than all of it: they go by extensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# What torchvision.datasets.ImageFolder takes for an image, of the extensions that an export writes.
TORCHVISION = frozenset({"jpg", "png", "ppm", "bmp", "pgm", "tif", "webp"})
# What webdataset, and datasets for its tars, do not take for an image.
NOT_IN_TARS = frozenset({"avif", "heic", "pfm", "qoi", "jxl", "dng", "cr2", "nef", "arw", "img"})
# What Pillow does not read by itself.
NEEDS_PLUGIN = frozenset({"heic"})


def describe_readers(kind: str, extensions: Mapping[str, int]) -> tuple[str, ...]:
    """What the usual readers leave out of a dataset, one line each; empty where they load all of it.

    Args:
        kind: Format of the dataset.
        extensions: Images by extension.
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
    for reader, of, unread in (
        ("torchvision's ImageFolder loads", {"imagefolder"}, kinds - TORCHVISION),
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


def _listed(names: Iterable[str], extensions: Mapping[str, int]) -> str:
    return ", ".join(f".{name} ({extensions[name]:,})" for name in names)
