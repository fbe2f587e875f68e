"""The truth of `.cls`, however it is written: in the rows, and what names no class in every command that counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar
from made_up_outputs import write_output
from safetensors.torch import save_file
from small_jobs import options, rows
from torchvision.models import squeezenet1_1

from pipeline import combine, evaluate, gallery, label, report, status, verify

# the sample data's classes: 0 astronaut, 1 brick, 2 camera, 3 cat, ... 9 hubble_deep_field
CLS = [b"2", b"3.0\n", b"cat", b"Hubble Deep Field\r\n", b"zorblax", None, "cat".encode("utf-16"), b"77", b"owl", b""]
CLS += [b"None of these\n", b"-1"]
TRUTH = [2, 3, 3, 9, None, None, 3, 77, None, None, -1, None]
NOT_UNDERSTOOD = (4, ("zorblax", "77", "owl"))


@pytest.fixture(scope="module")
def made(sample_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("truths")
    members = []
    for number, cls in enumerate(CLS):
        members += [(f"{number:03}.cls", cls)] * (cls is not None) + [(f"{number:03}.jpg", jpeg(number))]
    members += [("bad.cls", b"not counted: the sample has no row"), ("bad.jpg", b"no image")]
    make_tar(folder / "a.tar", members)
    summary = label(str(folder / "a.tar"), folder / "out", **options(sample_data, rows_per_part=4, keep_probs=True))
    return folder, summary


def counted(found):
    return found.truths_not_understood, found.truth_examples


def test_the_rows_and_every_command_that_counts(made):
    folder, summary = made
    assert rows(folder / "out")["truth"].to_pylist() == TRUTH
    assert counted(summary) == counted(status(folder / "out")) == counted(verify(folder / "out")) == NOT_UNDERSTOOD
    assert verify(folder / "out").exit_code == 0
    found = evaluate(folder / "out").truth
    assert (found.given, found.used, found.no_class, found.unknown_labels) == (10, 6, 1, 4)
    assert found.complaints == ("4 with a label that is no class, or the name of several (zorblax, 77, owl, ...)",)
    report(folder / "out", images=False)
    assert f"Truth: {found.complaints[0]}" in (folder / "out" / "report.html").read_text()


def test_it_is_said_on_the_screen(made, shardlabel):
    folder, _ = made
    said = ".cls that names no class of this job: 4 (zorblax, 77, owl, ...)"
    assert f"  truths        {said}" in shardlabel("status", folder / "out").stdout
    assert said in shardlabel("verify", folder / "out").stdout
    shown = json.loads(shardlabel("verify", folder / "out", "--json").stdout)
    assert shown["truths_not_understood"] == 4


def test_the_summary_says_it_and_a_resumed_job_counts_what_is_new(made, sample_data, tmp_path, shardlabel):
    folder, _ = made
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options(sample_data, rows_per_part=4).items()]
    first = shardlabel("label", folder / "a.tar", "--out", tmp_path / "out", *words)
    assert "  truths       .cls that names no class of this job: 4 (zorblax, 77, owl, ...)" in first.stdout
    for part in (tmp_path / "out/predictions").glob("*-00001.parquet"):
        part.unlink()
    shardlabel("label", folder / "a.tar", "--out", tmp_path / "out", *words)
    assert counted(status(tmp_path / "out")) == NOT_UNDERSTOOD


def test_what_is_combined_from_stored_probabilities_counts_the_same(made, tmp_path):
    folder, _ = made
    combine(folder / "out", tmp_path / "combined", top_k=2, engine="inline")
    assert rows(tmp_path / "combined")["truth"].to_pylist() == TRUTH
    assert counted(status(tmp_path / "combined")) == counted(verify(tmp_path / "combined")) == NOT_UNDERSTOOD
    assert evaluate(tmp_path / "combined").truth.no_class == 1


def test_wordnet_ids_are_classes_of_imagenet(tmp_path):
    save_file(squeezenet1_1().state_dict(), tmp_path / "any.safetensors")
    texts = [b"n01440764", b"N01443537\n", b"tiger_shark", b"22", b"n00000000"]
    members = [pair for at, cls in enumerate(texts) for pair in ((f"{at}.jpg", jpeg(at)), (f"{at}.cls", cls))]
    make_tar(tmp_path / "a.tar", members)
    label(
        str(tmp_path / "a.tar"),
        tmp_path / "out",
        model=f"squeezenet1_1={tmp_path}/any.safetensors",
        labels="imagenet",
        engine="inline",
        precision="fp32",
    )
    assert rows(tmp_path / "out")["truth"].to_pylist() == [0, 1, 3, 22, None]


@pytest.mark.parametrize(
    ("column", "commands"),
    [("label", ("report", "review")), ("labels", ("evaluate",)), ("members", ("evaluate", "report"))],
)
def test_a_part_with_labels_of_no_class_is_damaged(tmp_path, column, commands, shardlabel):
    """Somebody has put parts of another job in place of these."""
    probs = np.random.default_rng(0).dirichlet(np.ones(6), (2, 30))
    out = write_output(tmp_path / "out", probs, [0] * 30, rows_per_part=30)
    (part,) = (out / "predictions").iterdir()
    table = pq.read_table(part, partitioning=None)
    changed = table.to_pylist()
    if column == "members":
        changed[7]["members"]["m1"]["labels"][0] = 6
    else:
        changed[7][column] = 1000 if column == "label" else [-1, *changed[7][column][1:]]
    pq.write_table(type(table).from_pylist(changed, table.schema), part)
    for command in commands:
        more = ("--save", tmp_path / "list.csv") if command == "review" else ()
        ended = shardlabel(command, out, *more)
        assert ended.returncode in {1, 2}
        assert "and the job has 6 classes" in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_a_cls_may_name_a_group_of_own_classes(sample_data, tmp_path):
    """It is stored as a number behind those of the classes, and goes with what other commands make of the output."""
    (tmp_path / "own.csv").write_text("class,kind\n2,thing\n3,animal\n9,sky\n")
    (tmp_path / "other.csv").write_text("class,sort\n3,animal\n4,animal\n")
    texts = [b"animal", b"cat", b"sky", b"15", b"none"]
    members = []
    for number, cls in enumerate(texts):
        members += [(f"{number:03}.cls", cls), (f"{number:03}.jpg", jpeg(number))]
    make_tar(tmp_path / "a.tar", members)
    own = options(sample_data, keep_probs=True, classes=str(tmp_path / "own.csv"))
    summary = label(str(tmp_path / "a.tar"), tmp_path / "out", **own)
    assert rows(tmp_path / "out")["truth"].to_pylist() == [15, 3, 16, None, -1]  # 14 classes; thing, animal, sky
    assert counted(summary) == (1, ("15",))  # a number is a class
    found = evaluate(tmp_path / "out")
    assert (found.images, found.group_truths, found.levels[0].images) == (2, 2, 4)
    page = Path(gallery(tmp_path / "out", where="truth >= 14").saved).read_text()
    assert page.count("truth: animal") == page.count("truth: sky") > 0
    other = evaluate(tmp_path / "out", classes=tmp_path / "other.csv")
    assert (other.group_truths, other.truth.unknown_labels) == (1, 2)  # no `sky` there
    for name, classes, truths in (
        ("other", tmp_path / "other.csv", [14, 3, None, None, -1]),
        ("without", None, [None, 3, None, None, -1]),
        ("same", tmp_path / "own.csv", [15, 3, 16, None, -1]),
    ):
        again = combine(tmp_path / "out", tmp_path / name, engine="inline", classes=classes)
        assert rows(tmp_path / name)["truth"].to_pylist() == truths
        assert again.truths_not_understood == 1 + truths.count(None) - 1
        assert verify(tmp_path / name).exit_code == 0
