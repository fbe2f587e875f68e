"""``--retry``: what was quarantined for some reasons is labelled again, and nothing else changes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import jpeg, make_tar, sample_members
from small_jobs import options, rows

from pipeline import combine, label, status, verify
from pipeline.errors import ImageError, RequestError
from pipeline.labeler import decoders
from pipeline.labeler.patching import PartPatcher

ODD = {3, 4, 10}  # images that no decoder is installed for at first
WORDS = {"rows_per_part": 6, "keep": "txt", "keep_probs": True}


@pytest.fixture(scope="module", autouse=True)
def own_classes(tmp_path_factory):
    """Columns of names, most of them null: rows that are put between others need their names, too."""
    path = tmp_path_factory.mktemp("classes") / "tree.csv"
    path.write_text("class,kind,family\n0,x,p\n1,y,p\n2,y,p\n3,x,p\n7,z,\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORDS, "classes", str(path))
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A shard and a folder with the same images, of which two are really broken."""
    folder = tmp_path_factory.mktemp("in")
    members = sample_members(14)
    members[2 * 5] = ("00005.jpg", b"no image")
    members[2 * 4 + 1] = ("00004.cls", b"unheard of")
    make_tar(folder / "a.tar", [*members, ("00013.txt", b"said")])
    (folder / "photos").mkdir()
    for number in range(14):
        (folder / f"photos/{number:03d}.jpg").write_bytes(b"" if number == 11 else jpeg(number))
    return [str(folder / "a.tar"), str(folder / "photos")]


@pytest.fixture(scope="module")
def fresh(inputs, sample_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("fresh") / "out"
    assert label(inputs, out, **options(sample_data, **WORDS)).exit_code == 0
    return out


@pytest.fixture(scope="module")
def labelled_without_decoder(inputs, sample_data, tmp_path_factory):
    """Labelled with a decoder that does not know some images."""
    out, odd = tmp_path_factory.mktemp("without") / "out", {jpeg(number) for number in ODD}
    decode = decoders.WatchedDecoder.decode

    def refuse(self, image):
        if image.data in odd:
            raise ImageError("unsupported_format", "no decoder for it")
        return decode(self, image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders.WatchedDecoder, "decode", refuse)
        assert label(inputs, out, **options(sample_data, **WORDS)).exit_code == 0
    assert status(out).quarantined == {"unsupported_format": 6, "not_an_image": 1, "empty": 1}
    return out


@pytest.fixture
def out(labelled_without_decoder, tmp_path):
    return shutil.copytree(labelled_without_decoder, tmp_path / "out")


def same(out: Path, other: Path) -> bool:
    """Whether two outputs have equal rows, but for the last bits of floats: images have other neighbours in a batch."""
    ours, theirs = rows(out), rows(other)
    exact = [field.name for field in ours.schema if not pa.types.is_floating(field.type) and field.name not in FLOATS]
    close = all(
        a == pytest.approx(b, abs=1e-5)
        for a, b in zip(ours["scores"].to_pylist(), theirs["scores"].to_pylist(), strict=True)
    )
    return (
        close
        and ours.select(exact).equals(theirs.select(exact))
        and rows(out, "quarantine").equals(rows(other, "quarantine"))
        and sorted(os.listdir(out / "quarantine")) == sorted(os.listdir(other / "quarantine"))
    )


FLOATS = {"scores", "members"}


def test_what_was_quarantined_for_a_reason_is_labelled_and_nothing_else_is(inputs, fresh, out, sample_data, shardlabel):
    assert "6 unsupported_format: " in (shown := shardlabel("status", out).stdout)
    assert "--retry unsupported_format" in shown
    before = rows(out)
    assert label(inputs, out, **options(sample_data, **WORDS)).images == 0
    summary = label(inputs, out, **options(sample_data, **WORDS, retry="unsupported_format,corrupt_image"))
    assert (summary.exit_code, summary.images, summary.labelled, summary.quarantined) == (0, 6, 6, 0)
    assert (summary.labelled_in_out, summary.quarantined_in_out) == (26, 2)
    assert (summary.units_done, summary.units_total) == (2, 2)
    assert same(out, fresh)
    assert rows(out).filter(pa.compute.is_in(rows(out)["sha256"], before["sha256"])).equals(before)
    assert status(out).truths_not_understood == status(fresh).truths_not_understood == 1
    assert verify(out).exit_code == 0
    assert not (out / "plan/retry.json").exists()
    names = {part.name: part for part in (out / "predictions").iterdir()}
    assert names.keys() == {part.name for part in (fresh / "predictions").iterdir()}
    success, theirs = (json.loads((place / "_SUCCESS").read_text()) for place in (out, fresh))
    assert (success["predictions"], success["quarantine"]) == (theirs["predictions"], theirs["quarantine"])
    assert label(inputs, out, **options(sample_data, **WORDS, retry="unsupported_format")).images == 0


def test_a_combined_output_follows_what_its_source_has_labelled_again(inputs, fresh, out, sample_data, tmp_path):
    assert combine(out, tmp_path / "combined", engine="inline").exit_code == 0
    label(inputs, out, **options(sample_data, **WORDS, retry="unsupported_format"))
    summary = combine(out, tmp_path / "combined", engine="inline")
    assert (summary.exit_code, summary.labelled_in_out, summary.quarantined_in_out) == (0, 26, 2)
    combine(fresh, tmp_path / "whole", engine="inline")
    assert same(tmp_path / "combined", tmp_path / "whole")
    assert verify(tmp_path / "combined").exit_code == 0
    assert combine(out, tmp_path / "combined", engine="inline").images == 0


def test_what_fails_again_stays_in_quarantine(inputs, fresh, sample_data, tmp_path):
    out = shutil.copytree(fresh, tmp_path / "out")
    summary = label(inputs, out, **options(sample_data, **WORDS, retry="not_an_image,empty"))
    assert (summary.exit_code, summary.images, summary.quarantined_by_reason) == (0, 2, {"not_an_image": 1, "empty": 1})
    assert same(out, fresh)
    assert verify(out).exit_code == 0


@pytest.mark.parametrize("at", [2, 3])
def test_killed_between_two_files_the_next_run_goes_on(inputs, fresh, out, sample_data, monkeypatch, at):
    replaced, patch = [], PartPatcher._replace

    def stop(self, folder, name, table):
        replaced.append(folder)
        if len(replaced) == at:
            raise KeyboardInterrupt  # as good as a kill: nothing is tidied up
        patch(self, folder, name, table)

    with monkeypatch.context() as patched:
        patched.setattr(PartPatcher, "_replace", stop)
        with pytest.raises(KeyboardInterrupt):
            label(inputs, out, **options(sample_data, **WORDS, retry="unsupported_format"))
    assert not (out / "_SUCCESS").exists()
    summary = label(inputs, out, **options(sample_data, **WORDS))  # without --retry
    assert summary.exit_code == 0
    assert summary.images > 0
    assert same(out, fresh)
    assert status(out).truths_not_understood == 1
    assert verify(out).exit_code == 0


def test_damage_to_a_shard_is_read_again(sample_data, tmp_path):
    shard = make_tar(tmp_path / "a.tar", sample_members(4))
    shard.write_bytes(shard.read_bytes().rstrip(b"\0"))
    label(str(shard), tmp_path / "out", **options(sample_data))
    assert sum(status(tmp_path / "out").events.values()) == 1
    summary = label(str(shard), tmp_path / "out", **options(sample_data, retry="shard_truncated"))
    assert (summary.exit_code, summary.images) == (0, 4)
    assert verify(tmp_path / "out").exit_code == 0


def test_an_unknown_reason_is_refused_with_the_list(inputs, sample_data, tmp_path):
    with pytest.raises(RequestError, match=r"retry: .*unsupported.*unsupported_format.*decoder_crashed"):
        label(inputs, tmp_path / "out", **options(sample_data, retry="unsupported"))
