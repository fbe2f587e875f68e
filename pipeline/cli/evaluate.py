"""The command ``evaluate``."""

from __future__ import annotations

from pipeline.cli.help import examples
from pipeline.cli.options import AsJson, ClassesOfOutput, NoSignRequest, Out, RequestPayer, S3Endpoint, TruthFile
from pipeline.cli.printing import print_result
from pipeline.text.commands import store_words

EXAMPLES = examples(
    "shardlabel evaluate labels",
    "shardlabel evaluate s3://bucket/labels --truth truth.csv --json",
    "shardlabel evaluate labels --truth truth.csv --classes photos.csv",
)


def evaluate(
    out: Out,
    truth: TruthFile = None,
    classes: ClassesOfOutput = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Measure accuracy and calibration of each member and of the consensus on images with known truth."""
    import pipeline
    from pipeline.cli.next_steps import after_evaluate, print_next
    from pipeline.cli.trust_tables import print_evaluation

    found = pipeline.evaluate(
        out,
        truth=truth,
        classes=classes,
        s3_endpoint=s3_endpoint,
        no_sign_request=bool(no_sign_request),
        request_payer=bool(request_payer),
    )
    code = print_result(found, print_evaluation, as_json=json_)
    if not json_:
        print_next(
            *after_evaluate(found, truth),
            store=store_words(s3_endpoint, no_sign_request, request_payer),
        )
    return code
