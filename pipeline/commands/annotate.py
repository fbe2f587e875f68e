"""Annotate: a page on this machine, on which people label the images of a list."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.annotation.list_source import ListSource, read_source, source_file
from pipeline.annotation_page.answers import AnswerList, list_place
from pipeline.annotation_page.originals import OutputImages
from pipeline.annotation_page.pictures import PictureMissing, Pictures
from pipeline.annotation_page.server import PageServer
from pipeline.annotation_page.session import Options, Session
from pipeline.config.settings import StorageConfig
from pipeline.errors import OutputError, RequestError, StorageError
from pipeline.job.own_classes import classes_of_output
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage
from pipeline.taxonomy.classes_file import read_classes
from pipeline.text.commands import command_line, free_name, store_words
from pipeline.text.safe import printable
from pipeline.trust.more_truths import FEWEST_FOR_TARGET, SUGGESTED_TARGET

_TRIED_FIRST = 3  # if none of so many images can be read, none is likely to be
_NEEDS_DISPLAY = ("linux", "freebsd", "openbsd", "netbsd")


@dataclass(frozen=True, slots=True)
class AnnotatedList:
    """How far a list is.

    Attributes:
        file: Path or URI of the list.
        images: Images of the list.
        truths: Those with a truth, ``none`` included.
        none: Those in which no class fits.
        tied: Those without truth because as many annotators say one thing as another.
        by: Answers of each annotator; empty where no names were given.
        given: Answers that were given on this page.
        next: What to run next.
    """

    file: str
    images: int
    truths: int
    none: int
    tied: int
    by: dict[str, int]
    given: int
    next: tuple[str, ...]


def annotate(
    list_file: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    by: str = "",
    merge: Sequence[str | os.PathLike[str]] = (),
    show_predictions: bool = False,
    classes: str | os.PathLike[str] | None = None,
    port: int = 0,
    browser: bool = True,
    announce: Callable[[str], None] | None = print,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> AnnotatedList:
    """Serve a page on which people label the images of a list, until Ctrl-C; in a notebook, until it is interrupted.

    Args:
        list_file: CSV of :func:`sample` or :func:`review`, local or S3. Each answer is written to it at once.
        out: The output that it was drawn from; None for the one that the file beside the list names.
        by: Name of the annotator. Each one's answers have a column of their own then, and ``truth`` is the majority.
        merge: Other copies of the list: their answers by name are taken over first.
        show_predictions: Show what the networks predicted. People tend to agree with it.
        classes: Own classes, as for ``label``, whose groups are answers, too; None for those that the list was drawn
            with.
        port: To listen on, on 127.0.0.1 alone; 0 for a free one.
        browser: Open the page in a browser, where there is one.
        announce: Is told the address of the page.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.

    Raises:
        InputError: The file of own classes is missing or not valid.
        OutputError: ``out`` is not the output of a job.
        RequestError: The list cannot be read or filled in, none of its images can be read, or the port is not free.
    """
    s3 = StorageConfig(s3_endpoint=s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    storage = Storage(s3)
    place = list_place(list_file)
    source = _find_source(place, out, None if classes is None else os.fspath(classes), storage)
    answers = AnswerList(place, source.class_names, storage, source.taxonomy)
    for other in merge:
        answers.merge(AnswerList(list_place(other), source.class_names, storage, source.taxonomy))
    pictures = Pictures(place.rpartition("/")[0], answers.rows, storage, lambda: _open_output(source, storage))
    try:
        _check_pictures(place, pictures, answers, predictions=show_predictions)
        is_blind = not show_predictions and not answers.has_shown()
        # people agree with what they see: nothing to promise on
        may_promise = is_blind and len(answers.rows) >= FEWEST_FOR_TARGET
        store = store_words(s3_endpoint, no_sign_request, request_payer)
        commands = _next_commands(os.fspath(list_file), source, store, may_promise=may_promise)
        options = Options(answers.check_name(by) if by else "", show_predictions, commands)
        session = Session(answers, pictures, source.class_names, options)
        server = PageServer(session, port)
        pictures.prepare()
        try:
            _serve(server, browser=browser, announce=announce)
        finally:
            server.close()
        found = answers.count()
    finally:
        pictures.close()
    again = [os.fspath(list_file)] + ([] if out is None else [os.fspath(out)]) + (["--by", by] if by else [])
    again += [] if classes is None else ["--classes", os.fspath(classes)]
    again += ["--show-predictions"] * show_predictions + (["--port", str(port)] if port else [])
    again += ["--no-browser"] * (not browser) + store
    return AnnotatedList(
        place,
        found.images,
        found.truths,
        found.none,
        found.tied,
        found.by,
        session.given,
        (command_line("annotate", *again),) if found.images > found.truths else commands,
    )


def _find_source(place: str, out: str | os.PathLike[str] | None, classes: str | None, storage: Storage) -> ListSource:
    """Classes and output of a list: of the given output, or of the one that the list was drawn from."""
    found = _source_of_list(place, out, storage)
    if classes is None:
        return found
    return dataclasses.replace(found, taxonomy=read_classes(classes, storage, found.class_names), is_own=False)


def _source_of_list(place: str, out: str | os.PathLike[str] | None, storage: Storage) -> ListSource:
    try:
        storage.stat(place)
    except StorageError as error:
        raise RequestError(str(error)) from error
    beside = read_source(place, storage)
    if out is not None:
        ledger = Ledger(os.fspath(out), storage)
        job = ledger.job()
        names = tuple(job["class_names"])
        if beside is not None and beside.taxonomy is not None and beside.class_names == names:
            return dataclasses.replace(beside, out=ledger.out)
        own = classes_of_output(job, None, storage)
        return ListSource(ledger.out, beside.order if beside else "random", names, own, is_own=True)
    if beside is None:
        raise RequestError(
            f"{place}: there is no {source_file(place)}, so its classes are not known; name the output that the list "
            f"was drawn from: {command_line('annotate', place)} OUT"
        )
    return beside


def _open_output(source: ListSource, storage: Storage) -> OutputImages:
    if not source.out:
        raise OutputError("it is not beside the list, and the list does not say which output it was drawn from")
    ledger = Ledger(source.out, storage)
    ledger.job()
    return OutputImages(ledger, storage)


def _check_pictures(place: str, pictures: Pictures, answers: AnswerList, *, predictions: bool) -> None:
    """Check that an image can be read, and that what the page shall show is there.

    Raises:
        RequestError: None of the first images can be read, or the predictions cannot.
    """
    if predictions:
        pictures.located()
    problem = ""
    for at in range(min(_TRIED_FIRST, len(answers.rows))):
        try:
            pictures.encoded(at)
        except PictureMissing as missing:
            problem = problem or str(missing)
        else:
            return
    raise RequestError(
        f"{place}: its images are neither beside it nor in the output that it was drawn from ({printable(problem)}); "
        f"move them beside it, or name the output: {command_line('annotate', place)} OUT"
    )


def _serve(server: PageServer, *, browser: bool, announce: Callable[[str], None] | None) -> None:
    if announce is not None:
        announce(server.url)
    if browser and (not sys.platform.startswith(_NEEDS_DISPLAY) or _has_display()):
        # what a browser is started with can be seen by all users of this machine, so it is not the address itself
        threading.Thread(target=webbrowser.open, args=[server.ticket_url], daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _next_commands(list_file: str, source: ListSource, store: Sequence[str], *, may_promise: bool) -> tuple[str, ...]:
    """What to run when the list is filled in; nothing where the output is not known."""
    if not source.out:
        return ()
    out = _short(source.out)
    if source.order != "random":  # these are no fair truths
        return (command_line("sample", out, "--unique", "--save", free_name("truth.csv"), *store),)
    evaluate = ["evaluate", out, "--truth", list_file]
    if source.taxonomy is not None and not source.is_own:
        evaluate += ["--classes", source.taxonomy.source]
    promise = ["export", out, "--to", free_name("dataset"), "--format", "parquet", "--truth", list_file]
    promise += ["--target-precision", str(SUGGESTED_TARGET)]
    return tuple(command_line(*words, *store) for words in ([evaluate, promise] if may_promise else [evaluate]))


def _short(path: str) -> str:
    """A path as it is seen from here, if that is shorter."""
    relative = path if path.startswith("s3://") else os.path.relpath(path)
    return min(relative, path, key=len)
