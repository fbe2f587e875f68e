"""ImageNet's classes in WordNet 3.0: the tree above them, which ships as ``wordnet.tsv``.

``examples/make_wordnet.py`` makes the file, and says which of several hypernyms is taken. Its licence lies beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.labels import IMAGENET_CLASSES, ClassResolver, imagenet_meanings, nearest_names
from pipeline.taxonomy.tree import NO_GROUP, Group, Taxonomy, make_taxonomy
from pipeline.text import fmt

WORDNET = "wordnet"  # what --classes takes besides a file
_FILE = Path(__file__).with_name("wordnet.tsv")


@dataclass(frozen=True, slots=True)
class WordNet:
    """The file.

    Attributes:
        groups: What lies above the classes, parents before children.
        ids: WordNet ids of the groups, ``n02084071``.
        class_ids, class_names: Of ImageNet's 1,000 classes; names as torchvision has them.
        parents: For each class the number of the group right above it.
    """

    groups: tuple[Group, ...]
    ids: tuple[str, ...]
    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    parents: tuple[int, ...]


@functools.cache
def read_wordnet() -> WordNet:
    """Read the file that ships."""
    _, *rows = (line.split("\t") for line in _FILE.read_text("utf-8").splitlines())
    groups, classes = rows[:-IMAGENET_CLASSES], rows[-IMAGENET_CLASSES:]
    numbers = {name: number for number, (_, name, _, _) in enumerate(groups)} | {"": NO_GROUP}
    return WordNet(
        groups=tuple(Group(name, title, "", numbers[parent]) for _, name, parent, title in groups),
        ids=tuple(row[0] for row in groups),
        class_ids=tuple(row[0] for row in classes),
        class_names=tuple(row[3] for row in classes),
        parents=tuple(numbers[row[2]] for row in classes),
    )


def wordnet_ids() -> dict[str, str]:
    """Names of the groups by their WordNet ids: ``n02084071`` is ``dog.n.01``."""
    wordnet = read_wordnet()
    return {wordnet_id: group.name for wordnet_id, group in zip(wordnet.ids, wordnet.groups, strict=True)}


def imagenet_class_names() -> tuple[str, ...]:
    """The names of :func:`pipeline.labels.imagenet_names`, without torch, which takes seconds to load."""
    return read_wordnet().class_names


def wordnet_taxonomy(class_names: Sequence[str]) -> Taxonomy:
    """The tree above the classes of a job, all of which must be ImageNet's: all 1,000, or some in any order.

    Raises:
        InputError: A class is none of ImageNet's.
    """
    wordnet = read_wordnet()
    parents: Sequence[int] = wordnet.parents
    if not imagenet_meanings(class_names):
        known = ClassResolver(wordnet.class_names)
        # a number is no name: networks without names have 0, 1, 2, ...
        found = [None if name.strip().isdecimal() else known.resolve(name) for name in class_names]
        if unknown := [name for name, label in zip(class_names, found, strict=True) if label is None or label < 0]:
            raise InputError(
                f"{WORDNET}: its leaves are ImageNet's classes, and "
                f"{fmt.plural(len(unknown), 'class is', 'classes are')} none of them: {fmt.few(map(repr, unknown))}"
            )
        parents = [wordnet.parents[label] for label in found if label is not None]
    return make_taxonomy(WORDNET, class_names, wordnet.groups, parents)


def find_group(taxonomy: Taxonomy, text: str) -> int:
    """Number of the group of WordNet that a text names: ``dog.n.01``, ``n02084071``, or ``dog`` if it is the only one.

    Raises:
        InputError: There is none, or several.
    """
    name = wordnet_ids().get(text.strip().lower(), text.strip().lower().replace(" ", "_"))
    found = [number for number, group in enumerate(taxonomy.groups) if name in {group.name, group.name[:-5]}]
    exact = [number for number in found if taxonomy.groups[number].name == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        names = [taxonomy.groups[number].name for number in found]
        raise InputError(f"{WORDNET}: {text!r} may be {fmt.few(names, len(names))}")
    near = nearest_names(name, [group.name for group in taxonomy.groups])
    meant = f"; did you mean {' or '.join(near)}" if near else ""
    raise InputError(f"{WORDNET}: no group is called {text!r}{meant}")
