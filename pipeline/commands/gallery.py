"""Gallery: write one page with the pictures of a class or of any query."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import OutputError, RequestError, StorageError
from pipeline.job.own_classes import classes_of_output
from pipeline.labels import NO_CLASS, ClassResolver
from pipeline.output.opening import open_ledger
from pipeline.page.gallery import GalleryContent, collect_pictures, render_gallery
from pipeline.page.query import Query, QueryResult, run_query
from pipeline.page.saving import save_page
from pipeline.text import fmt
from pipeline.text.result import Result
from pipeline.trust.truth_file import read_class_truth

GALLERY = "gallery.html"
_MOST = 2000  # pictures on a page: 150 MB


@dataclass(frozen=True, slots=True, repr=False)
class Gallery(Result):
    """A gallery that was written.

    Attributes:
        out: The output that it is about.
        saved: Path or URI of the page.
        num_bytes: Size of the page.
        matching: Number of images that match, those with the same bytes included.
        shown: Number of images on the page, each content once.
        pictures: Of these, those with a picture.
        note: Why pictures are missing; empty if none is.
    """

    out: str
    saved: str
    num_bytes: int
    matching: int
    shown: int
    pictures: int
    note: str


def gallery(
    out: str | os.PathLike[str],
    *,
    of_class: str | int | Sequence[str | int] = (),
    where: str = "",
    order: str = "",
    num: int = 200,
    seed: int = 0,
    truth: str | os.PathLike[str] | None = None,
    save: str | os.PathLike[str] | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> Gallery:
    """Write one self-contained HTML page with the pictures of some classes, or of any query.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        of_class: One class or several, each by index, name or WordNet id; none for all.
        where: SQL condition over the columns of the predictions, as DuckDB understands it.
        order: SQL order, such as ``score`` or ``entropy DESC``; a random choice without one, or for ``random``.
        num: Number of pictures at most, 1 to 2,000. Of images with the same bytes one is shown.
        seed: Of the random choice.
        truth: As for :func:`pipeline.evaluate`; it takes the place of the column ``truth``.
        save: File to write, local or S3; None for ``gallery.html`` in ``out``.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read; or the page cannot be written there.
        RequestError: A class is unknown, the SQL is not valid, no image matches, or the page cannot be written to
            ``save``.
    """
    if not 1 <= num <= _MOST:
        raise RequestError(f"--num {num}: must be 1 to {_MOST:,}")
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    job = ledger.job()
    own = None if truth is None else classes_of_output(job, None, storage)
    given = None if truth is None else read_class_truth(os.fspath(truth), storage, job["class_names"], own)
    order = "" if order.strip().lower() == "random" else order
    query = Query(_find_classes(of_class, job["class_names"]), where, order, num, seed)
    try:
        found = run_query(ledger, str(job["fingerprint"]), query, given)
        if not found.matching:
            raise RequestError(_describe_nothing(ledger.out, query, job["class_names"]))
        pictures, problem = collect_pictures(ledger, storage, job, found)
    except StorageError as error:
        raise OutputError(f"OUT cannot be read: {error}") from error
    title, note = _describe(query, job["class_names"], found)
    page = render_gallery(GalleryContent(ledger.out, title, note, pictures, problem))
    return Gallery(
        out=ledger.out,
        saved=save_page(ledger, storage, page, save, GALLERY),
        num_bytes=len(page),
        matching=found.matching,
        shown=len(pictures),
        pictures=sum(each.large is not None for each in pictures),
        note=problem,
    )


def _find_classes(of_class: str | int | Sequence[str | int], names: Sequence[str]) -> tuple[int, ...]:
    given = [of_class] if isinstance(of_class, str | int) else list(of_class)
    resolver = ClassResolver(names)
    labels = []
    for text in map(str, given):
        label = resolver.resolve(text)
        if label == NO_CLASS:
            raise RequestError(
                f"--class {text}: says that no class fits, and every label is a class; images whose truth is none are "
                'those of --where "truth = -1"'
            )
        if label is None:
            near = difflib.get_close_matches(text.lower(), [name.lower() for name in names], n=3, cutoff=0.7)
            found = [name for name in names if name.lower() in near]
            hint = f"; did you mean {', '.join(found)}?" if found else "; it takes an index, a name or a WordNet id"
            raise RequestError(f"--class {text}: is not one of the {len(names):,} classes of this output{hint}")
        labels.append(label)
    return tuple(dict.fromkeys(labels))


def _describe_nothing(out: str, query: Query, names: Sequence[str]) -> str:
    classes = ", ".join(names[label] for label in query.labels)
    wanted = [f"--class {classes}"] * bool(classes) + [f"--where {query.where}"] * bool(query.where)
    if not wanted:
        return f"{out}: no image is labelled yet; there is nothing to show"
    return f"{out}: no image matches {' and '.join(wanted)}; nothing was written"


def _describe(query: Query, names: Sequence[str], found: QueryResult) -> tuple[str, str]:
    """The title of the page, and how its images were chosen."""
    parts = [", ".join(names[label] for label in query.labels)] if query.labels else []
    title = " where ".join([*parts, query.where] if query.where else parts) or "All images"
    many = fmt.plural(found.matching, "image matches", "images match")
    order = f"in the order {query.order}" if query.order else "in random order"
    return title, f"{many}; {fmt.count(len(found.row_refs))} shown, {order}, each content once."
