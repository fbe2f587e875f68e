"""Reuse: which members and units of a job an older output has already, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import OutputError
from pipeline.output.ledger import Ledger
from pipeline.output.parts import Progress
from pipeline.output.probabilities import StoredProbs, find_stored_probs
from pipeline.records import Unit
from pipeline.storage import Storage
from pipeline.text import fmt
from pipeline.trust.calibration import member_identity

# What must be the same for equal predictions, each with its name for people.
_SAME = {"labels_sha256": "class names", "precision": "--precision", "decode": "--decode"}


@dataclass(frozen=True, slots=True)
class OlderOutput:
    """An output whose probabilities are reused.

    Attributes:
        ledger: Its ledger.
        job: Its ``job.json``.
        source: Its stored probabilities.
    """

    ledger: Ledger
    job: dict[str, Any]
    source: StoredProbs


@dataclass(frozen=True, slots=True)
class SharedMembers:
    """What a job has in common with an older output.

    Attributes:
        aliases: For each member that is stored there, its alias there.
        new: Aliases of the others.
        differing: What differs, if that is why none is shared; else empty.
        whole: Whether nothing but the older output has to be read.
        source: The older output, with the members that are used.
    """

    aliases: dict[str, str]
    new: tuple[str, ...]
    differing: str
    whole: bool
    source: StoredProbs

    def stored(self, older: Ledger, pending: Iterable[Unit]) -> dict[str, Progress]:
        """How many parts there are of each pending unit that is complete there."""
        if not self.aliases:
            return {}
        progress = older.progress(self.source.fingerprint)
        return {unit.id: progress[unit.id] for unit in pending if unit.id in progress and progress[unit.id].complete}

    def note(self, num_stored: int, num_pending: int) -> str:
        """What is used again and what is not, in one line.

        Args:
            num_stored: Units that are complete there.
            num_pending: Units that are to be labelled.
        """
        out = self.source.out
        if not self.aliases:
            return f"nothing is taken from {out}: {self.differing or 'it holds none of these members'}"
        line = f"from {out}: {', '.join(self.aliases)} for {num_stored} of {fmt.plural(num_pending, 'unit')}"
        if self.new:
            line += f"; {', '.join(self.new)} is run" if len(self.new) == 1 else f"; {', '.join(self.new)} are run"
        elif self.whole:
            line += "; no image is read of these"
        else:
            line += "; no image is decoded of these"
        if num_stored < num_pending:
            line += f"; the other {num_pending - num_stored} are not complete there, and run in full"
        return line


def open_older_output(place: str, out: Ledger, storage: Storage) -> OlderOutput:
    """The output named by ``--reuse``.

    Raises:
        RequestError: It is none, is OUT itself, or holds no probabilities.
    """
    ledger = Ledger(place, storage)
    if ledger.out == out.out:
        raise OutputError(f"--reuse {ledger.out}: is OUT itself; what is in OUT is never made again anyway")
    job = ledger.job()
    return OlderOutput(ledger, job, find_stored_probs(ledger, job))


def shared_members(older: OlderOutput, results: Mapping[str, Any]) -> SharedMembers:
    """What a job has in common with an older output.

    Args:
        older: The output.
        results: Of the job, as its ``job.json`` has them.
    """
    there = older.job["results"]
    differing = [
        f"{words} differ{'' if words.endswith('s') else 's'}"
        + ("" if name.endswith("sha256") else f" ({there.get(name)} there, {results[name]} here)")
        for name, words in _SAME.items()
        if there.get(name) != results[name]
    ]
    known = {} if differing else {member_identity(member): str(member["alias"]) for member in there["members"]}
    aliases, new = {}, []
    for member in results["members"]:
        found = known.get(member_identity(member))
        if found is None:
            new.append(str(member["alias"]))
        else:
            aliases[str(member["alias"])] = found
    same_images = there.get("images") == results.get("images")
    same_parts = there["rows_per_part"] == results["rows_per_part"]
    return SharedMembers(
        aliases=aliases,
        new=tuple(new),
        differing=", ".join(differing),
        whole=not new and same_parts and same_images and set(results["keep"]) <= set(there["keep"]),
        source=StoredProbs(older.source.out, older.source.fingerprint, tuple(dict.fromkeys(aliases.values()))),
    )
