"""The dataset card: what a dataset is, where it comes from, and how far its labels can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.exporting.rows import ROWS, card_features
from pipeline.exporting.target import DATA
from pipeline.text.safe import one_line, printable

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MORE_SIZES = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
_GLOBS = {"parquet": "*.parquet", "csv": "*.csv", "imagefolder": "**"}
REASONS = {
    "min_score": "score below --min-score",
    "min_agreement": "agreement below --min-agreement",
    "max_entropy": "entropy above --max-entropy",
    "max_disagreement": "disagreement above --max-disagreement",
    "max_ood_score": "out-of-distribution score above --max-ood-score",
    "duplicate": "the same bytes as an image before it",
    "target_precision": "score below what --target-precision needs",
    "max_per_class": "not among the best --max-per-class",
}
_MEANINGS = {
    "label": "index of the class in `classes.txt`",
    "class_name": "its name",
    "score": "the consensus' probability of it",
    "agreement": "weighted share of members whose first class it is",
    "entropy": "of the consensus, nats",
    "disagreement": "mutual information of the members, nats",
    "ood_score": "minus the mean over members of logsumexp of the logits; larger is stranger",
    "copies": "how often to repeat the image in an epoch, so that rare classes are seen often enough",
    "width, height": "pixels as stored",
    "sha256": "of the image's bytes",
    "shard, key, index": "where the image comes from",
}


def card(about: Mapping[str, Any], class_names: Sequence[str], images: int, kinds: Sequence[str]) -> str:
    """The card, as Markdown with YAML front matter.

    Args:
        about: What ``export.json`` holds.
        class_names: Of the K classes, each once.
        images: How many the dataset holds.
        kinds: For webdataset, the extensions of its images, the most frequent first.
    """
    front = yaml.safe_dump(_front(about, class_names, images, kinds), sort_keys=False, allow_unicode=True, width=1000)
    lines = [f"# {images:,} images, labelled by an ensemble of classifiers", "", *_origin(about), ""]
    lines += ["## How far to trust the labels", "", *_trust(about), ""]
    lines += ["## What was selected", "", *_funnel(about, images), ""]
    lines += ["## What is in it", "", *_content(about, kinds), ""]
    return f"---\n{front}---\n\n" + "\n".join(lines)


def size_category(images: int) -> str:
    """Hugging Face's word for a size."""
    return next((word for below, word in (*_SIZES, *_MORE_SIZES) if images < below), "1B<n<10B")


def _front(about: Mapping[str, Any], class_names: Sequence[str], images: int, kinds: Sequence[str]) -> dict[str, Any]:
    kind = about["asked"]["format"]
    front: dict[str, Any] = {
        "license": about["asked"]["license"],
        "task_categories": ["image-classification"],
        "annotations_creators": ["machine-generated"],
        "size_categories": [size_category(images)],
        "tags": ["shardlabel", "pseudo-labels"],
    }
    globs = {"default": _GLOBS.get(kind, "*.tar")}
    if len(kinds) > 1:
        globs = {extension: f"*-{extension}-*.tar" for extension in kinds}
    front["configs"] = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{DATA}/{glob}"}]}
        for name, glob in globs.items()
    ]
    front["configs"][0]["default"] = True
    if kind in {"parquet", "csv"}:
        columns = card_features(class_names, image=kind == "parquet")
        front["dataset_info"] = {"features": columns}
    return front


def _origin(about: Mapping[str, Any]) -> list[str]:
    source = about["source"]
    members = ", ".join(
        f"`{member['alias']}` (weights {member['weights_sha256'][:8]}, factor {member.get('factor', 1.0):g})"
        for member in source["members"]
    )
    lines = [
        f"Made by shardlabel {about['shardlabel']} from a labelling job with the fingerprint "
        f"`{source['fingerprint']}`; all figures are also in `export.json`.",
        "",
        f"- Members: {members}.",
        f"- Consensus: {source['combine']}, {len(source['members'])} members.",
        f"- Images: bytes and keys are the source's own. Their licence: {_text(about['asked']['license'])}.",
    ]
    if not source["complete"]:
        lines.append("- **The job was not finished** when this was exported: a part of its images is missing.")
    return lines


def _trust(about: Mapping[str, Any]) -> list[str]:
    promise, calibrated = about["promise"], about["source"]["calibrated"]
    lines = []
    if promise is not None:
        before = ", before `--max-per-class` chose among them" if about["asked"]["max_per_class"] else ""
        lines.append(
            f"At least **{_percent(promise['target'])} of the labels are right**, with a risk of "
            f"{_percent(promise['delta'])} that this does not hold{before}: of {promise['accepted']:,} certifying "
            f"images with a score of {promise['threshold']:.6g} or more {promise['right']:,} were right "
            f"({promise['num_truths']:,} truths, {promise['num_certifying']:,} of them certifying). It is about all "
            "classes together, and holds if the truths were drawn at random from what the other filters leave and were "
            "used for nothing else."
        )
    else:
        lines.append("No precision was asked for, so none is promised: the labels are a machine's guesses.")
    if not calibrated:
        more = "; the promise does not depend on that" if promise is not None else ""
        lines += [
            "",
            f"The scores are **not calibrated**: they order images, but do not say how often labels are right{more}.",
        ]
    else:
        temperature = about["source"]["temperature"]
        how = "" if temperature is None else f", with a temperature of {temperature:g}"
        lines += ["", f"The scores were calibrated{how}."]
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"


def _funnel(about: Mapping[str, Any], images: int) -> list[str]:
    selection = about["selection"]
    lines = ["| | images |", "|---|---:|", f"| labelled by the job | {selection['labelled']:,} |"]
    lines += [
        f"| rejected: {REASONS[name]}{_value(about, name)} | {count:,} |"
        for name, count in selection["rejected"].items()
        if count or about["asked"].get(name) is not None
    ]
    lines.append(f"| selected | {selection['selected']:,} |")
    if selection["selected"] != images:
        lines.append(f"| changed or gone since they were labelled | {selection['selected'] - images:,} |")
    lines += [f"| **here** | **{images:,}** |", ""]
    classes = selection["classes"]
    fewest, most = min(row["images"] for row in classes), max(row["images"] for row in classes)
    lines.append(f"{len(classes):,} of {selection['num_classes']:,} classes have images, {fewest:,} to {most:,} each.")
    copies = sum(row["copies"] for row in classes)
    if copies != selection["selected"]:
        lines.append(f"Repeated as often as `copies` says, they are {copies:,}.")
    return lines


def _value(about: Mapping[str, Any], name: str) -> str:
    if name == "target_precision":
        return f" ({about['promise']['threshold']:.6g})"
    value = about["asked"].get(name)
    return f" {value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _content(about: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    kind = about["asked"]["format"]
    how = {
        "parquet": "Rows with `image` (bytes and file name), `label` and the columns below, in `data/*.parquet`: "
        "`datasets.load_dataset(PLACE)`.",
        "csv": "Rows without images in `data/*.csv`.",
        "imagefolder": "Images in `data/CLASS/`, and `data/metadata.parquet` with a `file_name` and the columns below. "
        "Where a class has no image there is no folder: readers that number the folders count otherwise than `label`.",
        "webdataset": "Samples of an image, `.cls` (the label) and `.json` (the columns below), in `data/*.tar`"
        + (f": {', '.join(f'`.{word}`' for word in kinds)}, each in files of its own." if len(kinds) > 1 else "."),
    }[kind]
    lines = [how, "", "`classes.txt` names all classes, by index, one a line.", ""]
    lines += [f"- `{name}`: {meaning}" for name, meaning in _MEANINGS.items()]
    assert {word for name in _MEANINGS for word in name.split(", ")} == set(ROWS.names)
    return lines


def _text(value: str) -> str:
    return printable(one_line(value))
