"""Answers that people give at any level: which class or group a text or a path names, and a name for each of them.

Every name is found again: what several share gets its level, ``fish (family)``, and a group of WordNet whose plain name
is another's, too, is called ``crane.n.05``.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from pipeline.labels import NO_CLASS, NO_CLASS_TEXTS, ClassResolver, ClsTruth, distinct_names
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.tree import NO_GROUP, Taxonomy
from pipeline.taxonomy.wordnet import wordnet_ids
from pipeline.text.safe import printable

_MOST_OFFERED = 0.9  # of all classes, in a group of WordNet that is offered


class AnswerResolver(ClassResolver):
    """Finds the class or the group that an answer names.

    A name as it is comes first, of a class before that of a group; then what :class:`pipeline.labels.ClassResolver`
    knows of classes; then groups regardless of case, underscores and hyphens. A group of WordNet is known by its name
    (``dog.n.01``), its id, and by ``dog`` where there is only one. What fits several groups names the one that has the
    others in it; else none. ``NAME (LEVEL)`` names a group where others have its name, too.

    Args:
        taxonomy: The tree.

    Attributes:
        taxonomy: The tree.
    """

    def __init__(self, taxonomy: Taxonomy) -> None:
        super().__init__(taxonomy.class_names)
        self.taxonomy = taxonomy
        self._exact_classes = frozenset(name.strip() for name in taxonomy.class_names)
        groups = list(enumerate(taxonomy.groups))
        self._written = _outermost(taxonomy, ((_plain(group.name), number) for number, group in groups))
        ids: dict[str, int | None] = {}
        if not taxonomy.level_names:
            ids = {known: self._written[name] for known, name in wordnet_ids().items() if name in self._written}
        titles = _outermost(taxonomy, ((_fold(group.title), number) for number, group in groups))
        self._alike = titles | _outermost(taxonomy, ((_fold(group.name), number) for number, group in groups)) | ids
        self._spellings = [
            *([name] for name in taxonomy.class_names),
            *([group.title, group.name, *_with_level(group.name, group.level)] for group in taxonomy.groups),
        ]
        self._by_text: dict[str, list[int]] = {}
        for node, spellings in enumerate(self._spellings):
            for text in {_fold(spelling) for spelling in spellings}:
                self._by_text.setdefault(text, []).append(node)

    def resolve(self, text: str) -> int | None:
        """The node that a text names, or :data:`pipeline.labels.NO_CLASS`; None where it is not understood."""
        written = _plain(text)
        if written not in self._exact_classes and (number := self._written.get(written)) is not None:
            return self.num_classes + number
        if (label := super().resolve(text)) is not None:
            return label
        if (number := self._alike.get(_fold(written))) is not None:
            return self.num_classes + number
        qualified = [node for node in self._by_text.get(_fold(text), ()) if self._is_qualified(node, text)]
        return qualified[0] if len(qualified) == 1 else None

    def resolve_cls(self, data: bytes | None) -> ClsTruth:
        """The node that the content of a ``.cls`` names; a number is a class, and one from K on is not understood."""
        found = super().resolve_cls(data)
        return ClsTruth(None, found.text) if found.text else found

    def resolve_path(self, path: Sequence[str]) -> int | None:
        """The node that the last text of a path names. Where it may be several, those before it tell which.

        Args:
            path: From above; names of groups may be left out.
        """
        *above, last = path
        found = self.resolve(last)
        around = {_fold(text) for text in above}
        inside = [node for node in self._by_text.get(_fold(last), ()) if around <= self._texts_above(node)]
        if not around or not inside or found in inside:
            return found
        return inside[0] if len(inside) == 1 else None

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each of the V nodes, by which :meth:`resolve` finds it; empty for a group that has none."""
        taxonomy = self.taxonomy
        found = [
            next((name for name in (distinct, str(label)) if self.resolve(name) == label), distinct)
            for label, distinct in enumerate(distinct_names(taxonomy.class_names))
        ]
        for number, group in enumerate(taxonomy.groups):
            node = taxonomy.num_classes + number
            choices = [group.title, group.name, *_with_level(group.name, group.level)]
            plain = [printable(" ".join(choice.split())) for choice in choices]
            found.append(next((name for name in plain if self.resolve(name) == node), ""))
        return tuple(found)

    @functools.cached_property
    def none(self) -> str:
        """What says that no class fits: ``none``, or another text if that is a class or a group."""
        return next((text for text in NO_CLASS_TEXTS if self.resolve(text) == NO_CLASS), NO_CLASS_TEXTS[0])

    @functools.cached_property
    def offered_groups(self) -> tuple[int, ...]:
        """The groups, as nodes, that people are offered, those around others first.

        All groups of a file. Of WordNet those that say something of their own: none that has nearly all classes, as
        ``physical entity``, and none that has just the classes of a group or of a class in it, for that is the same
        answer, and the finer one.
        """
        taxonomy, sizes_V = self.taxonomy, nodes_of(self.taxonomy).sizes_V
        first = taxonomy.num_classes
        named = [node for node in range(first, len(self.names)) if self.names[node]]
        if taxonomy.level_names:
            return tuple(named)
        below = [max((int(sizes_V[first + child]) for child in own), default=1) for own in taxonomy.children]
        return tuple(node for node in named if below[node - first] < sizes_V[node] <= _MOST_OFFERED * first)

    def _is_qualified(self, node: int, text: str) -> bool:
        number = node - self.num_classes
        if number < 0:
            return False
        group = self.taxonomy.groups[number]
        return _fold(text) in map(_fold, _with_level(group.name, group.level))

    def _texts_above(self, node: int) -> set[str]:
        return {_fold(text) for group in groups_around(self.taxonomy, node)[1:] for text in self._spellings[group]}


@functools.lru_cache(maxsize=4)
def answers_of(taxonomy: Taxonomy) -> AnswerResolver:
    """The answers of a tree, made once."""
    return AnswerResolver(taxonomy)


def groups_around(taxonomy: Taxonomy, node: int) -> list[int]:
    """A node and the groups around it, as nodes, the smallest first."""
    first = taxonomy.num_classes
    parent = int(taxonomy.parent_of_leaf_K[node]) if node < first else taxonomy.groups[node - first].parent
    return [node, *(first + number for number in taxonomy.path_from(parent) if number != NO_GROUP)]


def _with_level(name: str, level: str) -> Iterator[str]:
    if level:
        yield f"{name} ({level})"


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("_", " ").replace("-", " ").split())


def _outermost(taxonomy: Taxonomy, names: Iterable[tuple[str, int]]) -> dict[str, int | None]:
    """Groups by name, given from above; of several the one that has all others in it, or None."""
    found: dict[str, int | None] = {}
    for name, number in names:
        outer = found.setdefault(name, number)
        if outer is not None and outer not in taxonomy.path_from(number):
            found[name] = None
    return found
