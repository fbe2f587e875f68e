"""The stage ``write`` of a measurement: the time and the bytes of publishing a part."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import shutil
from collections.abc import Sequence

from pipeline.labeler.config import LabelerConfig
from pipeline.models.ensemble import Predictions
from pipeline.output.ledger import PREDICTIONS
from pipeline.records import Cursor, Unit, UnitKind
from pipeline.stages.write import Part, Picture, Writer
from pipeline.storage import Storage

WRITTEN_ROWS = 2_000


class WriteBench:
    """Publishes parts of real predictions, and removes them again.

    Args:
        config: Of the labeler.
        storage: How to reach its ``out``.
        predicted: Batches of predictions, each with its pictures.
    """

    def __init__(
        self, config: LabelerConfig, storage: Storage, predicted: Sequence[tuple[Predictions, list[Picture]]]
    ) -> None:
        self._config = config
        self._storage = storage
        self._predicted = predicted
        self._large_part = self._part(WRITTEN_ROWS)

    def run(self, number: int) -> int:
        """Publish parts of at least so many rows; returns how many."""
        done = 0
        while done < number:
            self._publish(self._large_part)
            done += len(self._large_part.pictures)
        return done

    def sizes(self) -> tuple[float, float]:
        """Bytes per row, and fixed bytes per part, from two parts of different length."""
        held = sum(len(pictures) for _, pictures in self._predicted)
        few, many = self._part(1), self._part(max(held, 1 + len(self._predicted[0][1])))
        rows = len(many.pictures) - len(few.pictures)
        small, large = self._publish(few), self._publish(many)
        row_bytes = (large - small) / rows
        return row_bytes, max(0.0, small - row_bytes * len(few.pictures))

    def _part(self, rows: int) -> Part:
        """A part of so many rows; pictures are repeated with other keys where there are fewer."""
        part = Part(0, 0)
        for batch, pictures in itertools.cycle(self._predicted):
            if len(part.pictures) >= rows:
                return part
            part.predictions.append(batch)
            for picture in pictures:
                index = len(part.pictures)
                digest = hashlib.sha256(f"{picture.sha256}{index}".encode()).hexdigest()
                part.pictures.append(dataclasses.replace(picture, index=index, key=f"{index:08d}", sha256=digest))
        raise AssertionError("a cycle does not end")

    def _publish(self, part: Part) -> int:
        """Publish a part and remove it again; returns its size in bytes."""
        out = os.path.join(self._config.out, "written")
        aliases = [spec.alias for spec in self._config.members]
        names, groups = self._config.class_names, self._config.group_columns
        writer = Writer(out, self._storage, "0" * 64, aliases, names, (), groups=groups)
        writer.publish(Unit("0" * 16, UnitKind.TAR, self._config.out, 0), part, Cursor(), last=True)
        size = sum(entry.size_bytes for _, entry in writer.ledger.listing(PREDICTIONS))
        shutil.rmtree(out)
        return size
