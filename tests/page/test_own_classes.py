"""The report's section about own classes: its counts, its tree, and the page that shows them."""

from __future__ import annotations

import csv
import re
import types
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_outputs import calibrated, write_csv, write_output

from pipeline import evaluate, report
from pipeline.errors import InputError
from pipeline.labels import NO_CLASS
from pipeline.output.ledger import Ledger
from pipeline.page.group_counts import ColumnCounts, GroupCounts
from pipeline.page.group_tree import build_group_tree
from pipeline.page.group_truths import count_group_truths
from pipeline.page.statistics import collect_statistics
from pipeline.page.streaming_histogram import HistogramBuilder
from pipeline.storage import Storage
from pipeline.taxonomy.classes_file import read_classes
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.tree import NO_GROUP
from pipeline.taxonomy.wordnet import imagenet_class_names, wordnet_taxonomy
from pipeline.trust.group_reader import GroupReader

NUM_IMAGES, NUM_CLASSES = 150, 12
EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(2)>"
KINDS = {"cat": (0, 1), "dog": (2, 3, 4), EVIL: (5,), "car": (6, 7), "chair": (8,)}  # 9 to 11 are in none
FAMILIES = {"animal": ("cat", "dog", EVIL), "vehicle": ("car",)}
_VOID = {"meta", "link", "img", "wbr", "br"}


class Balanced(HTMLParser):
    """Fails on elements that are not closed in their order, except those of the plots, which are XML."""

    def __init__(self, source):
        super().__init__()
        self.open, self.names = [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An output that stores the scores of all classes, its probabilities, and a file of own classes."""
    folder = tmp_path_factory.mktemp("made")
    probs, truth = calibrated(NUM_IMAGES, NUM_CLASSES, sharpness=1.5)
    out = write_output(folder / "out", probs[None], truth, k=NUM_CLASSES, rows_per_part=40)
    family_of = {kind: family for family, kinds in FAMILIES.items() for kind in kinds}
    with (folder / "own.csv").open("w", newline="") as file:
        rows = [(label, kind, family_of.get(kind, "")) for kind, labels in KINDS.items() for label in labels]
        csv.writer(file).writerows([("class", "kind", "family"), *rows])
    return types.SimpleNamespace(out=out, classes=folder / "own.csv", probs=probs, truth=np.array(truth))


def chosen(probs_NK, groups):
    """The name of each image's group; empty where more lies in none."""
    sums = np.stack([probs_NK[:, list(labels)].sum(axis=1) for labels in groups.values()], axis=1)
    rest = probs_NK[:, sorted({*range(NUM_CLASSES)} - {label for labels in groups.values() for label in labels})]
    names = np.array(list(groups))[sums.argmax(axis=1)]
    return np.where(rest.sum(axis=1) > sums.max(axis=1), "", names)


@pytest.fixture(scope="module")
def by_hand(made):
    families = {family: [label for kind in kinds for label in KINDS[kind]] for family, kinds in FAMILIES.items()}
    return {"kind": chosen(made.probs, KINDS), "family": chosen(made.probs, families)}


def test_images_are_counted_at_each_level(made, by_hand):
    ledger, storage = Ledger(str(made.out), Storage()), Storage()
    taxonomy = read_classes(str(made.classes), storage, ledger.job()["class_names"])
    found = collect_statistics(ledger, ledger.job(), GroupReader(ledger, ledger.job(), storage, taxonomy)).groups
    kinds, families = by_hand["kind"], by_hand["family"]
    assert found.source == "top-k"
    for column in found.columns:
        names = [taxonomy.groups[number].name for number in column.numbers_G]
        assert column.given_G.tolist() == [(by_hand[column.name] == name).sum() for name in names]
        assert column.none == (by_hand[column.name] == "").sum() == NUM_IMAGES - column.score.images > 0
    assert found.columns[1].ended_G.sum() == ((kinds == "") & (families != "")).sum() > 0
    assert found.nowhere == ((kinds == "") & (families == "")).sum() > 0
    above = {kind: family for family, inner in FAMILIES.items() for kind in inner}
    lies_apart = [above.get(kind, "") not in {"", family} for kind, family in zip(kinds, families, strict=True)]
    assert found.apart == sum(lies_apart) > 0


@pytest.fixture(scope="module")
def shown(made, tmp_path_factory):
    """The page with own classes, as source and as text."""
    path = tmp_path_factory.mktemp("shown") / "page.html"
    report(made.out, classes=made.classes, save=path)
    source = path.read_text("utf-8")
    return source, text_of(source)


def text_of(source):
    section = re.search(r'<section id="own-classes".*?</section>', source, re.DOTALL)[0]
    section = re.sub("</t[hd]>", " ", section)
    return " ".join(re.sub(r"<svg.*?</svg>|<[^>]*>", "", section, flags=re.DOTALL).split())


def test_the_page_shows_the_tree_and_the_accuracy(made, by_hand, shown):
    source, text = shown
    assert Balanced(source).names.count("details") > source.count('class="plot"')
    assert "9 classes of 12 in 7 groups, 2 levels. They were added up from the stored top-k alone" in text
    animals = by_hand["family"] == "animal"
    is_animal = made.truth < 6
    assert (
        f"animal {animals.sum()} images {100 * animals.mean():.1f} % "
        f"right {100 * is_animal[animals].mean():.1f} % of {animals.sum()} "
        f"found {100 * animals[is_animal].mean():.1f} % of {is_animal.sum()}"
    ) in text
    assert f"chair (kind) {(by_hand['kind'] == 'chair').sum()} images" in text
    assert f"{(made.truth > 8).sum()} truths are in no group of kind: right where none was given." in text
    for level in evaluate(made.out, classes=made.classes).levels:
        assert (
            f"{level.name} {level.num_groups} {NUM_IMAGES} {100 * level.accuracy:.1f} % "
            f"{100 * level.accuracy_interval[0]:.1f} to "
        ) in text
        assert f"Most frequent mistakes: {level.name}" in text
    labels = np.bincount(made.probs.argmax(axis=1), minlength=NUM_CLASSES)[[6, 7]]
    assert f"class {6 + labels.argmax()} {labels.max()}, class {6 + labels.argmin()} {labels.min()}" in text


def test_hostile_names_are_text(shown):
    source, text = shown
    assert not {"script", "img"} & {*Balanced(source).names}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&gt;&lt;img" in text


def test_a_truth_may_be_a_group_and_counts_at_its_level(made, by_hand, tmp_path):
    keys = [f"{at:05d}" for at in range(20)]
    truth = write_csv(tmp_path / "truth.csv", [(key, "animal") for key in keys])
    result = report(made.out, classes=made.classes, truth=truth, save=tmp_path / "page.html")
    assert result.matched == 20
    source = (tmp_path / "page.html").read_text("utf-8")
    text = text_of(source)
    assert "20 more truths are too coarse for kind." in text
    assert f"found {100 * (by_hand['family'][:20] == 'animal').mean():.1f} % of 20" in text
    assert "All truths are groups" in source
    assert "Reliability" not in source
    rights = made.probs.argmax(axis=1)[:20] < 6
    assert source.count("truth: animal") == source.count('class="mark right"') + source.count('class="mark wrong"') > 0
    assert ('class="mark right"' in source) == bool(rights.any())


def test_without_own_classes_the_page_says_nothing_of_them(made, tmp_path):
    report(made.out, save=tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text("utf-8")
    assert "own-classes" not in source
    assert ".tree" not in source
    with pytest.raises(InputError, match="none of them"):
        report(made.out, classes="wordnet")


def imagenet_counts(named):
    """Counts of WordNet's groups, by name."""
    taxonomy = wordnet_taxonomy(imagenet_class_names())
    given = np.array([named.get(group.name, 0) for group in taxonomy.groups])
    column = ColumnCounts("wordnet", np.arange(len(given)), given, given, 0, HistogramBuilder(1.0).build())
    return GroupCounts(taxonomy, "columns", (column,), 0, 0)


def spread(total):
    counts_K = np.zeros(1000, np.int64)
    counts_K[151] = total
    return counts_K


def flatten(branches):
    return [one for branch in branches for one in (branch, *flatten(branch.below))]


def test_small_groups_are_folded_and_groups_of_the_same_images_are_one_line():
    rare = {group.name: 1 for group in wordnet_taxonomy(imagenet_class_names()).groups[:700]}
    named = rare | {"dog.n.01": 50_000, "terrier.n.01": 40_000, "chair.n.01": 3}
    total = sum(named.values())
    tree = build_group_tree(imagenet_counts(named), spread(total), None)
    lines = {line.names[-1]: line for line in flatten(tree.branches)}
    assert lines["dog.n.01"].ended == 50_000
    assert 40_000 <= lines["terrier.n.01"].images < 40_100
    assert 50 <= sum(len(line.names) for line in lines.values()) < 70
    counted = sum(line.ended + line.folded_images if line.below else line.images for line in lines.values())
    assert counted == total


def test_few_groups_are_all_shown():
    tree = build_group_tree(imagenet_counts({"dog.n.01": 99_999, "wolf.n.01": 1}), spread(100_000), None)
    (canine,) = tree.branches
    assert canine.names[0] == "entity.n.01"
    assert [(line.names[-1], line.images) for line in canine.below] == [("dog.n.01", 99_999), ("wolf.n.01", 1)]
    assert (canine.folded, canine.ended, tree.empty) == (0, 0, 808 - 2 - len(canine.names))
    assert canine.is_open
    assert canine.below[0].labels == "Chihuahua 100,000"


def test_the_tree_stays_small():
    taxonomy = wordnet_taxonomy(imagenet_class_names())
    tree = build_group_tree(imagenet_counts({group.name: 7 for group in taxonomy.groups}), spread(7 * 808), None)
    lines = flatten(tree.branches)
    assert 200 < sum(len(line.names) for line in lines) <= 250
    folded = sum(line.folded for line in lines) + tree.folded
    assert sum(len(line.names) for line in lines) + folded == 808
    assert (
        sum(line.ended for line in lines if line.below)
        + sum(line.images for line in lines if not line.below)
        + sum(line.folded_images for line in lines if line.below)
        == 7 * 808
    )
    assert 0 < sum(line.is_open for line in lines) < sum(line.on_paper for line in lines) < 60


def test_truths_of_names_in_wordnet_are_counted_like_by_definition():
    taxonomy = wordnet_taxonomy(imagenet_class_names())
    nodes, rng = nodes_of(taxonomy), np.random.default_rng(0)
    truth = np.concatenate([rng.integers(0, len(nodes), 300), [NO_CLASS, NO_CLASS]])
    # half of the names lie around the truth
    around = [rng.choice(taxonomy.path_from(taxonomy.parent_of_leaf_K[label])) for label in rng.integers(0, 1000, 150)]
    given = np.concatenate([around, rng.integers(NO_GROUP, 808, 150), [3, NO_GROUP]]).astype(np.int32)
    found = count_group_truths(taxonomy, types.SimpleNamespace(truth_N=truth, groups_LN=given[None]))
    own = np.where(given == NO_GROUP, NO_CLASS, given + 1000)
    for number in rng.permutation(808)[:60]:
        here = np.full(len(truth), number + 1000)
        is_given, is_true = nodes.is_at_or_below(own, here), nodes.is_at_or_below(truth, here)
        tells_nothing = nodes.is_at_or_below(here, truth) & (truth != here)
        assert found.given_N[number] == (is_given & ~tells_nothing).sum()
        assert found.true_N[number] == is_true.sum()
        assert found.right_N[number] == (is_given & is_true).sum()
    assert found.right_N.sum() > 300


def test_wordnet_has_a_figure_of_what_its_names_tell(tmp_path):
    probs, truth = calibrated(40, 1000, sharpness=4)
    out = write_output(tmp_path / "out", probs[None], truth, names=imagenet_class_names(), rows_per_part=40)
    report(out, classes="wordnet")
    source = (out / "report.html").read_text("utf-8")
    Balanced(source)
    text = text_of(source)
    assert "wordnet: 1,000 classes of 1,000 in 808 groups." in text
    assert "How much names tell" in text
    assert "by label alone" not in text
    assert re.search(r"entity.n.01 (\S \S+ )*\d+ images", text)
