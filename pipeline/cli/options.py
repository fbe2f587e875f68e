"""Options that several commands share, as typer annotations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from pipeline.cli.completion import complete_auto, complete_classes, complete_members
from pipeline.cli.help import MACHINES, NETWORKS, ROWS, S3

_MODELS = (
    "Member: [ALIAS:]ARCH[@WEIGHTS][=CHECKPOINT][?OPTIONS][*FACTOR], or hf:FOLDER; repeat it, or give a comma list. "
    "ARCH is a torchvision classifier or timm/NAME; OPTIONS are resize=256&crop=224&interp=bilinear&mean=imagenet and "
    "the like.  [default: resnet50,resnext50_32x4d,efficientnet_v2_s]"
)
ENGINE_HELP = (
    "inline: in this process, without Ray. auto: Ray for a cluster, several GPUs or 32 cores, inline elsewhere; "
    "both give the same rows."
)

S3Endpoint = Annotated[
    str | None,
    typer.Option(
        "--s3-endpoint",
        metavar="URL",
        help="Another store than AWS.  [default: from AWS's environment variables]",
        rich_help_panel=S3,
    ),
]
NoSignRequest = Annotated[
    bool | None,
    typer.Option("--no-sign-request", help="Read public buckets without credentials.", rich_help_panel=S3),
]
RequestPayer = Annotated[
    bool | None,
    typer.Option(
        "--request-payer", help="Pay for requests to buckets whose owner does not (requester pays).", rich_help_panel=S3
    ),
]
Out = Annotated[
    str, typer.Argument(metavar="OUT", help="A job's output: directory or s3:// prefix.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Model = Annotated[
    list[str] | None,
    typer.Option(
        "--model", "-m", metavar="SPEC", help=_MODELS, rich_help_panel=NETWORKS, autocompletion=complete_members
    ),
]
WeightsDir = Annotated[
    str | None,
    typer.Option(
        "--weights-dir",
        metavar="URI",
        help="Directory or prefix that is searched first for checkpoints.",
        rich_help_panel=NETWORKS,
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Class names: one per line, or a JSON list; or `imagenet`.  [default: those of the weights]",
        rich_help_panel=NETWORKS,
    ),
]
Combine = Annotated[
    Literal["mean", "geometric", "vote"] | None,
    typer.Option(help="How members are combined.  [default: mean]", rich_help_panel=NETWORKS),
]
TopK = Annotated[
    int | None,
    typer.Option(metavar="N", help="Classes kept per image.  [default: 5]", rich_help_panel=NETWORKS),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option(
        help="Where networks run. auto: on GPUs, if there are any.  [default: auto]", rich_help_panel=MACHINES
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "mixed", "bf16", "fp16"] | None,
    typer.Option(
        help="mixed: low precision first, fp32 again for near ties. auto: mixed on a GPU and on a CPU that has "
        "bfloat16, fp32 elsewhere.  [default: auto]",
        rich_help_panel=MACHINES,
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Run members through torch.compile.  [default: no]",
        rich_help_panel=MACHINES,
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N",
        help="Images in one pass of a network. auto: chosen for each network.  [default: auto]",
        rich_help_panel=MACHINES,
        autocompletion=complete_auto,
    ),
]
Decode = Annotated[
    Literal["exact", "fast", "gpu"] | None,
    typer.Option(
        help="fast: large JPEGs may be decoded at a reduced DCT scale. gpu: plain JPEGs on the GPU, where that gives "
        "the CPU's pixels.  [default: exact]",
        rich_help_panel=MACHINES,
    ),
]
DecodeThreads = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N",
        help="Threads of a labeler. auto: one per CPU it has.  [default: auto]",
        rich_help_panel=MACHINES,
        autocompletion=complete_auto,
    ),
]
StepProgress = Annotated[
    Literal["auto", "bar", "plain", "none"], typer.Option(help="auto: a bar on a terminal, plain lines elsewhere.")
]
Engine = Annotated[
    Literal["auto", "ray", "inline"] | None,
    typer.Option(help=f"{ENGINE_HELP}  [default: auto]", rich_help_panel=MACHINES),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        envvar="RAY_ADDRESS",
        help="A running cluster.  [default: this machine]",
        rich_help_panel=MACHINES,
    ),
]
Workers = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N",
        help="Labelers. auto: one per GPU, or one per machine.  [default: auto]",
        rich_help_panel=MACHINES,
        autocompletion=complete_auto,
    ),
]
CalibrationFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="What `calibrate` saved for these members: makes scores probabilities of being right.",
        rich_help_panel=NETWORKS,
    ),
]
OwnClasses = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Groups of classes, as `classes` shows them: CSV, TSV, YAML or JSON, or `wordnet`. Adds columns LEVEL and "
        "LEVEL_score: the group whose classes have most of the probability.",
        rich_help_panel=ROWS,
        autocompletion=complete_classes,
    ),
]
ClassesOfOutput = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        help="Groups of classes, as `label` takes them: FILE or `wordnet`. [default: those that OUT was labelled with]",
        show_default=False,
        autocompletion=complete_classes,
    ),
]
ClassesOfList = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        help="Groups of classes that are answers, too, as `label` takes them: FILE or `wordnet`. [default: those that "
        "the list was drawn with]",
        show_default=False,
        autocompletion=complete_classes,
    ),
]
WhichImages = Annotated[
    Literal["auto", "all"] | None,
    typer.Option(
        help="Of several images under one key. auto: label one, a plain extension (jpg) before a dotted field "
        "(depth.png), then by name. all: each is a sample of its own.  [default: auto]",
        rich_help_panel=ROWS,
    ),
]
Overwrite = Annotated[
    bool | None,
    typer.Option("--overwrite", help="Replace an OUT made by a different job.", rich_help_panel=ROWS),
]
Prune = Annotated[
    bool | None,
    typer.Option("--prune", help="Let go of inputs that are gone: remove their rows.", rich_help_panel=ROWS),
]
Progress = Annotated[
    Literal["auto", "bar", "plain", "json", "none"] | None,
    typer.Option(help="auto: a bar on a terminal, plain lines elsewhere. json: JSON lines on stdout.  [default: auto]"),
]
Verbose = Annotated[bool | None, typer.Option("--verbose", "-v", help="Show the messages of Ray and the libraries.")]
TruthFile = Annotated[
    str | None,
    typer.Option(
        "--truth",
        metavar="FILE",
        help="CSV, Parquet or JSON, local or s3://, with the columns key and label (index, class name or WordNet id), "
        "and shard where a key names several images; a list of `sample` with its column truth filled in; exports of "
        "Label Studio or FiftyOne.  [default: the samples' .cls]",
    ),
]
ListFile = Annotated[
    str,
    typer.Option(
        "--save",
        metavar="FILE",
        help="Where to write the list, a folder for fiftyone; local or s3://. An existing list is kept.",
    ),
]
ListFormat = Annotated[
    Literal["csv", "label-studio", "fiftyone"],
    typer.Option(
        "--format",
        help="csv: with an empty column truth. label-studio: tasks, and the labelling config beside them. fiftyone: a "
        "FiftyOneImageClassificationDataset.",
    ),
]
Images = Annotated[
    bool, typer.Option("--images/--no-images", help="Write the images beside the list; a CSV can do without.")
]
Unique = Annotated[bool, typer.Option("--unique", help="Only one of images with equal bytes.")]
Seed = Annotated[int, typer.Option(help="Of the random choice, and of the order of equal values.")]
InputList = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        help="As for `label`: tar, directory, glob, brace range, s3:// key or prefix, or @list.txt.",
        show_default=False,
    ),
]


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, without ``--json``."""
    return {name: value for name, value in options.items() if name != "json_" and value not in (None, [])}
