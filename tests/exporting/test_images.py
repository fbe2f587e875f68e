"""Images read again for an export: only their hash counts; a replaced input is an error."""

from __future__ import annotations

import shutil

import pytest

from pipeline.errors import ObjectChanged
from pipeline.exporting.images import ExpectedImage, Image, OmissionReason, read_images
from pipeline.inputs.units import read_units
from pipeline.output.ledger import Ledger
from pipeline.records import Cursor
from pipeline.storage import Storage


@pytest.fixture
def place(labelled, tmp_path):
    """The first shard and the loose images, with their units: ``read(kind, keys)``; changes do no harm."""
    units = {unit.kind: unit for unit in reversed(read_units(Ledger(str(labelled.out), Storage()), Storage()))}
    shutil.copytree(labelled.out.parent, tmp_path / "kept", ignore=shutil.ignore_patterns("out"))

    def read(kind, *keys):
        rows = {row["key"]: row for row in labelled.rows() if row["shard"] == units[kind].uri}
        wanted = {rows[key]["index"]: ExpectedImage(key, rows[key]["sha256"]) for key in keys or rows}
        return list(read_images(units[kind], Storage(), Cursor(), wanted))

    yield read
    for name in ("shards", "loose"):
        shutil.rmtree(labelled.out.parent / name)
        shutil.copytree(tmp_path / "kept" / name, labelled.out.parent / name)


def test_a_single_loose_image_may_be_missing(labelled, place):
    (labelled.loose / "plain.jpg").unlink()
    ((_, reason),) = place("slice", "plain.jpg")
    assert reason == OmissionReason.MISSING
    (labelled.loose / "plain.jpg").write_bytes(b"something else")
    ((_, reason),) = place("slice", "plain.jpg")
    assert reason == OmissionReason.CHANGED


def test_a_replaced_input_is_an_error(labelled, place):
    shutil.rmtree(labelled.loose)
    labelled.loose.mkdir()
    with pytest.raises(ObjectChanged, match=r"of 1 image none is there as it was labelled \(missing\)"):
        place("slice", "plain.jpg")
    first, second = sorted(labelled.shards.iterdir())[:2]
    key = next(key for shard, key in labelled.images if shard == str(first))
    shutil.copy(second, first)
    with pytest.raises(ObjectChanged, match=r"of 1 image none is there as it was labelled"):
        place("tar", key)


def test_a_touched_shard_is_still_valid(labelled, place):
    first = sorted(labelled.shards.iterdir())[0]
    content = first.read_bytes()
    first.write_bytes(content)
    found = place("tar")
    assert all(isinstance(image, Image) for image in found)
    assert {image.data for image in found} <= set(labelled.images.values())
    first.write_bytes(content[:-2000] + bytes(200))  # its end marker is gone as well
    assert [image.data for image in place("tar") if isinstance(image, Image)] == [image.data for image in found]
