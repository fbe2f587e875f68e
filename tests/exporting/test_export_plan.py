"""What is said where a precision cannot be promised: how many truths it takes, or that no number would do."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.exporting.export_plan import describe_missing
from pipeline.exporting.settings import ExportConfig
from pipeline.trust.needed import Needed
from pipeline.trust.promise import Promise

CONFIG = ExportConfig(out="labels", to="to", format="csv", target_precision=0.9, truth="t.csv")
PROMISE = Promise(0.9, 0.1, None, 0.5, 80, 70, 0.0, 100, 100, 22, 3, (), num_selected=1000)


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
            "filters leave: `shardlabel sample labels --save t.csv --more 350 --unique`",
        ),
        (
            {"needed": Needed(1000, 60, 56), "num_selected": 500},
            "about 900 more are needed if labels are right as often as in these, and only 400 other images are left: "
            "lower the target, or improve the ensemble",
        ),
        (
            {"missing": 1},  # so few that they do not tell how often labels are right
            "at least 1 more is needed, drawn at random from what the other filters leave: `shardlabel sample labels "
            "--save t.csv --more 1 --unique`",
        ),
        (
            {"missing": 30, "num_selected": 101, "needed": Needed(None, 60, 60)},
            "at least 30 more are needed, and only 1 other image is left: lower the target, or improve the ensemble",
        ),
    ],
)
def test_how_many_truths_are_missing(changes, says):
    assert describe_missing(CONFIG, dataclasses.replace(PROMISE, **changes)) == says
