"""What the page asks for and tells, as data: the list's state for one annotator, a picture, an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.annotation_page.answer_table import NONE
from pipeline.annotation_page.answers import AnswerConflict, AnswerList
from pipeline.annotation_page.pictures import Pictures
from pipeline.errors import ShardlabelError
from pipeline.labels import imagenet_meanings
from pipeline.taxonomy.answers import answers_of
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.tree import Taxonomy
from pipeline.taxonomy.wordnet import wordnet_ids
from pipeline.text.safe import printable


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the page.

    Attributes:
        by: Name of the annotator that the page begins with; empty for none.
        show_predictions: Whether it shows what the networks predicted.
        next_commands: What to run when the list is filled in.
    """

    by: str
    show_predictions: bool
    next_commands: tuple[str, ...]


class Session:
    """A list that is being filled in, by one annotator or by several.

    Args:
        answers: The list.
        pictures: Its pictures.
        class_names: Of the K classes.
        options: Of the page.
    """

    def __init__(self, answers: AnswerList, pictures: Pictures, class_names: Sequence[str], options: Options) -> None:
        self._answers = answers
        self.pictures = pictures
        self._options = options
        self._rows = answers.rows
        meanings = imagenet_meanings(class_names)
        also = meanings or (("", ""),) * len(class_names)
        written, taxonomy = answers.names.written, answers.names.taxonomy
        self._classes: list[dict[str, Any]] = [
            {"name": name, "id": wordnet_id, "also": _others(printable(text), name)}
            for name, (wordnet_id, text) in zip(written, also, strict=False)  # groups follow
        ]
        self._classes += [] if taxonomy is None else _groups(taxonomy)
        self.given = 0  # answers since the server began

    def __len__(self) -> int:
        return len(self._rows)

    def state(self, by: str | None) -> dict[str, Any]:
        """Everything that the page needs to know.

        Args:
            by: Name of the annotator; None for the one that the page begins with.

        Raises:
            RequestError: The name cannot be one, or the list can no longer be read.
        """
        annotators = self._answers.annotators()
        own = self._options.by if by is None else by
        if by is None and not own and annotators:
            own_answers, named = [], False  # the page asks for a name first
        else:
            own = self._answers.check_name(own)
            own_answers, named = self._answers.answers(own), True
        return {
            "list": printable(self._answers.place),
            "by": own,
            "named": named,
            "annotators": [printable(name) for name in annotators],
            "classes": self._classes,
            "none": "" if self._answers.names.none_is_class else NONE,
            "answers": own_answers,
            "labels": [self._answers.names.label_of(answer) for answer in own_answers],
            "keys": [printable(row.key) for row in self._rows],
            "shards": [printable(row.shard) for row in self._rows],
            "predictions": self._options.show_predictions,
            "next": [printable(line) for line in self._options.next_commands],
        }

    def answer(self, told: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Write an answer; returns an HTTP status, and what the page is told.

        Args:
            told: ``at``, number of the image; ``by``, name; ``answer``; and ``was``, what the page took for the answer.
        """
        at, by, answer, was = (told.get(name) for name in ("at", "by", "answer", "was"))
        if type(at) is not int or not 0 <= at < len(self) or not all(isinstance(one, str) for one in (by, answer, was)):
            return 400, {"problem": "no such image, or no answer"}
        try:
            own = self._answers.check_name(str(by))
            self._answers.put(at, own, str(answer), str(was), shown=self._options.show_predictions)
        except AnswerConflict as conflict:
            now = printable(conflict.now) or "no answer"
            problem = f"the file has changed: it says {now} for this image"
            return 409, {"problem": problem, "now": conflict.now, "label": self._answers.names.label_of(conflict.now)}
        except ShardlabelError as error:
            return 422, {"problem": printable(error)}
        self.given += bool(answer)
        return 200, {"answer": answer}

    def close(self) -> None:
        """Take no further answers, and read no further images."""
        self._answers.close()
        self.pictures.close()

    def count(self) -> dict[str, Any]:
        """How far the list is.

        Raises:
            RequestError: It can no longer be read.
        """
        return dataclasses.asdict(self._answers.count())

    def candidates(self, at: int) -> list[tuple[int, float | None]]:
        """The classes that the consensus predicted for an image, best first, with scores where they are known.

        Raises:
            ShardlabelError: The output cannot be read.
        """
        if not self._options.show_predictions:
            return []
        if (located := self.pictures.located().get(at)) is None:
            return []
        return [(label, round(score, 4)) for label, score in zip(located.labels, located.scores, strict=True)]


def _groups(taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """What the page knows of each group; besides what it knows of a class how many there are in it."""
    answers, sizes_V = answers_of(taxonomy), nodes_of(taxonomy).sizes_V
    ids = {} if taxonomy.level_names else {name: wordnet_id for wordnet_id, name in wordnet_ids().items()}
    found = []
    for number, group in enumerate(taxonomy.groups):
        node = taxonomy.num_classes + number
        also = "" if printable(group.name) == answers.names[node] else printable(group.name)
        about = {"name": answers.names[node], "id": ids.get(group.name, ""), "also": also, "size": int(sizes_V[node])}
        found.append(about | {"offered": node in answers.offered_groups})
    return found


def _others(synonyms: str, name: str) -> str:
    """The synonyms but the name itself."""
    return ", ".join(one for one in map(str.strip, synonyms.split(",")) if one != name)
