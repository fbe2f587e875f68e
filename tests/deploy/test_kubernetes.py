"""The manifests, rendered and read as KubeRay and Kubernetes would read them."""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import REPOSITORY

from pipeline.config.file_check import check_config_file

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
GPU_OVERLAYS = [name for name in OVERLAYS if name != "cpu"]
SCHEMA = json.loads((Path(__file__).parent / "kuberay_rayjob.json").read_text())
LABELS = {"app.kubernetes.io/part-of": "shardlabel"}
WRITABLE = {"/tmp", "/home/shardlabel"}


@functools.cache
def rendered(overlay: str) -> dict[str, dict[str, Any]]:
    """What an overlay comes to, by kind."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here to render overlays with; the base is checked without it")
    words = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()
    found = {content["kind"]: content for content in yaml.safe_load_all(done.stdout)}
    assert set(found) >= {"RayJob", "ConfigMap", "ServiceAccount", "NetworkPolicy"}
    return found


def base_job() -> dict[str, Any]:
    return yaml.safe_load((KUBERNETES / "base" / "rayjob.yaml").read_text())


def jobs() -> list[Any]:
    return [
        pytest.param(base_job, id="base"),
        *(pytest.param(lambda o=o: rendered(o)["RayJob"], id=o) for o in OVERLAYS),
    ]


def problems(job: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(job)]


def cluster(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]


def labelers(job: dict[str, Any]) -> dict[str, Any]:
    (group,) = cluster(job)["workerGroupSpecs"]
    return group


def templates(job: dict[str, Any]) -> list[dict[str, Any]]:
    head = cluster(job)["headGroupSpec"]["template"]
    return [job["spec"]["submitterPodTemplate"], head, labelers(job)["template"]]


def containers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every container that the job starts, the autoscaler among them."""
    for template in templates(job):
        yield from template["spec"]["containers"]
    if "autoscalerOptions" in cluster(job):
        yield cluster(job)["autoscalerOptions"]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def test_there_are_overlays():
    assert OVERLAYS == ["cpu", "kueue", "one-gpu", "spot-gpu"]


@pytest.mark.parametrize("job", jobs())
def test_kuberay_knows_every_field(job):
    assert problems(job()) == []


def test_an_unknown_field_or_a_wrong_type_would_be_found():
    job = copy.deepcopy(base_job())
    job["spec"]["retries"] = 5
    job["spec"]["backoffLimit"] = "5"
    labelers(job)["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    labelers(job)["rayStartParams"]["num-cpus"] = 0
    cluster(job)["authOptions"]["mode"] = "password"
    del cluster(job)["headGroupSpec"]
    found = "\n".join(problems(job))
    for said in ("'retries' was unexpected", "'5' is not of type", "'readOnlyRootFileSystem' was unexpected"):
        assert said in found
    for said in ("0 is not of type 'string'", "'password' is not one of", "'headGroupSpec' is a required"):
        assert said in found


@pytest.mark.parametrize("job", jobs())
def test_what_kuberay_demands_beyond_types(job):
    job = job()
    assert len(job["metadata"]["name"]) <= 47
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["ttlSecondsAfterFinished"] >= 0
    assert job["spec"]["backoffLimit"] > 0  # the resume path
    assert cluster(job)["authOptions"] == {"mode": "token"}
    assert cluster(job)["rayVersion"] == importlib.metadata.version("ray")
    assert cluster(job)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    group = labelers(job)
    # the driver decides by what it finds when it begins
    assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("job", jobs())
def test_nothing_runs_as_root_or_writes_where_it_should_not(job):
    for template in templates(job()):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        empty = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
        assert {"tmp", "home"} <= empty
        assert template["metadata"]["labels"] == LABELS
    for container in containers(job()):
        security = container["securityContext"]
        assert security == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == WRITABLE
        assert environment(container)["HOME"] in writable
        assert "ports" not in container  # none is opened but those that KubeRay opens inside the cluster


@pytest.mark.parametrize("job", jobs())
def test_every_container_says_what_it_needs(job):
    for container in containers(job()):
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
    # a labeler takes its pod: Ray counts limits, so less must not be asked for
    resources = labelers(job())["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_entrypoint_runs_the_file_of_the_overlay(overlay, tmp_path: Path):
    kinds = rendered(overlay)
    command, verb, option, path = shlex.split(kinds["RayJob"]["spec"]["entrypoint"])
    assert (command, verb, option) == ("shardlabel", "label", "--config")
    head = cluster(kinds["RayJob"])["headGroupSpec"]["template"]["spec"]
    (mount,) = [mount for mount in head["containers"][0]["volumeMounts"] if mount["name"] == "job"]
    (volume,) = [volume for volume in head["volumes"] if volume["name"] == "job"]
    assert volume["configMap"]["name"] == kinds["ConfigMap"]["metadata"]["name"]
    folder, name = Path(path).parent, Path(path).name
    assert str(folder) == mount["mountPath"]
    (tmp_path / name).write_text(kinds["ConfigMap"]["data"][name])
    assert kinds["ConfigMap"]["data"][name] == (KUBERNETES / "overlays" / overlay / "job.yaml").read_text()
    checked = check_config_file(str(tmp_path / name))
    assert checked.problems == ()
    assert checked.missing == ()
    assert checked.config.device == ("cuda" if overlay in GPU_OVERLAYS else "cpu")
    assert checked.config.engine == "auto"  # which is Ray there: a RayJob's entrypoint has RAY_ADDRESS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_image_one_account_and_a_gpu_for_each_labeler_or_none(overlay):
    kinds = rendered(overlay)
    job = kinds["RayJob"]
    (image,) = {container["image"] for template in templates(job) for container in template["spec"]["containers"]}
    version = importlib.metadata.version("shardlabel")
    assert image == f"registry.example.com/shardlabel:{version if overlay in GPU_OVERLAYS else f'{version}-cpu'}"
    accounts = {template["spec"]["serviceAccountName"] for template in templates(job)}
    assert accounts == {kinds["ServiceAccount"]["metadata"]["name"]}
    assert kinds["ServiceAccount"]["automountServiceAccountToken"] is False
    assert "eks.amazonaws.com/role-arn" in kinds["ServiceAccount"]["metadata"]["annotations"]
    gpus = [container["resources"]["limits"].get("nvidia.com/gpu", 0) for container in containers(job)]
    assert gpus[2] == (1 if overlay in GPU_OVERLAYS else 0)
    assert sum(gpus) == gpus[2]
    tolerated = [entry["key"] for entry in labelers(job)["template"]["spec"].get("tolerations", [])]
    assert ("nvidia.com/gpu" in tolerated) is (overlay in GPU_OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_jobs_own_pods_kuberay_and_prometheus_get_in(overlay):
    policy = rendered(overlay)["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {"matchLabels": LABELS}
    own, kuberay, prometheus = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": LABELS}}]}
    assert [port["port"] for rule in (kuberay, prometheus) for port in rule["ports"]] == [8265, 8080]


def test_spot_machines_are_for_labelers_alone_and_get_time_to_leave():
    job = rendered("spot-gpu")["RayJob"]
    assert cluster(job)["enableInTreeAutoscaling"] is True
    assert cluster(job)["autoscalerOptions"]["version"] == "v2"
    head, pod = cluster(job)["headGroupSpec"]["template"]["spec"], labelers(job)["template"]["spec"]
    for template in (head, pod):
        assert template.get("restartPolicy", "Never") == "Never"  # what version 2 of the autoscaler demands

    def operators(spec: dict[str, Any]) -> list[tuple[str, str]]:
        wanted = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        terms = wanted["nodeSelectorTerms"]
        return [(rule["key"], rule["operator"]) for term in terms for rule in term["matchExpressions"]]

    spot = ("karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType", "cloud.google.com/gke-spot")
    assert operators(pod) == [(key, "In") for key in spot]
    assert operators(head) == [(key, "NotIn") for key in spot]
    assert "tolerations" not in head
    assert head["automountServiceAccountToken"] is True
    assert "automountServiceAccountToken" not in pod
    drain = int(environment(pod["containers"][0])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert drain < pod["terminationGracePeriodSeconds"]
    assert labelers(job)["maxReplicas"] > labelers(job)["minReplicas"]


def test_kueue_gets_a_job_of_fixed_size():
    job = rendered("kueue")["RayJob"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert "enableInTreeAutoscaling" not in cluster(job)
    group = labelers(job)
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


@pytest.mark.parametrize("overlay", ["spot-gpu", "kueue"])
def test_metrics_are_scraped_from_every_pod(overlay):
    monitor = rendered(overlay)["PodMonitor"]["spec"]
    assert monitor["selector"] == {"matchLabels": LABELS}
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["metrics"]


def test_the_secret_for_s3_is_named_and_in_no_file():
    component = yaml.safe_load((KUBERNETES / "components" / "s3-secret" / "kustomization.yaml").read_text())
    (patch,) = component["patches"]
    operations = yaml.safe_load(patch["patch"])
    assert [operation["value"] for operation in operations] == [[{"secretRef": {"name": "shardlabel-s3"}}]] * 2
    paths = [operation["path"].removesuffix("/envFrom").lstrip("/").split("/") for operation in operations]
    for path in paths:
        at: Any = base_job()
        for step in path:
            at = at[int(step)] if isinstance(at, list) else at[step]
        assert at["name"] in {"ray-head", "ray-worker"}
    kinds = {
        content.get("kind")
        for file in KUBERNETES.rglob("*.yaml")
        for content in yaml.safe_load_all(file.read_text())
        if isinstance(content, dict)
    }
    assert "Secret" not in kinds
