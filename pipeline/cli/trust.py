"""The commands ``evaluate``, ``calibrate``, ``sample``, ``review`` and ``report``. No logic lives here."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipeline.cli.help import examples
from pipeline.cli.options import AsJson, NoSignRequest, Out, S3Endpoint
from pipeline.cli.printing import print_json, print_result

EVALUATE_EXAMPLES = examples(
    "shardlabel evaluate labels", "shardlabel evaluate s3://bucket/labels --truth truth.csv --json"
)
CALIBRATE_EXAMPLES = examples(
    "shardlabel calibrate labels --truth truth.csv --save cal.json",
    "shardlabel label photos/ --out calibrated -m resnet50 --calibration cal.json",
)
SAMPLE_EXAMPLES = examples(
    "shardlabel sample labels --save truth.csv --num 500",
    "shardlabel sample s3://bucket/labels --save s3://bucket/tasks.json \\\n    --format label-studio",
)
REVIEW_EXAMPLES = examples("shardlabel review labels --save look.csv --num 100 --order entropy")
REPORT_EXAMPLES = examples("shardlabel report labels", "shardlabel report labels --truth truth.csv --save page.html")

TruthFile = Annotated[
    str | None,
    typer.Option(
        "--truth",
        metavar="FILE",
        help="CSV or Parquet, local or s3://, with the columns key and label (class name or index), and shard where "
        "a key names several images; a list of `sample` with its column truth filled in; JSON of Label Studio or "
        "FiftyOne.  [default: the samples' .cls]",
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


def evaluate(
    out: Out,
    truth: TruthFile = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
) -> int:
    """Measure accuracy and calibration of each member and of the consensus on images with known truth."""
    import pipeline
    from pipeline.cli.trust_tables import print_evaluation

    found = pipeline.evaluate(out, truth=truth, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request))
    return print_result(found, print_evaluation, as_json=json_)


def calibrate(
    out: Out,
    save: Annotated[str, typer.Option("--save", metavar="FILE", help="Where to write it, local or s3://.")],
    truth: TruthFile = None,
    method: Annotated[
        Literal["auto", "temperature", "stack"],
        typer.Option(
            help="temperature: one number for the pool. stack: a weight for each member of a geometric pool; needs an "
            "output of --keep-probs. auto: the one with the lower NLL on held-out images."
        ),
    ] = "auto",
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
) -> int:
    """Fit a temperature, or a weight for each member, to known truth; `label --calibration FILE` applies it."""
    from pipeline.cli.trust_tables import print_calibration
    from pipeline.commands.calibrate import calibrate_and_count

    fitted, counts = calibrate_and_count(
        out, truth=truth, save=save, method=method, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request)
    )
    if json_:
        print_json(fitted.model_dump(mode="json"))
    else:
        print_calibration(fitted, counts, save)
    return 0


def sample(
    out: Out,
    save: ListFile,
    num: Annotated[int, typer.Option("--num", "-n", help="How many images.")] = 1000,
    format_: ListFormat = "csv",
    with_labels: Annotated[
        bool, typer.Option("--with-labels", help="Show the labels of the consensus, which may bias annotators.")
    ] = False,
    unique: Unique = False,
    seed: Seed = 0,
    images: Images = True,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
) -> int:
    """Draw a random sample for annotators; the filled-in list is a --truth."""
    import pipeline
    from pipeline.cli.trust_tables import print_annotation_list

    found = pipeline.sample(
        out,
        save=save,
        num=num,
        format=format_,
        with_labels=with_labels,
        unique=unique,
        seed=seed,
        images=images,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
    )
    return print_result(found, print_annotation_list, as_json=json_)


def review(
    out: Out,
    save: ListFile,
    num: Annotated[int, typer.Option("--num", "-n", help="How many images.")] = 200,
    order: Annotated[
        Literal["disagreement", "entropy", "score", "random"],
        typer.Option(help="Which images come first: largest disagreement or entropy, or smallest score."),
    ] = "disagreement",
    format_: ListFormat = "csv",
    unique: Unique = False,
    seed: Seed = 0,
    images: Images = True,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
) -> int:
    """List the images that most need a look, with their labels; largest disagreement first."""
    import pipeline
    from pipeline.cli.trust_tables import print_annotation_list

    found = pipeline.review(
        out,
        save=save,
        num=num,
        order=order,
        format=format_,
        unique=unique,
        seed=seed,
        images=images,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
    )
    return print_result(found, print_annotation_list, as_json=json_)


def report(
    out: Out,
    truth: TruthFile = None,
    save: Annotated[
        str | None,
        typer.Option("--save", metavar="FILE", help="Where to write it, local or s3://.  [default: OUT/report.html]"),
    ] = None,
    images: Annotated[
        bool,
        typer.Option("--images/--no-images", help="Show thumbnails; a few original images are read again for them."),
    ] = True,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
) -> int:
    """Write one self-contained HTML page: the run, classes, certainty, accuracy, pictures, quarantine."""
    import pipeline
    from pipeline.cli.trust_tables import print_report

    made = pipeline.report(
        out, truth=truth, save=save, images=images, s3_endpoint=s3_endpoint, no_sign_request=bool(no_sign_request)
    )
    return print_result(made, print_report, as_json=json_)
