"""What is said where a precision cannot be promised: how many truths it takes, or that no number would do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from pipeline.exporting.refusal import Basis, describe_missing, describe_refusal
from pipeline.exporting.settings import ExportConfig
from pipeline.trust.draw import Draw
from pipeline.trust.needed import Needed
from pipeline.trust.promise import Promise
from pipeline.trust.truth import Truth, TruthCounts

CONFIG = ExportConfig(out="labels", to="to", format="csv", target_precision=0.9, truth="t.csv")
PROMISE = Promise(0.9, 0.1, None, 0.5, 80, 70, 0.0, 100, 100, 22, 3, (), num_selected=1000)
COUNTS = TruthCounts("t.csv", given=100, used=100, no_class=8)
LIST = Truth(pa.array(["a"]), np.array([0], np.int32), False, COUNTS, listed={str(Draw("random", 0, 1, 9, "ab")): 100})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"needed": Needed(None, 60, 50)},
            "no number of truths will do while labels are right as rarely as here, 50 of the 60 truths with the "
            "highest scores: lower the target, or improve the ensemble",
        ),
        (
            {"needed": Needed(None, 100, 50)},
            "no number of truths will do while labels are right as rarely as here, 50 of the 100 truths: lower the "
            "target, or improve the ensemble",
        ),
        (
            {"needed": Needed(450, 60, 56)},
            "about 350 more are needed if labels are right as often as in these, drawn at random from what the other "
            "filters leave: `shardlabel sample labels --save t.csv --more 350`",
        ),
        (
            {"needed": Needed(1000, 60, 56), "num_selected": 500},
            "about 900 more are needed if labels are right as often as in these, and only 400 other images are left: "
            "lower the target, or improve the ensemble",
        ),
        (
            {"missing": 1},  # so few that they do not tell how often labels are right
            "at least 1 more is needed, drawn at random from what the other filters leave: `shardlabel sample labels "
            "--save t.csv --more 1`",
        ),
        (
            {"missing": 30, "num_selected": 101, "needed": Needed(None, 60, 60)},
            "at least 30 more are needed, and only 1 other image is left: lower the target, or improve the ensemble",
        ),
    ],
)
def test_how_many_truths_are_missing(changes, says):
    assert describe_missing(CONFIG, dataclasses.replace(PROMISE, **changes), Basis(COUNTS, LIST)) == says


@pytest.mark.parametrize(
    ("promise", "basis", "says"),
    [
        (  # once "0 truths ... (8 of them none): at least 21 more are needed, and no other images are left: lower ..."
            {"num_selected": 238, "num_truths": 238},
            {"combined_from": "my labels", "counts": {"used": 238}},
            ": all 238 truths were used to fit the calibration of this output, and what was fitted on certifies "
            "nothing; keep some back with `shardlabel calibrate 'my labels' --truth t.csv --hold-out 0.5 --save "
            "cal.json`, and apply that calibration; nothing was exported",
        ),
        (  # of the images of the list, the filters leave each second one
            {"num_truths": 60, "missing": 22},
            {"combined_from": "my labels", "counts": {"used": 120}},
            ": all 60 truths were used to fit the calibration of this output, and what was fitted on certifies "
            "nothing; keep some back with `shardlabel calibrate 'my labels' --truth t.csv --hold-out 0.4 --save "
            "cal.json`, and apply that calibration; or have more images labelled, at least 22 more are needed: "
            "`shardlabel sample labels --save t.csv --more 57`; nothing was exported",
        ),
        (
            {"num_truths": 30, "num_selected": 30, "missing": 22},
            {"counts": {"used": 30}},
            ": all 30 truths were used to fit the calibration of this output, and what was fitted on certifies "
            "nothing; label more images, for no others are left; nothing was exported",
        ),
        (
            {"num_certifying": 20, "num_fitted": 80, "missing": 1},
            {"certifying_none": 2, "certifying_groups": 7},
            " with 20 truths (2 of them none, which counts as wrong; 7 of them groups, which count as wrong where the "
            "label is finer; 80 more were used to fit the calibration of this output): at least 1 more is needed, "
            "drawn at random from what the other filters leave: `shardlabel sample labels --save t.csv --more 1`; "
            "nothing was exported",
        ),
    ],
)
def test_truths_that_were_fitted_on_are_named_as_such(promise, basis, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = dataclasses.replace(PROMISE, **{"num_certifying": 0, "num_fitted": promise.get("num_truths"), **promise})
    counts = dataclasses.replace(COUNTS, **basis.pop("counts", {}))
    line = describe_refusal(CONFIG, found, Basis(counts, LIST, **basis))
    assert line == f"a precision of 0.9 cannot be promised at delta 0.1{says}"


def test_a_table_of_ones_own_does_not_grow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truth.csv").touch()
    own = dataclasses.replace(LIST, listed={"": 100})
    says = describe_missing(CONFIG, dataclasses.replace(PROMISE, missing=1), Basis(COUNTS, own))
    assert says.endswith(": `shardlabel sample labels --unique --num 101 --save truth-2.csv`")
