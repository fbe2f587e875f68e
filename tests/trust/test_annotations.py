"""Annotations of Label Studio and FiftyOne, as those tools write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.storage import Storage
from pipeline.taxonomy.answers import AnswerResolver
from pipeline.taxonomy.classes_file import parse_classes
from pipeline.trust.truth import NOT_KNOWN
from pipeline.trust.truth_file import read_class_truth, read_truth

NAMES = ("cat", "dog", "crane", "crane")


def read(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_truth(str(path), Storage(), NAMES)


def pairs(truth):
    rows = zip(truth.keys.to_pylist(), truth.labels_T.tolist(), strict=True)
    return {key: label for key, label in rows if label > NOT_KNOWN}


def annotation(choice, person=1, at="2025-01-01T00:00:00Z", **more):
    value = {"choices": [choice] if isinstance(choice, str) else choice}
    result = [{"id": "x", "type": "choices", "from_name": "choice", "to_name": "image", "value": value}]
    return {"completed_by": person, "created_at": at, "updated_at": at, "was_cancelled": False, "result": result} | more


def task(key, *annotations, shard="/data/a.tar", **more):
    return {"id": 7, "data": {"image": "/x.jpg", "shard": shard, "key": key}, "annotations": list(annotations), **more}


def test_label_studio(tmp_path):
    later = "2025-01-02T00:00:00Z"
    model = {"model_version": "m", "score": 0.9, "result": annotation("dog")["result"]}
    truth = read(
        tmp_path / "t.json",
        [
            task("one", annotation("dog")),
            task("named twice", annotation("crane (3)")),
            task("changed", annotation("cat", at=later), annotation("dog")),
            task("majority", annotation("cat"), annotation("dog", 2), annotation("dog", {"id": 3, "email": "x@y"})),
            task("tie", annotation("cat"), annotation("dog", 2)),
            task("tie broken later", annotation("cat"), annotation("dog", 2), annotation("dog", 1, later)),
            task("skipped", annotation("cat", was_cancelled=True)),
            task("skipped by one", annotation("cat", was_cancelled=True), annotation("dog", 2)),
            task("skipped later", annotation("cat"), annotation([], 1, later, was_cancelled=True)),
            task("nobody yet", predictions=[model]),
            task("both", annotation(["cat", "dog"])),
            task("bird", annotation("bird")),
        ],
    )
    assert pairs(truth) == {
        f"/data/a.tar\n{key}": label
        for key, label in {
            "one": 1,
            "named twice": 3,
            "changed": 0,
            "majority": 1,
            "tie broken later": 1,
            "skipped by one": 1,
        }.items()
    }
    counts = truth.counts
    assert (counts.given, counts.blank, counts.contested, counts.unknown_labels) == (12, 3, 1, 2)
    assert "1 left out, because the votes of the annotators are tied" in counts.complaints
    assert counts.unknown_label_examples == ("cat; dog", "bird")


def test_one_key_in_two_shards_is_two_images_and_one_image_in_two_tasks_is_one(tmp_path):
    truth = read(
        tmp_path / "t.json",
        [
            task("1", annotation("cat")),
            task("1", annotation("dog"), shard="/data/b.tar"),
            task("1", annotation("cat", 2)),
            task("1", annotation("dog", 3)),
        ],
    )
    assert pairs(truth) == {"/data/a.tar\n1": 0, "/data/b.tar\n1": 1}


def test_the_short_export_and_taxonomies(tmp_path):
    short = {"image": "/x.jpg", "shard": "/data/a.tar", "annotator": 1, "updated_at": "2025-01-01T00:00:00Z"}
    nested = annotation("cat")
    nested["result"][0] |= {"type": "taxonomy", "value": {"taxonomy": [["animal", "dog"]]}}
    truth = read(
        tmp_path / "t.json",
        [
            short | {"key": "a", "choice": "dog"},
            short | {"key": "b", "choice": {"choices": ["cat"]}},
            short | {"key": "c"},
            short | {"key": "d", "choice": "dog"},
            short | {"key": "d", "choice": "cat", "annotator": 2},
            task("e", nested),
        ],
    )
    assert pairs(truth) == {"/data/a.tar\na": 1, "/data/a.tar\nb": 0, "/data/a.tar\ne": 1}
    assert (truth.counts.blank, truth.counts.contested) == (1, 1)


def test_fiftyone(tmp_path):
    (tmp_path / "images.csv").write_text(
        "shard,key,image,truth\n/data/a.tar,one,data/000000-ab.jpg,\n/data/b.tar,one,data/000001-cd.jpg,\n"
    )
    with_key = {"shard": "/data/c.tar", "key": "one"}
    truth = read(
        tmp_path / "labels.json",
        {
            "classes": ["dog", "cat"],
            "labels": {
                "000000-ab": 1,
                "000001-cd": {"label": 0},
                "anything": {"label": "cat", "attributes": with_key},
                "predicted": {"label": 1, "confidence": 0.9, "attributes": with_key | {"key": "two"}},
                "empty": None,
                "odd": 7,
            },
        },
    )
    assert pairs(truth) == {"/data/a.tar\none": 0, "/data/b.tar\none": 1, "/data/c.tar\none": 0}
    assert (truth.counts.blank, truth.counts.unknown_label_examples) == (2, ("7 of 2 classes",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ({"images": []}, "neither a JSON export of Label Studio"),
        ([1], "neither a JSON export of Label Studio"),
        ([task("\ud800")], "half a surrogate pair"),
        ({"labels": {"\ud800": "cat"}}, "half a surrogate pair"),
        ([{"data": {"image": "x"}, "annotations": []}], "no task carries the key of its image"),
    ],
)
def test_other_json_is_refused(tmp_path, content, says):
    with pytest.raises(InputError, match=says):
        read(tmp_path / "t.json", content)


def test_malformed_annotations_do_not_crash(tmp_path):
    odd = [
        task("a") | {"annotations": 3},
        task("b", 3, {"result": [3, {}, {"value": 1}, {"value": {"choices": None}}]}),
        {"data": 3},
        task("c", annotation("cat", person={"email": "x"}, at=None)),
        task("d", annotation("dog"), shard=3),
        task(
            "e", {"result": [{"value": {"choices": 3}}, {"value": {"taxonomy": 3}}, {"value": {"taxonomy": [3, []]}}]}
        ),
    ]
    assert pairs(read(tmp_path / "t.json", odd)) == {"/data/a.tar\nc": 0, f"{Path.cwd()}/3\nd": 1}
    assert (
        pairs(read(tmp_path / "l.json", {"classes": 3, "labels": {"a": [1, 2], "b": 1.5, "c": {"attributes": 3}}}))
        == {}
    )


def test_a_column_truth_is_used_in_place_of_the_label_of_the_consensus(tmp_path):
    text = "shard,key,label,class_name,truth\n/data/a.tar,1,0,cat,dog\n/data/a.tar,2,1,dog,\n/data/a.tar,3,1,dog,2\n"
    (tmp_path / "t.csv").write_text(text)
    truth = read_truth(str(tmp_path / "t.csv"), Storage(), NAMES)
    assert pairs(truth) == {"/data/a.tar\n1": 1, "/data/a.tar\n3": 2}
    assert truth.counts.blank == 1


@pytest.fixture(scope="module")
def tree():
    table = b"class,kind,family\ncat,pet,animal\ndog,pet,animal\n2,crane,animal\n3,crane,machine\n"
    return parse_classes("t.csv", table.replace(b"3,crane", b"3,hoist"), NAMES)


def nested(*paths, **more):
    made = annotation([], **more)
    made["result"][0] |= {"type": "taxonomy", "value": {"taxonomy": list(paths)}}
    return made


def test_answers_may_be_groups(tmp_path, tree):
    one, two = {"person": 1}, {"person": 2}
    short = {"image": "/x.jpg", "shard": "/data/a.tar", "annotator": 1}
    odd = annotation(["cat", "dog"])
    odd["result"].append({"type": "taxonomy", "value": {"taxonomy": [["animal"]]}})
    tasks = {
        "class": task("class", nested(["animal", "pet", "dog"])),
        "group": task("group", nested(["animal", "pet"])),
        "group as a choice": task("group as a choice", annotation("Pet")),
        "both": task("both", nested(["animal", "pet"], ["animal", "pet", "cat"], ["animal"])),
        "path tells": task("path tells", nested(["machine", "crane"])),
        "short": short | {"key": "short", "choice": [{"taxonomy": [["animal", "pet"]]}]},
        "none": task("none", nested(["none"])),
        "agreed": task("agreed", nested(["animal", "pet", "cat"], **one), nested(["animal", "pet", "dog"], **two)),
        "apart": task("apart", nested(["animal", "pet", "cat"], **one), nested(["machine"], **two)),
        "several": task("several", odd),
        "unknown": task("unknown", nested(["animal", "bird"])),
    }
    path = tmp_path / "t.json"
    path.write_text(json.dumps(list(tasks.values())))
    truth = read_truth(str(path), Storage(), NAMES, tree)
    answers = AnswerResolver(tree)
    known = {key.partition("\n")[2]: label for key, label in pairs(truth).items()}
    assert {key: answers.names[label] if label >= 0 else "" for key, label in known.items()} == {
        "class": "dog",
        "group": "pet",
        "group as a choice": "pet",
        "both": "cat",
        "path tells": "crane (3)",
        "short": "pet",
        "none": "",
        "agreed": "pet",
    }
    assert (truth.counts.contested, truth.counts.unknown_label_examples) == (1, ("cat; dog; animal", "bird"))
    only = read_class_truth(str(path), Storage(), NAMES, tree)
    assert (only.counts.groups, sorted(pairs(only).values())) == (4, [-1, 0, 1, 3])
    assert "4 that name a group of classes, where a class is needed" in only.counts.complaints
    flat = read_truth(str(path), Storage(), NAMES)  # of two on one path it needs no tree
    assert pairs(flat) == {"/data/a.tar\nclass": 1, "/data/a.tar\nboth": 0, "/data/a.tar\nnone": -1}
