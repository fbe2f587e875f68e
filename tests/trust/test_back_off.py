"""Names of any level with a promised precision: the finest that is sure enough, and how often a promise is broken."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy  # its statistics take a second to import: they are where they are used

from pipeline.labels import NO_CLASS
from pipeline.taxonomy.classes_file import parse_classes
from pipeline.taxonomy.name_paths import NO_NAME, NamePaths, PathFinder
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.tree import make_taxonomy
from pipeline.taxonomy.wordnet import imagenet_class_names, wordnet_taxonomy
from pipeline.trust.back_off import BackOffLevels, JudgedNames, threshold_grid
from pipeline.trust.levels import NUM_LEVELS, Levels, choose_levels, count_scores
from pipeline.trust.promise import Judged, PrecisionTest, certify, certify_or_estimate

SIZE = 5_000
DELTA = 0.1
CLASSES = tuple(f"c{number}" for number in range(24))
# kinds of 3 classes, two of them in a family, the last family with one kind; the last three classes are in none
_ROWS = [f"{name},k{at // 3},f{at // 6}" for at, name in enumerate(CLASSES)]
NODES = nodes_of(parse_classes("t.csv", "\n".join(["class,kind,family", *_ROWS[:21]]).encode(), CLASSES))
PLAIN = nodes_of(make_taxonomy("t", CLASSES, (), [-1] * len(CLASSES)))


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def draw_classes(rng, probs):
    """One class for each row of probabilities."""
    return (np.cumsum(probs, axis=1) < rng.random((len(probs), 1))).sum(axis=1).clip(max=probs.shape[1] - 1)


def photographs(rng):
    """Calibrated, and often unsure within a kind or a family: logits, and the class of each."""
    own = rng.integers(0, 24, SIZE)
    near = np.where(np.arange(24) // 3 == own[:, None] // 3, 2, np.where(np.arange(24) // 6 == own[:, None] // 6, 1, 0))
    logits = rng.normal(0, 1, (SIZE, 24)) + 2.5 * near
    logits[np.arange(SIZE), own] += rng.normal(2.5, 2, SIZE)
    return logits, draw_classes(rng, softmax(logits))


def overconfident(rng):
    logits, truth = photographs(rng)
    return 2 * logits, truth


def sure_mistakes(rng):
    """What is surest is worse than what follows."""
    logits, truth = photographs(rng)
    best = np.argsort(-softmax(logits).max(axis=1))[: SIZE // 5]
    truth[best[rng.random(len(best)) < 0.04]] = 22
    return logits, truth


def hopeless(rng):
    """A little less right than asked for at every threshold: all promises break."""
    logits, _ = photographs(rng)
    probs = np.sort(softmax(logits), axis=1)[:, ::-1]
    moved = np.empty_like(probs)
    own = rng.integers(0, 21, SIZE)
    order = np.argsort(
        np.where(np.arange(24) == own[:, None], -1, np.abs(np.arange(24) // 3 - own[:, None] // 3)), axis=1
    )
    np.put_along_axis(moved, order, probs, 1)  # the likeliest class, its kind, its family
    return np.log(moved.astype(np.float64) + 1e-12), np.where(rng.random(SIZE) < 0.945, own, NO_CLASS)


class Collection:
    """A selection: the names of each image, and its truth."""

    def __init__(self, logits, truth, nodes=NODES):
        self.nodes, self.truth = nodes, truth
        self.paths = PathFinder(nodes).find(softmax(logits))
        self.levels = BackOffLevels(nodes)
        self.levels.add(self.paths)
        self.judged = JudgedNames.judge(nodes, self.paths, truth)

    def truths(self, rows):
        return JudgedNames(self.paths.take(rows), self.judged.right_nD[rows])

    def precision(self, threshold):
        """By the definition."""
        names, _ = self.paths.at(threshold)
        return self.nodes.is_at_or_below(self.truth, names)[names >= 0].mean()

    def is_broken(self, promise):
        return promise.threshold is not None and self.precision(promise.threshold) < promise.target

    def promises(self, test, num_truths, repeats):
        """Promises of random draws; from every tenth level, as each takes time, above all where all are refused."""
        rng = np.random.default_rng(7)
        levels = self.levels.choose(num_truths, test)
        levels = Levels(levels.thresholds_L[::10], levels.images_L[::10], levels.total)
        rows = (rng.choice(len(self.truth), num_truths, replace=False) for _ in range(repeats))
        return [certify(test, self.truths(each), levels) for each in rows]


@functools.cache
def made(make):
    return Collection(*make(np.random.default_rng(7)))


def test_paths_are_what_reaches_each_threshold_and_is_finest():
    logits, _ = photographs(np.random.default_rng(1))
    probs = softmax(logits[:300])
    paths = PathFinder(NODES).find(probs)
    assert not (np.diff(np.where(paths.nodes_BD >= 0, paths.sums_BD, 2), axis=1) <= 0)[paths.nodes_BD[:, 1:] >= 0].any()
    below = NODES.is_at_or_below(np.arange(24)[:, None], np.arange(len(NODES)))
    sums = np.where(below, probs[:, :, None].astype(np.float64), 0).sum(axis=1)  # (B, V)
    for threshold in (1e-6, 0.1, 0.3, 0.5, 0.7, 0.95, 1):
        names, found = paths.at(threshold)
        for image, (name, total) in enumerate(zip(names, found, strict=True)):
            enough = np.flatnonzero(sums[image] >= threshold - 1e-7)
            if name == NO_NAME:
                assert (len(enough), total) == (0, 0) or threshold == 1
                continue
            assert total == pytest.approx(sums[image, name], abs=1e-6)
            assert total >= np.float32(threshold)
            assert NODES.sizes_V[name] == NODES.sizes_V[enough].min()
            finest = enough[NODES.sizes_V[enough] == NODES.sizes_V[name]]
            assert sums[image, name] >= sums[image, finest].max() - 1e-6
    assert (paths.at(1e-6)[0] == probs.argmax(axis=1)).all()
    joined = NamePaths.join([paths.take(slice(0, 7)), PathFinder(NODES).find(probs[7:])])
    assert (joined.nodes_BD == paths.nodes_BD).all()


def test_above_one_half_names_lie_in_each_other():
    logits, _ = photographs(np.random.default_rng(2))
    paths = PathFinder(NODES).find(softmax(logits))
    coarse, _ = paths.at(0.95)
    for threshold in (0.9, 0.7, 0.501):
        finer, _ = paths.at(threshold)
        assert NODES.is_at_or_below(finer, coarse)[coarse >= 0].all()
        assert (finer != coarse).sum() > 200
        coarse = finer


def test_in_wordnet_no_name_is_passed_by_and_none_tells_nothing():
    nodes = nodes_of(wordnet_taxonomy(imagenet_class_names()))
    rng = np.random.default_rng(5)
    probs = softmax(rng.normal(0, 1, (40, 1000)) + rng.gamma(2, 1, (40, 1)) * (np.arange(1000) // 100 == 2))
    below = nodes.is_at_or_below(np.arange(1000)[:, None], np.arange(len(nodes)))
    sums = probs.astype(np.float64) @ below
    paths = PathFinder(nodes).find(probs)
    for threshold in (0.01, 0.2, 0.6, 0.9):
        names, _ = paths.at(threshold)
        for image, name in enumerate(names.tolist()):
            enough = np.flatnonzero((sums[image] >= threshold) & (nodes.bits >= 1))
            assert (name == NO_NAME) == (not len(enough))
            if name != NO_NAME:
                assert nodes.sizes_V[name] == nodes.sizes_V[enough].min()
                same = enough[(below[:, enough] == below[:, [name]]).all(axis=0)]
                assert nodes.depths_V[name] == nodes.depths_V[same].max()  # of equal classes the deepest
    assert nodes.bits[paths.nodes_BD[paths.nodes_BD >= 0]].min() >= 1


def test_which_groups_are_names():
    """A group of WordNet that has more than half of the classes is none; in a file each is; a chain's deepest is."""
    names = ("a", "b", "c", "d")
    probs = np.array([[0.4, 0.3, 0.2, 0.1]], np.float32)
    table = b"class,kind,family,all\na,k,f,x\nb,k,f,x\nc,,,x\nd,l,,x\n"
    tree = parse_classes("t.csv", table, names)
    nodes = nodes_of(tree)
    found = PathFinder(nodes).find(probs)
    assert [(nodes.levels[node], nodes.names[node]) for node in found.nodes_BD[0]] == [
        ("class", "a"), ("kind", "k"), ("all", "x"),
    ]  # fmt: skip
    assert found.sums_BD[0] == pytest.approx([0.4, 0.7, 1])
    assert found.at(0.71)[0].tolist() == [nodes.names.index("x")]
    unnamed = nodes_of(make_taxonomy("t", names, tree.groups, tree.parent_of_leaf_K.tolist()))
    short = PathFinder(unnamed).find(probs)
    assert [unnamed.names[node] for node in short.nodes_BD[0]] == ["a", "k"]  # at most half of the classes
    assert (short.at(0.71)[0].tolist(), short.at(0.71)[1].tolist()) == ([NO_NAME], [0])
    only = nodes_of(make_taxonomy("t", ("a",), (), [-1]))
    assert PathFinder(only).find(np.ones((2, 1), np.float32)).largest.tolist() == [0, 0]  # of one class nothing to tell


def test_what_is_right_at_a_threshold():
    """Truths are at, below, beside and above the name; a coarser truth and one that no class fits count as wrong."""
    kind, family = NODES.names.index("k0"), NODES.names.index("f0")
    probs = np.full((5, 24), 1e-9, np.float32)
    probs[:, 0], probs[:, 1], probs[:, 3], probs[:, 23] = 0.5, 0.3, 0.15, 0.05
    judged = JudgedNames.judge(NODES, PathFinder(NODES).find(probs), np.array([0, 1, kind, family, NO_CLASS]))
    accepted, right = judged.count(np.array([0.9, 0.75, 0.4]))
    assert accepted.tolist() == [5, 5, 5]
    assert right.tolist() == [4, 3, 1]  # f0: all but none; k0: c0, c1, k0; c0: itself
    assert judged.scores_n == pytest.approx([0.95] * 5)


@pytest.mark.parametrize("make", [photographs, sure_mistakes])
def test_counts_are_those_of_the_definition(make):
    collection = made(make)
    levels = collection.levels.choose(500, PrecisionTest(0.95, DELTA))
    accepted, right = collection.judged.count(levels.thresholds_L)
    for at in range(0, len(levels), 9):
        names, _ = collection.paths.at(levels.thresholds_L[at])
        assert accepted[at] == levels.images_L[at] == (names >= 0).sum()
        assert right[at] == round(collection.precision(levels.thresholds_L[at]) * accepted[at])
        bits = np.where(names >= 0, NODES.bits[names], 0).mean()
        assert collection.levels.mean_bits(levels.thresholds_L[at]) == pytest.approx(bits, abs=1e-5)


def test_levels_are_even_steps_of_bits_and_know_no_order():
    collection = made(photographs)
    test = PrecisionTest(0.95, DELTA)
    levels = collection.levels.choose(500, test)
    assert len(levels) <= NUM_LEVELS
    assert set(levels.thresholds_L) <= set(threshold_grid().astype(np.float64))
    assert (np.diff(levels.thresholds_L) < 0).all()
    assert levels.images_L[-1] == levels.total == SIZE
    steps = np.diff([collection.levels.mean_bits(threshold) for threshold in levels.thresholds_L])
    assert len(levels) > 90
    assert steps.max() < 3 * np.median(steps)
    batches = BackOffLevels(NODES)
    for rows in np.array_split(np.random.default_rng(4).permutation(SIZE), 7):
        batches.add(collection.paths.take(rows))
    again = batches.choose(500, test)
    assert (again.thresholds_L == levels.thresholds_L).all()
    assert (again.images_L == levels.images_L).all()
    assert len(BackOffLevels(NODES).choose(500, test)) == 0


@pytest.mark.parametrize(
    ("make", "target", "num_truths", "repeats"),
    [
        (photographs, 0.9, 300, 150),
        (overconfident, 0.9, 300, 150),
        (sure_mistakes, 0.95, 500, 150),
        (hopeless, 0.95, 300, 200),
    ],
)
def test_a_promise_is_broken_no_more_often_than_delta(make, target, num_truths, repeats):
    collection = made(make)
    found = collection.promises(PrecisionTest(target, DELTA), num_truths, repeats)
    broken = sum(map(collection.is_broken, found))
    assert broken <= scipy.stats.binom.ppf(0.999, len(found), DELTA)
    if make is hopeless:
        assert broken > 0  # the proof can fail
    if make is photographs:
        assert np.mean([promise.threshold is not None for promise in found]) > 0.9


def test_names_of_groups_keep_more_than_classes_alone():
    classes = Collection(*photographs(np.random.default_rng(7)), PLAIN)
    test = PrecisionTest(0.95, DELTA)
    kept, few = (np.mean([each.coverage for each in of.promises(test, 300, 20)]) for of in (made(photographs), classes))
    assert kept > few + 0.2


def test_with_classes_alone_it_is_the_plain_promise():
    logits, truth = photographs(np.random.default_rng(5))
    collection = Collection(logits, truth, PLAIN)
    scores = softmax(logits).max(axis=1)
    right = softmax(logits).argmax(axis=1) == truth
    rows = np.random.default_rng(6).choice(SIZE, 400, replace=False)
    test, plain = PrecisionTest(0.9, DELTA), Judged(scores[rows], right[rows])
    levels = collection.levels.choose(400, test)
    assert certify(test, collection.truths(rows), levels) == certify(test, plain, levels)
    exact = choose_levels(count_scores(scores), SIZE, 400, test.passes, test.max_first_share)
    assert np.abs(levels.images_L / SIZE - np.resize(exact.images_L / SIZE, len(levels))).max() < 0.02
    strict = PrecisionTest(0.999, DELTA)
    refused = certify_or_estimate(strict, collection.truths(rows), collection.levels.choose(400, strict))
    assert refused.threshold is None
    assert refused == certify_or_estimate(strict, plain, collection.levels.choose(400, strict))


def test_images_that_a_calibration_was_fitted_on_count_as_what_they_are():
    logits, truth = photographs(np.random.default_rng(8))
    rng = np.random.default_rng(9)
    fitted = rng.choice(SIZE, SIZE // 3, replace=False)
    truth[fitted] = NO_CLASS  # all wrong: what is promised of the others is not enough
    collection = Collection(logits, truth)
    others = np.setdiff1d(np.arange(SIZE), fitted)
    test = PrecisionTest(0.7, DELTA)
    rows = rng.choice(others, 300, replace=False)
    levels = collection.levels.choose(300, test)
    promise = certify(test, collection.truths(rows), levels, collection.truths(fitted))
    assert (promise.threshold, promise.num_fitted) == (None, len(fitted))
    assert certify(test, collection.truths(rows), levels).threshold is not None


def test_too_few_truths_are_refused_with_how_many_are_missing():
    collection = made(photographs)
    test, rng = PrecisionTest(0.95, DELTA), np.random.default_rng(3)
    few = certify_or_estimate(test, collection.truths(np.arange(20)), collection.levels.choose(20, test))
    assert (few.threshold, few.levels, few.least_certifying, few.missing) == (None, (), 45, 25)
    none = certify_or_estimate(test, collection.truths(np.arange(0)), collection.levels.choose(0, test))
    assert (none.threshold, none.missing, none.needed) == (None, 45, None)
    strict = PrecisionTest(0.99, DELTA)
    rows = rng.choice(SIZE, 240, replace=False)
    refused = certify_or_estimate(strict, collection.truths(rows), collection.levels.choose(240, strict))
    assert refused.threshold is None
    assert refused.missing > 0
    assert refused.needed.right < refused.needed.judged or refused.needed.truths > 240


def test_what_is_said_of_further_truths_is_consistent_and_enough_of_them_do():
    """Enough of them lead to a promise; at the least no more are missing than are expected to do."""
    collection, test, rng = made(photographs), PrecisionTest(0.98, DELTA), np.random.default_rng(1)
    levels = collection.levels.choose(150, test)
    for _ in range(6):
        refused = certify_or_estimate(test, collection.truths(rng.choice(SIZE, 150, replace=False)), levels)
        needed = refused.needed
        if refused.threshold is None and needed and needed.truths:
            assert 0 < refused.missing <= needed.truths - 150
            assert needed.right <= needed.judged <= 150
    found = [
        promise.threshold is not None for number in (400, 1500) for promise in collection.promises(test, number, 40)
    ]
    assert np.mean(found[:40]) < np.mean(found[40:])
    assert np.mean(found[40:]) > 0.8
