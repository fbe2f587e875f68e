"""The promise of the finest names, on real photographs and a real network: it holds, and keeps more than classes do."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest

from pipeline import label
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.storage import Storage
from pipeline.taxonomy.name_paths import NamePaths, PathFinder
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.wordnet import wordnet_taxonomy
from pipeline.trust.back_off import BackOffLevels, JudgedNames
from pipeline.trust.distributions import Distributions
from pipeline.trust.intervals import binomial_tail
from pipeline.trust.levels import count_scores
from pipeline.trust.promise import Judged, PrecisionTest, certify, choose_and_certify

DRAWS, DELTA = 400, 0.1


@pytest.fixture(scope="module")
def photographs(shared, tmp_path_factory):
    """300 photographs of ImageNet, their probabilities as they are stored, and their truths."""
    out = tmp_path_factory.mktemp("photographs") / "out"
    words = {"model": "mobilenet_v2", "weights_dir": str(shared / "weights"), "keep_probs": True, "engine": "inline"}
    assert label(str(shared / "data" / "shards" / "*.tar"), out, **words).exit_code == 0
    ledger = Ledger(str(out), Storage())
    job = ledger.job()
    reader = Distributions(ledger, job, Storage())
    assert reader.source == "probabilities"
    nodes = nodes_of(wordnet_taxonomy(job["class_names"]))
    finder, paths, truths, scores, labels = PathFinder(nodes), [], [], [], []
    for part in ledger.prediction_parts(job["fingerprint"]):
        table = ledger.read_part(PREDICTIONS, str(part))
        paths += [finder.find(probs_BK) for probs_BK in reader.read(part, table)]
        truths.append(table["truth"].to_numpy())
        scores.append(table["score"].to_numpy())
        labels.append(table["label"].to_numpy())
        assert pc.all(pc.is_valid(table["truth"])).as_py()
    truth_N, label_N = np.concatenate(truths), np.concatenate(labels)
    return nodes, NamePaths.join(paths), truth_N, np.concatenate(scores), label_N == truth_N


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.9, 0.95])
def test_the_promise_holds_for_photographs_and_more_of_them_get_a_name(photographs, target):
    nodes, paths, truth_N, scores_N, right_N = photographs
    levels = BackOffLevels(nodes)
    levels.add(paths)
    all_names, total = JudgedNames.judge(nodes, paths, truth_N), len(truth_N)
    test = PrecisionTest(target, DELTA)
    rng = np.random.default_rng(5)
    broken, names, classes = 0, [], []
    for _ in range(DRAWS):
        drawn = rng.choice(total, 150, replace=False)
        judged = JudgedNames.judge(nodes, paths.take(drawn), truth_N[drawn])
        promise = certify(test, judged, levels.choose(len(drawn), test))
        alone = Judged(scores_N[drawn], right_N[drawn])
        classes.append(choose_and_certify(test, alone, count_scores(scores_N), total).coverage)
        names.append(promise.coverage)
        if promise.threshold is not None:
            accepted, right = all_names.count(np.array([promise.threshold]))
            broken += right[0] < target * accepted[0]
    assert binomial_tail(broken, DRAWS, DELTA) > 1e-3, f"{broken} of {DRAWS} promises do not hold"
    assert np.mean(names) > np.mean(classes) + 0.15
