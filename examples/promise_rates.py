"""How often a promised precision is broken, and how much it keeps: the procedure of `export`, in simulation.

    python examples/promise_rates.py
    python examples/promise_rates.py --repeats 10000

Each line is a made-up collection, a target and a number of truths. The columns are ways to find a threshold. Each shows
the share of the images that it keeps, and how often of 100 random draws of the truth the precision is below the target,
which may be the case 10 times (`--delta`). `possible` is what somebody would keep who knew the truth of all images.

- `now`: thresholds from the scores of all images, tests from strict to loose, all truths certify.
- `halves`: half of the truths gives the thresholds, the other half certifies.
- `20 levels`: as `now`, with fewer thresholds, of which the first tolerates 2 errors instead of 24.
- `three starts`: three sequences with a third of the risk each, so that one failure does not end everything.
- `any time`: tests that hold however often somebody adds truths and looks again (e-values instead of p-values).
- `observed`: the lowest threshold that reached the target on the truth itself. It is no promise.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.trust.intervals import wilson_upper
from pipeline.trust.levels import choose_levels, count_scores
from pipeline.trust.promise import PrecisionTest

Array = np.ndarray
SIZE = 200_000


def collections(rng: np.random.Generator) -> Iterator[tuple[str, Array, Array]]:
    """Names, scores and whether labels are right."""
    scores = 1 / (1 + np.exp(-rng.normal(3.2, 2.6, SIZE)))
    right = rng.random(SIZE) < scores
    yield "calibrated", scores, right
    yield "noisy scores", scores + rng.normal(0, 0.05, SIZE), right
    best = np.argsort(-scores)[: SIZE // 20]
    worse = right.copy()
    worse[best] = rng.random(len(best)) < 0.97
    yield "sure mistakes", scores, worse
    places = rng.integers(0, 5, SIZE)
    yield "five scores", places / 4, rng.random(SIZE) < np.array([0.5, 0.9, 0.99, 1, 0.96])[places]
    yield "hopeless", rng.random(SIZE), rng.random(SIZE) < 0.947


def tolerated(passes: Callable[[int, int], bool], num_truths: int) -> Array:
    """How many errors pass among 0, 1, ... truths; -1 where none does."""
    found, errors = [-1], -1
    for truths in range(1, num_truths + 1):
        while errors + 1 < truths and passes(errors + 1, truths):
            errors += 1
        found.append(errors)
    return np.array(found)


def e_value_test(target: float, delta: float) -> Callable[[int, int], bool]:
    """A likelihood ratio against the target, mean over the precisions above it; by Ville's inequality at any time."""
    grid = np.linspace(target, 1, 2_001)[:-1] + (1 - target) / 4_000

    def passes(wrong: int, truths: int) -> bool:
        right = truths - wrong
        if right < target * truths:
            return False
        logs = right * np.log(grid / target) + wrong * np.log((1 - grid) / (1 - target))
        return bool(np.exp(logs).mean() >= 1 / delta)

    return passes


class Draws:
    """Random draws of truths: of each the ranks of its images, best first, and which of them are wrong."""

    def __init__(self, scores: Array, right: Array, num_truths: int, repeats: int, rng: np.random.Generator) -> None:
        order = np.argsort(-scores, kind="stable")
        self.scores, wrong = scores[order], ~right[order]
        self.precisions = 1 - np.cumsum(wrong) / np.arange(1, SIZE + 1)
        ranks = np.stack([rng.choice(SIZE, num_truths, replace=False) for _ in range(repeats)])
        self.ranks, self.half = np.sort(ranks, axis=1), np.sort(ranks[:, : num_truths // 2], axis=1)
        self.is_wrong = wrong

    def sums(self, images_L: Array, ranks: Array) -> tuple[Array, Array]:
        """Truths at each level, and the wrong ones among them: (repeats, L) each."""
        wrong_before = np.pad(np.cumsum(self.is_wrong[ranks], axis=1), ((0, 0), (1, 0)))
        accepted = np.stack([np.searchsorted(row, images_L) for row in ranks])
        return accepted, np.take_along_axis(wrong_before, accepted, axis=1)

    def judge(self, kept: Array, target: float) -> str:
        """Mean share kept, and the rate of broken promises; of the images kept in each draw, 0 where none are."""
        broken = (kept > 0) & (self.precisions[np.maximum(kept, 1) - 1] < target)
        return f"{100 * kept.mean() / SIZE:5.1f} ({100 * broken.mean():4.1f})"


def in_sequence(accepted: Array, wrong: Array, table: Array, images_L: Array) -> Array:
    """Images kept by the last level before the first failure."""
    passed = np.cumprod(wrong <= table[accepted], axis=1).sum(axis=1)
    return np.append(images_L, 0)[passed - 1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Simulate promises.")
    parser.add_argument("--repeats", type=int, default=200, help="draws of each line; default: %(default)s")
    parser.add_argument("--delta", type=float, default=0.1, help="default: %(default)s")
    parser.add_argument("--truths", default="200,500,1000,2000", help="default: %(default)s")
    args = parser.parse_args()
    rng = np.random.default_rng(7)
    print(
        f"{'collection':14} target truths possible now halves 20-levels three-starts any-time observed".replace(
            " ", "  "
        )
    )
    for name, scores, right in collections(np.random.default_rng(7)):
        for num_truths in map(int, args.truths.split(",")):
            draws = Draws(scores, right, num_truths, args.repeats, rng)
            for target in (0.9, 0.95, 0.98, 0.99):
                line = compare(draws, num_truths, target, args.delta)
                print(f"{name:14} {target:5.2f} {num_truths:6d}  " + "  ".join(line), flush=True)


def compare(draws: Draws, num_truths: int, target: float, delta: float) -> list[str]:
    """The cells of a line."""
    good = np.flatnonzero(draws.precisions >= target)
    cells = [f"{100 * (good[-1] + 1) / SIZE if len(good) else 0:6.1f}"]
    test = PrecisionTest(target, delta)

    def passes(wrong: int, truths: int) -> bool:
        return test.passes(wrong, truths, SIZE)

    def by_levels(images_L: Array, table: Array, ranks: Array = draws.ranks) -> str:
        if not len(images_L):
            return draws.judge(np.zeros(len(draws.ranks), int), target)
        return draws.judge(in_sequence(*draws.sums(images_L, ranks), table, images_L), target)

    table = tolerated(passes, num_truths)
    levels = choose_levels(count_scores(draws.scores), SIZE, num_truths, test.passes, test.max_first_share)
    cells.append(by_levels(levels.images_L, table))
    cells.append(by_levels(few_levels(draws, table, num_truths // 2), table, draws.half))
    cells.append(by_levels(few_levels(draws, table, num_truths), table))
    cells.append(draws.judge(three_starts(draws, levels.images_L, target, delta, num_truths), target))
    e_table = tolerated(e_value_test(target, delta), num_truths)
    cells.append(by_levels(levels.images_L, e_table))
    precise = 1 - np.cumsum(draws.is_wrong[draws.ranks], axis=1) / np.arange(1, num_truths + 1) >= target
    last = np.where(precise.any(axis=1), num_truths - np.argmax(precise[:, ::-1], axis=1), 0)
    kept = np.where(last > 0, np.take_along_axis(draws.ranks, np.maximum(last - 1, 0)[:, None], axis=1)[:, 0] + 1, 0)
    return [*cells, draws.judge(kept, target)]


def few_levels(draws: Draws, table: Array, num_truths: int) -> Array:
    """Images at 20 levels, of which the first holds enough truths for two errors, or for fewer, up to one half."""
    needed = [int(np.argmax(table >= errors)) for errors in (2, 1, 0) if (table[: num_truths + 1] >= errors).any()]
    shares = [wilson_upper(count, num_truths, z=1.0) for count in needed]
    if not shares:
        return np.zeros(0, int)
    first = next((share for share in shares if share <= 0.5), shares[-1])
    return with_ties(draws, np.ceil(np.linspace(first, 1, 20) * SIZE).astype(int))


def with_ties(draws: Draws, images_L: Array) -> Array:
    """The same levels, each with all images of its lowest score."""
    return np.unique(np.searchsorted(-draws.scores, -draws.scores[images_L - 1], side="right"))


def three_starts(draws: Draws, images_L: Array, target: float, delta: float, num_truths: int) -> Array:
    """The loosest of three sequences with a third of the risk each, which start at 0, 1/5 and 2/5 of the levels."""
    kept = np.zeros(len(draws.ranks), int)
    if not len(images_L):
        return kept
    third = PrecisionTest(target, delta / 3)
    table = tolerated(lambda wrong, truths: third.passes(wrong, truths, SIZE), num_truths)
    accepted, wrong = draws.sums(images_L, draws.ranks)
    for start in (0, len(images_L) // 5, 2 * len(images_L) // 5):
        kept = np.maximum(kept, in_sequence(accepted[:, start:], wrong[:, start:], table, images_L[start:]))
    return kept


if __name__ == "__main__":
    main()
