"""A live job's /metrics holds whatever dashboard and alerts ask for, with the types and labels that they count on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass

import pytest
import yaml
from conftest import REPOSITORY, SAMPLE_DATA
from prometheus_client.parser import text_string_to_metric_families
from promql import asked_for

from pipeline.metrics import (
    CATALOGUE,
    DEVICE_MEMORY,
    DEVICE_MEMORY_TOTAL,
    JOB_LABEL,
    LABELER_DEATHS,
    Kind,
    markdown_table,
)

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
    fingerprint: str
    said: str


def read(texts: list[str], fingerprint: str, said: str) -> Scrape:
    found = Scrape({}, defaultdict(set), {}, fingerprint, said)
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.kinds[sample.name] = family.type
                found.labels[sample.name] |= sample.labels.keys()
                for label in ("outcome", "stage", "state", "queue", "source", "reason", JOB_LABEL):
                    if label in sample.labels:
                        found.values[sample.name, sample.labels[label]] = sample.value
    return found


@pytest.fixture(scope="module")
def scraped(tmp_path_factory) -> Scrape:
    folder = tmp_path_factory.mktemp("scraped")
    cut = folder / "cut.tar"  # damage, so that there is an event to count
    cut.write_bytes((SAMPLE_DATA / "shard-000.tar").read_bytes()[:200_000])
    (folder / "scrapes").mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
        "RAY_metrics_report_interval_ms": "1000",
    }
    script = REPOSITORY / "tests" / "scraped_job.py"
    ran = subprocess.run(
        [sys.executable, script, cut, folder / "out", folder / "scrapes"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    texts = [path.read_text() for path in sorted((folder / "scrapes").iterdir())]
    fingerprint = json.loads((folder / "out" / "job.json").read_text())["fingerprint"]
    return read(texts, fingerprint, ran.stdout + ran.stderr)


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
    assert 0 < value("images_total", "labelled") <= 300
    assert value("shard_events_total", "shard_truncated") == 1
    assert value("units_total", "finished") >= 1
    assert 0 < value("job_images", job) <= value("job_images_expected", job)
    assert value("job_units", "done") + value("job_units", "failed") + value("job_units", "left") == 4
    assert value("job_bad_ratio_limit", job) == 0.5
    for stage in ("read", "hash", "decode", "resize", "classify", "write"):
        assert value("stage_seconds_total", stage) > 0
    assert value("process_memory_bytes", job) > 100 << 20
    assert scraped.said == ""  # nobody hears of metrics on a terminal


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
