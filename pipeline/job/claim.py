"""Which job an OUT belongs to: the one that its ``job.json`` describes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import OutputError, RequestError
from pipeline.job.description import Job, merge_inputs
from pipeline.job.runs import with_new_run
from pipeline.output.ledger import JOB, PREDICTIONS, UNITS, Ledger, to_json
from pipeline.storage import missing_folders, remove_empty

_MAX_CLAIMS = 20
_IN_WORDS = {"labels_sha256": "the names of the classes", "classes": "--classes"}


@contextlib.contextmanager
def claimed(ledger: Ledger, job: Job, *, overwrite: bool) -> Iterator[None]:
    """Claim OUT, as :func:`claim`, for a block that plans the job: if that is refused, a new OUT is left as it was.

    Raises:
        OutputError: It belongs to another job, or cannot be written.
    """
    is_new = ledger.version(JOB) is None
    folders = [] if ledger.out.startswith("s3://") else missing_folders(ledger.uri("plan"))
    claim(ledger, job, overwrite=overwrite)
    version = ledger.version(JOB)
    try:
        yield
    except RequestError:
        # another run of this job that has come meanwhile has written it again
        if is_new and ledger.version(UNITS) is None and ledger.version(JOB) == version:
            ledger.withdraw()
            remove_empty(folders)
        raise


def claim(ledger: Ledger, job: Job, *, overwrite: bool) -> None:
    """Make sure that OUT is this job's, or make it so. Of several jobs that want it at once, one gets it.

    A job that takes over writes its ``job.json`` first: labelers of the older job look at it before they
    publish, and stop. What they had published is removed then, and again at the end.

    Raises:
        OutputError: It belongs to another job, or cannot be written.
    """
    for _ in range(_MAX_CLAIMS):
        version, owner = ledger.version(JOB), ledger.owner()
        content = _claim(ledger, job, owner, overwrite=overwrite)
        if not ledger.write_if_unchanged(JOB, to_json(content), version):
            continue  # another process wrote it meanwhile
        if owner is not None and owner.get("fingerprint") != job.fingerprint:
            ledger.clear()
        else:
            ledger.remove_jobs(replaced_jobs(content))
        return
    raise OutputError(f"{ledger.out}: other jobs keep changing its {JOB}; choose another --out")


def _claim(ledger: Ledger, job: Job, owner: Mapping[str, Any] | None, *, overwrite: bool) -> dict[str, Any]:
    """What ``job.json`` is to hold, after what it holds now."""
    if owner is None:
        if ledger.names(PREDICTIONS) and ledger.version(JOB) is None:
            raise OutputError(f"{ledger.out}: holds predictions of something else (no {JOB}); choose another --out")
        return with_new_run(job.content, None, job.run)
    replaced = replaced_jobs(owner)
    if owner.get("fingerprint") == job.fingerprint:
        content = {**job.content, "inputs": merge_inputs(owner.get("inputs", []), job.content["inputs"])}
        content = with_new_run(content, owner, job.run)
    elif overwrite:
        content = with_new_run(job.content, None, job.run)
        replaced = [old for old in (*replaced, str(owner.get("fingerprint"))) if old != job.fingerprint]
    else:
        differing = differences(owner.get("results", {}), job.content["results"])
        raise OutputError(
            f"{ledger.out} was made by a different job; it differs in {', '.join(differing)}. "
            "Choose another --out, or pass --overwrite to replace it"
        )
    return {**content, "replaced": replaced} if replaced else content


def replaced_jobs(content: Mapping[str, Any]) -> list[str]:
    """Fingerprints of the jobs that were replaced in this output, by its ``job.json``."""
    return [str(old) for old in content.get("replaced", ())]


def differences(older: Mapping[str, Any], newer: Mapping[str, Any]) -> list[str]:
    """In what two jobs differ, in words for people.

    Args:
        older: ``results`` of one's ``job.json``.
        newer: Of the other's.
    """
    found = []
    newer = json.loads(json.dumps(newer))  # as they are on disk, where tuples are lists
    for name in dict.fromkeys([*newer, *older]):
        if older.get(name) == newer.get(name):
            continue
        if name == "members":
            found.append(f"members ({_member_differences(older.get(name, []), newer[name])})")
        elif name == "calibration":
            found.append(f"calibration ({_temperature(older)} then, {_temperature(newer)} now)")
        elif isinstance(newer.get(name), str | int) and name in older and not name.endswith("sha256"):
            found.append(f"{name} ({older.get(name)} then, {newer[name]} now)")
        else:
            found.append(_IN_WORDS.get(name, name))
    return found


def _member_differences(older: list[dict[str, Any]], newer: list[dict[str, Any]]) -> str:
    """What differs in the members: which they are, or, of the same files, how they are used."""
    then, now = _aliases(older), _aliases(newer)
    if then != now:
        return f"{then} then, {now} now"
    changes = []
    for one, other in zip(map(_flatten, older), map(_flatten, newer), strict=True):
        changes += [
            f"{one['alias']}: {name} {one.get(name, 'as usual')} then, {other.get(name, 'as usual')} now"
            for name in dict.fromkeys([*one, *other])
            if one.get(name) != other.get(name)
        ]
    return "; ".join(changes)


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """A dict of dicts as one, by the innermost names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flatten(value) if isinstance(value, Mapping) else {name: value}
    return found


def _temperature(results: Mapping[str, Any]) -> str:
    fitted = results.get("calibration")
    if not fitted:
        return "none"
    stacked = "log-stack, " if fitted.get("method") == "stack" else ""
    return f"{stacked}temperature {fitted['temperature']:g} from {fitted['sha256'][:8]}"


def _aliases(members: list[dict[str, Any]]) -> str:
    return ", ".join(f"{member['alias']}@{member['weights_sha256'][:8]}" for member in members)
