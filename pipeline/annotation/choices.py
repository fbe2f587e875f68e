"""What people may answer in a list: the classes, groups of them where there are some, and that no class fits."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from pipeline.labels import distinct_names, no_class_text
from pipeline.taxonomy.answers import answers_of, groups_around
from pipeline.taxonomy.tree import NO_GROUP, Taxonomy

CONTROL = "choice"  # name of Label Studio's control
TAXONOMY_TAG = "<Taxonomy "
_SEPARATORS = (" / ", " > ", " | ", " :: ", " => ")


class ListChoices:
    """What people may answer in a list.

    Args:
        class_names: Of the K classes.
        taxonomy: Groups of them that people may choose, too; None for none.

    Attributes:
        names: Of the classes, each once.
        none: What says that no class fits.
        groups: Names of the groups.
    """

    def __init__(self, class_names: Sequence[str], taxonomy: Taxonomy | None) -> None:
        self._taxonomy = taxonomy
        self.names: tuple[str, ...]
        self.groups: tuple[str, ...]
        if taxonomy is None:
            self._all_names = self.names = distinct_names(class_names)
            self.groups, self.none = (), no_class_text(class_names)
            return
        answers = answers_of(taxonomy)
        self._all_names, self.none = answers.names, answers.none
        self.names = answers.names[: taxonomy.num_classes]
        self.groups = tuple(answers.names[node] for node in answers.offered_groups)

    def studio_config(self) -> str:
        """Label Studio's labelling configuration."""
        return "\n".join(
            ["<View>", '  <Image name="image" value="$image" zoom="true"/>', *self._control(), "</View>\n"]
        )

    def studio_result(self, label: int) -> dict[str, Any]:
        """A label of the consensus, as Label Studio has predictions."""
        value: list[Any]
        if self._taxonomy is None:
            kind, value = "choices", [self.names[label]]
        else:
            _, *around = groups_around(self._taxonomy, label)
            path = [label, *(group for group in around if group in self._offered)]
            kind, value = "taxonomy", [[self._all_names[node] for node in reversed(path)]]
        return {"id": "label", "type": kind, "from_name": CONTROL, "to_name": "image", "value": {kind: value}}

    def _control(self) -> Iterator[str]:
        names = (self.none, *self.names, *self.groups)
        if self._taxonomy is None:
            yield f'  <Filter name="filter" toName="{CONTROL}" minlength="0" placeholder="Type to find a class"/>'
            yield f'  <Choices name="{CONTROL}" toName="image" choice="single" showInline="true">'
            yield from (f"    <Choice value={quoteattr(name)}/>" for name in names)
            yield "  </Choices>"
            return
        # its page joins the names of a path by the separator, and cuts them apart at it again
        separator = next((text for text in _SEPARATORS if not any(text.strip() in name for name in names)), " \u2192 ")
        yield (
            f'  {TAXONOMY_TAG}name="{CONTROL}" toName="image" maxUsages="1" leafsOnly="false" '
            f'pathSeparator={quoteattr(separator)} minWidth="600px" placeholder="Type to find a class or a group">'
        )
        yield f"    <Choice value={quoteattr(self.none)}/>"
        yield from self._branch(NO_GROUP, "    ")
        yield "  </Taxonomy>"

    def _branch(self, around: int, indent: str) -> Iterator[str]:
        assert self._taxonomy is not None
        for node in self._below.get(around, ()):
            value = quoteattr(self._all_names[node])
            if node in self._offered:
                yield f"{indent}<Choice value={value}>"
                yield from self._branch(node, indent + "  ")
                yield f"{indent}</Choice>"
            else:
                yield f"{indent}<Choice value={value}/>"

    @functools.cached_property
    def _offered(self) -> frozenset[int]:
        return frozenset() if self._taxonomy is None else frozenset(answers_of(self._taxonomy).offered_groups)

    @functools.cached_property
    def _below(self) -> dict[int, list[int]]:
        """What stands right below each group that is offered: groups first, by name; below no group the rest."""
        assert self._taxonomy is not None
        found: dict[int, list[int]] = {}
        for node in [*range(self._taxonomy.num_classes), *self._offered]:
            _, *around = groups_around(self._taxonomy, node)
            smallest = next((group for group in around if group in self._offered), NO_GROUP)
            found.setdefault(smallest, []).append(node)
        for nodes in found.values():
            nodes.sort(key=lambda node: (node not in self._offered, self._all_names[node].casefold()))
        return found
