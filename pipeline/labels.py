"""Class names of ImageNet or of a ``--labels`` file, and which class a text names."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.text.safe import printable

IMAGENET_CLASSES = 1000
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Of the 1,000 names of a list, so many must be those of ImageNet at their places: lists differ in the names of a few.
_MIN_IMAGENET_NAMES = 950
_INDICES = range(2**31)  # of int32; data sets write -1 for an unknown truth
# 3, 3.0, 3.000000000000000000e+00; "1,000" is a thousand, but "3,0" and "3,00" are what a decimal comma leaves of a 3
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,20})(?:\.0*|,00?)")
_MAX_COMPARED = 50_000  # class names, in less than a second
_SCIENTIFIC = re.compile(r"[+-]?[0-9]\.?[0-9]{0,30}[eE][+-]?[0-9]{1,2}")
_WORDNET_ID = re.compile(r"([nN][0-9]{8})(?:[\s_,:-].*)?", re.DOTALL)
# Where no class fits: what people write for it, the reserved word first. A class of such a name comes before it.
NO_CLASS = -1
NO_CLASS_TEXTS = ("none", "none of these", "none of the above", "none of them", "no class", "no class fits", "no match")
_LEFT_OUT = re.compile(r"[\s_.'\u2018`\u00b4-]+")
_WRAPPINGS = (("[", "]"), ('"', '"'), ("'", "'"))  # of what JSON and Python write: [3], "goldfish", ['goldfish']


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 names of ImageNet-1k in torchvision's order (class index 0 first)."""
    from pipeline.vision import models

    return tuple(models.AlexNet_Weights.DEFAULT.meta["categories"])


def parse_names(text: str, source: str) -> tuple[str, ...]:
    """Parse class names: a JSON list of strings, or one name per line.

    Raises:
        InputError: There are no names, or the JSON is not a list of strings.
    """
    if text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"--labels {source}: not a JSON list: {error}") from error
        if not all(isinstance(name, str) for name in names):
            raise InputError(f"--labels {source}: the JSON list must hold strings only")
        if any(_SURROGATE.search(name) for name in names):
            raise InputError(f"--labels {source}: a name holds half a surrogate pair, which is no text")
    elif text.lstrip().startswith("{"):
        raise InputError(f"--labels {source}: a JSON object; give a list of names, or one name a line")
    else:
        names = text.splitlines()
        while names and not names[-1].strip():
            names.pop()
        names = [name.strip() for name in names]
    if not names:
        raise InputError(f"--labels {source}: no class names in it")
    return tuple(names)


def no_class_text(names: Sequence[str]) -> str:
    """What stands for :data:`NO_CLASS` in a list of choices: ``none``, or another text if that is a class."""
    classes = ClassResolver(names)
    return next((text for text in NO_CLASS_TEXTS if classes.resolve(text) == NO_CLASS), NO_CLASS_TEXTS[0])


def nearest_names(text: str, names: Sequence[str], number: int = 2) -> tuple[str, ...]:
    """The class names that a text resembles most, the most similar first; none where there are too many to compare."""
    if len(names) > _MAX_COMPARED:
        return ()
    by_fold = {_fold(name): name for name in reversed(names)}
    return tuple(by_fold[near] for near in difflib.get_close_matches(_fold(text), by_fold, n=number, cutoff=0.6))


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """Make class names unique and printable, one line each.

    A name that is blank, or that several classes share, gets the class index. ImageNet's names are all distinct in
    today's torchvision; in older lists there are ``crane (134)`` and ``crane (517)``.
    """
    plain = [printable(" ".join(name.split())) for name in names]
    times = Counter(plain)
    taken = {name for name in plain if times[name] == 1}
    found = []
    for index, name in enumerate(plain):
        choice = name
        if times[name] > 1 or not name:
            while choice in taken or choice == name:
                choice = f"{choice} ({index})".strip()
            taken.add(choice)
        found.append(choice)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class ClsTruth:
    """What a ``.cls`` says.

    Attributes:
        label: The class, int32: one of the K, or a larger index as it stands there; :data:`NO_CLASS` where it says that
            no class fits; None where it is not understood, or there is none.
        text: What stands there where that is not understood; else empty.
    """

    label: int | None
    text: str = ""


class ClassResolver:
    """Finds the class that a text names: an index, a class name, a synonym, or a WordNet id.

    A name is found as it is, else regardless of case, of underscores and hyphens for spaces, and of the form of its
    Unicode; else as one or several of its synonyms (``tench, Tinca tinca``); else regardless of apostrophes, full stops
    and separators (``jackolantern``, ``St Bernard``). ImageNet's synonyms and WordNet ids are those that timm ships.
    What fits several classes names none: ``CARDIGAN`` is a dog or a garment. What is left may say that no class fits.

    Args:
        class_names: Of the K classes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.num_classes = len(class_names)
        occurrences = Counter(name.strip() for name in class_names)
        self._names = tuple(class_names)
        self._exact = {name: label for label, name in enumerate(distinct_names(class_names))}
        self._exact |= {name.strip(): label for label, name in enumerate(class_names) if occurrences[name.strip()] == 1}

    def resolve(self, text: str) -> int | None:
        """The class that a text of a table names, 0 to K - 1, or :data:`NO_CLASS`; None where it is not understood.

        Text that is both a name and a number is a name.
        """
        for written in (text.strip(), text := _unwrap(text)):
            if written in self._exact:
                return self._exact[written]
        number = _number(text)
        return self._by_name(text) if number is None else number if 0 <= number < self.num_classes else None

    def resolve_cls(self, data: bytes | None) -> ClsTruth:
        """The class that the content of a ``.cls`` names. A number is an index, as in WebDataset, even if it is a name.

        Args:
            data: UTF-8, or UTF-16 by its mark, or else Latin-1; None or blank where no truth is given.
        """
        if not data or not (text := _decode(data)):
            return ClsTruth(None)
        number = _number(_unwrap(text))
        label = self.resolve(text) if number is None else number if number in _INDICES else None
        return ClsTruth(label, "" if label is not None and (number is None or label < self.num_classes) else text)

    def resolve_index(self, text: str) -> int | None:
        """The class that a number gives, 0 to K - 1: for columns of numbers, which hold no names."""
        number = _number(text)
        return number if number is not None and 0 <= number < self.num_classes else None

    def _by_name(self, text: str) -> int | None:
        folded = _fold(text)
        own_names, synonyms, by_id = self._folded
        if (match := _WORDNET_ID.fullmatch(text)) and (label := by_id.get(match[1].lower())) is not None:
            return label
        for table in (own_names, synonyms):
            if folded in table:
                return table[folded]
        pieces = [_fold(piece) for piece in text.split(",")]
        labels = {synonyms[piece] for piece in pieces} - {None} if synonyms.keys() >= set(pieces) else set()
        if labels:
            return labels.pop() if len(labels) == 1 else None
        for table in self._squashed:
            if (squashed := _squash(text)) in table:
                return table[squashed]
        return NO_CLASS if folded in NO_CLASS_TEXTS else None

    @functools.cached_property
    def _folded(self) -> tuple[dict[str, int | None], dict[str, int | None], dict[str, int]]:
        """Classes by folded name, by folded synonym, and by WordNet id; None where there are several."""
        names = [(name, label) for label, name in enumerate(self._names)]
        synonyms = [(piece, label) for name, label in names for piece in name.split(",")]
        by_id: dict[str, int] = {}
        if meanings := imagenet_meanings(self._names):
            by_id = {wordnet_id: label for label, (wordnet_id, _) in enumerate(meanings)}
            whole = _unique((text, label) for label, (_, text) in enumerate(meanings))
            lemmas = [(piece, label) for label, (_, text) in enumerate(meanings) for piece in text.split(",")]
            return _unique(names), _unique([*synonyms, *lemmas]) | whole, by_id
        return _unique(names), _unique(synonyms), by_id

    @functools.cached_property
    def _squashed(self) -> tuple[dict[str, int | None], ...]:
        """Classes by squashed name, and by squashed synonym; None where there are several."""
        own_names, synonyms, _ = self._folded
        return tuple(_unique(table.items(), _squash) for table in (own_names, synonyms))


def imagenet_meanings(class_names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """WordNet id and synonyms (``tench, Tinca tinca``) of each class where the names are ImageNet's; else empty."""
    if len(class_names) != IMAGENET_CLASSES:
        return ()
    wordnet_ids, lemmas = _imagenet_synonyms()
    known = _is_imagenet(class_names, wordnet_ids, lemmas)
    return tuple(zip(wordnet_ids, lemmas, strict=True)) if known else ()


def _decode(data: bytes) -> str:
    """The text of a ``.cls``, without spaces and NULs at its ends."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    return text.strip("\0 \t\r\n\f\v")


def _unwrap(text: str) -> str:
    """Text without spaces around it, and without brackets and quotes around the rest."""
    text = text.strip()
    for opening, closing in _WRAPPINGS:
        if len(text) > 2 and text[0] == opening and text[-1] == closing:
            text = text[1:-1].strip()
    return text


def _number(text: str) -> int | None:
    """The whole number that a text stands for; None if it stands for none."""
    if _INTEGER.fullmatch(text):
        return int(text)
    if match := _WHOLE_NUMBER.fullmatch(text):
        return int(match[1])
    if _SCIENTIFIC.fullmatch(text) and (value := float(text)).is_integer():
        return int(value)
    return None


def _fold(text: str) -> str:
    """Text regardless of case, Unicode's form, and of spaces, underscores and hyphens between its parts."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return " ".join(re.split(r"[\s_-]+", text)).strip()


def _squash(text: str) -> str:
    """Text regardless of case, and of what people leave out or put in: separators, apostrophes, full stops.

    Between digits they stay: ``1 2`` is not 12.
    """
    pieces = [piece for piece in _LEFT_OUT.split(_fold(text)) if piece]
    apart = (left[-1].isdigit() and right[0].isdigit() for left, right in itertools.pairwise(pieces))
    return "".join(pieces[:1] + [" " * is_apart + piece for is_apart, piece in zip(apart, pieces[1:], strict=True)])


def _unique(names: Iterable[tuple[str, int | None]], fold: Callable[[str], str] = _fold) -> dict[str, int | None]:
    """Classes by folded name; None where several classes have it."""
    found: dict[str, int | None] = {}
    for name, label in names:
        if folded := fold(name):
            found[folded] = label if found.get(folded, label) == label else None
    return found


@functools.cache
def _imagenet_synonyms() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet id and synonyms (``tench, Tinca tinca``) of ImageNet's classes, from the files that timm ships.

    They are read where they lie: importing timm takes seconds.
    """
    timm = importlib.util.find_spec("timm")
    assert timm is not None
    assert timm.submodule_search_locations
    folder = Path(timm.submodule_search_locations[0]) / "data" / "_info"
    wordnet_ids = (folder / "imagenet_synsets.txt").read_text("utf-8").split()
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    return tuple(wordnet_ids), tuple(lemmas[wordnet_id] for wordnet_id in wordnet_ids)


def _is_imagenet(names: Sequence[str], wordnet_ids: Sequence[str], lemmas: Sequence[str]) -> bool:
    """Whether 1,000 class names are ImageNet's, in its order, in whatever form."""
    known = 0
    for name, wordnet_id, text in zip(names, wordnet_ids, lemmas, strict=True):
        own = {_fold(piece) for piece in name.split(",")}
        known += wordnet_id in own or not own.isdisjoint(_fold(piece) for piece in text.split(","))
    return known >= _MIN_IMAGENET_NAMES
