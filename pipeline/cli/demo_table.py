"""The command ``demo``: label the photographs that ship with the project, and print the accuracy."""

from __future__ import annotations

import importlib.util
import shlex
import sys

from rich.console import Console
from rich.text import Text

from pipeline.commands.evaluate import evaluate
from pipeline.commands.label import run_label
from pipeline.config.parse import parse_label_config
from pipeline.job.summary import LabelSummary
from pipeline.sample_data import sample_data, sample_members
from pipeline.text.safe import printable
from pipeline.trust.evaluation import Evaluation


def run_demo(out: str, engine: str) -> int:
    """Label the sample data and print the result.

    Returns:
        The exit code.
    """
    data = sample_data()
    members = sample_members()
    settings = parse_label_config({**members, "inputs": str(data), "out": out, "engine": engine, "max_bad_rate": 1.0})
    console = Console()
    console.print(
        f"Labelling the photographs in {data} with {', '.join(members['model'])}, three small networks\n"
        "trained on other regions of the same pictures. Some of the samples are broken on purpose.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    summary = run_label(settings)
    _print_outcome(console, summary, evaluate(summary.out))
    return summary.exit_code


def _print_outcome(console: Console, summary: LabelSummary, found: Evaluation) -> None:
    rows: list[tuple[str, str]] = []
    if summary.images:
        rows.append(("images", f"{summary.images} in {summary.seconds:.1f} s, {summary.images_per_s:.0f} images/s"))
        rows += [
            ("quarantined", f"{count} {reason}") for reason, count in sorted(summary.quarantined_by_reason.items())
        ]
    else:
        rows.append(("images", "all done by an earlier run; remove the output to see it again"))
    for name, accuracy in (*found.members.items(), (f"consensus ({found.combine})", found.consensus)):
        rows.append((name, f"{accuracy.top1:.1%} right of {found.images}"))
    rows += [(folder, f"{printable(summary.out)}/{folder}/*.parquet") for folder in ("predictions", "quarantine")]
    width = max(len(name) for name, _ in rows)
    console.print()
    for name, value in rows:
        console.print(Text.assemble((name.ljust(width), "bold"), "  ", value), soft_wrap=True)
    files = f"'{summary.out}/predictions/*.parquet'"
    query = f"SELECT class_name, count(*) AS images, avg(score) FROM {files} GROUP BY 1 ORDER BY 2 DESC"  # noqa: S608 - shown, not run
    line = f'duckdb -c "{query}"'
    if importlib.util.find_spec("duckdb") is not None:
        line = f'{shlex.quote(sys.executable)} -c "import duckdb; duckdb.sql(\\"{query}\\").show()"'
    console.print("\nLook at it with DuckDB:\n", highlight=False)
    console.print(f"  {printable(line)}\n", markup=False, highlight=False, soft_wrap=True)
