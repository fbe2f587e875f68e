"""Tables and next steps: numbers stay whole on narrow terminals, and commands name real arguments."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from rich.table import Table
from small_jobs import options

from pipeline import label, status
from pipeline.cli.tables import fold, print_tables


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_numbers_stay_whole_at_any_width(width: int, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table(box=None, pad_edge=False)
    table.add_column("a name of some length")
    for name in ("top-1", "95 %", "images"):
        table.add_column(name, justify="right")
    table.add_row("efficientnet_v2_s_with_more", "66.7%", "61.2-71.9", "1,234,567")
    print_tables(table)
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert all(text in shown for text in ("66.7%", "61.2-71.9", "1,234,567"))
    assert all(piece in shown for piece in ("efficientnet_", "v2_", "s_", "with_", "more", "name of", "length"))


@pytest.mark.parametrize(
    ("cell", "lines"),
    [
        ("  vit_base.augreg_in1k", ["  vit_base.", "  augreg_in1k"]),
        ("0.25 to 0.5, 1,234 of v-12.1", ["0.25 to 0.5,", "1,234 of", "v-12.1"]),
        ("great-dane/wolf [dog]", ["great-dane/", "wolf [dog]"]),
        ("noseparatoranywhere", ["noseparatoran", "ywhere"]),
        ("", [""]),
    ],
)
def test_text_is_folded_behind_separators_and_no_number_is_broken(cell: str, lines: list[str]):
    assert fold(cell, 13) == lines


def test_brackets_in_names_are_printed_as_they_are(capsys):
    table = Table(box=None)
    table.add_column("class")
    table.add_row("cat [bold]big[/bold] [/]")
    print_tables(table)
    assert "cat [bold]big[/bold] [/]" in capsys.readouterr().out


def test_each_command_ends_with_commands_that_run(tmp_path: Path, sample_data: Path, shardlabel, monkeypatch):
    out = tmp_path / "labels of mine"
    words = ["--weights-dir", sample_data / "weights", "--labels", sample_data / "classes.txt", "--engine", "inline"]
    done = shardlabel(
        "label", sample_data, "--out", out, "--limit", 120, "-m", "squeezenet1_1,shufflenet_v2_x0_5", *words
    )
    assert "without --keep-probs" in done.stdout

    def steps(printed: str) -> list[list[str]]:
        lines = [line.removeprefix("next: shardlabel ") for line in printed.splitlines() if line.startswith("next: ")]
        return [shlex.split(line) for line in lines]

    after_label = steps(done.stdout)
    assert after_label == [["verify", str(out)], ["sample", str(out), "--unique", "--save", "truth.csv"]]
    assert steps(shardlabel("status", out).stdout) == [["verify", str(out)], ["report", str(out)]]
    after_evaluate = steps(shardlabel("evaluate", out, "--s3-endpoint", "http://127.0.0.1:1").stdout)
    assert [step[0] for step in after_evaluate] == ["calibrate", "gallery"]
    assert all(step[-2:] == ["--s3-endpoint", "http://127.0.0.1:1"] for step in after_evaluate)
    (tmp_path / "my.csv").write_text("class,kind\ngrass,ground\ngravel,ground\n")
    own = ["--classes", "my.csv", "--level", "kind", "--target-precision", 0.2, "--engine", "inline"]
    exported = shardlabel("export", out, "--to", tmp_path / "d", "--format", "csv", *own, cwd=tmp_path)
    assert steps(exported.stdout) == [["report", str(out), "--classes", "my.csv"]], exported.stderr
    # each is run, and what it names in its turn
    monkeypatch.setattr("pipeline.annotation_page.server.PageServer.serve", _interrupted)
    waiting, ran = [*after_label, *after_evaluate], []
    while waiting:
        step = waiting.pop(0)
        ran.append(step[0])
        done = shardlabel(*step, *(["--no-browser"] if step[0] == "annotate" else []), cwd=tmp_path)
        assert done.returncode == 0, (step, done.stderr)
        waiting += [further for further in steps(done.stdout) if further[0] not in ran]
    assert sorted(ran) == ["annotate", "calibrate", "combine", "gallery", "report", "sample", "verify"]
    assert (tmp_path / "labels of mine-calibrated" / "_SUCCESS").exists()
    exported = shardlabel("export", out, "--to", "to", "--format", "csv", "--engine", "inline", cwd=tmp_path)
    assert steps(exported.stdout) == [["sample", str(out), "--unique", "--save", "truth-2.csv"]]


def _interrupted(server: object):
    raise KeyboardInterrupt


def test_a_job_that_is_not_finished_is_to_be_run_again(tmp_path: Path, sample_data: Path, shardlabel):
    label(str(sample_data), tmp_path / "out", **options(sample_data, limit=10, rows_per_part=5))
    (tmp_path / "out" / "_SUCCESS").unlink()
    done = shardlabel("status", tmp_path / "out")
    assert "next:" not in done.stdout
    assert "goes on where it stopped" in done.stdout
    words = ["label", "my photos", "--out", "labels", "-m", "squeezenet1_1", "--engine", "inline", "--limit", "2"]
    words += ["--weights-dir", str(sample_data / "weights"), "--labels", str(sample_data / "classes.txt")]
    (tmp_path / "my photos").symlink_to(sample_data)
    shardlabel(*words, cwd=tmp_path)
    (tmp_path / "labels" / "_SUCCESS").unlink()
    done = shardlabel("status", "labels", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == f"next: shardlabel {shlex.join(words)}"
    assert label(str(sample_data), tmp_path / "out", **options(sample_data, limit=10, rows_per_part=5)).exit_code == 0
    assert status(tmp_path / "out").command == ()
