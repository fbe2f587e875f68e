"""Sampling for annotation: fair, reproducible, and in the requested order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_outputs import MARK, calibrated, write_output

from pipeline.annotation.sampling import sample_images
from pipeline.errors import OutputError
from pipeline.output.ledger import Ledger
from pipeline.output.parts import PartName
from pipeline.storage import Storage

IMAGES = 300


def made(folder, rows_per_part=40, contents=None, **more):
    """An output with made-up hashes of contents, disagreements and entropies, the latter with many ties."""
    probs, truth = calibrated(IMAGES, 5)
    out = write_output(folder, probs[None], truth, rows_per_part=rows_per_part, **more)
    for path in (out / "predictions").iterdir():
        table = pq.read_table(path, partitioning=None)
        index = table["index"].to_numpy()
        words = [f"{(int(at) if contents is None else int(contents[at])) * 2654435761 % 2**32:08x}" * 8 for at in index]
        columns = {
            "sha256": pa.array(words),
            "disagreement": pa.array((index * 7919 % IMAGES) / IMAGES, pa.float32()),
            "entropy": pa.array(index % 4, pa.float32()),
        }
        for name, values in columns.items():
            table = table.set_column(table.column_names.index(name), name, values)
        pq.write_table(table, path)
    return Ledger(str(out), Storage())


def indices(ledger, number, order="random", *, seed=0, unique=False):
    rows, population = sample_images(ledger, MARK, number, order, seed=seed, unique=unique)
    assert population.labelled == IMAGES
    return [row.index for row in rows]


def test_every_set_of_images_is_equally_likely(tmp_path):
    ledger = made(tmp_path / "out", rows_per_part=150)
    times = np.zeros(IMAGES)
    together = 0
    for seed in range(400):
        drawn = indices(ledger, 30, seed=seed)
        assert len(set(drawn)) == 30
        times[drawn] += 1
        together += {0, 1} <= set(drawn)
    expected = 400 * 30 / IMAGES
    chi_square = ((times - expected) ** 2).sum() / (expected * (1 - 30 / IMAGES))
    assert abs(chi_square - (IMAGES - 1)) < 4 * np.sqrt(2 * IMAGES)
    assert together <= 13  # 4 are expected


def test_samples_are_reproducible_nested_and_independent_of_parts(tmp_path):
    ledger, other = made(tmp_path / "a", rows_per_part=40), made(tmp_path / "b", rows_per_part=7)
    drawn = indices(ledger, 50)
    assert drawn == indices(ledger, 50) == indices(other, 50)
    assert indices(ledger, 20) == drawn[:20]
    assert indices(ledger, 50, seed=1) != drawn
    assert sorted(indices(ledger, 10**6)) == list(range(IMAGES))


@pytest.mark.parametrize("number", [1, 10, 120, IMAGES])
def test_the_first_of_an_order_are_those_of_a_sort(tmp_path, number):
    ledger = made(tmp_path / "out")
    assert (
        indices(ledger, number, "disagreement") == sorted(range(IMAGES), key=lambda at: -(at * 7919 % IMAGES))[:number]
    )
    rows, _ = sample_images(ledger, MARK, number, "score", seed=0, unique=False)
    every, _ = sample_images(ledger, MARK, IMAGES, "score", seed=0, unique=False)
    scores = [row.score for row in every]
    assert [row.score for row in rows] == sorted(scores)[:number]
    ties = indices(ledger, number, "entropy")
    assert [at % 4 for at in ties] == sorted([at % 4 for at in range(IMAGES)], reverse=True)[:number]
    if number < 75:
        assert ties != indices(ledger, number, "entropy", seed=3)


@pytest.mark.parametrize("order", ["random", "disagreement"])
def test_of_equal_images_one_is_drawn_and_the_others_do_not_make_it_likelier(tmp_path, order):
    contents = np.where(np.arange(IMAGES) < 200, 0, np.arange(IMAGES))  # one image is there 200 times
    ledger = made(tmp_path / "out", contents=contents)
    assert len(set(contents[indices(ledger, 101, order, unique=True)])) == 101
    assert len(indices(ledger, 150, order, unique=True)) == 101
    if order == "random":
        often = sum(min(indices(ledger, 10, seed=seed, unique=True)) < 200 for seed in range(100))
        assert 1 <= often <= 25  # 10 are expected; of all rows it would be each time


def test_rows_come_in_full(tmp_path):
    ledger = made(tmp_path / "out", rows_per_part=40)
    rows, _ = sample_images(ledger, MARK, 3, "random", seed=0, unique=False)
    for row in rows:
        name = str(PartName(MARK, row.unit_id, row.part, last=False))
        stored = ledger.read_part("predictions", name).slice(row.index - 40 * row.part, 1).to_pylist()[0]
        for column in "shard key index sha256 label score agreement entropy disagreement".split():
            assert getattr(row, column) == stored[column]
        assert (list(row.labels), list(row.scores)) == (stored["labels"], stored["scores"])


def test_parts_of_others_and_damaged_ones(tmp_path):
    ledger = made(tmp_path / "out")
    parts = sorted((tmp_path / "out/predictions").iterdir())
    (parts[0].parent / str(PartName("cd" * 32, "0" * 16, 0, last=False))).write_bytes(parts[0].read_bytes())
    (parts[0].parent / "notes.txt").write_text("mine")
    assert len(indices(ledger, IMAGES)) == IMAGES
    parts[1].write_bytes(b"no Parquet")
    with pytest.raises(OutputError, match="damaged"):
        sample_images(ledger, MARK, 5, "random", seed=0, unique=False)
