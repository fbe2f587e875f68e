"""What names of groups keep at a promised precision, and how often such a promise is broken, in simulation.

    python examples/back_off_rates.py
    python examples/back_off_rates.py OUT --truths 150

The first line makes up collections of 20,000 images of ImageNet's classes: whose probabilities are right as they are
(`calibrated`), too far from even (`overconfident`) or not far enough (`underconfident`), and where what is surest is
worse than what follows (`sure mistakes`). The second takes the images with truth of an OUT that was labelled with
`--keep-probs`, for each of its networks and for their mean. WordNet's groups are above the classes.

Each line is a collection and a target. Truths are drawn at random, 200 times (`--repeats`). For the classes alone and
for each rule it shows the share of the images that is exported, the mean bits that an image's name tells (0 where it is
not exported; a class of 1,000 tells 10), and how often of 100 draws the precision is below the target, which may be the
case 10 times (`--delta`). `known` is what somebody would keep who knew the truth of all images: with the finest names.

- `finest`: of all nodes that reach the threshold the one of the fewest classes. It is what `export` does.
- `descend`: down from the top, always to the child with the largest sum, as far as the threshold is reached.
- `climb`: up from the likeliest class, until the threshold is reached.
- `mixed`: as `climb` up to one half, from there as `finest`.
- `hedge`: the most bits for a price of each expected error, which takes the threshold's place. It is no sum that the
  names reach: a name that tells half as much has to be twice as sure.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.output.ledger import JOB, Ledger
from pipeline.storage import Storage
from pipeline.taxonomy.name_paths import NO_NAME, NamePaths, PathFinder
from pipeline.taxonomy.nodes import Nodes, nodes_of
from pipeline.taxonomy.sums import GroupSums
from pipeline.taxonomy.tree import make_taxonomy
from pipeline.taxonomy.wordnet import imagenet_class_names, wordnet_taxonomy
from pipeline.trust.back_off import BackOffLevels
from pipeline.trust.levels import Levels, choose_levels, count_scores
from pipeline.trust.member_probs import read_member_log_probs
from pipeline.trust.promise import PrecisionTest
from pipeline.trust.truth_file import read_truth

Array = np.ndarray
SIZE = 20_000
CHUNK = 2_000


def softmax(logits_BK: Array) -> Array:
    """float32, (B, K), probabilities."""
    powers_BK = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
    return (powers_BK / powers_BK.sum(axis=1, keepdims=True)).astype(np.float32)


def draw_classes(rng: np.random.Generator, probs_BK: Array) -> Array:
    """One class for each image: int, (B,)."""
    sums_BK = np.cumsum(probs_BK, axis=1, dtype=np.float64)
    classes_B: Array = (sums_BK < rng.random((len(probs_BK), 1)) * sums_BK[:, -1:]).sum(axis=1)
    return classes_B


def make_up(nodes: Nodes, sharpness: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Probabilities, float32 (B, K), and the class of each image.

    Args:
        nodes: Of the tree: what lies close to each other in it is mixed up more often.
        sharpness: What the log-probabilities are multiplied by after the classes are drawn.
        rng: Of what is made up.
    """
    paths_KD = nodes.taxonomy.leaf_paths
    in_KN = np.zeros((len(paths_KD), paths_KD.max() + 2), np.float32)
    np.put_along_axis(in_KN, paths_KD + 1, 1, axis=1)
    shared_KK = in_KN[:, 1:] @ in_KN[:, 1:].T  # groups that two classes are both in
    probs, classes = [], []
    for _ in range(SIZE // CHUNK):
        own_B = rng.integers(0, len(paths_KD), CHUNK)
        sureness_B = rng.gamma(2.0, 0.5, CHUNK)
        logits_BK = sureness_B[:, None] * shared_KK[own_B] + rng.normal(0, 1, (CHUNK, len(paths_KD)))
        logits_BK[np.arange(CHUNK), own_B] += rng.normal(6, 4, CHUNK)
        classes.append(draw_classes(rng, softmax(logits_BK)))
        probs.append(softmax(sharpness * logits_BK))
    return np.concatenate(probs), np.concatenate(classes)


def made_up(nodes: Nodes) -> Iterator[tuple[str, Array, Array]]:
    """Names, probabilities and classes of made-up collections."""
    for name, sharpness in (("calibrated", 1.0), ("overconfident", 1.5), ("underconfident", 0.7)):
        yield name, *make_up(nodes, sharpness, np.random.default_rng(7))
    probs_BK, truth_B = make_up(nodes, 1.0, np.random.default_rng(7))
    best = np.argsort(-probs_BK.max(axis=1))[: SIZE // 20]
    rng = np.random.default_rng(8)
    wrong = best[rng.random(len(best)) < 0.05]
    truth_B[wrong] = rng.integers(0, probs_BK.shape[1], len(wrong))
    yield "sure mistakes", probs_BK, truth_B


def labelled(out: str, truth: str | None) -> Iterator[tuple[str, Array, Array]]:
    """Names, probabilities and classes of the images with truth: of each network, and of their mean."""
    storage = Storage()
    ledger = Ledger(out, storage)
    job = ledger.read_json(JOB)
    if job is None:
        raise SystemExit(f"{out}: no {JOB}")
    given = None if truth is None else read_truth(truth, storage, job["class_names"])
    members, _, _ = read_member_log_probs(ledger, job, given)
    probs_NMK, truth_N = members.logs_NMK.exp().numpy(), members.truth_N.numpy()
    for number, member in enumerate(job["results"]["members"]):
        yield member["alias"], probs_NMK[:, number], truth_N
    yield "mean of all", probs_NMK.mean(axis=1), truth_N


# -- rules: what an image may be called -------------------------------------------------------------------


class OtherRules:
    """Ways through a tree that were compared with the finest node.

    Args:
        nodes: Of the tree.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes, taxonomy = nodes, nodes.taxonomy
        self._num_classes = taxonomy.num_classes
        self._sums: GroupSums[Array] = GroupSums(taxonomy, np.zeros(0, np.float32))
        self._finest = PathFinder(nodes)
        self._below: dict[int, Array] = {
            number: np.array(
                [*taxonomy.leaves_right_below(number), *(taxonomy.num_classes + child for child in children)]
            )
            for number, children in [(-1, taxonomy.roots), *enumerate(taxonomy.children)]
        }

    def descend(self, probs_BK: Array) -> NamePaths:
        """From the top to the likeliest child."""
        found = []
        for sums_V in self._all(probs_BK):
            path, at = [], -1
            while at < 0 or at >= self._num_classes:
                below = self._below[-1 if at < 0 else at - self._num_classes]
                at = int(below[sums_V[below].argmax()])
                path.append(at)
            found.append(self._keep(path[::-1], sums_V))
        return _padded(found)

    def climb(self, probs_BK: Array) -> NamePaths:
        """Up from the likeliest class."""
        return _padded([self._keep(self._way_up(sums_V), sums_V) for sums_V in self._all(probs_BK)])

    def mixed(self, probs_BK: Array) -> NamePaths:
        """Up from the likeliest class to one half; above it the finest nodes."""
        finest, found = self._finest.find(probs_BK), []
        for row, sums_V in enumerate(self._all(probs_BK)):
            upper = finest.nodes_BD[row][finest.sums_BD[row] > 0.5].tolist()
            least = min(self._nodes.sizes_V[upper], default=self._num_classes)
            lower = [at for at in self._way_up(sums_V) if sums_V[at] <= 0.5 and self._nodes.sizes_V[at] < least]
            found.append(self._keep([*lower, *upper], sums_V))
        return _padded(found)

    def hedge(self, probs_BK: Array) -> NamePaths:
        """The best of the finest nodes for each price of an error, in bits; scores are price / (price + most bits)."""
        finest, found = self._finest.find(probs_BK), []
        most = float(np.log2(self._num_classes))
        for row, length in enumerate(finest.lengths.tolist()):
            # from no name at all, without error and bits, to the finest: each is worth the least price of the next
            hull, prices = [(0.0, 0.0, NO_NAME)], [np.inf]
            for at in reversed(range(length)):
                node, error = int(finest.nodes_BD[row, at]), 1 - float(finest.sums_BD[row, at])
                bits = float(self._nodes.bits[node])
                price = _price(hull[-1], error, bits)
                while len(hull) > 1 and price >= prices[-1]:
                    hull.pop(), prices.pop()
                    price = _price(hull[-1], error, bits)
                hull.append((error, bits, node)), prices.append(price)
            scores = [1.0 if np.isinf(price) else price / (price + most) for price in prices[:0:-1]]
            found.append(([node for _, _, node in hull[:0:-1]], scores))
        return _padded(found)

    def _way_up(self, sums_V: Array) -> list[int]:
        leaf = int(sums_V[: self._num_classes].argmax())
        path_D = self._nodes.taxonomy.leaf_paths[leaf]
        return [leaf, *(self._num_classes + path_D[path_D >= 0]).tolist()]

    def _all(self, probs_BK: Array) -> Iterator[Array]:
        """Sums of all nodes, image by image."""
        for first in range(0, len(probs_BK), CHUNK):
            batch_BK = probs_BK[first : first + CHUNK]
            yield from np.concatenate([batch_BK, self._sums.all_groups(batch_BK)], axis=1)

    def _keep(self, path: list[int], sums_V: Array) -> tuple[list[int], list[float]]:
        """Those of a path, finest first, that tell something and have more than the ones before."""
        nodes: list[int] = []
        for node in path:
            tells = self._nodes.taxonomy.level_names or 2 * self._nodes.sizes_V[node] <= self._num_classes
            if tells and sums_V[node] > (sums_V[nodes[-1]] if nodes else 0):
                nodes.append(node)
        return nodes, sums_V[nodes].tolist()


def _price(before: tuple[float, float, int], error: float, bits: float) -> float:
    """Bits for each error that a name has more than the one before."""
    return (bits - before[1]) / (error - before[0]) if error > before[0] else np.inf


def _padded(paths: list[tuple[list[int], list[float]]]) -> NamePaths:
    shape = len(paths), max(1, *(len(nodes) for nodes, _ in paths))
    found = NamePaths(np.full(shape, NO_NAME, np.int32), np.zeros(shape, np.float32))
    for row, (nodes, sums) in enumerate(paths):
        found.nodes_BD[row, : len(nodes)], found.sums_BD[row, : len(sums)] = nodes, sums
    return found


# -- promises --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcomes:
    """What is exported at each of the levels.

    Attributes:
        accepted_NL: bool, (N, L).
        right_NL: bool, (N, L).
        bits_L: (L,), mean over all images.
    """

    levels: Levels
    accepted_NL: Array
    right_NL: Array
    bits_L: Array

    @classmethod
    def make(cls, nodes: Nodes, paths: NamePaths, truth_N: Array, levels: Levels) -> Outcomes:
        """By the definition, level by level."""
        names_NL = np.full((len(paths), max(1, len(levels))), NO_NAME)
        for at, threshold in enumerate(levels.thresholds_L.tolist()):
            names_NL[:, at] = paths.at(threshold)[0]
        right_NL = nodes.is_at_or_below(truth_N[:, None], names_NL)
        return cls(levels, names_NL >= 0, right_NL, np.where(names_NL >= 0, nodes.bits[names_NL], 0).mean(axis=0))

    def draw(self, passes: Callable[[int, int, int], bool], rows: Array) -> int:
        """The level that is promised for a draw of truths; -1 for none."""
        accepted_L, right_L = self.accepted_NL[rows].sum(axis=0).tolist(), self.right_NL[rows].sum(axis=0).tolist()
        for at, images in enumerate(self.levels.images_L.tolist()):
            if not passes(accepted_L[at] - right_L[at], accepted_L[at], images):
                return at - 1
        return len(self.levels) - 1

    def cell(self, test: PrecisionTest, draws: list[Array]) -> str:
        """Mean share that is exported, mean bits, rate of broken promises."""
        passes = functools.cache(test.passes)
        chosen = np.array([self.draw(passes, rows) for rows in draws])
        precision_L = self.right_NL.sum(axis=0) / np.maximum(1, self.accepted_NL.sum(axis=0))
        kept = np.where(chosen >= 0, self.accepted_NL.mean(axis=0)[chosen], 0)
        bits = np.where(chosen >= 0, self.bits_L[chosen], 0)
        broken = (chosen >= 0) & (precision_L[chosen] < test.target)
        return f"{100 * kept.mean():5.1f} {bits.mean():5.2f} ({100 * broken.mean():4.1f})"

    def known(self, target: float) -> str:
        """What the loosest level that reaches the target keeps."""
        precision_L = self.right_NL.sum(axis=0) / np.maximum(1, self.accepted_NL.sum(axis=0))
        good = np.flatnonzero((precision_L >= target) & self.accepted_NL.any(axis=0))
        kept, bits = (self.accepted_NL[:, good[-1]].mean(), self.bits_L[good[-1]]) if len(good) else (0, 0)
        return f"{100 * kept:5.1f} {bits:5.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Simulate promises with names of groups.")
    parser.add_argument("out", nargs="?", metavar="OUT", help="made-up collections without it")
    parser.add_argument(
        "--truth", metavar="FILE", help="as `export --truth` takes it; default: the .cls of the samples"
    )
    parser.add_argument("--truths", default="150,500", help="how many are drawn; default: %(default)s")
    parser.add_argument("--targets", default="0.9,0.95,0.98", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=200, help="draws of each line; default: %(default)s")
    parser.add_argument("--delta", type=float, default=0.1, help="default: %(default)s")
    parser.add_argument(
        "--rules", default="finest", help="some of finest,descend,climb,mixed,hedge; default: %(default)s"
    )
    args = parser.parse_args()
    nodes = nodes_of(wordnet_taxonomy(imagenet_class_names()))
    rules = args.rules.split(",")
    print(
        f"{'collection':22} truths target  {'known':11}  {'classes alone':18}  "
        + "  ".join(f"{rule:18}" for rule in rules)
    )
    for name, probs_NK, truth_N in labelled(args.out, args.truth) if args.out else made_up(nodes):
        paths = {rule: find(nodes, rule, probs_NK) for rule in ("classes", "finest", *rules)}
        for num_truths in map(int, args.truths.split(",")):
            if num_truths > len(truth_N):
                continue
            rng = np.random.default_rng(7)
            draws = [rng.choice(len(truth_N), num_truths, replace=False) for _ in range(args.repeats)]
            for target in map(float, args.targets.split(",")):
                test = PrecisionTest(target, args.delta)
                found = {rule: outcomes(nodes, paths[rule], truth_N, num_truths, test) for rule in paths}
                cells = [
                    found["finest"].known(target),
                    *(found[rule].cell(test, draws) for rule in ("classes", *rules)),
                ]
                print(f"{name:22} {num_truths:6d} {target:6.2f}  " + "  ".join(cells), flush=True)


def find(nodes: Nodes, rule: str, probs_NK: Array) -> NamePaths:
    """The paths of a rule; `classes` are those of a tree without groups."""
    if rule == "finest":
        return PathFinder(nodes).find(probs_NK)
    if rule == "classes":
        names = nodes.taxonomy.class_names
        return PathFinder(nodes_of(make_taxonomy("classes", names, (), [-1] * len(names)))).find(probs_NK)
    found: NamePaths = getattr(OtherRules(nodes), rule)(probs_NK)
    return found


def outcomes(nodes: Nodes, paths: NamePaths, truth_N: Array, num_truths: int, test: PrecisionTest) -> Outcomes:
    """What is exported at the levels of a selection: the usual ones where there are only classes."""
    if (paths.lengths <= 1).all() and (paths.nodes_BD < nodes.taxonomy.num_classes).all():
        counts = count_scores(paths.largest)
        levels = choose_levels(counts, len(paths), num_truths, test.passes, test.max_first_share)
    else:
        chooser = BackOffLevels(nodes)
        chooser.add(paths)
        levels = chooser.choose(num_truths, test)
    return Outcomes.make(nodes, paths, truth_N, levels)


if __name__ == "__main__":
    main()
