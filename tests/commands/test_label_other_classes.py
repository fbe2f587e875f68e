"""A member that was trained on other classes, beside one of the sample networks: labels, groups, files, refusals."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
import torch
from conftest import make_tar
from safetensors.torch import load_file, save_file
from small_jobs import options, rows

from pipeline import calibrate, combine, evaluate, label, report, verify
from pipeline.config.settings import BenchConfig
from pipeline.errors import OutputError, RequestError
from pipeline.speed.measured_job import MeasuredJob
from pipeline.storage import Storage

OWN = ["moggy", "rocket", "lawn", "gravel", "photo camera"]  # its names for 3, 12, 7, 8 and 2
LEAVES = [3, 12, 7, 8, 2]
CAMERA, CAT = 2, 3
ROWS = ("cat,animal", "camera,machine", "rocket,machine", "astronaut,animal")
OWN_OF_LEAF = {CAT: 0, CAMERA: 4, 12: 1}  # grass and gravel, which it has too, are not in the file


def table(*cells, header="class,kind,member:own") -> str:
    """A file of classes, with the cells of a member; without any, one of groups alone."""
    lines = [f"{row},{cell}" for row, cell in zip(ROWS, cells, strict=True)] if cells else ROWS
    return "\n".join([header if cells else "class,kind", *lines])


@pytest.fixture(scope="module")
def made(sample_data, tmp_path_factory):
    """A network that takes cats for cameras and cameras for cats, one of other classes that does not; such images."""
    folder = tmp_path_factory.mktemp("made")
    path = sample_data / "weights" / "shufflenet_v2_x0_5.safetensors"
    tensors = load_file(path)
    turned = list(range(14))
    turned[CAMERA], turned[CAT] = CAT, CAMERA
    (folder / "named").mkdir()
    (folder / "named" / "config.json").write_text(json.dumps({"model_type": "x", "id2label": dict(enumerate(OWN))}))
    for name, places in (("turned", turned), ("named/own", LEAVES), ("unnamed", LEAVES)):
        head = {key: tensors[key][torch.tensor(places)] for key in ("fc.weight", "fc.bias")}
        save_file(tensors | head, folder / f"{name}.safetensors")
    with tarfile.open(sample_data / "shard-000.tar") as shard:
        content = {name: shard.extractfile(name).read() for name in shard.getnames()}
    members = [(name, data) for name, data in content.items() if name.startswith(("cat_", "camera_"))]
    make_tar(folder / "pictures.tar", members)
    (folder / "pets.csv").write_text(table("moggy", "4", "rocket", ""))
    return folder


@pytest.fixture(scope="module")
def words(made, sample_data):
    """Options of `label`."""
    specs = {
        "turned": f"turned:shufflenet_v2_x0_5={made}/turned.safetensors",
        "alike": f"alike:shufflenet_v2_x0_5={made}/turned.safetensors",
        "own": f"own:shufflenet_v2_x0_5={made}/named/own.safetensors*3",
        "unnamed": f"own:shufflenet_v2_x0_5={made}/unnamed.safetensors*3",
    }

    def words(*names, classes="pets.csv", **more):
        found = {"model": ",".join(specs[name] for name in names), "top_k": 14, "rows_per_part": 5}
        found |= {} if classes is None else {"classes": str(made / classes)}
        return options(sample_data, **found | more)

    return words


@pytest.fixture(scope="module")
def run(made, words):
    def run(out, *names, **more):
        return label(str(made / "pictures.tar"), out, **words(*names, **more))

    return run


@pytest.fixture(scope="module")
def labelled(run, made):
    summary = run(made / "both", "own", "turned")
    assert (summary.exit_code, summary.labelled, summary.parts) == (0, 12, 3)
    assert "own: 3 of its 5 classes are 3 of the job's 14; of the others it says nothing" in summary.notes
    return made / "both"


def whole(rows, alias):
    """float64, (N, K): a member's probabilities, by class."""
    own = [row["members"][alias] for row in rows]
    probs = np.zeros((len(rows), len(own[0]["labels"])))
    np.put_along_axis(probs, np.array([one["labels"] for one in own]), np.array([one["scores"] for one in own]), 1)
    return probs


def test_a_member_that_is_right_about_a_group_moves_it(labelled, run, made, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(OWN))
    (made / "plain.csv").write_text(table())
    run(tmp_path / "turned", "turned", classes="plain.csv")
    run(tmp_path / "own", "own", classes=None, labels=tmp_path / "names.txt")
    wrong, own, found = (rows(out).to_pylist() for out in (tmp_path / "turned", tmp_path / "own", labelled))
    cats = [[row for row in out if row["truth"] == CAT] for out in (wrong, found)]
    assert [[row["label"] for row in out] for out in cats] == [[CAMERA] * 5, [CAT] * 5]
    assert [[row["kind"] for row in out].count("machine") for out in cats] == [5, 0]
    assert [[row["kind"] for row in out].count("animal") for out in cats] == [0, 4]
    pool, probs = whole(wrong, "turned"), whole(own, "own")
    expected = pool.copy()
    known = [*OWN_OF_LEAF]
    shares = probs[:, [*OWN_OF_LEAF.values()]]
    expected[:, known] = pool[:, known].sum(1, keepdims=True) * shares / shares.sum(1, keepdims=True)
    np.testing.assert_allclose(whole(found, "turned"), pool, atol=1e-6)
    np.testing.assert_allclose(whole(found, "own"), expected, atol=1e-6)
    for row, other, values in zip(found, own, (3 * expected + pool) / 4, strict=True):
        np.testing.assert_allclose(row["scores"], np.sort(values)[::-1], atol=1e-6)
        assert row["members"]["own"]["energy"] == pytest.approx(other["members"]["own"]["energy"], rel=1e-6)
    assert {row["agreement"] for row in found} == {0.75, 1.0}


def test_what_reads_the_output_understands_it(labelled, tmp_path, run, monkeypatch):
    assert verify(labelled, deep=True).exit_code == 0
    judged = evaluate(labelled)
    assert judged.images == 12
    assert report(labelled, save=tmp_path / "report.html", images=False)
    job = json.loads((labelled / "job.json").read_text())
    assert job["classes"]["members"] == {"own": {"own": 3, "known": 3}}
    assert [member["num_classes"] for member in job["results"]["members"]] == [5, 14]
    assert ["own_classes_sha256" in member for member in job["results"]["members"]] == [True, False]
    assert len(job["class_names"]) == 14
    monkeypatch.setattr("pipeline.trust.fitting.MIN_TRUTHS", 10)
    fitted = calibrate(labelled, save=tmp_path / "cal.json")
    run(tmp_path / "warm", "own", "turned", calibration=tmp_path / "cal.json")
    combine(labelled, tmp_path / "again", calibration=tmp_path / "cal.json", engine="inline")
    with pytest.raises(RequestError, match="those of own, which was trained on other classes, depend on the other"):
        combine(labelled, tmp_path / "wrong", combine="vote", engine="inline")
    warm, again = (rows(tmp_path / name).to_pylist() for name in ("warm", "again"))
    assert fitted.temperature != 1
    for one, other, before in zip(warm, again, rows(labelled).to_pylist(), strict=True):
        assert one["labels"] == other["labels"] == before["labels"]
        assert one["members"] == other["members"] == before["members"]
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-4)
        assert one["scores"] != before["scores"]


def test_a_stopped_job_goes_on_to_the_same_rows_and_another_file_is_another_job(labelled, run, words, made, shardlabel):
    parts = sorted((labelled / "predictions").iterdir())
    before = {part.name: part.read_bytes() for part in parts}
    parts[-1].unlink()
    (labelled / "_SUCCESS").unlink()
    (made / "indices.csv").write_text(table("0", "photo camera", "1", ""))  # the same
    assert run(labelled, "own", "turned", classes="indices.csv").labelled == 2
    assert {part.name: part.read_bytes() for part in parts} == before
    said = [f"--{name.replace('_', '-')}={word}" for name, word in words("own", "turned").items()]
    done = shardlabel("label", made / "pictures.tar", "--out", labelled, *said)
    assert done.returncode == 0
    assert "verify" in done.stdout
    assert "--keep-probs" not in done.stdout  # which it would refuse
    (made / "other.csv").write_text(table("lawn", "4", "rocket", ""))
    with pytest.raises(OutputError, match=r"own: own_classes_sha256 \w+ then, \w+ now\), --classes"):
        run(labelled, "own", "turned", classes="other.csv")


@pytest.mark.parametrize(
    ("cells", "members", "more", "message"),
    [
        (("moggy", "5", "", ""), ("own", "turned"), {}, "row 3: member:own: '5' is none of its 5 classes"),
        (
            ("mogy", "", "", ""),
            ("own", "turned"),
            {},
            "row 2: member:own: 'mogy' is none of its 5 classes; did you mean",
        ),
        (
            ("", "", "", "rocket"),
            ("unnamed", "turned"),
            {},
            "row 5: member:own: 'rocket' is none of its 5 classes, which its file does not name: an index, 0 to 4, ",
        ),
        (("0", "", "", ""), ("turned",), {}, "member:own is no member of this job; it has turned"),
        (("0", "", "", ""), ("own",), {}, "has a column for every member; one at least must have the classes"),
        ((), ("own", "turned"), {}, "a column member:own in --classes FILE says which of them are which"),
        (("0", "", "", ""), ("own", "turned"), {"keep_probs": True}, "--keep-probs: not with member:own in"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run, made, tmp_path, cells, members, more, message):
    (made / "wrong.csv").write_text(table(*cells))
    with pytest.raises(RequestError) as refused:
        run(tmp_path / "out", *members, classes="wrong.csv", **more)
    assert refused.value.exit_code == 2
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_what_other_members_need_is_not_taken_from_them(run, made, tmp_path):
    run(tmp_path / "stored", "turned", classes=None, keep_probs=True)
    with pytest.raises(RequestError, match=r"--reuse \S+: not with member:own in --classes \S+: what is stored of"):
        run(tmp_path / "out", "own", "turned", reuse=tmp_path / "stored")
    with pytest.raises(RequestError, match=r"pets.csv: member:own is for `label` alone"):
        combine(tmp_path / "stored", tmp_path / "out", classes=made / "pets.csv", engine="inline")
    (made / "alike.csv").write_text(table("0", "", "", "", header="class,kind,member:alike"))
    with pytest.raises(RequestError, match="member:alike: it has the job's 14 classes itself, and takes no column"):
        run(tmp_path / "out", "turned", "alike", classes="alike.csv")
    assert not (tmp_path / "out").exists()


def test_a_measurement_has_the_same_members_as_the_job(made, sample_data):
    """`plan` and `bench` refuse what `label` refuses, and measure what it runs."""
    alone = "shufflenet_v2_x0_5={}/{}.safetensors"
    members = [f"own:{alone.format(made, 'named/own')}", f"b:{alone.format(made, 'turned')}"]
    words = {"model": tuple(members), "labels": str(sample_data / "classes.txt"), "device": "cpu"}
    job = MeasuredJob(BenchConfig(**words, classes=str(made / "pets.csv")), ("nowhere",), Storage()).job
    assert (len(job.class_names), job.own_classes.keys()) == (14, {"own"})
    with pytest.raises(RequestError, match="a column member:own in --classes FILE"):
        MeasuredJob(BenchConfig(**words), ("nowhere",), Storage())
