"""A list with its images, and its page served from this process."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import threading
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.annotation_page.answers import AnswerList
from pipeline.annotation_page.originals import OutputImages
from pipeline.annotation_page.pictures import Pictures
from pipeline.annotation_page.server import PageServer
from pipeline.annotation_page.session import Options, Session
from pipeline.errors import OutputError
from pipeline.storage import Storage
from pipeline.taxonomy.tree import Taxonomy


def write_list(folder: Path, images: Sequence[bytes], name: str = "truth.csv") -> Path:
    """A list as ``sample`` writes it, with its images beside it."""
    stem = name.removesuffix(".csv")
    (folder / f"{stem}-images").mkdir(parents=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("shard key index sha256 image truth".split())
    for number, image in enumerate(images):
        path = f"{stem}-images/{number:06d}.jpg"
        (folder / path).write_bytes(image)
        writer.writerow(["/data/a.tar", f"key_{number}", number, hashlib.sha256(image).hexdigest(), path, ""])
    (folder / name).write_text(text.getvalue())
    return folder / name


def truths(place: Path, column: str = "truth") -> list[str]:
    """What stands in a column of a list."""
    with place.open(newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


def open_session(
    place: Path,
    names: Sequence[str],
    by: str = "",
    *,
    predictions: bool = False,
    taxonomy: Taxonomy | None = None,
) -> Session:
    """The session of a list whose images all lie beside it."""

    def no_output() -> OutputImages:
        raise OutputError("no output here")

    storage = Storage()
    answers = AnswerList(str(place), names, storage, taxonomy)
    pictures = Pictures(str(place.parent), answers.rows, storage, no_output)
    return Session(
        answers, pictures, names, Options(by, show_predictions=predictions, next_commands=("shardlabel next",))
    )


@contextlib.contextmanager
def serving(session: Session) -> Iterator[PageServer]:
    """Serves a session in a thread."""
    server = PageServer(session)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
        server.close()


class Client:
    """Asks a server, with the headers that a test wants."""

    def __init__(self, url: str) -> None:
        self.split = urlsplit(url)

    def ask(
        self, path: str, body: object = None, *, base: str | None = None, **headers: str
    ) -> tuple[int, dict, bytes]:
        """Status, headers and body of the answer to a request; a POST if it has a body."""
        connection = HTTPConnection("127.0.0.1", self.split.port, timeout=30)
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            given.setdefault("Content-Type", "application/json")
        url = (self.split.path if base is None else base) + path
        connection.request("GET" if body is None else "POST", url, data, given)
        answer = connection.getresponse()
        found = answer.status, dict(answer.headers), answer.read()
        connection.close()
        return found

    def answer(self, at: int, answer: str, was: str = "", by: str = "") -> tuple[int, dict]:
        """What comes of an annotator's answer."""
        status, _, body = self.ask("answer", {"at": at, "by": by, "answer": answer, "was": was})
        return status, json.loads(body)

    def state(self, query: str = "") -> dict:
        """The state that the page gets."""
        return json.loads(self.ask(f"state{query}")[2])
