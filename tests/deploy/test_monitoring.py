"""A live job on Ray: its /metrics holds whatever dashboard and alerts ask for, with the types and labels that they
count on, and its rows are those of the inline engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import yaml
from conftest import REPOSITORY, SAMPLE_DATA
from prometheus_client.parser import text_string_to_metric_families
from promql import asked_for
from scraped_job import MEMBERS
from small_jobs import options, rows

from pipeline import label
from pipeline.metrics import (
    CATALOGUE,
    DEVICE_MEMORY,
    DEVICE_MEMORY_TOTAL,
    JOB_LABEL,
    LABELER_DEATHS,
    Kind,
    markdown_table,
)

T = TypeVar("T")

DEPLOY = REPOSITORY / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "shardlabel.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]

# what a machine without GPUs, and a job in which nobody dies, cannot show
ON_A_GPU = {DEVICE_MEMORY.exported_name, DEVICE_MEMORY_TOTAL.exported_name, "ray_node_gpus_utilization"}
AFTER_A_DEATH = {LABELER_DEATHS.exported_name}
ADDED_BY_RAY = {"SessionName", "NodeAddress", "WorkerId"}


def expressions() -> list[str]:
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    asked += [rule["expr"] for rule in RULES]
    variables = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    return asked + [re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])[1] for variable in variables]


@dataclass
class Scrape:
    """All that was seen of a job: the kind of each metric, the labels of its series, and their latest values."""

    kinds: dict[str, str]
    labels: dict[str, set[str]]
    values: dict[tuple[str, str], float]
    fingerprint: str = ""
    said: str = ""
    given: tuple[str, ...] = ()
    out: Path = Path()


def read(texts: list[str]) -> Scrape:
    found = Scrape({}, defaultdict(set), {})
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.kinds[sample.name] = family.type
                found.labels[sample.name] |= sample.labels.keys()
                for name in ("outcome", "stage", "state", "queue", "source", "reason", JOB_LABEL):
                    if name in sample.labels:
                        found.values[sample.name, sample.labels[name]] = sample.value
    return found


@pytest.fixture(scope="module")
def scraped(tmp_path_factory) -> Scrape:
    folder = tmp_path_factory.mktemp("scraped")
    cut = folder / "cut.tar"  # damage, so that there is an event to count
    cut.write_bytes((SAMPLE_DATA / "shard-000.tar").read_bytes()[:200_000])
    given = (*(str(SAMPLE_DATA / f"shard-00{number}.tar") for number in range(2)), str(cut))
    (folder / "scrapes").mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
        "RAY_metrics_report_interval_ms": "1000",
    }
    script = REPOSITORY / "tests" / "scraped_job.py"
    ran = subprocess.run(
        [sys.executable, script, folder / "out", folder / "scrapes", *given],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    found = read([path.read_text() for path in sorted((folder / "scrapes").iterdir())])
    found.fingerprint = json.loads((folder / "out" / "job.json").read_text())["fingerprint"]
    found.said = ran.stdout + ran.stderr
    found.given, found.out = given, folder / "out"
    return found


def test_a_live_job_shows_what_the_dashboard_and_the_alerts_ask_for(scraped):
    asked = {name: labels for expression in expressions() for name, labels in asked_for(expression)[0].items()}
    assert len(asked) > 20
    missing = asked.keys() - scraped.kinds.keys()
    assert missing <= ON_A_GPU | AFTER_A_DEATH
    for name, labels in asked.items():
        if name not in missing:
            assert labels <= scraped.labels[name], name


def test_series_are_grouped_by_labels_that_they_have(scraped):
    for expression in expressions():
        asked, grouped = asked_for(expression)
        if not asked.keys() & (ON_A_GPU | AFTER_A_DEATH):
            assert grouped <= set().union(*(scraped.labels[name] for name in asked)), expression


def test_a_live_job_shows_the_catalogue_as_it_is_described(scraped):
    for metric in CATALOGUE:
        name = metric.exported_name
        series = f"{name}_bucket" if metric.kind == Kind.HISTOGRAM else name
        if name in ON_A_GPU | AFTER_A_DEATH:
            continue
        assert scraped.kinds[series] == metric.kind, name
        assert {*metric.labels, JOB_LABEL} | ADDED_BY_RAY <= scraped.labels[series], name
    ours = {name for name in scraped.kinds if name.startswith("ray_shardlabel_")}
    known = [metric.exported_name for metric in CATALOGUE]
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in ours} <= set(known)


def test_what_a_live_job_shows_is_true(scraped):
    def value(name: str, label: str) -> float:
        return scraped.values[f"ray_shardlabel_{name}", label]

    job = scraped.fingerprint[:8]
    assert {label for name, label in scraped.values if name == "ray_shardlabel_job_images"} == {job}
    assert 0 < value("images_total", "labelled") <= 250
    assert value("shard_events_total", "shard_truncated") == 1
    assert value("units_total", "finished") >= 1
    assert 0 < value("job_images", job) <= value("job_images_expected", job)
    assert value("job_units", "done") + value("job_units", "failed") + value("job_units", "left") == 3
    assert value("job_bad_ratio_limit", job) == 0.5
    for stage in ("read", "hash", "decode", "resize", "classify", "write"):
        assert value("stage_seconds_total", stage) > 0
    assert value("process_memory_bytes", job) > 100 << 20
    assert scraped.said == ""  # nobody hears of metrics on a terminal


def test_it_gives_the_rows_of_the_inline_engine(scraped, tmp_path):
    words = options(SAMPLE_DATA, model=MEMBERS, rows_per_part=30)
    assert label(list(scraped.given), tmp_path / "out", **words).exit_code == 0
    for folder in ("predictions", "quarantine"):
        assert rows(scraped.out, folder).equals(rows(tmp_path / "out", folder))
        assert sorted(os.listdir(scraped.out / folder)) == sorted(os.listdir(tmp_path / "out" / folder))


@pytest.fixture
def cluster(tmp_path: Path):
    """A Ray cluster of one machine as `ray start` makes it, on 127.0.0.1: its environment and its folder."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a short path: sockets are in it
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ADDRESS": f"127.0.0.1:{port}",
    }
    words = [f"--port={port}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--dashboard-port=0"]
    head = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), "start", "--head", "--block", *words, "--temp-dir", folder],
        env={name: value for name, value in environment.items() if name != "RAY_ADDRESS"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield environment, folder
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def command(given: Path, out: Path) -> list[str]:
    words = ["-m", "pipeline", "label", str(given), "--out", str(out), "--model", "shufflenet_v2_x0_5"]
    words += ["--weights-dir", str(SAMPLE_DATA / "weights"), "--labels", str(SAMPLE_DATA / "classes.txt")]
    return [sys.executable, *words, "--precision", "fp32", "--progress", "json"]


def until(answer: Callable[[], T | None], within_s: float = 90.0) -> T:
    deadline = time.monotonic() + within_s
    while (found := answer()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_on_a_cluster_prometheus_finds_the_job_and_hears_of_a_death(cluster, tmp_path: Path):
    environment, folder = cluster
    listed = until(lambda: next(folder.glob("prom_metrics_service_discovery.json"), None))  # what prometheus.yaml reads
    for number in range(12):
        shutil.copy(SAMPLE_DATA / f"shard-00{number % 3}.tar", tmp_path / f"{number}.tar")
    job = subprocess.Popen(
        [*command(tmp_path, tmp_path / "out"), "--rows-per-part=20", "--ray-address", environment["RAY_ADDRESS"]],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )

    def victim() -> int | None:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            for mark in (tmp_path / "out" / "attempts").glob("*-1.json"):
                if any((tmp_path / "out" / "predictions").iterdir()):
                    return json.loads(mark.read_text())["pid"]
        return None

    def deaths() -> float | None:
        targets = [address for group in json.loads(listed.read_text()) for address in group["targets"]]
        texts = []
        for target in targets:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
                texts.append(answer.read().decode())
        found = read(texts)
        if LABELER_DEATHS.exported_name not in found.kinds:
            return None
        assert found.kinds[LABELER_DEATHS.exported_name] == "counter"
        assert {"SessionName", "fingerprint"} <= found.labels[LABELER_DEATHS.exported_name]
        return next(value for (name, _), value in found.values.items() if name == LABELER_DEATHS.exported_name)

    os.kill(until(victim), signal.SIGKILL)
    assert until(deaths) == 1
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 0
    lines = [json.loads(line) for line in said.splitlines()]  # not a word of Ray in between
    assert lines[-1]["event"] == "summary"
    assert lines[-1]["images"] == 4 * 245


@pytest.mark.slow
def test_without_the_packages_of_rays_dashboard_jobs_run_the_same_and_nobody_is_told(tmp_path: Path):
    # as `pip install ray[data]` alone leaves it: what ray[default] adds cannot be imported, by any of Ray's processes
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('aiohttp_cors', 'opencensus', 'opentelemetry', 'prometheus_client', 'colorful'):\n"
        "    sys.modules[name] = None\n"
    )
    done = subprocess.run(
        command(SAMPLE_DATA / "shard-000.tar", tmp_path / "out"),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert events[-1] == "summary"
    assert set(events) <= {"progress", "note", "summary"}


def test_the_page_lists_the_catalogue():
    page = (DEPLOY / "grafana" / "README.md").read_text()
    assert markdown_table() in page
    for rule in RULES:
        assert f"`{rule['alert']}`" in page


def test_names_are_in_base_units_and_no_label_is_without_bounds():
    for metric in CATALOGUE:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", metric.name)
        assert not metric.name.endswith("_total") or metric.kind != Kind.COUNTER
        assert set(metric.labels) <= {"outcome", "reason", "stage", "source", "queue", "state"}
        assert list(metric.buckets) == sorted(metric.buckets)
        if metric.unit in {"bytes", "seconds"}:
            assert metric.name.endswith(f"_{metric.unit}")
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


def test_the_dashboard_is_whole():
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identities) == len(set(identities))
    assert DASHBOARD["schemaVersion"] == 39
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "session", "fingerprint"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["type"] in {"timeseries", "stat"}  # graph panels are gone from Grafana 12
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["noValue"]
        assert panel["description"]
    for expression in expressions():
        for variable in re.findall(r"\$(\w+)", expression):
            assert variable in {"session", "fingerprint", "__rate_interval"}


def test_alerts_say_what_is_the_matter_and_what_to_do():
    for rule in RULES:
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert len(rule["annotations"]["description"]) > 100
        _, grouped = asked_for(rule["expr"])
        used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert used <= grouped
        assert {"SessionName", "fingerprint"} <= grouped


def test_kubernetes_gets_the_same_alerts():
    rules = yaml.safe_load((DEPLOY / "kubernetes/components/metrics/rules.yaml").read_text())
    assert (rules["apiVersion"], rules["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rules["spec"] == ALERTS


def test_prometheus_reads_the_alerts_and_rays_list_of_nodes():
    settings = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    assert all((DEPLOY / "prometheus" / name).exists() for name in settings["rule_files"])
    (job,) = settings["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]


@pytest.mark.parametrize(
    ("expression", "metrics", "grouped"),
    [
        (
            'sum by (a, b) (rate(m_total{x=~"$y", z!="}"}[5m])) / ignoring (a) group_left () n',
            {"m_total", "n"},
            {"a", "b"},
        ),
        ("max by (s) (delta(up[2m])) == 0 and on (s) q > 1.5e3", {"up", "q"}, {"s"}),
    ],
)
def test_the_reader_of_expressions_reads(expression, metrics, grouped):
    found, by = asked_for(expression)
    assert found.keys() == metrics
    assert grouped <= by


@pytest.mark.parametrize("expression", ["sum(m", "m}", "sum by (a)) m", "m; n"])
def test_the_reader_of_expressions_sees_what_is_none(expression):
    with pytest.raises(ValueError, match=r"bracket|no PromQL"):
        asked_for(expression)
