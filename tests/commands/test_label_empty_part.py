"""A shard in which no image can be labelled leaves a part without rows: the promised readers read all of the parts."""

from __future__ import annotations

import shutil

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as arrow
import pyarrow.parquet as pq
import pytest
from conftest import jpeg, make_tar
from small_jobs import options

from pipeline import evaluate, export, label, report, status, verify
from pipeline.errors import RequestError

TWO = "shufflenet_v2_x0_5,squeezenet1_1"


@pytest.fixture(scope="module")
def made(sample_data, tmp_path_factory):
    """An output of an empty shard, one of only broken images, and a good one."""
    folder = tmp_path_factory.mktemp("empty")
    make_tar(folder / "broken.tar", [(f"{at}.jpg", b"no image") for at in range(3)])
    make_tar(folder / "none.tar", [])
    members = [pair for at in range(5) for pair in ((f"{at}.jpg", jpeg(at)), (f"{at}.json", b"{}"))]
    make_tar(folder / "sound.tar", members)
    label(str(folder), folder / "out", **options(sample_data, model=TWO, keep="json"))
    return folder


@pytest.fixture(params=["empty first", "empty last", "only empty"])
def parts(made, tmp_path, request):
    """The predictions, in an order of which the names of real parts are not asked."""
    parts = sorted((made / "out/predictions").iterdir(), key=lambda part: pq.read_metadata(part).num_rows)
    assert [pq.read_metadata(part).num_rows for part in parts] == [0, 0, 5]
    order = {"empty first": parts, "empty last": parts[::-1], "only empty": parts[:2]}[request.param]
    (tmp_path / "predictions").mkdir()
    for number, part in enumerate(order):
        shutil.copy(part, tmp_path / "predictions" / f"part-{number}.parquet")
    return tmp_path / "predictions", 0 if request.param == "only empty" else 5


def test_duckdb_polars_pandas_and_arrow(parts):
    folder, rows = parts
    ((count,),) = duckdb.sql(f"SELECT count(members.squeezenet1_1.energy) FROM '{folder}/*.parquet'").fetchall()
    assert count == rows
    frame = pl.scan_parquet(f"{folder}/*.parquet").select("class_name", pl.col("members").struct.unnest()).collect()
    assert len(frame) == rows
    assert len(pd.read_parquet(folder)["members"]) == rows
    assert arrow.dataset(folder).to_table(columns=["key", "members", "json"]).num_rows == rows


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", ["glob", "list", "folder"])
def test_hugging_face_datasets(parts, tmp_path, how, streaming):
    import datasets

    datasets.disable_progress_bars()
    folder, rows = parts
    if not rows and not streaming:  # an output without any labelled image: datasets has no table of no rows
        with pytest.raises(ValueError, match="corresponds to no data"):
            datasets.load_dataset("parquet", split="train", data_dir=str(folder), cache_dir=str(tmp_path / "c"))
        return
    words = {
        "glob": {"data_files": f"{folder}/*.parquet"},
        "list": {"data_files": sorted(map(str, folder.iterdir()))},
        "folder": {"data_dir": str(folder)},
    }[how]
    found = datasets.load_dataset("parquet", split="train", streaming=streaming, cache_dir=str(tmp_path / "c"), **words)
    listed = list(found)
    assert [row["key"] for row in listed] == [str(at) for at in range(rows)]
    assert [len(row["members"]["squeezenet1_1"]["labels"]) for row in listed] == [5] * rows
    assert [row["json"] for row in listed] == ["{}"] * rows


def test_our_own_commands(made, tmp_path):
    out = made / "out"
    assert (verify(out).exit_code, status(out).labelled) == (0, 5)
    with pytest.raises(RequestError, match="so there is nothing to compare with"):
        evaluate(out)
    assert report(out).images == 5
    for kind in ("webdataset", "imagefolder", "csv", "parquet"):
        assert export(out, tmp_path / kind, kind, engine="inline").exported == 5
