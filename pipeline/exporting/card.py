"""The dataset card: contents, origin and quality of a dataset, as Hugging Face shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.exporting.default_readers import by_frequency, describe_readers, list_some
from pipeline.exporting.rows import LabelNames, card_features
from pipeline.exporting.target import DATA
from pipeline.text import fmt
from pipeline.text.safe import one_line, printable
from pipeline.trust.distributions import TOP_K

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MORE_SIZES = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
_GLOBS = {"parquet": "*.parquet", "csv": "*.csv", "imagefolder": "**"}
REASONS = {
    "min_score": "score below --min-score",
    "min_agreement": "agreement below --min-agreement",
    "max_entropy": "entropy above --max-entropy",
    "max_disagreement": "disagreement above --max-disagreement",
    "max_ood_score": "out-of-distribution score above --max-ood-score",
    "no_group": "in no group of the level",
    "duplicate": "the same bytes as an image before it",
    "target_precision": "score below what --target-precision needs",
    "max_per_class": "not among the best --max-per-class",
}
_MEANINGS = {
    "label": "index of the class in `classes.txt`",
    "class_name": "its name",
    "level": "the level that its name is of; `class` for a class of the networks",
    "score": "the consensus' probability of it",
    "agreement": "weighted share of members whose first class is that of the consensus",
    "entropy": "of the consensus, nats",
    "disagreement": "mutual information of the members, nats",
    "ood_score": "minus the mean over members of logsumexp of the logits; larger is further out of distribution",
    "copies": "how often to repeat the image in an epoch, so that rare classes are seen often enough",
    "width, height": "pixels as stored",
    "sha256": "of the image's bytes",
    "shard, key, index": "origin of the image",
}


def make_card(
    description: Mapping[str, Any],
    labels: LabelNames,
    images: int,
    extensions: Mapping[str, int],
    unread_classes: Sequence[str] = (),
) -> str:
    """The card, as Markdown with YAML front matter.

    Args:
        description: Contents of ``export.json``.
        labels: What labels stand for.
        images: Images in the dataset.
        extensions: Images by extension.
        unread_classes: Folders of classes in which torchvision's ``ImageFolder`` finds no image.
    """
    front = yaml.safe_dump(
        _front_matter(description, labels, images, extensions), sort_keys=False, allow_unicode=True, width=1000
    )
    title = f"# {fmt.plural(images, 'image')}, labelled by an ensemble of classifiers"
    lines = [title, "", *_origin_section(description), ""]
    lines += ["## How far to trust the labels", "", *_trust_section(description), ""]
    lines += ["## What was selected", "", *_selection_section(description, images), ""]
    lines += ["## What is in it", "", *_content_section(description, labels, extensions, unread_classes), ""]
    return f"---\n{front}---\n\n" + "\n".join(lines)


def size_category(images: int) -> str:
    """Hugging Face's ``size_categories`` value for this many images."""
    return next((size for below, size in (*_SIZES, *_MORE_SIZES) if images < below), "1B<n<10B")


def _front_matter(
    description: Mapping[str, Any], labels: LabelNames, images: int, extensions: Mapping[str, int]
) -> dict[str, Any]:
    kind = description["asked"]["format"]
    front: dict[str, Any] = {
        "license": description["asked"]["license"],
        "task_categories": ["image-classification"],
        "annotations_creators": ["machine-generated"],
        "size_categories": [size_category(images)],
        "tags": ["shardlabel", "pseudo-labels"],
    }
    globs = {"default": _GLOBS.get(kind, "*.tar")}
    if kind == "webdataset" and len(extensions) > 1:
        globs = {extension: f"*-{extension}-*.tar" for extension in by_frequency(extensions)}
    front["configs"] = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{DATA}/{glob}"}]}
        for name, glob in globs.items()
    ]
    front["configs"][0]["default"] = True
    if kind in {"parquet", "csv"}:
        columns = card_features(labels, image=kind == "parquet")
        front["dataset_info"] = {"features": columns}
    return front


def _origin_section(description: Mapping[str, Any]) -> list[str]:
    source = description["source"]
    members = ", ".join(
        f"`{member['alias']}` (weights {member['weights_sha256'][:8]}, factor {member.get('factor', 1.0):g})"
        for member in source["members"]
    )
    lines = [
        f"Made by shardlabel {description['shardlabel']} from a labelling job with the fingerprint "
        f"`{source['fingerprint']}`; all figures are also in `export.json`.",
        "",
        f"- Members: {members}.",
        f"- Consensus: {source['combine']}, {len(source['members'])} members.",
        f"- Images: bytes and keys are the source's own. Their licence: {_safe_text(description['asked']['license'])}.",
    ]
    if not source["complete"]:
        lines.append("- **The job was not finished** when this was exported: a part of its images is missing.")
    return lines


def _trust_section(description: Mapping[str, Any]) -> list[str]:
    promise, calibrated = description["promise"], description["source"]["calibrated"]
    lines = []
    if promise is not None:
        before = ", before `--max-per-class` chose among them" if description["asked"]["max_per_class"] else ""
        lines.append(
            f"At least **{_percent(promise['target'])} of the labels are right**, with a risk of "
            f"{_percent(promise['delta'])} that this does not hold{before}: of {promise['accepted']:,} certifying "
            f"images with a score of {promise['threshold']:.6g} or more {promise['right']:,} were right "
            f"({promise['num_truths']:,} truths, {promise['num_certifying']:,} of them certifying). It is about all "
            "classes together."
        )
        if description.get("classes", {}).get("back_off"):
            bits = description["selection"]["bits"]
            lines += [
                "",
                "Where the networks hesitate, the label is a coarser name: the column `level` tells which are classes. "
                "A name is **right if the truth lies at or below it**. With the finest names that the promise allows, "
                f"they tell {bits:.1f} bits an image, a mean over all that could be exported.",
            ]
        if counted := (description.get("truth") or {}).get("in_words"):
            lines += ["", f"What was counted: {counted}."]
        lines += ["", *_draw_lines(description)]
    else:
        lines.append("No precision is promised: the labels are predictions that no one has checked.")
    if description.get("classes", {}).get("groups_from") == TOP_K:
        lines += [
            "",
            "The score of a group is the sum of its classes **among the top-k** of each image: probabilities of all "
            "classes were not stored.",
        ]
    if not calibrated:
        more = "; the promise does not depend on that" if promise is not None else ""
        lines += [
            "",
            f"The scores are **not calibrated**: they rank images, but are no probabilities of being right{more}.",
        ]
    else:
        temperature = description["source"]["temperature"]
        how = "" if temperature is None else f", with a temperature of {temperature:g}"
        lines += ["", f"The scores were calibrated{how}."]
    return lines


def _draw_lines(description: Mapping[str, Any]) -> list[str]:
    """How the truths were drawn, and which of them could not be used."""
    promise, truth = description["promise"], description["truth"] or {}
    if promise.get("proven_random"):
        lines = [
            f"- The truths were drawn at random from the labelled images; their list tells: `{_safe_text(text)}`. "
            f"{answered:,} of its images have an answer that names a class."
            for text, answered in truth["drawn"].items()
        ]
    else:
        lines = [
            "- **That the truths were drawn at random** from what the other filters leave is the word of who exported "
            "them: the truth does not tell how it was drawn. On other truths the promise does not hold."
        ]
    if shown := truth.get("shown", 0):
        lines.append(
            f"- **{shown:,} of the truths were answered with the networks' labels in view**, which people follow. The "
            "risk does not cover that: fewer labels may be right than is promised."
        )
    unused = promise["num_truths"] - promise["num_certifying"]
    if promise.get("num_fitted"):
        lines.append(
            f"- The calibration of the scores was fitted on {promise['num_fitted']:,} of the images. Their truths "
            f"certify nothing{f' ({unused:,} of the truths given)' * bool(unused)}."
        )
    elif unused:
        lines.append(
            "- The calibration of the scores does not tell what it was fitted on: "
            f"{fmt.plural(unused, 'truth certifies', 'truths certify')} nothing, "
            "and that it was not fitted on the others is the word of who exported them."
        )
    if unanswered := truth.get("blank", 0) + truth.get("contested", 0) + truth.get("contradictory_keys", 0):
        lines.append(
            f"- {fmt.plural(unanswered, 'image of the list has', 'images of the list have')} no clear answer and "
            "were left out. If these are the hard ones, "
            "the promise does not hold for them."
        )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"


def _selection_section(description: Mapping[str, Any], images: int) -> list[str]:
    selection = description["selection"]
    lines = ["| | images |", "|---|---:|", f"| labelled by the job | {selection['labelled']:,} |"]
    lines += [
        f"| rejected: {REASONS[name]}{_limit_text(description, name)} | {count:,} |"
        for name, count in selection["rejected"].items()
        if count or description["asked"].get(name) is not None
    ]
    lines.append(f"| selected | {selection['selected']:,} |")
    if selection["selected"] != images:
        lines.append(f"| changed or gone since they were labelled | {selection['selected'] - images:,} |")
    lines += [f"| **here** | **{images:,}** |", ""]
    classes = selection["classes"]
    fewest, most = min(row["images"] for row in classes), max(row["images"] for row in classes)
    what = "classes" if selection.get("bits") is None else "names"
    lines.append(f"{len(classes):,} of {selection['num_classes']:,} {what} have images, {fewest:,} to {most:,} each.")
    copies = sum(row["copies"] for row in classes)
    if copies != selection["selected"]:
        lines.append(f"Repeated as often as `copies` says, they are {copies:,}.")
    return lines


def _limit_text(description: Mapping[str, Any], name: str) -> str:
    if name == "target_precision":
        return f" ({description['promise']['threshold']:.6g})"
    value = description["asked"].get(name)
    return f" {value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _content_section(
    description: Mapping[str, Any], labels: LabelNames, extensions: Mapping[str, int], unread_classes: Sequence[str]
) -> list[str]:
    kind = description["asked"]["format"]
    how = {
        "parquet": "Rows with `image` (bytes and file name), `label` and the columns below, in `data/*.parquet`: "
        "`datasets.load_dataset(PLACE)`.",
        "csv": "Rows without images in `data/*.csv`.",
        "imagefolder": "Images in `data/CLASS/`, and `data/metadata.parquet` with a `file_name` and the columns below. "
        "Where a class has no image there is no folder: readers that number the folders count otherwise than `label`.",
        "webdataset": "Samples of an image, `.cls` (the label) and `.json` (the columns below), in `data/*.tar`"
        + (
            f": {list_some([f'`.{name}`' for name in by_frequency(extensions)])}, each in files of its own."
            if len(extensions) > 1
            else "."
        ),
    }[kind]
    lines = [how, *(f"\n- {_safe_text(line)}." for line in describe_readers(kind, extensions, unread_classes))]
    lines += ["", "`classes.txt` names all classes, by index, one a line.", ""]
    columns = {name: meaning for name, meaning in _MEANINGS.items() if name != "level" or labels.levels}
    lines += [f"- `{name}`: {meaning}" for name, meaning in columns.items()]
    assert {word for name in columns for word in name.split(", ")} == set(labels.schema.names)
    return lines


def _safe_text(value: str) -> str:
    return printable(one_line(value))
