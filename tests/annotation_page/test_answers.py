"""Answers in a list: by one annotator, by several, by two servers at once, and beside other programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from served_page import open_session, truths, write_list

from pipeline.annotation_page.answers import AnswerConflict, AnswerList, list_place
from pipeline.errors import RequestError
from pipeline.storage import Storage
from pipeline.taxonomy.classes_file import parse_classes
from pipeline.trust.truth_file import read_truth

NAMES = ("cat", "dog", "tench, Tinca tinca", "crane", "crane")


@pytest.fixture
def place(tmp_path):
    return write_list(tmp_path, [b"x%d" % number for number in range(6)])


def open_list(place, names=NAMES):
    return AnswerList(str(place), names, Storage())


def test_answers_are_the_truth_that_is_read(place):
    answers = open_list(place)
    for at, name in enumerate(["cat", "tench, Tinca tinca", "crane (3)", "crane (4)", "none"]):
        answers.put(at, "", name, "")
    assert truths(place) == ["cat", "tench, Tinca tinca", "crane (3)", "crane (4)", "none", ""]
    found = read_truth(str(place), Storage(), NAMES)
    assert sorted(label for label in found.labels_T.tolist() if label >= 0) == [0, 2, 3, 4]
    assert answers.count().truths == 5
    assert answers.count().none == 1
    answers.put(0, "", "", "cat")
    assert truths(place)[0] == ""
    assert answers.answers("")[1] == "tench, Tinca tinca"
    assert [answers.names.label_of(text) for text in ("none", "None ", "", "DOG", "1", "cow")] == [
        -1,
        -1,
        None,
        1,
        1,
        None,
    ]


def test_unknown_columns_order_and_line_ends_stay(place):
    text = "drawn;shard;key;truth;note\r\n{'seed': 0};/a.tar;k1;;\"a;b\"\r\nx;/a.tar;k0;dog;\r\n"
    place.write_bytes(text.encode("utf-8-sig"))
    open_list(place).put(0, "", "cat", "")
    assert place.read_bytes() == text.replace("k1;;", "k1;cat;").encode("utf-8-sig")


def test_several_annotators_have_columns_and_the_majority_is_the_truth(place):
    answers = open_list(place)
    for by, votes in {"anna": "cat cat none", "ben": "dog cat none", "carl": "cat dog dog"}.items():
        for at, vote in enumerate(votes.split()):
            answers.put(at, by, vote, "")
    assert truths(place) == ["cat", "cat", "none", "", "", ""]
    assert truths(place, "truth by ben")[:3] == ["dog", "cat", "none"]
    answers.put(3, "anna", "cat", "")
    answers.put(3, "ben", "dog", "")
    assert truths(place)[3] == ""  # a tie
    counted = answers.count()
    assert (counted.truths, counted.none, counted.tied) == (3, 1, 1)
    assert counted.by == {"anna": 4, "ben": 4, "carl": 3}
    assert answers.answers("dora") == [""] * 6  # who begins sees nobody's answers
    assert read_truth(str(place), Storage(), NAMES).counts.unknown_labels in (0, 1)  # where none is no class yet


def test_an_answer_may_be_a_group_and_so_may_what_several_agree_on(place):
    table = b"class,kind,family\ncat,pet,animal\ndog,pet,animal\n3,bird,animal\n4,none,\n"
    answers = AnswerList(str(place), NAMES, Storage(), parse_classes("t.csv", table, NAMES))
    for by, votes in {"anna": "cat pet cat animal none", "ben": "dog dog bird bird none"}.items():
        for at, vote in enumerate(votes.split()):
            answers.put(at, by, vote, "")
    assert truths(place) == ["pet", "pet", "animal", "animal", "none", ""]
    assert answers.names.none_is_class  # a group of this name
    assert answers.count().truths == 5
    with pytest.raises(RequestError, match="'cow' is no class"):
        answers.put(5, "anna", "cow", "")


def test_answers_without_a_name_become_those_of_an_annotator(place):
    answers = open_list(place)
    answers.put(0, "", "cat", "")
    answers.put(1, "", "dog", "")
    answers.put(0, "anna", "dog", "")
    assert truths(place, "truth by (no name)")[:2] == ["cat", "dog"]
    assert truths(place)[:2] == ["", "dog"]
    with pytest.raises(RequestError, match=r"has answers by name: \(no name\), anna"):
        answers.check_name("")
    assert answers.check_name(" ANNA ") == "anna"
    for name in ("x" * 61, "a\x1b[2J"):
        with pytest.raises(RequestError, match="at most 60 letters"):
            answers.check_name(name)


def test_two_servers_of_one_list_lose_nothing(tmp_path):
    place = write_list(tmp_path, [b"%d" % number for number in range(24)])
    lists = [open_list(place) for _ in range(2)]

    def work(number):
        for at in range(24):
            lists[number].put(at, ("anna", "ben")[number], NAMES[at % 2], "")

    threads = [threading.Thread(target=work, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [NAMES[at % 2] for at in range(24)]
    assert truths(place, "truth by anna") == truths(place, "truth by ben") == truths(place) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["truth-images", "truth.csv"]


def test_what_others_do_to_the_file_stays(place):
    answers = open_list(place)
    answers.put(0, "", "cat", "")
    lines = place.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace("\n", "dog\n")
    place.write_text("".join([lines[0], *reversed(lines[1:])]))  # sorted by another program, and one answer given
    answers.put(1, "", "dog", "")
    assert truths(place) == ["", "", "", "dog", "dog", "cat"]
    with pytest.raises(AnswerConflict) as caught:
        answers.put(2, "", "cat", "")
    assert caught.value.now == "dog"
    answers.put(2, "", "cat", "dog")
    assert truths(place)[3] == "cat"
    place.write_text("".join(lines[:2]))
    with pytest.raises(RequestError, match="no longer in the list"):
        answers.put(4, "", "cat", "")
    place.unlink()
    with pytest.raises(RequestError, match="no such file"):
        answers.put(0, "", "dog", "cat")
    assert not place.exists()


@pytest.mark.parametrize("drawn", [None, "random seed=0 num=6 of=9 population=ab"])
def test_answers_with_predictions_in_view_leave_a_trace(place, tmp_path, drawn):
    if drawn is not None:
        header, *rows = place.read_text().splitlines()
        place.write_text("\n".join([f"{header},drawn", *(f"{row},{drawn}" for row in rows)]) + "\n")
    copy = tmp_path / "copy.csv"
    copy.write_bytes(place.read_bytes())
    session = open_session(copy, NAMES, predictions=True)
    assert session.answer({"at": 1, "by": "ben", "answer": "cat", "was": ""})[0] == 200
    open_list(place).put(0, "anna", "cat", "")
    assert (open_list(place).has_shown(), open_list(copy).has_shown()) == (False, True)
    open_list(place).merge(open_list(copy))
    for file, answered in ((copy, 1), (place, 2)):
        found = read_truth(str(file), Storage(), NAMES)
        assert (found.counts.shown, sum(found.drawn.values())) == (1, answered)
        shown = [" ".join(filter(None, [drawn, "labels-shown"])) if at == 1 else drawn or "" for at in range(6)]
        assert truths(file, "drawn") == shown


def test_copies_of_a_list_are_merged_by_name(place, tmp_path):
    copies = [write_list(tmp_path / name, [b"x%d" % number for number in range(6)]) for name in ("a", "b")]
    for copy, by, votes in zip(copies, ("anna", "ben"), ("cat dog none", "cat cat none"), strict=True):
        for at, vote in enumerate(votes.split()):
            open_list(copy).put(at, by, vote, "")
    own = open_list(place)
    with pytest.raises(RequestError, match=r"--merge .* has no answers by name"):
        own.merge(open_list(place))
    own.put(1, "Anna", "cat", "")
    for copy in copies:
        own.merge(open_list(copy))
    assert truths(place, "truth by Anna")[:3] == ["cat", "cat", "none"]  # what is here stays
    assert truths(place, "truth by ben")[:3] == ["cat", "cat", "none"]
    assert truths(place)[:4] == ["cat", "cat", "none", ""]
    copies[0].write_text(copies[0].read_text().replace("key_", "other_"))
    with pytest.raises(RequestError, match="has no image of this list"):
        own.merge(open_list(copies[0]))


def test_a_list_of_somebody_s_own_stays_so(place):
    place.chmod(0o600)
    open_list(place).put(0, "", "cat", "")
    assert place.stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(place, tmp_path):
    link = tmp_path / "link.csv"
    link.symlink_to(place)
    open_list(list_place(link)).put(0, "", "cat", "")
    assert link.is_symlink()
    assert truths(place)[0] == "cat"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no column key and truth"),
        ("key,label\na,1\n", "has no column truth"),
        ("key,truth,truth\na,,\n", "has no column truth"),
        ("key,truth\n", "has no images"),
    ],
)
def test_what_is_no_list_is_refused(place, text, says):
    place.write_text(text)
    with pytest.raises(RequestError, match=says):
        open_list(place)


def test_places_that_cannot_be_lists(tmp_path):
    for place, says in ((tmp_path, "is a folder"), ("t.json", "--format csv"), ("gs://b/t.csv", "unknown scheme")):
        with pytest.raises(RequestError, match=says):
            list_place(place)


KILLED = """
import sys
from pipeline.annotation_page.answers import AnswerList
from pipeline.storage import Storage
answers = AnswerList(sys.argv[1], ("cat", "dog"), Storage())
for round in range(10**6):
    for at in range(6):
        answers.put(at, "", ("cat", "dog")[round % 2], answers.answers("")[at])
        print(round, at, flush=True)
"""


def test_a_kill_loses_nothing_that_was_saved(place):
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(place)], stdout=subprocess.PIPE, text=True)
    lines = [writer.stdout.readline() for _ in range(50)]
    os.kill(writer.pid, signal.SIGKILL)
    lines += writer.stdout.readlines()
    writer.wait()
    saved, at = map(int, lines[-1].split())
    after = [("cat", "dog")[(saved + (one > at) + 1) % 2] for one in range(6)]
    expected = [("cat", "dog")[(saved if one <= at else saved - 1) % 2] for one in range(6)]
    found = truths(place)
    differing = [one for one in range(6) if found[one] != expected[one]]
    assert len(differing) <= 1  # the answer that was on its way
    assert all(found[one] == after[one] for one in differing)
