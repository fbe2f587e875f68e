"""The reference: every command, option, file, column, reason and function on one page, generated from the code.

``python -m pipeline.cli.reference > pipeline/REFERENCE.md`` renews the page, and so does ``make reference``.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import typer

import pipeline
from pipeline import errors
from pipeline.cli import app
from pipeline.columns import COLUMN_MEANINGS, QUARANTINE_SCHEMA, predictions_schema
from pipeline.output.ledger import ATTEMPTS, JOB, RETRY, SUCCESS, UNITS
from pipeline.records import REASON_MEANINGS, Reason, Stage

_HEAD = """\
# Reference

Made from the code by `make reference`; do not edit. What all of it is for: [README.md](../README.md). How it works:
[ARCHITECTURE.md](ARCHITECTURE.md).
"""
_DEFAULT = re.compile(r"\s*\[default: (.*)\]$", re.DOTALL)
_NUMBERS = {int: "integer", float: "number"}

ENVIRONMENT = {
    "RAY_ADDRESS": "the running cluster of `label`, as `--ray-address`",
    "RAY_AUTH_MODE": "Ray's own; `token` where a cluster asks for one",
    "RAY_USE_TLS": "Ray's own; `1` where a cluster speaks TLS",
    "RAY_USAGE_STATS_ENABLED": "`1` lets Ray send its usage statistics; `0` by default here",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "Ray's own; `0` by default here, so that workers are this interpreter",
    "RAY_raylet_start_wait_time_s, RAY_gcs_server_port_wait_time_s, RAY_worker_register_timeout_seconds, "
    "RAY_agent_register_timeout_ms": "Ray's own; five minutes each, by default here, while Ray is started here",
    "OMP_WAIT_POLICY": "OpenMP's own; `PASSIVE` by default in commands: threads that wait for each other sleep",
    "RAY_BACKEND_LOG_LEVEL": "Ray's own; `fatal` by default without `--verbose`",
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_DEFAULT_REGION": "AWS's own, as all "
    "that boto3 reads: how S3 is reached, beside the files in `~/.aws`",
    "AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3": "another store than AWS's own; `--s3-endpoint` wins",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "whether stores other than AWS get trailing checksums; not, by default",
    "TORCH_HOME, XDG_CACHE_HOME": "torch's cache of downloaded weights; below the second also what was "
    "measured of networks",
    "HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN": "the Hugging Face hub's cache, and how it is reached",
    "DISPLAY, WAYLAND_DISPLAY": "whether `annotate` opens a browser on Linux",
    "COLUMNS": "width of `--help` and tables where the terminal does not say",
    "NO_COLOR": "tables without colour",
}
FILES = {
    JOB: "the job description: members with the hashes of their weights and their recipes, class names, options, "
    "versions, the last runs with their images and seconds, and the fingerprint over all that changes results",
    UNITS: "the units: every tar, every slice of loose images, with size, version, and samples in a part",
    RETRY: "while `--retry` is at work: the reasons",
    "plan/keys-UNIT.parquet": "the keys of a slice of loose images",
    "predictions/part-JOB-UNIT-NUMBER[-last].parquet": "some labelled samples of a unit",
    "quarantine/part-JOB-UNIT-NUMBER[-last].parquet": "its samples that were not labelled, and damage",
    "quarantine/part-JOB-UNIT-unreadable.parquet": "a unit that could not be read to its end",
    "probabilities/ALIAS/part-JOB-UNIT-NUMBER[-last].parquet": "with `--keep-probs`: a member's probabilities for the "
    "same rows, float16, one list of all classes each",
    f"{ATTEMPTS}/UNIT-NUMBER.json": "a labeler works on this unit, or died while it did",
    "report.html, gallery.html": "the pages of `report` and `gallery`",
    SUCCESS: "present if everything planned is done",
}


def reference() -> str:
    """The page, as Markdown."""
    root = typer.main.get_command(app)
    context: Any = root.make_context("shardlabel", [], resilient_parsing=True)
    blocks = [_HEAD, "## Commands\n", *_command(root, context), *_surroundings(), *_columns(), *_functions()]
    return re.sub(r"[ \t]+$", "", "\n".join(blocks), flags=re.MULTILINE).rstrip() + "\n"


def _command(command: Any, context: Any) -> Iterator[str]:  # noqa: ANN401 - classes that typer keeps to itself
    """A command and those below it."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"### {context.command_path}\n\n`{usage}`\n\n{inspect.cleandoc(command.help or '')}\n"
    entries = [_parameter(each, context) for each in command.get_params(context) if not getattr(each, "hidden", False)]
    yield "".join(entries)
    if command.epilog:
        first, *blocks = inspect.cleandoc(command.epilog).removeprefix("\b\n").split("\n\n")
        yield "\n\n".join([f"```text\n{first}\n```", *blocks]) + "\n"
    for name in getattr(command, "commands", {}):
        below = command.commands[name]
        if not below.hidden:
            yield from _command(below, type(context)(below, info_name=name, parent=context))


def _parameter(parameter: Any, context: Any) -> str:  # noqa: ANN401 - likewise
    """One argument or option: syntax, meaning and default."""
    written, text = parameter.get_help_record(context)
    name = re.sub(r" <(?:str|list\[str\])>$", "", written)
    meaning = " ".join(text.replace("[required]", "").replace(f"[env var: {parameter.envvar}]", "").split())
    default = _DEFAULT.search(meaning)
    kind = _NUMBERS.get(parameter.type_descriptor.annotation)
    notes = [f"{kind.capitalize()}."] if kind else []
    notes += ["Required."] if parameter.required else []
    notes += [f"Default: `{default[1]}`."] if default else []
    notes += [f"Environment: `{parameter.envvar}`."] if parameter.envvar else []
    return f"- `{name}`: {' '.join([_sentence(_DEFAULT.sub('', meaning)), *notes])}\n"


def _surroundings() -> Iterator[str]:
    """Environment variables, exit codes and files."""
    yield "## Environment\n"
    yield _bullets(
        (", ".join(f"`{name}`" for name in names.split(", ")), meaning) for names, meaning in ENVIRONMENT.items()
    )
    yield "## Errors\n"
    yield "What the Python API raises, and the exit code that the command ends with instead:\n"
    tree = (errors.__doc__ or "").partition("::\n")[2].partition("\n\nEvery one")[0]
    yield f"```text\n{inspect.cleandoc(tree)}\n```\n"
    yield "## Files of OUT\n"
    yield _bullets((f"`{name}`", meaning) for name, meaning in FILES.items())


def _columns() -> Iterator[str]:
    """The columns of both tables."""
    meanings = {
        **COLUMN_MEANINGS,
        "LEVEL": "each level of `--classes`: the group whose classes have most of the pool's probability, or null",
        "LEVEL_score": "the sum of their probabilities, 0 to 1",
        "FIELD": "each field that `--keep` names, as UTF-8 text",
    }
    labelled = predictions_schema(["ALIAS"], ["FIELD"], levels=["LEVEL"])
    for title, schema in (("predictions", labelled), ("quarantine", QUARANTINE_SCHEMA)):
        yield f"## Columns of {title}\n"
        yield _bullets((f"`{field.name}` ({_kind(field.type)})", meanings[field.name]) for field in schema)
    yield f"## Stages and reasons of quarantine\n\nStages: {', '.join(f'`{stage}`' for stage in Stage)}. Reasons:\n"
    yield _bullets((f"`{reason}`", REASON_MEANINGS[reason]) for reason in Reason)


def _functions() -> Iterator[str]:
    """The Python API: signatures, docstrings and results."""
    yield "## Python\n\nOptions are those of the command of the same name, with underscores.\n"
    for name in pipeline.__all__:
        function = getattr(pipeline, name)
        yield f"### pipeline.{name}\n\n```python\n{_signature(name, function)}\n```\n"
        text = getattr(function, "__short_doc__", function.__doc__)  # the command has the meanings of the options
        yield f"```text\n{inspect.cleandoc(text)}\n```\n"
        returned = getattr(sys.modules[function.__module__], function.__annotations__["return"])
        yield f"`{returned.__name__}` has:\n"
        yield "".join(f"- `{field}`: `{kind}`\n" for field, kind in _fields(returned).items())


def _signature(name: str, function: Any) -> str:  # noqa: ANN401 - any function
    """A function's parameters, a line each."""
    signature = inspect.signature(function)
    parameters: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        parameters.append(f"{stars}{parameter.name}: {parameter.annotation}{default}")
    lines = "".join(f"    {line},\n" for line in parameters)
    return f"{name}(\n{lines}) -> {signature.return_annotation}"


def _fields(returned: Any) -> dict[str, str]:  # noqa: ANN401 - a dataclass or a pydantic model
    """Fields of a result, with their types as they are written."""
    if dataclasses.is_dataclass(returned):
        return {field.name: str(field.type) for field in dataclasses.fields(returned)}
    return {name: _plain(field.annotation) for name, field in returned.model_fields.items()}


def _plain(annotation: Any) -> str:  # noqa: ANN401 - any type
    plain = annotation.__name__ if isinstance(annotation, type) and "[" not in str(annotation) else str(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", plain)


def _kind(kind: pa.DataType) -> str:
    """The type of a column."""
    if pa.types.is_dictionary(kind):
        return f"{kind.value_type}, dictionary-encoded"
    return re.sub(r"\bfloat\b", "float32", re.sub(r"(element|item): ", "", str(kind)))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _bullets(entries: Iterable[tuple[str, str]]) -> str:
    return "".join(f"- {name}: {_sentence(meaning)}\n" for name, meaning in entries)


if __name__ == "__main__":
    sys.stdout.write(reference())
