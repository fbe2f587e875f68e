"""Class names of ImageNet or of a ``--labels`` file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from pipeline.errors import InputError
from pipeline.text.safe import printable

IMAGENET_CLASSES = 1000
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 names of ImageNet-1k in torchvision's order (class index 0 first)."""
    from pipeline.vision import models

    return tuple(models.AlexNet_Weights.DEFAULT.meta["categories"])


def parse_names(text: str, source: str) -> tuple[str, ...]:
    """Parse class names: a JSON list of strings, or one name per line.

    Raises:
        InputError: There are no names, or the JSON is not a list of strings.
    """
    if text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"--labels {source}: not a JSON list: {error}") from error
        if not all(isinstance(name, str) for name in names):
            raise InputError(f"--labels {source}: the JSON list must hold strings only")
        if any(_SURROGATE.search(name) for name in names):
            raise InputError(f"--labels {source}: a name holds half a surrogate pair, which is no text")
    else:
        names = text.splitlines()
        while names and not names[-1].strip():
            names.pop()
        names = [name.strip() for name in names]
    if not names:
        raise InputError(f"--labels {source}: no class names in it")
    return tuple(names)


def names_for(num_classes: int, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """Choose the names of an ensemble's classes.

    Args:
        num_classes: Number of classes.
        given: Names of ``--labels``, if any.

    Returns:
        The given names; else ImageNet's for 1,000 classes; else the indices as text.

    Raises:
        InputError: The number of given names is not the number of classes.
    """
    if given is not None:
        if len(given) != num_classes:
            raise InputError(f"--labels has {len(given)} names, but the models have {num_classes} classes")
        return given
    if num_classes == IMAGENET_CLASSES:
        return imagenet_names()
    return tuple(str(index) for index in range(num_classes))


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """Make class names unique and printable, one line each.

    A name that is blank, or that several classes share, gets the class index: ImageNet has ``crane (134)`` and
    ``crane (517)``.
    """
    plain = [printable(" ".join(name.split())) for name in names]
    times = Counter(plain)
    taken = {name for name in plain if times[name] == 1}
    found = []
    for index, name in enumerate(plain):
        choice = name
        if times[name] > 1 or not name:
            while choice in taken or choice == name:
                choice = f"{choice} ({index})".strip()
            taken.add(choice)
        found.append(choice)
    return tuple(found)
