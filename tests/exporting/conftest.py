"""One job that all exports are made of: three shards of mixed formats, and loose images with odd names."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import jpeg
from small_jobs import options

from pipeline import label

ODD_NAMES = (
    "plain.jpg",
    "deep/down/plain.jpg",
    "with.many.dots.jpeg",
    "UPPER.JPG",
    "upper.jpg",
    "a b/ünï.jpg",
    "100%25.jpg",
    "__meta__/x.jpg",
    "con.jpg",
    "-dash; $(rm).jpg",
    "x" * 120 + "/" + "y" * 240 + ".jpg",
    "back\\slash:colon.jpg",
)


SAME = 70


@dataclass(frozen=True)
class Labelled:
    """The job's output, and what it was made of.

    Attributes:
        out: The output.
        shards, loose: Folders of the inputs.
        images: All images by (shard, key): the bytes.
    """

    out: Path
    shards: Path
    loose: Path
    images: dict[tuple[str, str], bytes]

    def rows(self) -> list[dict]:
        """All predictions."""
        files = sorted((self.out / "predictions").iterdir())
        return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, sample_data: Path) -> Labelled:
    """The job, run once; who changes an input puts it back."""
    folder = tmp_path_factory.mktemp("export")
    shards, loose = folder / "shards", folder / "loose"
    shards.mkdir()
    images = {}
    for path in sorted(sample_data.glob("*.tar")):
        shutil.copy(path, shards)
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, field = member.name.partition(".")
                if field in {"jpg", "png", "webp"}:
                    images[str(shards / path.name), key] = tar.extractfile(member).read()
    for number, name in enumerate(ODD_NAMES):
        (loose / name).parent.mkdir(parents=True, exist_ok=True)
        data = jpeg(SAME if number in {3, 5} else number)  # two with the same bytes
        (loose / name).write_bytes(data)
        images[f"{loose}/", name] = data
    words = options(sample_data, precision="fp32", rows_per_part=30)
    assert label([str(shards), str(loose)], folder / "out", **words).exit_code == 0
    return Labelled(folder / "out", shards, loose, images)


def files(folder: Path) -> dict[str, bytes]:
    """All that lies below a folder, but for what killed writers have left hidden."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".tmp-"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def table(paths: list[Path]) -> pa.Table:
    """Parquet files as one."""
    return pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
