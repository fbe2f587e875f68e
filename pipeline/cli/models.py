"""The commands ``models show`` and ``models fetch``, about the model catalogue."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from pipeline.cli.completion import complete_members
from pipeline.cli.help import GroupedCommand, GroupedCommands, examples
from pipeline.cli.options import AsJson, Labels, NoSignRequest, RequestPayer, S3Endpoint, WeightsDir
from pipeline.cli.printing import print_json, print_line, print_result
from pipeline.errors import ModelError


class _ShowByDefault(GroupedCommands):
    """``models`` alone, or with the name of a model, is ``models show``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - a class that typer keeps to itself
        named = args[0] in {*self.commands, *ctx.help_option_names} if args else ctx.resilient_parsing
        return super().parse_args(ctx, args if named else ["show", *args])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:  # noqa: ANN401 - likewise
        """Complete commands, and the values of `show`."""
        (name,) = (parameter for parameter in self.commands["show"].params if parameter.name == "name")
        return [*super().shell_complete(ctx, incomplete), *name.shell_complete(ctx, incomplete)]


models = typer.Typer(cls=_ShowByDefault, rich_markup_mode=None)


@models.callback()
def _models() -> None:
    """The model catalogue: classifiers and their weights. `models [NAME]` shows them, `models fetch` copies weights."""


@models.command(
    cls=GroupedCommand,
    epilog=examples(
        "shardlabel models                              # all with a known paper",
        "shardlabel models resnet50",
        "shardlabel models 'timm/*xception*' --json",
        "shardlabel models resnet50=mine.pth            # what the file is",
        "shardlabel models resnet50=mine.pth --try-recipes photos/ \\\n    --truth truth.csv",
    ),
)
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="An architecture, or a member with a file (ARCH=FILE, hf:FOLDER), shown in full; or a family, or a "
            "pattern, listed.",
            show_default=False,
            autocompletion=complete_members,
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT", help="With --try-recipes: the images; none for the shards that the truth names."
        ),
    ] = None,
    try_recipes: Annotated[
        bool,
        typer.Option("--try-recipes", help="Try the usual preprocessings on images of known class, at most 1,000."),
    ] = False,
    truth: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --try-recipes: truth file; else the samples' .cls count.")
    ] = None,
    labels: Labels = None,
    weights_dir: WeightsDir = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """List architectures and published weights, or show one, or a checkpoint, in full. `show` may be left out."""
    from pipeline.cli import model_tables
    from pipeline.commands import models as model_commands

    places: dict[str, Any] = {
        "weights_dir": weights_dir,
        "s3_endpoint": s3_endpoint,
        "no_sign_request": bool(no_sign_request),
        "request_payer": bool(request_payer),
    }
    has_file = name is not None and ("=" in name or name.startswith("hf:") or ":hf:" in name)
    if try_recipes:
        if name is None or not (has_file or weights_dir):
            raise ModelError("--try-recipes takes one member with a file: shardlabel models ARCH=FILE --try-recipes")
        more: dict[str, Any] = {"truth": truth, "labels": labels, "watch": model_tables.watch_trial}
        trial = model_commands.try_recipes(name, inputs or (), **more, **places)
        return print_result(trial, partial(model_tables.print_trial, spec=name), as_json=json_)
    if inputs or truth:
        raise ModelError("INPUT and --truth belong to --try-recipes")
    if name is not None and has_file:
        return print_result(
            model_commands.inspect(name, labels=labels, **places), model_tables.print_member, as_json=json_
        )
    found = model_commands.list_architectures(
        name,
        **places,
    )
    one = found[0] if len(found) == 1 and found[0].name == name else None
    if json_:
        print_json([card.to_dict() for card in found] if one is None else one.to_dict())
    elif one is not None:
        model_tables.print_architecture(one)
    else:
        model_tables.print_architectures(found)
    return 0


@models.command(
    cls=GroupedCommand,
    epilog=examples(
        "shardlabel models fetch resnet50,densenet121 --to s3://bucket/weights",
        "shardlabel label photos/ --out labels -m resnet50 \\\n    --weights-dir s3://bucket/weights",
    ),
)
def fetch(
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC",
            help="Members, as `label -m` takes them.",
            show_default=False,
            autocompletion=complete_members,
        ),
    ],
    to: Annotated[str, typer.Option(metavar="URI", help="Directory or s3:// prefix.", show_default=False)],
    weights_dir: WeightsDir = None,
    json_: AsJson = False,
    s3_endpoint: S3Endpoint = None,
    no_sign_request: NoSignRequest = None,
    request_payer: RequestPayer = None,
) -> int:
    """Put weights into a directory or bucket, for machines without internet: found or downloaded, checked, copied."""
    import contextlib
    import dataclasses

    from pipeline.commands import models as model_commands
    from pipeline.job.progress import make_reporter

    with contextlib.closing(make_reporter("none" if json_ else "auto")) as reporter:
        found = model_commands.fetch(
            specs,
            to,
            weights_dir=weights_dir,
            s3_endpoint=s3_endpoint,
            no_sign_request=bool(no_sign_request),
            request_payer=bool(request_payer),
            watch=reporter.download,
        )
    if json_:
        print_json([dataclasses.asdict(file) for file in found])
        return 0
    for file in found:
        state = "copied" if file.copied else "was there"
        print_line(f"{file.spec}: {file.uri} ({file.num_bytes / 2**20:,.1f} MB, {state})")
    return 0
