"""One job that all faults are tried on: a few dozen small shards, a large one, and images that are broken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import attacks
import pytest
from attacks import Trap
from conftest import jpeg, make_tar
from small_jobs import options, rows

from pipeline import verify

NUM_SHARDS, LARGE = 26, "large.tar"


@dataclass
class Job:
    """A job, and what an undisturbed run of it gives.

    Attributes:
        shards: Folder of the inputs.
        words: Options of ``label``.
        out: Output of the undisturbed run.
        num_steps: How many steps that run took, as a trap counts them.
    """

    shards: Path
    words: dict
    out: Path
    num_steps: int

    @property
    def inputs(self) -> str:
        """INPUT."""
        return str(self.shards)

    def check(self, out: Path) -> None:
        """An output has the rows of the undisturbed run, and passes the audit."""
        for folder in ("predictions", "quarantine"):
            assert rows(out, folder).equals(rows(self.out, folder)), f"{folder} differ"
            assert sorted(p.name for p in (out / folder).glob("*.parquet")) == sorted(
                p.name for p in (self.out / folder).iterdir()
            )
        assert verify(out).discrepancies == ()
        assert (out / "_SUCCESS").exists()


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, sample_data: Path) -> Job:
    """The job, run once without a fault."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "shards").mkdir()
    number = 0
    for shard in range(NUM_SHARDS):
        count = 30 if shard == 0 else 2 + shard % 3
        samples = range(number, number + count)
        images = [(f"{n:05d}.jpg", b"broken" if n % 5 == 2 else jpeg(n, (32, 24))) for n in samples]
        make_tar(folder / "shards" / (LARGE if shard == 0 else f"{shard:03d}.tar"), images)
        number += count
    words = options(sample_data, rows_per_part=3, decode_threads=1, precision="fp32")
    counted = folder / "count"
    assert attacks.run(str(folder / "shards"), folder / "out", words, Trap(count_to=str(counted))) == 0
    made = Job(folder / "shards", words, folder / "out", int(counted.read_text()))
    assert made.num_steps > 200
    assert verify(made.out).samples == number
    return made
