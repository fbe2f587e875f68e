"""What several annotators agree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.taxonomy.answers import answers_of, groups_around
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.tree import Taxonomy


def settle(votes: Sequence[int | str], taxonomy: Taxonomy | None = None) -> int | str | None:
    """The truth that follows from votes.

    The answer with the most votes. With a tree more can be known: of ``beagle`` and ``terrier`` each says that it is a
    dog. So where answers are tied, or the first one is not what a majority says in other words, it is the finest group
    that more than half of the votes lie in, of those that people are offered. A group of all classes says nothing.

    Args:
        votes: A class or a group of the tree as a node; anything else, text and what is below 0, stands for itself.
        taxonomy: The tree; None where there are classes alone.

    Returns:
        A vote, or a node around several; None without votes, and where there is a tie.
    """
    counts = Counter(votes).most_common(2)
    if not counts:
        return None
    first = counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else None
    agreed = None if taxonomy is None else _agreed(votes, taxonomy)
    if taxonomy is None or agreed is None:
        return first
    is_within = isinstance(first, int) and first >= 0 and agreed in groups_around(taxonomy, first)
    return first if is_within else agreed


def _agreed(votes: Sequence[int | str], taxonomy: Taxonomy) -> int | None:
    """The finest node that more than half of the votes lie at or below; there is only one, for two share a vote."""
    nodes = nodes_of(taxonomy)
    around = [groups_around(taxonomy, vote) for vote in votes if isinstance(vote, int) and vote >= 0]
    counts = Counter(node for path in around for node in path)
    most = [node for node, count in counts.items() if 2 * count > len(votes)]
    offered = {*range(taxonomy.num_classes), *answers_of(taxonomy).offered_groups}
    telling = [node for node in most if node in offered and nodes.sizes_V[node] < taxonomy.num_classes]
    return max(telling, key=lambda node: (nodes.depths_V[node], -node), default=None)
