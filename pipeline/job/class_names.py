"""The class names of a job: given with ``--labels``, or what is known of its members' classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import InputError, ModelError, StorageError
from pipeline.labels import IMAGENET_CLASSES, imagenet_meanings, imagenet_names, parse_names
from pipeline.storage import Storage, absolute_uri
from pipeline.text import fmt

if TYPE_CHECKING:  # torch takes seconds to load, and names are checked before
    from pipeline.models.weights import ResolvedMember

IMAGENET = "imagenet"  # what --labels takes besides a file


def given_names(path: str | None, storage: Storage) -> tuple[str, ...] | None:
    """Read the file of ``--labels``, or take ImageNet's names for ``imagenet``; None without one.

    Raises:
        InputError: It cannot be read, or holds no class names.
    """
    if path is None:
        return None
    if path == IMAGENET:
        return imagenet_names()
    try:
        return parse_names(storage.read(absolute_uri(path)).decode("utf-8-sig"), path)
    except StorageError as error:
        raise InputError(f"--labels {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--labels {path}: not UTF-8 text") from error


def choose_names(
    num_classes: int, given: tuple[str, ...] | None, members: Sequence[ResolvedMember]
) -> tuple[tuple[str, ...], str]:
    """Choose the names of an ensemble's classes.

    Args:
        num_classes: Number of classes.
        given: Names of ``--labels``, if any.
        members: The ensemble.

    Returns:
        The given names; else those in the members' files; else ImageNet's, where a member is known to have its classes;
        else the indices as text. And a note on what a user may not expect; empty without one.

    Raises:
        InputError: The number of given names is not the number of classes.
        ModelError: The members' files name different classes.
    """
    if given is not None:
        if len(given) != num_classes:
            raise InputError(
                f"--labels has {fmt.plural(len(given), 'name')}, but the models have "
                f"{fmt.plural(num_classes, 'class', 'classes')}{_doubts(given, '; of its lines ')}"
            )
        return given, _doubts(given, "--labels: of its lines ")
    named = [member for member in members if len(member.origin.class_names) == num_classes]
    known = [member for member in members if num_classes == IMAGENET_CLASSES and _has_imagenet(member)]
    for member in named:
        if (known and member not in known) or member.origin.class_names != named[0].origin.class_names:
            first = known[0] if known and member not in known else named[0]
            if not (_has_imagenet(member) and _has_imagenet(first)):
                raise ModelError(
                    f"the members do not share one set of classes: the files of {first.spec.alias} and "
                    f"{member.spec.alias} name them differently; --labels FILE says what they are"
                )
    if known:
        unknown = [member.spec.alias for member in members if member not in known]
        note = (
            f"the 1,000 classes of {', '.join(unknown)} are taken to be ImageNet's, as those of {known[0].spec.alias}"
        )
        return imagenet_names(), note if unknown else ""
    if named:
        note = f"class names are those in the file of {named[0].spec.alias}"
        if unknown := [member.spec.alias for member in members if member not in named]:
            note += f"; the classes of {', '.join(unknown)} are taken to be the same"
        return named[0].origin.class_names, note
    names = tuple(str(index) for index in range(num_classes))
    if num_classes != IMAGENET_CLASSES:
        return names, ""
    return names, (
        "the classes are called 0 to 999, because nothing says that they are ImageNet's: "
        "--labels FILE names them, --labels imagenet takes its names"
    )


def _doubts(given: Sequence[str], begin: str) -> str:
    """What may be no names among those of a file: blank lines and comments; empty if all look like names."""
    blank = [str(line) for line, name in enumerate(given, 1) if not name.strip()]
    comments = [str(line) for line, name in enumerate(given, 1) if name.startswith("# ")]
    kinds = (("empty", blank), ("a comment", comments))
    said = [f"{fmt.few(lines)} {'is' if len(lines) == 1 else 'are'} {what}" for what, lines in kinds if lines]
    return f"{begin}{', '.join(said)}, and each is taken for a class" if said else ""


def _has_imagenet(member: ResolvedMember) -> bool:
    """Whether a member is known to have ImageNet's classes; names in its file count first."""
    if names := member.origin.class_names:
        return bool(imagenet_meanings(names))
    return member.origin.is_imagenet
