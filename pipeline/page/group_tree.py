"""The tree of own classes with its images, as branches that a page can open and close."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.page.group_counts import GroupCounts
from pipeline.page.group_truths import GroupTruths
from pipeline.taxonomy.tree import NO_GROUP, Taxonomy
from pipeline.text import fmt

_ALWAYS_SHOWN = 50  # of the groups, the largest
_LEAST_SHARE = 1e-3  # of the images; of further groups smaller ones are folded
_MAX_SHOWN = 250
_LINES_ON_SCREEN = 14  # groups are opened, the largest first, until so many lines are seen
_LINES_ON_PAPER = 60
_LABELS_SHOWN = 4

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Branch:
    """A group, and what lies below it.

    Attributes:
        names: Its name; behind those of the groups around it that hold the same images, from above.
        images: How many it has.
        share: Of all images, 0-1.
        given, right, true: Images with known truth: given this group, right among these, with this truth.
        labels: The commonest labels of its classes, where no group below it is shown; empty elsewhere.
        below: The groups below it that are shown, the largest first.
        ended: Of its images, those without a finer group.
        folded: Groups with images below it that are not shown.
        folded_images: Their images.
        is_open: Whether it is open at first.
        on_paper: Whether it is open on paper.
    """

    names: tuple[str, ...]
    images: int
    share: float
    given: int
    right: int
    true: int
    labels: str
    below: tuple[Branch, ...]
    ended: int
    folded: int
    folded_images: int
    is_open: bool
    on_paper: bool


@dataclass(frozen=True, slots=True)
class GroupTree:
    """The whole tree.

    Attributes:
        branches: The groups that lie in no other, the largest first.
        folded, folded_images: Of further ones, as in :class:`Branch`.
        nowhere: Images in no group.
        empty: Groups without images, which are left out.
        has_truth: Whether the truth of some image is known.
    """

    branches: tuple[Branch, ...]
    folded: int
    folded_images: int
    nowhere: int
    empty: int
    has_truth: bool


def build_group_tree(counts: GroupCounts, counts_K: Array, truths: GroupTruths | None) -> GroupTree:
    """The tree with its counts.

    Args:
        counts: Images by group.
        counts_K: int64, images by label.
        truths: Of images with known truth; None without any.
    """
    return _Builder(counts, counts_K, truths).build()


class _Builder:
    def __init__(self, counts: GroupCounts, counts_K: Array, truths: GroupTruths | None) -> None:
        taxonomy = counts.taxonomy
        num_groups = len(taxonomy.groups)
        self._counts, self._taxonomy, self._counts_K = counts, taxonomy, counts_K
        self._images_N, self._ended_N = counts.images_by_group, counts.ended_by_group
        self._truths_3N = np.zeros((3, num_groups), np.int64)
        if truths is not None:
            self._truths_3N = np.stack([truths.given_N, truths.right_N, truths.true_N])
        self._total = int(counts_K.sum())
        self._shown = _choose_shown(taxonomy, self._images_N, self._total)
        with_images = self._images_N > 0
        self._with_images_N = with_images.astype(np.int64)  # groups with images, at or below each
        for number in reversed(range(num_groups)):
            if (parent := taxonomy.groups[number].parent) != NO_GROUP:
                self._with_images_N[parent] += self._with_images_N[number]
        self._empty = num_groups - int(with_images.sum())
        self._open = self._choose_open(_LINES_ON_SCREEN)
        self._on_paper = self._choose_open(_LINES_ON_PAPER)

    def build(self) -> GroupTree:
        roots = self._taxonomy.roots
        return GroupTree(
            branches=tuple(self._branch(number) for number in self._ordered(roots)),
            **self._fold(roots),
            nowhere=self._counts.nowhere,
            empty=self._empty,
            has_truth=bool(self._truths_3N.any()),
        )

    def _branch(self, number: int) -> Branch:
        names = [self._name(number)]
        while (inner := self._same_images(number)) != NO_GROUP:
            number = inner
            names.append(self._name(number))
        children = self._taxonomy.children[number]
        below = self._ordered(children)
        given, right, true = self._truths_3N[:, number].tolist()
        images = int(self._images_N[number])
        return Branch(
            names=tuple(names),
            images=images,
            share=images / max(1, self._total),
            given=given,
            right=right,
            true=true,
            labels="" if below else self._describe_labels(number),
            below=tuple(self._branch(inner) for inner in below),
            ended=int(self._ended_N[number]) if below else 0,
            **self._fold(children),
            is_open=number in self._open,
            on_paper=number in self._on_paper,
        )

    def _name(self, number: int) -> str:
        """A group's name; with its level where its place in the tree does not tell it."""
        group = self._taxonomy.groups[number]
        expected = self._taxonomy.level_names[::-1][len(self._taxonomy.path_from(group.parent)) :][:1]
        return group.name if expected in {(), (group.level,)} else f"{group.name} ({group.level})"

    def _same_images(self, number: int) -> int:
        """The one group right below a group that has all its images, and the same truths; else none."""
        below = [inner for inner in self._taxonomy.children[number] if self._images_N[inner]]
        if len(below) != 1 or below[0] not in self._shown or self._ended_N[number]:
            return NO_GROUP
        (inner,) = below
        same = self._images_N[inner] == self._images_N[number]
        return inner if same and (self._truths_3N[:, inner] == self._truths_3N[:, number]).all() else NO_GROUP

    def _ordered(self, numbers: Iterable[int]) -> list[int]:
        shown = [number for number in numbers if number in self._shown]
        return sorted(shown, key=lambda number: (-int(self._images_N[number]), number))

    def _fold(self, numbers: Iterable[int]) -> dict[str, int]:
        hidden = [number for number in numbers if number not in self._shown]
        return {
            "folded": int(self._with_images_N[hidden].sum()),
            "folded_images": int(self._images_N[hidden].sum()),
        }

    def _describe_labels(self, number: int) -> str:
        taxonomy = self._taxonomy
        leaves = taxonomy.leaves_L[taxonomy.first_N[number] : taxonomy.last_N[number]]
        leaves = leaves[self._counts_K[leaves] > 0]
        order = leaves[np.lexsort((leaves, -self._counts_K[leaves]))].tolist()
        texts = [f"{taxonomy.class_names[leaf]} {fmt.count(int(self._counts_K[leaf]))}" for leaf in order]
        return fmt.few(texts, _LABELS_SHOWN)

    def _choose_open(self, lines: int) -> set[int]:
        """The groups to open so that about so many lines are seen, the largest first."""
        opened: set[int] = set()
        roots = self._ordered(self._taxonomy.roots)
        seen = len(roots)
        waiting = [(-int(self._images_N[number]), number) for number in roots]
        heapq.heapify(waiting)
        while waiting and seen < lines:
            _, number = heapq.heappop(waiting)
            below = self._ordered(self._taxonomy.children[number])
            if not below:
                continue
            opened.add(number)
            seen += len(below) if self._same_images(number) == NO_GROUP else 0
            for inner in below:
                heapq.heappush(waiting, (-int(self._images_N[inner]), inner))
        return opened


def _choose_shown(taxonomy: Taxonomy, images_N: Array, total: int) -> set[int]:
    """The groups that get a line: the largest, and those around them."""
    order = np.argsort(-images_N, kind="stable")[:_MAX_SHOWN]
    is_large = (images_N[order] >= _LEAST_SHARE * total) | (np.arange(len(order)) < _ALWAYS_SHOWN)
    order = order[is_large & (images_N[order] > 0)]
    return {around for number in order.tolist() for around in taxonomy.path_from(number)}
