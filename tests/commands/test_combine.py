"""Stored probabilities used again: combined anew, or with a new member beside them, against runs in full."""

from __future__ import annotations

import functools
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar

from pipeline import combine, evaluate, label, status, verify
from pipeline.cli import app
from pipeline.columns import predictions_schema
from pipeline.config.settings import fingerprint
from pipeline.errors import OutputError, RequestError
from pipeline.labeler.labeler import Labeler
from pipeline.models.classifier import Classifier

OLD, NEW = "shufflenet_v2_x0_5", "squeezenet1_1"
ROWS = 25
BROKEN = {0, 1, 17, 24, 25, 48}
GROUPS = {"kind": {"x": {0, 3}, "y": {1, 2, 5}, "z": {8}}, "family": {"p": {0, 1, 2, 3, 5}, "q": {8, 9}}}
EXACT = ("shard", "key", "index", "sha256", "width", "height", "label", "class_name", "truth", "json")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two tars: one of several parts with broken images all over it, a small one."""
    folder = tmp_path_factory.mktemp("shards")
    for name, size in {"a": 60, "b": 9}.items():
        members = []
        for at in range(size):
            image = b"no picture" if name == "a" and at in BROKEN else jpeg(at + size, (64 + at, 48))
            members += [(f"{at:05d}.jpg", image), (f"{at:05d}.json", b"{}"), (f"{at:05d}.cls", str(at % 14).encode())]
        make_tar(folder / f"{name}.tar", members)
    return folder


@pytest.fixture(scope="module")
def run(shards, sample_data):
    def run(out, *models, inputs=shards, **more):
        words = {
            "weights_dir": str(sample_data / "weights"),
            "labels": str(sample_data / "classes.txt"),
            "engine": "inline",
            "precision": "fp32",
            "rows_per_part": ROWS,
            "keep": "json",
        }
        return label(str(inputs), out, model=models, **words | more)

    return run


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Groups of some of the classes, in two levels."""
    lines = ["class,kind,family"]
    for leaf in sorted(set().union(*GROUPS["family"].values())):
        own = [next((name for name, leaves in GROUPS[level].items() if leaf in leaves), "") for level in GROUPS]
        lines.append(",".join([str(leaf), *own]))
    path = tmp_path_factory.mktemp("tree") / "tree.csv"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(scope="module")
def labelled(run, tmp_path_factory):
    """Outputs: of the old member with its probabilities, of both, and of both with both's probabilities."""
    folder = tmp_path_factory.mktemp("labelled")
    run(folder / "old", OLD, keep_probs=True)
    run(folder / "full", OLD, NEW)
    run(folder / "stored", f"{OLD}*2", NEW, keep_probs=True)
    return folder


def rows(out, folder="predictions") -> list[dict]:
    found = [row for path in (out / folder).glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(found, key=lambda row: (row["shard"], row["index"]))


def assert_same(out, full) -> float:
    """The rows of two outputs are the same, scores to float16's tolerance; their largest difference."""
    assert rows(out, "quarantine") == rows(full, "quarantine")
    largest = 0.0
    found, expected = rows(out), rows(full)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert {name: one[name] for name in EXACT} == {name: other[name] for name in EXACT}
        for name in ("scores", "agreement", "entropy", "disagreement"):
            largest = max(largest, np.abs(np.subtract(one[name], other[name])).max())
        for alias, own in other["members"].items():
            assert one["members"][alias]["labels"] == own["labels"]
            np.testing.assert_allclose(
                one["members"][alias]["scores"], own["scores"], rtol=1e-3
            )  # of top-k beyond the stored
            assert one["members"][alias]["energy"] == pytest.approx(own["energy"], abs=1e-4)
        assert one.keys() == other.keys()
        for level in one.keys() & GROUPS.keys():
            assert one[level] == other[level]
            assert one[f"{level}_score"] == pytest.approx(other[f"{level}_score"], abs=2e-3)
    assert largest < 2e-3
    return largest


def assert_groups_of_top_k(row) -> None:
    """The groups of a row are those of its top k, below which there is nothing."""
    shares = dict(zip(row["labels"], row["scores"], strict=True))
    for level, groups in GROUPS.items():
        sums = {name: sum(shares.get(leaf, 0) for leaf in leaves) for name, leaves in groups.items()}
        first = max(sums, key=sums.__getitem__)
        if 1 - sum(sums.values()) > sums[first] + 1e-6:
            assert (row[level], row[f"{level}_score"]) == (None, None)
        else:
            assert (row[level], row[f"{level}_score"]) == (first, pytest.approx(sums[first]))


def names(out, folder="predictions") -> set[str]:
    return {path.name.split("-", 2)[2] for path in (out / folder).glob("*.parquet")}


def test_probabilities_lie_beside_the_predictions(labelled):
    job = json.loads((labelled / "stored" / "job.json").read_text())
    assert job["results"]["keep_probs"] is True
    assert "keep_probs" not in json.loads((labelled / "full" / "job.json").read_text())["results"]
    parts = sorted((labelled / "stored" / "predictions").glob("*.parquet"))
    assert len(parts) == 4
    for path in parts:
        predictions = pq.read_table(path, partitioning=None)
        for alias in (OLD, NEW):
            table = pq.read_table(labelled / "stored" / "probabilities" / alias / path.name, partitioning=None)
            assert table["index"].equals(predictions["index"])
            probs = np.array(table["probs"].to_pylist(), np.float64)
            assert probs.shape == (len(predictions), 14)
            assert probs.min() >= 2.0**-24
            np.testing.assert_allclose(probs.sum(axis=1), 1, atol=2e-3)
            own = [row[alias] for row in predictions["members"].to_pylist()]
            first = [probs[at, member["labels"]] for at, member in enumerate(own)]
            np.testing.assert_allclose(first, [member["scores"] for member in own], rtol=1e-3, atol=2.0**-24)


@pytest.mark.parametrize(
    ("words", "models"),
    [
        ({"model": f"{NEW},{OLD}*3", "combine": "geometric", "top_k": 3}, (NEW, f"{OLD}*3")),
        ({"combine": "vote", "top_k": 8}, (f"{OLD}*2", NEW)),
    ],
)
def test_a_combination_equals_a_full_run(labelled, run, tmp_path, words, models, tree):
    words = words | {"classes": tree}
    summary = combine(labelled / "stored", tmp_path / "out", engine="inline", **words)
    assert (summary.exit_code, summary.labelled, summary.quarantined) == (0, 63, 6)
    run(tmp_path / "full", *models, **{name: word for name, word in words.items() if name != "model"})
    assert_same(tmp_path / "out", tmp_path / "full")
    assert names(tmp_path / "out") == names(tmp_path / "full")
    assert verify(tmp_path / "out").exit_code == 0
    assert status(tmp_path / "out").finished
    judged = evaluate(tmp_path / "out")
    assert (judged.images, judged.probabilities_in) == (63, str(labelled / "stored"))
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    columns = {level: list(groups) for level, groups in GROUPS.items()}
    assert {name: job["classes"][name] for name in ("source", "columns")} == {"source": tree, "columns": columns}
    own = evaluate(tmp_path / "out").levels  # without the file
    assert [level.name for level in own] == list(GROUPS)
    assert own == evaluate(tmp_path / "out", classes=tree).levels
    folded = evaluate(labelled / "full", classes=tree)
    assert (folded.groups_from, evaluate(labelled / "stored", classes=tree).groups_from) == ("top-k", "probabilities")
    if words["combine"] == "vote":  # the top 8 are all that has a share
        assert {row["kind"] for row in rows(tmp_path / "out")} > {None}
        for row in rows(tmp_path / "out"):
            assert_groups_of_top_k(row)
    again = run(tmp_path / "out", *models, **{name: word for name, word in words.items() if name != "model"})
    assert again.images == 0  # `label` takes it for its own, and finds it done
    first, second, *_ = sorted((tmp_path / "out" / "predictions").iterdir())
    table = pq.read_table(first, partitioning=None)
    pq.write_table(table.drop_columns(["family_score"]), first)
    table = pq.read_table(second, partitioning=None)
    at = table.column_names.index("kind")
    pq.write_table(table.set_column(at, "kind", pa.array(["nobody's"] * len(table)).dictionary_encode()), second)
    text = "\n".join(verify(tmp_path / "out").discrepancies)
    assert f"{first}: damaged: it has no column family_score; delete it, and run" in text
    assert f'{second}: damaged: its column kind holds "nobody\'s", which is no group of the job' in text


def test_a_combination_goes_on_where_it_stopped_and_waits_for_what_is_not_there_yet(labelled, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(labelled / "stored", source)
    gone = sorted((source / "predictions").glob("*-last.parquet"))
    held = [path.read_bytes() for path in gone]
    for path in gone:
        path.unlink()
    first = combine(source, out, engine="inline")
    assert (first.exit_code, first.failed_units) == (4, 2)
    assert "not yet the rest" in first.failures[0].message
    before = {path: path.stat().st_mtime_ns for path in (out / "predictions").iterdir()}
    for path, data in zip(gone, held, strict=True):
        path.write_bytes(data)
    second = combine(source, out, engine="inline")
    assert (second.exit_code, second.parts) == (0, 2)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert verify(out).exit_code == 0
    assert combine(source, out, engine="inline").images == 0
    with pytest.raises(OutputError, match=r"differs in combine \(mean then, vote now\)"):
        combine(source, out, engine="inline", combine="vote")
    assert combine(source, out, engine="inline", combine="vote", overwrite=True).exit_code == 0


@pytest.mark.parametrize(("rows_per_part", "device_thread"), [(ROWS, False), (10, True)])
def test_a_new_member_runs_alone_and_the_rows_are_those_of_a_full_run(
    labelled, run, tmp_path, monkeypatch, rows_per_part, device_thread, tree
):
    monkeypatch.setattr("pipeline.labeler.worker.Labeler", functools.partial(Labeler, device_thread=device_thread))
    seen, first_pass = [], Classifier.first_pass

    def watched(self, crops):
        seen.append(self.spec.alias)
        return first_pass(self, crops)

    monkeypatch.setattr(Classifier, "first_pass", watched)
    summary = run(
        tmp_path / "out", f"aka:{OLD}", NEW, reuse=labelled / "old", rows_per_part=rows_per_part, classes=tree
    )
    assert set(seen) == {NEW}
    assert (summary.labelled, summary.quarantined) == (63, 6)
    run(tmp_path / "full", f"aka:{OLD}", NEW, rows_per_part=rows_per_part, classes=tree)
    assert_same(tmp_path / "out", tmp_path / "full")
    assert names(tmp_path / "out") == names(tmp_path / "full")
    assert verify(tmp_path / "out", deep=True).exit_code == 0


@pytest.mark.parametrize("more", [{}, {"rows_per_part": 10}, {"keep": "json,cls"}])
def test_without_a_new_member_no_image_is_decoded(labelled, run, tmp_path, monkeypatch, more, tree):
    more = more | {"classes": tree}
    monkeypatch.setattr("pipeline.labeler.decoders.decode", None)
    run(tmp_path / "out", f"{OLD}*2", NEW, reuse=labelled / "stored", **more)
    monkeypatch.undo()
    run(tmp_path / "full", f"{OLD}*2", NEW, **more)
    assert_same(tmp_path / "out", tmp_path / "full")
    assert verify(tmp_path / "out", deep=True).exit_code == 0


def test_what_is_not_stored_is_run_in_full(labelled, run, tmp_path, capfd):
    """One unit is not complete there, of the other a file is damaged: the rows are the same."""
    source = tmp_path / "source"
    shutil.copytree(labelled / "old", source)
    parts = sorted((source / "predictions").glob("*-last.parquet"))
    parts[0].unlink()
    damaged = source / "probabilities" / OLD / parts[1].name
    damaged.write_bytes(damaged.read_bytes()[:100])
    run(tmp_path / "out", OLD, NEW, reuse=source, progress="plain")
    said = f"from {source}: {OLD} for 1 of 2 units; {NEW} is run; the other 1 are not complete there"
    assert said in capfd.readouterr().err
    assert_same(tmp_path / "out", labelled / "full")
    run(tmp_path / "other", OLD, NEW, reuse=source, precision="bf16", progress="plain")
    assert "nothing is taken" in (said := capfd.readouterr().err)
    assert "--precision differs (fp32 there, bf16 here)" in said


def test_an_image_that_was_exchanged_is_noticed(labelled, run, shards, tmp_path):
    """Size and date are the same, but the hash differs, so the unit is run in full."""
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    run(tmp_path / "old", OLD, keep_probs=True, inputs=copy)
    data = (copy / "b.tar").read_bytes()
    status_before = (copy / "b.tar").stat()
    other = data.replace(jpeg(12, (67, 48))[-40:], bytes(38) + b"\xff\xd9")
    assert other != data
    (copy / "b.tar").write_bytes(other)
    os.utime(copy / "b.tar", ns=(status_before.st_atime_ns, status_before.st_mtime_ns))
    run(tmp_path / "out", OLD, NEW, reuse=tmp_path / "old", inputs=copy)
    run(tmp_path / "full", OLD, NEW, inputs=copy)
    assert_same(tmp_path / "out", tmp_path / "full")


def test_verify_names_what_is_wrong_with_probabilities(labelled, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(labelled / "stored", out)
    assert verify(out).exit_code == 0
    missing, damaged, short, foreign = sorted((out / "probabilities" / OLD).iterdir())
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-50])
    table = pq.read_table(short, partitioning=None)
    pq.write_table(table.slice(1), short)
    shutil.copy(out / "probabilities" / NEW / foreign.name, foreign)
    (out / "probabilities" / OLD / "notes.txt").write_text("mine")
    shutil.copytree(out / "probabilities" / NEW, out / "probabilities" / "nobody")
    text = "\n".join(verify(out).discrepancies)
    assert f"{missing}: no such file; delete predictions/{missing.name}, and run the same label command again" in text
    assert f"{damaged}: damaged" in text
    assert f"{short}: its {len(table) - 1} rows are not the {len(table)}" in text
    assert f"{foreign}: holds another part's or member's probabilities" in text
    assert f"probabilities/{OLD}/notes.txt: a foreign file" in text
    assert text.count("probabilities/nobody/") == 4


def test_overwriting_and_relabelling_take_probabilities_along(labelled, run, shards, tmp_path):
    out, copy = tmp_path / "out", tmp_path / "shards"
    shutil.copytree(shards, copy)
    run(out, OLD, keep_probs=True, inputs=copy)
    make_tar(copy / "b.tar", [("x.jpg", jpeg(3))])
    run(out, OLD, keep_probs=True, inputs=copy)
    assert names(out) == names(out, f"probabilities/{OLD}")
    assert verify(out).exit_code == 0
    run(out, NEW, inputs=copy, overwrite=True)
    assert not list((out / "probabilities").rglob("*.parquet"))
    assert verify(out).exit_code == 0


def test_without_own_classes_an_output_is_as_before(labelled):
    job = json.loads((labelled / "full" / "job.json").read_text())
    names = "members labels_sha256 top_k precision decode keep rows_per_part combine"
    assert {*job["results"]} == {*names.split()}  # the fingerprint is that of these
    assert job["fingerprint"] == fingerprint(job["results"])
    assert "classes" not in job
    part = next((labelled / "full" / "predictions").iterdir())
    assert pq.read_schema(part).names == predictions_schema([OLD, NEW], ["json"]).names


def test_wrong_options_are_refused_before_anything_is_written(labelled, run, tmp_path, tree):
    (tmp_path / "json.csv").write_text("class,json\n1,x\n")
    for words, says in (
        ({"model": "nobody"}, f"no member of that name; it has {OLD}, {NEW}"),
        ({"model": f"{OLD}*0"}, "must be a number above 0"),
        ({"model": f"{OLD},{OLD}"}, "is given twice"),
        ({"top_k": 0}, "top_k"),
        ({"calibration": "nowhere.json"}, "nowhere.json: no such file"),
        ({"classes": "nowhere.csv"}, "nowhere.csv: no such file"),
        ({"classes": "wordnet"}, "14 classes are none of them"),
        ({"classes": tmp_path / "json.csv"}, "'json' cannot be a level: --keep makes a column 'json'"),
    ):
        with pytest.raises(RequestError, match=says.replace("*", r"\*")):
            combine(labelled / "stored", tmp_path / "out", engine="inline", **words)
    with pytest.raises(RequestError, match="holds no probabilities; they are stored by `label` with --keep-probs"):
        combine(labelled / "full", tmp_path / "out", engine="inline")
    with pytest.raises(RequestError, match="'json' cannot be a level"):
        run(tmp_path / "out", OLD, classes=tmp_path / "json.csv")
    with pytest.raises(OutputError, match="differs in --classes"):
        run(labelled / "full", OLD, NEW, classes=tree)
    with pytest.raises(RequestError, match="holds no probabilities"):
        run(tmp_path / "out", OLD, NEW, reuse=labelled / "full")
    with pytest.raises(OutputError, match="is the output to combine"):
        combine(labelled / "stored", labelled / "stored", engine="inline")
    with pytest.raises(OutputError, match="is OUT itself"):
        run(labelled / "stored", OLD, NEW, reuse=labelled / "stored", overwrite=True)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_what_it_did(labelled, tmp_path, capsys):
    words = ["combine", str(labelled / "stored"), "--out", str(tmp_path / "out"), "-m", NEW, "--engine", "inline"]
    assert app(words, standalone_mode=False) == 0
    assert "2 of 2 done" in capsys.readouterr().out
    assert app(words, standalone_mode=False) == 0
    assert "nothing left to do" in capsys.readouterr().out


@pytest.mark.slow
def test_ray_gives_the_same(labelled, run, tmp_path, tree):
    assert run(tmp_path / "new", OLD, NEW, reuse=labelled / "old", engine="ray").exit_code == 0
    assert_same(tmp_path / "new", labelled / "full")
    inline, ray = (tmp_path / engine for engine in ("inline", "ray"))
    for out in (inline, ray):
        assert combine(labelled / "stored", out, model=NEW, engine=out.name, classes=tree).exit_code == 0
    assert rows(ray) == rows(inline)
    assert verify(ray).exit_code == 0


def test_on_s3_with_loose_images(s3, sample_data, run):
    bucket = s3.bucket()
    for at in range(12):
        s3.put(bucket, f"photos/{at:02d}.jpg", b"" if at == 5 else jpeg(at))
    place, access = f"s3://{bucket}", {"s3_endpoint": s3.endpoint}
    run(f"{place}/old", OLD, inputs=f"{place}/photos/", keep_probs=True, keep="", **access)
    run(f"{place}/both", OLD, NEW, inputs=f"{place}/photos/", reuse=f"{place}/old", keep_probs=True, keep="", **access)
    summary = combine(f"{place}/both", f"{place}/new", model=NEW, engine="inline", **access)
    assert (summary.labelled, summary.quarantined) == (11, 1)
    for out in ("old", "both", "new"):
        assert verify(f"{place}/{out}", deep=True, **access).exit_code == 0
