"""Lists and calibrations tell how their truths came about, and promises use only those that may carry one."""

from __future__ import annotations

import csv
import dataclasses
import json
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_outputs import calibrated, write_csv, write_output
from typer.testing import CliRunner

from pipeline import calibrate, evaluate, review, sample
from pipeline.cli import app
from pipeline.errors import InputError, RequestError
from pipeline.storage import Storage
from pipeline.trust.draw import (
    Draw,
    Population,
    count_shown,
    hash_images,
    is_proven_random,
    mark_shown,
    parse_draw,
    refuse_incomplete,
    refuse_reviewed,
)
from pipeline.trust.fitted import JOB_KEY, NOT_FITTED, FittedTruths, held_out_mask
from pipeline.trust.strictness import check_truths
from pipeline.trust.truth import TruthMatcher
from pipeline.trust.truth_file import read_truth

NAMES = [f"class {number}" for number in range(5)]


def images(hashes):
    """Predictions with these contents."""
    return pa.table(
        {
            "shard": pa.array(["s"] * len(hashes)).dictionary_encode(),
            "key": [str(number) for number in range(len(hashes))],
            "sha256": pa.array([None if text is None else text.ljust(64, "0") for text in hashes], pa.string()),
        }
    )


@given(
    st.builds(
        Draw,
        order=st.sampled_from(["random", "score", "entropy"]),
        seed=st.integers(0, 2**63),
        num=st.integers(1, 10**9),
        labelled=st.integers(1, 10**9),
        population=st.text("0123456789abcdef", min_size=16, max_size=16),
        unique=st.booleans(),
        labels_shown=st.booleans(),
    )
)
def test_a_draw_is_read_as_it_is_written(draw):
    found = parse_draw(f"  {draw} ".replace(" ", "  "))
    assert str(found) == str(draw)
    assert (found.is_random, found.num, found.labelled) == (draw.order == "random", draw.num, draw.labelled)


@pytest.mark.parametrize("text", ["", "by hand", "random", "random seed=x num=1 of=2 population=3", "review num=1"])
def test_other_texts_tell_nothing(text):
    assert parse_draw(text) is None


def test_images_are_told_apart_by_their_bytes_and_populations_by_their_images():
    hashes = hash_images(images(["00000000000000ff9", "FFFFFFFFFFFFFFFF", None, None]))
    assert hashes.tolist()[:2] == [255, 2**64 - 1]
    assert len(set(hashes.tolist())) == 4
    one, other, fewer = Population(), Population(), Population()
    one.add(hashes)
    other.add(hashes[3:])
    other.add(hashes[[2, 0, 1]])
    fewer.add(hashes[1:])
    assert (str(one), one.labelled) == (str(other), 4)
    assert str(fewer) != str(one)
    assert len(str(Population())) == 16


def test_a_promise_refuses_reviewed_truths_and_other_populations():
    population = Population()
    population.add(np.arange(10, dtype=np.uint64))
    drawn = str(Draw("random", 3, 5, 10, str(population)))
    assert is_proven_random("t", {drawn: 5}, population, "labels", dedupe=True)
    assert not is_proven_random("t", {drawn: 5, "": 2}, population, "labels", dedupe=True)
    assert not is_proven_random("t", {}, population, "labels", dedupe=True)
    refuse_reviewed("t", {drawn: 5, "": 1, "by hand": 1}, "my labels")
    with pytest.raises(
        RequestError, match=r"--truth t: 2 of 7 truths are of `review` lists.*sample 'my labels' --unique --save"
    ):
        refuse_reviewed("t", {drawn: 5, str(Draw("score", 0, 5, 10, str(population))): 2}, "my labels")
    with pytest.raises(RequestError, match="drawn with --unique, so images with copies are too rare"):
        is_proven_random(
            "t", {str(Draw("random", 3, 5, 10, str(population), unique=True)): 5}, population, "labels", dedupe=False
        )
    population.add(np.array([77], np.uint64))
    with pytest.raises(
        RequestError, match=r"from 10 labelled images, and this output has 11, so .*sample labels --seed 3 --num 5"
    ):
        is_proven_random("t", {drawn: 5}, population, "labels", dedupe=True)


def test_fitted_truths_are_found_again():
    rng = np.random.default_rng(0)
    hashes, labels = rng.integers(0, 2**64, 1000, np.uint64), rng.integers(-1, 1000, 1000)
    text = FittedTruths(hashes, labels).encode()
    assert len(text) == 16_000
    found = FittedTruths.decode(text, "cal.json").find(np.append(hashes[::-1], np.uint64(7)))
    assert found.tolist() == [*labels[::-1].tolist(), NOT_FITTED]
    for damaged in ("?", text[:-4], "AAAA"):
        with pytest.raises(RequestError, match="is damaged"):
            FittedTruths.decode(damaged, "cal.json")
    half = held_out_mask(hashes, 0.8)
    assert 0.75 < half.mean() < 0.85
    assert held_out_mask(hashes, 0.0).sum() == 0
    assert (held_out_mask(hashes, 0.5) <= half).all()


@pytest.fixture
def made(tmp_path):
    """An output of a calibrated network, and what is true of its images."""
    probs, truth = calibrated(600, 5, sharpness=4)
    keys = [f"{number:05d}" for number in range(600)]
    contents = [f"{number * 2654435761 % 2**32:08x}" * 8 for number in range(600)]
    out = write_output(tmp_path / "out", probs[None], [None] * 600, names=NAMES, columns={"sha256": contents})
    return out, dict(zip(keys, truth, strict=True))


def fill_in(path, truth, num=None):
    """Do people's work on the first rows of a list."""
    rows = list(csv.DictReader(path.open()))
    for row in rows[:num]:
        row["truth"] = NAMES[truth[row["key"]]]
    with path.open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_lists_tell_how_they_were_drawn_and_evaluate_says_what_is_judged(made, tmp_path):
    out, truth = made
    sample(out, save=tmp_path / "s.csv", num=50, seed=4, images=False)
    review(out, save=tmp_path / "r.csv", num=30, order="score", images=False)
    drawn = read_truth(str(fill_in(tmp_path / "s.csv", truth, 40)), Storage(), NAMES).drawn
    ((text, number),) = drawn.items()
    assert number == 40
    assert (parse_draw(text).seed, parse_draw(text).num, parse_draw(text).labelled) == (4, 50, 600)
    assert evaluate(out, truth=tmp_path / "s.csv").caveats == ()
    found = evaluate(out, truth=fill_in(tmp_path / "r.csv", truth))
    assert found.truth.reviewed == found.images == 30
    assert "30 of 30 truths are of `review` lists" in found.caveats[0]
    shown = CliRunner().invoke(app, ["evaluate", str(out), "--truth", str(tmp_path / "r.csv")])
    assert "note: 30 of 30 truths are of `review` lists" in " ".join(shown.stdout.split())


def test_calibrations_tell_what_they_were_fitted_on(made, tmp_path):
    out, truth = made
    path = write_csv(tmp_path / "t.csv", list(truth.items()))
    whole = calibrate(out, truth=path)
    part = calibrate(out, truth=path, hold_out=0.75)
    assert (whole.truths, whole.held_out, part.truths + part.held_out) == (600, 0, 600)
    assert 410 < part.held_out < 490
    assert part.temperature == pytest.approx(whole.temperature, rel=0.3)
    job = json.loads((out / "job.json").read_text())
    for fitted_on, expected in ((part.fitted_on, part.truths), (None, None)):
        told = {} if fitted_on is None else {JOB_KEY: fitted_on}
        (out / "job.json").write_text(json.dumps(job | {"calibrated": True} | told))
        found = evaluate(out, truth=path)
        assert found.fitted == expected
        assert len(found.caveats) == 1
    with pytest.raises(
        RequestError, match=r"of 600 are held out\) is too few .* are needed; --hold-out 0\.8 leaves \d+; "
    ):
        calibrate(out, truth=path, hold_out=0.999)
    with pytest.raises(RequestError, match="--hold-out 1: must be at least 0 and below 1"):
        calibrate(out, truth=path, hold_out=1)


def test_what_is_advised_for_too_few_truths_suffices_and_is_there(made, tmp_path):
    """Once `--more 11` was advised where 55 were needed to leave 11 to the fit, or where all images were listed."""
    out, truth = made
    path = tmp_path / "t.csv"
    sample(out, save=path, num=120, images=False)
    fill_in(path, truth)
    with pytest.raises(RequestError) as caught:
        calibrate(out, truth=path, hold_out=0.8)
    share, left, more = re.search(r"--hold-out (\S+) leaves (\d+); or .* --more (\d+)`$", str(caught.value)).groups()
    assert calibrate(out, truth=path, hold_out=float(share)).truths == int(left) >= 50
    sample(out, save=path, more=int(more), images=False)
    fill_in(path, truth)
    assert 50 <= calibrate(out, truth=path, hold_out=0.8).truths < 85
    for num, says in (
        (560, "the 40 labelled images that are not in the list would be too few"),
        (600, "all 600 .* are in"),
    ):
        sample(out, save=tmp_path / f"{num}.csv", num=num, images=False)
        with pytest.raises(RequestError, match=f"; --hold-out 0.8 leaves .*; {says}") as caught:
            calibrate(out, truth=fill_in(tmp_path / f"{num}.csv", truth), hold_out=0.95)
        assert "--more" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "unanswered", "line"),
    [(99, 0, "1 of its images are no longer in it"), (100, 3, "3 have no answer"), (90, 1, "10 of .* and 1 have no")],
)
def test_a_list_with_gaps_is_no_random_draw(rows: int, unanswered: int, line: str):
    drawn = str(Draw("random", 0, 100, 1000, "ab"))
    with pytest.raises(RequestError, match=line):
        refuse_incomplete("t.csv", {drawn: rows}, unanswered)
    refuse_incomplete("t.csv", {drawn: 100}, 0)
    refuse_incomplete("t.csv", {"": 90}, 10)  # who says nothing of a draw has not said how many there are


def test_all_rows_of_a_list_count_whether_answered_or_not(tmp_path):
    drawn = str(Draw("random", 0, 3, 10, "ab"))
    (tmp_path / "t.csv").write_text(f"key,truth,drawn\na,class 1,{drawn}\nb,,{drawn}\nc,no such,{drawn.upper()}\n")
    truth = read_truth(str(tmp_path / "t.csv"), Storage(), NAMES)
    assert {parse_draw(text) for text in truth.listed} == {parse_draw(drawn)}
    assert (sum(truth.listed.values()), truth.counts.blank) == (3, 1)
    rows = [{"key": "a", "truth": "class 1", "drawn": drawn}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert read_truth(str(tmp_path / "t.json"), Storage(), NAMES).drawn == {drawn: 1}


@pytest.mark.parametrize("header", ["key,label,drawn", "key,label,class_name,score", "key,Label,Class_Name,Score,x"])
def test_what_the_networks_predicted_is_no_truth(tmp_path, header):
    (tmp_path / "t.csv").write_text(f"{header}\n{','.join('1' * len(header.split(',')))}\n")
    with pytest.raises(InputError, match="is what the networks predicted"):
        read_truth(str(tmp_path / "t.csv"), Storage(), NAMES)


def test_rows_with_too_many_cells_stop_a_promise(tmp_path):
    (tmp_path / "t.csv").write_text("key,truth\n0,class 0\n1,class 1, or 2\n")
    matcher = TruthMatcher(read_truth(str(tmp_path / "t.csv"), Storage(), NAMES), len(NAMES), strict=True)
    matcher.match(images(["a", "b"]))
    with pytest.raises(RequestError, match=r"1 row of .* has more or fewer cells .* \('1,class 1, or 2'\)"):
        check_truths(matcher, NAMES, count_unknown=True)


def test_a_list_is_whole_that_grew_or_whose_answers_saw_labels_in_part():
    first, later = (str(Draw("random", 0, num, 50, "ab")) for num in (8, 13))
    listed = {first: 6, mark_shown(first): 2, later: 5}
    refuse_incomplete("t", listed, 0)
    with pytest.raises(RequestError, match="3 of its images are no longer in it"):
        refuse_incomplete("t", listed | {first: 3}, 0)


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("random seed=0 num=2 of=10 population=ab", "random seed=0 num=2 of=10 population=ab labels-shown"),
        ("random seed=0 num=2 of=10 population=ab unique labels-shown", None),
        ("review order=score num=2 of=10 population=ab", None),
        ("by hand", "by hand labels-shown"),
        ("", "labels-shown"),
    ],
)
def test_a_row_keeps_that_its_annotator_saw_the_labels(text, marked):
    assert mark_shown(text) == (marked or text)
    assert mark_shown(mark_shown(text)) == mark_shown(text)
    assert count_shown({mark_shown(text): 3}) == (0 if text.startswith("review") else 3)
    if (draw := parse_draw(text)) is not None:
        assert parse_draw(mark_shown(text)) == dataclasses.replace(draw, labels_shown=True)


def test_answers_given_with_the_labels_in_view_are_said(tmp_path):
    drawn = str(Draw("random", 0, 2, 10, "ab", labels_shown=True))
    (tmp_path / "t.csv").write_text(f"key,truth,drawn\na,class 1,{drawn}\nb,class 2,{drawn}\n")
    counts = read_truth(str(tmp_path / "t.csv"), Storage(), NAMES).counts
    assert "2 answered with the networks' labels in view" in counts.in_words
