"""The job description of ``combine``: that of an older output, with other members, weights, rule or top-k."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.settings import CombineConfig, fingerprint
from pipeline.errors import RequestError
from pipeline.job.description import Job
from pipeline.job.own_classes import read_own_classes
from pipeline.job.pooling import choose_pooling
from pipeline.output.probabilities import StoredProbs
from pipeline.output.runs import RUNS
from pipeline.storage import Storage
from pipeline.taxonomy.member_columns import MEMBER_COLUMN, OWN_CLASSES
from pipeline.taxonomy.stored import CLASSES, classes_in_job, classes_in_results
from pipeline.trust.fitted import JOB_KEY


def choose_members(job: Mapping[str, Any], specs: Sequence[str], source: StoredProbs) -> list[dict[str, Any]]:
    """Choose members of an output, with their factors.

    Args:
        job: ``job.json`` of the output.
        specs: ``ALIAS[*FACTOR]`` each; none for all members, with the factors that they have.
        source: The stored probabilities of the output.

    Raises:
        RequestError: An alias is no member of the output, or comes twice, or its factor is not a number above 0.
    """
    members = {str(member["alias"]): dict(member) for member in job["results"]["members"]}
    if not specs:
        return list(members.values())
    chosen: dict[str, dict[str, Any]] = {}
    for spec in specs:
        alias, star, text = spec.partition("*")
        if alias not in members:
            raise RequestError(f"-m {spec}: {source.out} has no member of that name; it has {', '.join(members)}")
        if alias in chosen:
            raise RequestError(f"-m {spec}: {alias} is given twice")
        try:
            factor = float(text) if star else 1.0
        except ValueError:
            factor = 0.0
        if not (math.isfinite(factor) and factor > 0):
            raise RequestError(f"-m {spec}: the factor after * must be a number above 0, not {text!r}")
        chosen[alias] = members[alias] | {"factor": factor}
    return list(chosen.values())


def check_temperature_alone(config: CombineConfig, out: str, content: Mapping[str, Any]) -> None:
    """Check that no more is asked for than a temperature, which the stored top-k suffices for.

    Args:
        config: The settings.
        out: The older output, which holds no probabilities.
        content: Its ``job.json``.

    Raises:
        RequestError: More is asked for.
    """
    if config.calibration is None or config.model or config.combine or config.top_k or config.classes:
        others = [member["alias"] for member in content["results"]["members"] if OWN_CLASSES in member]
        missing = (
            f"holds no probabilities, because those of {others[0]}, which was trained on other classes, depend on the "
            "other members'"
            if others
            else "holds no probabilities; they are stored by `label` with --keep-probs"
        )
        raise RequestError(
            f"{out}: {missing}. Without them only a calibration that is one temperature can be applied: --calibration, "
            "without -m, --combine, --top-k and --classes"
        )
    if content.get("results", {}).get("calibration"):
        raise RequestError(f"{out}: was labelled with a calibration already; combine an output without one")


def describe_combination(
    config: CombineConfig,
    content: Mapping[str, Any],
    members: Sequence[Mapping[str, Any]],
    source: StoredProbs,
    storage: Storage,
) -> Job:
    """Describe the job: that of the older output, except for the members and how they are combined.

    Args:
        config: The settings.
        content: ``job.json`` of the older output.
        members: The chosen members.
        source: The stored probabilities of the older output.
        storage: Reads files that are named.

    Raises:
        RequestError: The calibration does not fit the members, or own classes do not fit the output.
    """
    older = content["results"]
    rule = config.combine or older["combine"]
    pooling = choose_pooling(members, rule, config.calibration, storage, explicit=config.combine is not None)
    if not source.aliases:
        about = pooling.results["calibration"]
        if about.get("method") == "stack":
            raise RequestError(
                f"{source.out}: holds no probabilities, and --calibration {config.calibration} is a log-stack, which "
                "needs those of all members; `calibrate --method temperature` does without"
            )
        about["from_top_k"] = older["top_k"]  # close to what `label` would make, and not the same
    same = ("labels_sha256", "precision", "decode", "keep", "rows_per_part")
    results = {name: older[name] for name in same} | {name: older[name] for name in ("images",) if name in older}
    results |= {"members": list(members), "top_k": config.top_k or older["top_k"], **pooling.results}
    class_names = tuple(content["class_names"])
    taxonomy = read_own_classes(config.classes, storage, class_names, older["keep"])
    if taxonomy is not None and taxonomy.member_columns:
        raise RequestError(
            f"--classes {config.classes}: {MEMBER_COLUMN}{taxonomy.member_columns[0].alias} is for `label` alone: "
            "members with other classes have no stored probabilities"
        )
    results |= classes_in_results(taxonomy)
    own_fingerprint = fingerprint(results)
    files = content.get("weights_files", {})
    described = {
        **{name: value for name, value in content.items() if name not in {"replaced", RUNS, JOB_KEY, CLASSES}},
        **classes_in_job(taxonomy),
        **pooling.about,
        "fingerprint": own_fingerprint,
        "results": results,
        "calibrated": config.calibration is not None,
        "weights_files": {member["alias"]: files.get(member["alias"]) for member in members},
        "combined_from": {"out": source.out, "fingerprint": source.fingerprint},
    }
    return Job(
        content=described,
        fingerprint=own_fingerprint,
        class_names=class_names,
        device="cpu",
        precision=older["precision"],
        compiled=False,
        rows_per_part=older["rows_per_part"],
        rule=pooling.rule,
        factors=pooling.factors,
        temperature=pooling.temperature,
        taxonomy=taxonomy,
    )
