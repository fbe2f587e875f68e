"""Sample photographs and small networks that ship with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import InputError

_PACKAGE = Path(__file__).parent


def sample_data() -> Path:
    """Find the folder of the sample data, in the installed package or in the checkout around it.

    Raises:
        InputError: The sample data is in neither.
    """
    for folder in (_PACKAGE / "_sample_data", _PACKAGE.parent / "examples" / "data"):
        if (folder / "classes.txt").is_file():
            return folder
    raise InputError("the sample data is not installed; use a checkout or a wheel of shardlabel")


def sample_members() -> dict[str, Any]:
    """Options that select the sample networks and their class names."""
    data = sample_data()
    return {
        "model": sorted(path.stem for path in (data / "weights").glob("*.safetensors")),
        "weights_dir": str(data / "weights"),
        "labels": str(data / "classes.txt"),
    }
