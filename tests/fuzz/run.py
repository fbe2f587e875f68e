"""Coverage-guided fuzzing of what parses bytes from outside, with atheris (``make fuzz``).

By hand, one target; what follows its name goes to libFuzzer::

    python tests/fuzz/run.py tar -max_total_time=600
    python tests/fuzz/run.py image crash-0123abcd      # once more what was found

What is found lies as ``crash-*``, ``timeout-*`` or ``oom-*`` in the folder of the target below ``.fuzz``. Put it
right, and the bytes (or what makes them) into a test.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

# Only what parses is traced; torch and pyarrow would take minutes to be, and are native code.
TRACED = ["tarfile", "webdataset.tariterators", "pipeline.stages", "pipeline.output.ledger", "pipeline.storage"]
with atheris.instrument_imports(include=[*TRACED, *(["PIL"] if sys.argv[1:2] == ["image"] else [])]):
    from fuzz.targets import TARGETS

WORKPLACE = HERE.parents[1] / ".fuzz"


def main(target: str, *options: str) -> None:
    """Fuzz one target until libFuzzer stops."""
    attacked = TARGETS[target]
    corpus = WORKPLACE / target / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in attacked.seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    words = [f"-timeout={attacked.timeout_s}", f"-rss_limit_mb={attacked.rss_mb}", f"-max_len={attacked.max_bytes}"]
    words += [f"-artifact_prefix={WORKPLACE / target}/", "-print_final_stats=1", *options]

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        data = atheris.Mutate(data, max_size)
        return attacked.mend(data) if seed % 2 else data

    files = [] if any(not word.startswith("-") for word in options) else [str(corpus)]
    atheris.Setup(
        [sys.argv[0], *words, *files], lambda data: attacked.holds(bytes(data)) and None, custom_mutator=mutated
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
