"""Rows that SQL finds, over several parts, each content once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up_outputs import MARK, write_output

from pipeline.errors import RequestError
from pipeline.output.ledger import Ledger
from pipeline.page.query import Query, run_query
from pipeline.storage import Storage
from pipeline.trust.truth_file import read_truth

NUM = 100


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """100 images in three parts; image i has the score (i + 1) / 101, and the bytes of image i - 50 if i >= 50."""
    scores = (np.arange(NUM) + 1) / (NUM + 1)
    probs = np.stack([scores, *[(1 - scores) / 4] * 4], axis=1)
    probs[:20] = probs[:20, [1, 0, 2, 3, 4]]  # the first 20 are of class 1, or of a lower one where it is as likely
    hashes = [f"{at % 50:064x}" for at in range(NUM)]
    folder = tmp_path_factory.mktemp("query") / "out"
    return write_output(folder, probs[None], [None] * NUM, columns={"sha256": hashes})


def find(out: Path, truth=None, **query) -> tuple[list[int], int]:
    ledger = Ledger(str(out), Storage())
    found = run_query(ledger, MARK, Query(**query), truth)
    parts = [str(name) for name in ledger.prediction_parts(MARK)]
    return [40 * parts.index(row_ref.part) + row_ref.row for row_ref in found.row_refs], found.matching


def test_order_and_number_hold_over_parts(out: Path):
    assert find(out, order="score desc", num=7) == ([*range(99, 92, -1)], NUM)
    assert find(out, where="index >= 50", order="index", num=60) == ([*range(50, 100)], 50)


def test_each_content_is_there_once_the_first_in_order(out: Path):
    assert find(out, order="index", num=100) == ([*range(50)], NUM)
    assert find(out, order="index desc", num=100) == ([*range(99, 49, -1)], NUM)


def test_a_random_choice_is_the_same_each_time_and_another_with_another_seed(out: Path):
    first, _ = find(out, num=10)
    assert find(out, num=10)[0] == first
    assert find(out, num=20)[0][:10] == first
    assert find(out, num=10, seed=1)[0] != first
    assert first != sorted(first)


def test_conditions_reach_every_column(out: Path):
    assert find(out, where="members.m0.scores[1] > 0.95", order="index")[1] == 5
    assert find(out, where="class_name = 'class 0' and shard like '%a.tar'", order="index")[1] > 50
    labels = find(out, labels=(0,), order="index")[1] + find(out, labels=(1, 2, 3, 4))[1]
    assert labels == NUM
    assert find(out, where="index < 10 -- few", order="index") == ([*range(10)], 10)


def test_truth_of_a_file_takes_the_place_of_the_column(out: Path, tmp_path: Path):
    table = tmp_path / "truth.csv"
    table.write_text("key,label\n" + "".join(f"{at:05d},{int(at < 90)}\n" for at in range(80, 95)))
    truth = read_truth(str(table), Storage(), [f"class {label}" for label in range(5)])
    assert find(out, truth, where="truth <> label", order="index") == ([*range(80, 90)], 10)
    assert find(out, truth, where="truth is not null", order="index")[1] == 15
    assert find(out, where="truth is not null")[1] == 0


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ({"where": "scoer < 1"}, r"^--where scoer < 1: .*\"scoer\" not found"),
        ({"where": "score <"}, "^--where score <: "),
        ({"where": "true; drop table kept"}, "^--where true; drop table kept: "),
        ({"order": "nosuch(score)"}, r"^--order nosuch\(score\): "),
        ({"where": "cast(class_name as int) > 1"}, "^--where cast.* class_name|Could not convert"),
        ({"where": "key in (select content from read_text('/etc/hostname'))"}, "^--where .*disabled"),
    ],
)
def test_sql_that_is_wrong_is_one_line(out: Path, query: dict, line: str):
    with pytest.raises(RequestError, match=line) as raised:
        find(out, **query)
    assert "\n" not in str(raised.value)


def test_nothing_labelled_matches_nothing(tmp_path: Path):
    assert find(write_output(tmp_path / "out", np.zeros((1, 0, 5)), [])) == ([], 0)
