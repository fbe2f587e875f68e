"""The options of the functions of the Python API, for editors, type checkers and ``help()``.

Made from the code by `make reference`; do not edit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict


class StoreOptions(TypedDict, total=False):
    """Options of ``label``, ``plan``, ``bench``, ``combine``, ``export``."""

    s3_endpoint: Annotated[str | None, "Another store than AWS. [default: from AWS's environment variables]"]
    no_sign_request: Annotated[bool, "Read public buckets without credentials."]
    request_payer: Annotated[bool, "Pay for requests to buckets whose owner does not (requester pays)."]


class NetworkOptions(TypedDict, total=False):
    """Options of ``label``, ``plan``, ``bench``."""

    model: Annotated[
        str | Sequence[str],
        "Member: [ALIAS:]ARCH[@WEIGHTS][=CHECKPOINT][?OPTIONS][*FACTOR], or hf:FOLDER; repeat it, or give a comma "
        "list. ARCH is a torchvision classifier or timm/NAME; OPTIONS are "
        "resize=256&crop=224&interp=bilinear&mean=imagenet and the like. [default: "
        "resnet50,resnext50_32x4d,efficientnet_v2_s]",
    ]
    weights_dir: Annotated[str | os.PathLike[str] | None, "Directory or prefix that is searched first for checkpoints."]
    labels: Annotated[
        str | os.PathLike[str] | None,
        "Class names: one per line, or a JSON list; or `imagenet`. [default: those of the weights]",
    ]
    combine: Annotated[Literal["mean", "geometric", "vote"], "How members are combined. [default: mean]"]
    top_k: Annotated[int, "Classes kept per image. [default: 5]"]
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        "Where networks run. auto: on GPUs, if there are any. [default: auto]",
    ]
    precision: Annotated[
        Literal["auto", "fp32", "mixed", "bf16", "fp16"],
        "mixed: low precision first, fp32 again for near ties. auto: mixed on a GPU and on a CPU that has bfloat16, "
        "fp32 elsewhere. [default: auto]",
    ]
    compile: Annotated[bool | Literal["auto"] | None, "Run members through torch.compile. [default: no]"]
    batch_size: Annotated[
        Literal["auto"] | int,
        "Images in one pass of a network. auto: chosen for each network. [default: auto]",
    ]
    decode: Annotated[
        Literal["exact", "fast", "gpu"],
        "fast: large JPEGs may be decoded at a reduced DCT scale. gpu: plain JPEGs on the GPU, where that gives the "
        "CPU's pixels. [default: exact]",
    ]
    decode_threads: Annotated[Literal["auto"] | int, "Threads of a labeler. auto: one per CPU it has. [default: auto]"]
    classes: Annotated[
        str | os.PathLike[str] | None,
        "Groups of classes, as `classes` shows them: CSV, TSV, YAML or JSON, or `wordnet`. Adds columns LEVEL and "
        "LEVEL_score: the group whose classes have most of the probability.",
    ]


class RunOptions(TypedDict, total=False):
    """Options of ``label``, ``combine``, ``export``."""

    engine: Annotated[
        Literal["auto", "ray", "inline"],
        "inline: in this process, without Ray. auto: Ray for a cluster, several GPUs or 32 cores, inline elsewhere; "
        "both give the same rows. [default: auto]",
    ]
    ray_address: Annotated[str | None, "A running cluster. [default: this machine]"]
    verbose: Annotated[bool, "Show the messages of Ray and the libraries."]


class LabelOptions(StoreOptions, NetworkOptions, RunOptions, total=False):
    """Options of ``label``."""

    config: Annotated[
        str | os.PathLike[str] | None,
        "YAML with these options, as `config init` writes it; the command line wins.",
    ]
    workers: Annotated[Literal["auto"] | int, "Labelers. auto: one per GPU, or one per machine. [default: auto]"]
    rows_per_part: Annotated[
        Literal["auto"] | int | None,
        "Samples in a part at most: a stop loses the part in flight. auto: a part takes 10 to 60 s as estimated, "
        "10000 at most; small jobs have some. Fixed for the life of OUT. [default: auto]",
    ]
    keep: Annotated[str | Sequence[str], "Fields of the samples (json, txt, ...) kept as columns."]
    images: Annotated[
        Literal["auto", "all"],
        "Of several images under one key. auto: label one, a plain extension (jpg) before a dotted field (depth.png),"
        " then by name. all: each is a sample of its own. [default: auto]",
    ]
    calibration: Annotated[
        str | os.PathLike[str] | None,
        "What `calibrate` saved for these members: makes scores probabilities of being right.",
    ]
    keep_probs: Annotated[
        bool,
        "Store each member's full probabilities too (2 bytes a class): for `combine`, --reuse, `calibrate`.",
    ]
    reuse: Annotated[
        str | os.PathLike[str] | None,
        "An output labelled with --keep-probs: its members are taken from there, only other members run.",
    ]
    limit: Annotated[int | None, "Label only the first N samples."]
    max_bad_rate: Annotated[float, "Stop when more of at least 1,000 samples are quarantined. [default: 0.5]"]
    max_failed_units: Annotated[
        Literal["auto"] | int,
        "Stop when more units than this cannot be read. auto: 1 % of all, at least 100. [default: auto]",
    ]
    retry: Annotated[
        str | Sequence[str],
        "Label again what was quarantined for these reasons (unsupported_format, ...): after a decoder was installed,"
        " or an update.",
    ]
    overwrite: Annotated[bool, "Replace an OUT made by a different job."]
    prune: Annotated[bool, "Let go of inputs that are gone: remove their rows."]
    progress: Annotated[
        Literal["auto", "bar", "plain", "json", "none"],
        "auto: a bar on a terminal, plain lines elsewhere. json: JSON lines on stdout. [default: auto]",
    ]


class PlanOptions(StoreOptions, NetworkOptions, total=False):
    """Options of ``plan``."""

    workers: Annotated[
        Literal["auto"] | int,
        "Workers like this one to assume. auto: the GPUs of this machine, or the machine. [default: auto]",
    ]
    price_per_hour: Annotated[float | None, "Of one worker, in any currency."]
    measure: Annotated[bool, "no-measure: count only; needs no weights."]
    seconds: Annotated[float, "Approximate time for measuring. [default: 15]"]
    images: Annotated[
        Literal["auto", "all"],
        "Of several images under one key. auto: label one, a plain extension (jpg) before a dotted field (depth.png),"
        " then by name. all: each is a sample of its own. [default: auto]",
    ]
    progress: Annotated[
        Literal["auto", "bar", "plain", "json", "none"],
        "auto: a bar on a terminal, plain lines elsewhere.",
    ]


class BenchOptions(StoreOptions, NetworkOptions, total=False):
    """Options of ``bench``."""

    seconds: Annotated[float, "Approximate time for measuring. [default: 60]"]
    progress: Annotated[
        Literal["auto", "bar", "plain", "json", "none"],
        "auto: a bar on a terminal, plain lines elsewhere.",
    ]


class CombineOptions(StoreOptions, RunOptions, total=False):
    """Options of ``combine``."""

    model: Annotated[
        str | Sequence[str],
        "Member of OUT to use; repeat it, or give a comma list. [default: all, with their factors there]",
    ]
    combine: Annotated[Literal["mean", "geometric", "vote"] | None, "How members are combined. [default: mean]"]
    calibration: Annotated[
        str | os.PathLike[str] | None,
        "What `calibrate` saved for these members: makes scores probabilities of being right.",
    ]
    classes: Annotated[
        str | os.PathLike[str] | None,
        "Groups of classes, as `classes` shows them: CSV, TSV, YAML or JSON, or `wordnet`. Adds columns LEVEL and "
        "LEVEL_score: the group whose classes have most of the probability.",
    ]
    top_k: Annotated[int | None, "Classes kept per image. [default: 5]"]
    workers: Annotated[Literal["auto"] | int, "Labelers. auto: one per GPU, or one per machine. [default: auto]"]
    overwrite: Annotated[bool, "Replace an OUT made by a different job."]
    progress: Annotated[
        Literal["auto", "bar", "plain", "json", "none"],
        "auto: a bar on a terminal, plain lines elsewhere. json: JSON lines on stdout. [default: auto]",
    ]


class ExportOptions(StoreOptions, RunOptions, total=False):
    """Options of ``export``."""

    min_score: Annotated[float | None, "Accept images of at least this score, 0-1."]
    min_agreement: Annotated[float | None, "Share of members that agree with the label, 0-1."]
    max_entropy: Annotated[float | None, "Of the consensus, in nats."]
    max_disagreement: Annotated[float | None, "Mutual information of the members, in nats."]
    max_ood_score: Annotated[
        float | None,
        "Out-of-distribution score: minus the members' mean energy; larger is less like the training images.",
    ]
    target_precision: Annotated[
        float | None,
        "Accept images from the lowest score at which this share of labels is right, certified on truth drawn at "
        "random; exports nothing where that cannot be promised.",
    ]
    delta: Annotated[float, "Risk that the promise does not hold. [default: 0.1]"]
    truth: Annotated[
        str | os.PathLike[str] | None,
        "For --target-precision, as for evaluate. [default: the samples' .cls]",
    ]
    unknown_labels: Annotated[
        Literal["refuse", "wrong"],
        "Truths that name no class (`none` does, and counts as wrong): no promise until they are mended, or they "
        "count as wrong. [default: refuse]",
    ]
    classes: Annotated[
        str | os.PathLike[str] | None,
        "Groups of classes, as `label` takes them: FILE or `wordnet`. [default: those that OUT was labelled with]",
    ]
    level: Annotated[str | None, "Export the groups of this level of --classes as the classes."]
    back_off: Annotated[
        bool,
        "Give each image the finest name, class or group of --classes, that --target-precision allows; right means "
        "that the truth lies at or below it.",
    ]
    max_per_class: Annotated[int | None, "Of each class only the N best by score."]
    repeat_to: Annotated[int | None, "The column copies says how often to repeat images so that a class has N."]
    dedupe: Annotated[bool, "Only the first of images with the same bytes. [default: dedupe]"]
    license: Annotated[str, "Of the images, for the dataset card. [default: unknown]"]
    partial: Annotated[bool, "Export a job that is not finished."]
    workers: Annotated[Literal["auto"] | int, "Exporters. auto: one per machine."]
    overwrite: Annotated[bool, "Replace another export."]
    progress: Annotated[
        Literal["auto", "bar", "plain", "json", "none"],
        "auto: a bar on a terminal, plain lines elsewhere. json: JSON lines on stdout.",
    ]
