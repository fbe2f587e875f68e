"""The group of an image: the largest of a level, or the finest of WordNet with more than half; or none."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.taxonomy.choosing import GroupChooser, cpu_chooser, group_columns
from pipeline.taxonomy.classes_file import parse_classes
from pipeline.taxonomy.tree import NO_GROUP
from pipeline.taxonomy.wordnet import imagenet_class_names, wordnet_taxonomy

NAMES = tuple("abcdefgh")
TABLE = b"class,fine,coarse\na,x,p\nc,x,p\nb,y,p\nh,z,q\ng,,q\n"


def test_the_largest_group_of_each_level_or_none_where_more_lies_outside():
    tree = parse_classes("t.csv", TABLE, NAMES)
    assert [(column.name, column.groups) for column in group_columns(tree)] == [
        ("fine", ("x", "y", "z")),
        ("coarse", ("p", "q")),
    ]
    probs_BK = torch.tensor(
        [
            [0.2, 0.5, 0.2, 0, 0, 0, 0, 0.1],  # y alone has more than a and c, of x
            [0.3, 0, 0.1, 0, 0, 0, 0.5, 0.1],  # g is in no fine group
            [0, 0, 0.25, 0.25, 0.25, 0, 0, 0.25],  # of equal groups the first, unless outside there is more
            [0.5, 0, 0, 0, 0.5, 0, 0, 0],  # as much outside as in x
        ]
    )
    fine, coarse = GroupChooser(tree, probs_BK).choose(probs_BK)
    assert fine.groups_B.tolist() == [1, NO_GROUP, NO_GROUP, 0]
    assert fine.scores_B.tolist() == [0.5, 0, 0, 0.5]
    assert coarse.groups_B.tolist() == [0, 1, NO_GROUP, 0]
    np.testing.assert_allclose(coarse.scores_B, [0.9, 0.6, 0, 0.5], atol=1e-7)
    assert fine.scores_B.dtype == torch.float32


def test_the_finest_group_of_wordnet_with_more_than_half():
    tree = wordnet_taxonomy(imagenet_class_names())
    (column,) = group_columns(tree)
    sizes = np.random.default_rng(3).choice([0.002, 0.05, 2], 60)
    made_up = np.stack([np.random.default_rng(seed).dirichlet(np.full(1000, size)) for seed, size in enumerate(sizes)])
    probs_BK = torch.from_numpy(made_up.astype(np.float32))
    chooser = cpu_chooser(tree)
    (chosen,) = chooser.choose(probs_BK)
    for number, score, probs_K in zip(chosen.groups_B.tolist(), chosen.scores_B.tolist(), made_up, strict=True):
        sums = {n: probs_K[tree.leaves_of(n)].sum() for n in range(len(tree.groups))}
        depths = {n: len(tree.path_from(n)) for n, total in sums.items() if total > 0.5}
        assert number == max(depths, key=depths.__getitem__)
        np.testing.assert_allclose(score, sums[number], atol=1e-6)
    assert column.name == "wordnet"
    assert len({*chosen.groups_B.tolist()}) > 5
    alone = torch.cat([chooser.choose(row_K[None])[0].scores_B for row_K in probs_BK])
    assert torch.equal(alone, chosen.scores_B)
