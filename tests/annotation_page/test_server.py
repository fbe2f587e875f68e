"""The server of the page: whom it answers, what it refuses, and what it shows."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import socket
import threading

import numpy as np
import pytest
from conftest import jpeg, make_tar
from PIL import Image
from served_page import Client, open_session, serving, truths, write_list
from small_jobs import options

from pipeline import annotate, evaluate, label, sample
from pipeline.annotation_page.pictures import render
from pipeline.errors import RequestError
from pipeline.labels import imagenet_names
from pipeline.taxonomy.wordnet import wordnet_taxonomy

NAMES = ("cat", "dog", "none of the above", "Käse <b>")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_list(tmp_path_factory.mktemp("served"), [jpeg(1), jpeg(2), b"no image", jpeg(4, (3000, 20))])


@pytest.fixture(scope="module")
def served(place):
    with serving(open_session(place, NAMES)) as server:
        yield server


@pytest.fixture
def client(served):
    return Client(served.url)


def test_only_who_knows_the_address_is_answered(client, served):
    token = client.split.path.strip("/")
    assert len(token) == 32
    assert served.url.startswith("http://127.0.0.1:")
    for base in (
        "/",
        "",
        f"/{token[:-1]}/",
        f"/{token[:-1]}x/",
        f"/{token}",
        "//",
        f"/x/../{token}/",
        "/%C3%A9/",
    ):
        for path in ("", "state", "picture/0", "page.js"):
            if base + path != client.split.path:
                status, _, body = client.ask(path, base=base)
                assert status == 403
                assert token.encode() not in body
        assert client.ask("answer", {"at": 0, "by": "", "answer": "cat", "was": ""}, base=base)[0] == 403
    assert client.ask("")[0] == 200


def test_it_listens_on_this_machine_alone(client):
    address = next((one for one in _addresses() if not one.startswith("127.")), None)
    if address is None:
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError, match=r"refused|unreachable"):
        socket.create_connection((address, client.split.port), timeout=5)


def _addresses():
    return {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "localhost:x"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:9999"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1"}, 403),
        ({"Origin": "http://localhost:9999"}, 200),
    ],
)
def test_pages_of_other_sites_are_refused(client, headers, status):
    assert client.ask("state", **headers)[0] == status
    assert client.ask("answer", {"at": 9}, **headers)[0] == (status if status != 200 else 400)


def test_the_ticket_opens_the_page_once(served, client):
    ticket = served.ticket_url.rpartition("/")[2]
    status, headers, _ = client.ask("", base=f"/{ticket}")
    assert (status, headers["Location"]) == (303, client.split.path)
    assert client.ask("", base=f"/{ticket}")[0] == 403


def test_nothing_is_asked_of_others_and_nothing_is_kept(client):
    for path in ("", "page.css", "page.js", "state", "picture/0", "nothing"):
        _, headers, body = client.ask(path)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
        if not path.startswith("picture"):
            assert b"http" not in body
    assert client.ask("../answers.py")[0] == client.ask("page.html")[0] == 404
    assert client.ask("%2e%2e/answers.py")[0] == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"at": 0, "by": "", "answer": "cow", "was": ""}, 422),
        ({"at": 4, "by": "", "answer": "cat", "was": ""}, 400),
        ({"at": -1, "by": "", "answer": "cat", "was": ""}, 400),
        ({"at": True, "by": "", "answer": "cat", "was": ""}, 400),
        ({"at": 0, "by": "", "answer": 1, "was": ""}, 400),
        ({"at": 0, "by": "x" * 99, "answer": "cat", "was": ""}, 422),
        ({"at": 0, "by": "\x1b[2J\x07", "answer": "cat", "was": ""}, 422),
        ({}, 400),
        ([], 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 60_000, 400),
        (b'"' + b"x" * 70_000 + b'"', 413),
    ],
)
def test_bad_answers_change_nothing(client, place, body, status):
    before = place.read_bytes()
    assert client.ask("answer", body)[0] == status
    assert place.read_bytes() == before
    assert client.ask("answer", body, Content_Type="text/plain")[0] in (413, 415)
    assert client.ask("picture/99")[0] == client.ask("picture/-1")[0] == client.ask("picture/x")[0] == 404


def test_answers_and_conflicts(client, place):
    assert client.answer(0, "Käse <b>") == (200, {"answer": "Käse <b>"})
    assert truths(place)[0] == "Käse <b>"
    status, told = client.answer(0, "dog")
    assert (status, told["now"], told["label"]) == (409, "Käse <b>", 3)
    assert client.answer(0, "dog", "Käse <b>")[0] == client.answer(0, "", "dog")[0] == 200
    assert set(truths(place)) == {""}


def test_names_that_come_back_see_their_own_answers(tmp_path):
    place = write_list(tmp_path, [jpeg(1), jpeg(2)])
    with serving(open_session(place, NAMES, by="anna")) as server:
        client = Client(server.url)
        assert client.state()["by"] == "anna"
        assert client.answer(0, "cat", by="anna")[0] == client.answer(0, "cat", by="ben")[0] == 200
        assert client.answer(0, "cat")[0] == 422  # a name is needed now
        state = client.state("?by=BEN")
        assert (state["by"], state["answers"], state["labels"]) == ("ben", ["cat", ""], [0, None])
        assert client.state("?by=carl")["answers"] == ["", ""]
    with serving(open_session(place, NAMES)) as server:
        state = Client(server.url).state()
        assert (state["named"], state["answers"], state["annotators"]) == (False, [], ["anna", "ben"])


def test_many_answers_at_once(tmp_path):
    place = write_list(tmp_path, [b"%d" % number for number in range(40)])
    with serving(open_session(place, NAMES)) as server:
        client = Client(server.url)
        statuses = []

        def work(first):
            statuses.extend(client.answer(at, NAMES[at % 2])[0] for at in range(first, 40, 4))

        threads = [threading.Thread(target=work, args=[first]) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 40
    assert truths(place) == [NAMES[at % 2] for at in range(40)]


def test_pictures_are_what_was_labelled_upright_and_no_larger_than_needed(client):
    status, headers, body = client.ask("picture/0?px=600&ahead=1,2,3,99,x")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    shown = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"), np.int16)
    assert abs(shown - np.asarray(Image.open(io.BytesIO(jpeg(1))), np.int16)).max() <= 3
    status, _, body = client.ask("picture/2")
    assert status == 404
    assert b"cannot be decoded" in body
    assert Image.open(io.BytesIO(client.ask("picture/3?px=600")[2])).size == (
        3000,
        20,
    )  # a strip is not thinned further
    exif = Image.Exif()
    exif[0x112] = 6
    kind, body = render(jpeg(5, (1200, 900), exif=exif), 600)
    assert (kind, Image.open(io.BytesIO(body)).size) == ("image/jpeg", (450, 600))
    tiff = io.BytesIO()
    Image.new("LA", (40, 30), (9, 128)).save(tiff, "TIFF")
    kind, body = render(tiff.getvalue(), 600)
    assert (kind, Image.open(io.BytesIO(body)).size) == ("image/png", (40, 30))


def test_classes_come_with_what_they_are_also_called(tmp_path):
    state = open_session(write_list(tmp_path, [jpeg(1)]), imagenet_names()).state(None)
    assert state["classes"][0] == {"name": "tench", "id": "n01440764", "also": "Tinca tinca"}
    assert state["none"] == "none"
    tree = wordnet_taxonomy(imagenet_names())
    place = write_list(tmp_path / "c", [jpeg(1)])
    groups = open_session(place, imagenet_names(), taxonomy=tree).state(None)["classes"][1000:]
    dog = {"name": "dog", "id": "n02084071", "also": "dog.n.01", "size": 118, "offered": True}
    assert dog in groups
    assert [group["name"] for group in groups if group["size"] == 1000 and group["offered"]] == []
    assert open_session(write_list(tmp_path / "b", [jpeg(1)]), ["None", "cat"]).state(None)["none"] == ""


@pytest.fixture(scope="module")
def labelled(sample_data, tmp_path_factory):
    """A tar, a folder of loose images, and their output in parts of four rows."""
    folder = tmp_path_factory.mktemp("originals")
    make_tar(folder / "a.tar", [(f"t{number}.jpg", jpeg(number)) for number in range(10)])
    (folder / "photos").mkdir()
    for number in range(6):
        (folder / "photos" / f"p{number}.jpg").write_bytes(jpeg(100 + number))
    inputs = [str(folder / "a.tar"), str(folder / "photos")]
    label(inputs, folder / "out", **options(sample_data, rows_per_part=4))
    return folder


def test_images_are_read_from_the_inputs_where_none_lie_beside_the_list(labelled, tmp_path):
    sample(labelled / "out", save=tmp_path / "truth.csv", num=16, images=False)

    def use():
        client = Client(told.get(timeout=60))
        state = client.state()
        seen.extend((key, client.ask(f"picture/{at}?ahead=1,2,3,4,5,6")[2]) for at, key in enumerate(state["keys"]))
        predicted.extend(client.ask(f"predictions/{at}")[2] for at in range(16))
        statuses.extend(client.answer(at, state["classes"][at % 14]["name"])[0] for at in range(15))
        statuses.append(client.answer(15, "none")[0])
        os.kill(os.getpid(), signal.SIGINT)

    told: queue.Queue[str] = queue.Queue()
    seen, predicted, statuses = [], [], []
    thread = threading.Thread(target=use)
    thread.start()
    found = annotate(tmp_path / "truth.csv", show_predictions=True, browser=False, announce=told.put)
    thread.join()
    assert (found.images, found.truths, found.none, found.given) == (16, 16, 1, 16)
    assert found.next[0].startswith("shardlabel evaluate ")
    assert statuses == [200] * 16
    assert all(len(one) > 20 for one in predicted)
    for key, body in seen:
        number = int(key[1:].removesuffix(".jpg")) + 100 * key.startswith("p")
        shown = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"), np.int16)
        assert abs(shown - np.asarray(Image.open(io.BytesIO(jpeg(number))), np.int16)).max() <= 3
    evaluation = evaluate(labelled / "out", truth=tmp_path / "truth.csv")
    assert evaluation.images >= 15
    assert "16 of 16 truths were answered with the networks' labels in view" in evaluation.caveats[0]


def test_the_command_says_where_the_page_is_and_ends_with_what_to_do(labelled, tmp_path, shardlabel, monkeypatch):
    sample(labelled / "out", save=tmp_path / "my truth.csv", num=4)
    monkeypatch.setattr("pipeline.annotation_page.server.PageServer.serve", _interrupted)
    said = shardlabel("annotate", "my truth.csv", "--no-browser", "--by", "anna", cwd=tmp_path)
    address, *lines = said.stdout.splitlines()
    assert (said.returncode, lines) == (
        0,
        [
            f"{tmp_path}/my truth.csv: 0 of 4 images have a truth, 4 left",
            "next: shardlabel annotate 'my truth.csv' --by anna --no-browser",
        ],
    )
    assert address.startswith("my truth.csv: label it at http://127.0.0.1:")
    said = shardlabel("annotate", "my truth.csv", "--no-browser", "--json", cwd=tmp_path)
    assert json.loads(said.stdout)["next"] == ["shardlabel annotate 'my truth.csv' --no-browser"]
    assert "my truth.csv: label it at http://127.0.0.1:" in said.stderr


def test_groups_come_with_the_list(labelled, tmp_path, monkeypatch):
    own, place, told = tmp_path / "own.csv", tmp_path / "truth.csv", []
    own.write_text("class,kind\ncat,animal\ncoins,metal\n")
    sample(labelled / "out", save=place, num=1, classes=own)

    def serve(server):
        session = server._server.session
        told.extend(one["name"] for one in session.state(None)["classes"][14:])
        told.append(session.answer({"at": 0, "by": "", "answer": "animal", "was": ""})[0])
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.annotation_page.server.PageServer.serve", serve)
    found = annotate(place, browser=False, announce=None)
    assert (told, found.truths) == (["animal", "metal", 200], 1)
    assert found.next[0].endswith(f"--truth {place} --classes {own}")
    assert evaluate(labelled / "out", truth=place, classes=own).group_truths == 1
    told.clear()
    own.write_text("class,kind\nclock,tool\n")
    assert annotate(place, labelled / "out", classes=own, browser=False, announce=None).truths == 0
    assert told == ["tool", 422]  # of these classes an animal is none
    (tmp_path / "truth-classes.json").write_text((tmp_path / "truth-classes.json").read_text().replace("columns", ""))
    with pytest.raises(RequestError, match="its groups of classes are damaged"):
        annotate(place, browser=False)


def _interrupted(server):
    raise KeyboardInterrupt


def test_requests_that_cannot_be(labelled, tmp_path, shardlabel):
    folder = tmp_path / "list"
    sample(labelled / "out", save=folder / "truth.csv", num=4)
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(RequestError, match=f"--port {port}: Address already in use"):
        annotate(folder / "truth.csv", port=port, browser=False)
    taken.close()
    with pytest.raises(RequestError, match="--port 70000"):
        annotate(folder / "truth.csv", port=70000, browser=False)
    (folder / "truth-images").rename(tmp_path / "elsewhere")
    content = (folder / "truth-classes.json").read_text()
    (folder / "truth-classes.json").write_text(content.replace("/out", "/gone"))
    with pytest.raises(RequestError, match=r"neither beside it nor in the output .*name the output"):
        annotate(folder / "truth.csv", browser=False)
    (folder / "truth-classes.json").write_text("{}")
    with pytest.raises(RequestError, match="is not what `sample` writes"):
        annotate(folder / "truth.csv", browser=False)
    (folder / "truth-classes.json").unlink()
    for words, says in (
        (["truth.csv"], "name the output that the list was drawn from"),
        (["none.csv"], "none.csv: no such file"),
        (["truth.csv", "nowhere"], "nowhere"),
    ):
        said = shardlabel("annotate", *words, "--no-browser", cwd=folder)
        assert said.returncode == 2
        assert says in said.stderr
        assert len(said.stderr.splitlines()) == 1


def test_a_list_on_s3(s3, labelled, monkeypatch):
    bucket = s3.bucket()
    where = {"s3_endpoint": s3.endpoint}
    place = f"s3://{bucket}/lists/truth.csv"
    sample(labelled / "out", save=place, num=3, **where)
    told = []

    def serve(server):
        session = server._server.session
        assert session.pictures.rendered(0, 500)[0] == "image/png"
        told.append(session.answer({"at": 0, "by": "anna", "answer": "none", "was": ""})[0])
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.annotation_page.server.PageServer.serve", serve)
    found = annotate(place, by="anna", browser=False, announce=None, **where)
    assert (told, found.truths, found.by) == ([200], 1, {"anna": 1})
    body = s3.client.get_object(Bucket=bucket, Key="lists/truth.csv")["Body"].read().decode()
    assert body.splitlines()[1].endswith(",none,none")
