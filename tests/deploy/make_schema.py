"""Makes kuberay_rayjob.json: what fields a RayJob has and of what type, taken from KubeRay's own definition.

KubeRay (https://github.com/ray-project/kuberay, Apache-2.0) describes its resources in a file of 1.4 MB, nine tenths of
it prose and the same pod template told three times. Kept are names, types, allowed values and what is required, of what
a manifest here could use; equal parts are kept once. To renew it, with a checkout of KubeRay:

    python tests/deploy/make_schema.py KUBERAY v1.7.0 > tests/deploy/kuberay_rayjob.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import yaml

CRD = "ray-operator/config/crd/bases/ray.io_rayjobs.yaml"
KEPT = ("type", "enum", "required", "minimum", "maximum", "pattern", "anyOf")
# how deep a pod can be described that nothing here would describe
LEFT_OUT = {
    "status",
    "ephemeralContainers",
    "gcsFaultToleranceOptions",
    "historyServerOptions",
    "deletionStrategy",
    "scaleStrategy",
    "upgradeStrategy",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "windowsOptions",
    "podAffinity",
    "podAntiAffinity",
    "ephemeral",
}
VOLUMES = {"name", "emptyDir", "configMap", "secret", "projected", "persistentVolumeClaim", "hostPath", "csi"}
SHARED_FROM = 150  # characters of JSON from which an equal part is kept once


def subset(node: dict[str, Any], name: str = "") -> dict[str, Any]:
    """A definition without prose, and closed: a field that it does not name is wrong."""
    found: dict[str, Any] = {key: node[key] for key in KEPT if key in node}
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if name == "metadata" and "properties" not in node:
        return {"type": "object"}  # Kubernetes' own
    if "properties" in node:
        kept = {
            key: subset(value, key)
            for key, value in node["properties"].items()
            if key not in LEFT_OUT and (name != "volumes[]" or key in VOLUMES)
        }
        found |= {"properties": kept, "additionalProperties": False}
    elif "additionalProperties" in node:
        found["additionalProperties"] = subset(node["additionalProperties"])
    if "items" in node:
        found["items"] = subset(node["items"], f"{name}[]")
    return found


def share(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema with equal parts moved to ``$defs``."""
    counts: Counter[str] = Counter()

    def count(node: object) -> None:
        if isinstance(node, dict):
            counts[json.dumps(node, sort_keys=True)] += 1
            if counts[json.dumps(node, sort_keys=True)] > 1:
                return
            for value in node.values():
                count(value)

    count(schema)
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def replaced(node: Any, top: bool = False) -> Any:
        if not isinstance(node, dict):
            return node
        text = json.dumps(node, sort_keys=True)
        if top or "type" not in node or counts[text] < 2 or len(text) < SHARED_FROM:
            return {key: replaced(value) for key, value in node.items()}
        if text not in names:
            names[text] = f"part{len(names) + 1}"
            definitions[names[text]] = replaced(node, top=True)
        return {"$ref": f"#/$defs/{names[text]}"}

    return {**replaced(schema, top=True), "$defs": definitions}


def main(checkout: str, version: str) -> None:
    text = subprocess.run(
        ["git", "-C", checkout, "show", f"{version}:{CRD}"], capture_output=True, text=True, check=True
    ).stdout
    definition = yaml.load(text, Loader=yaml.CSafeLoader)
    (served,) = [entry for entry in definition["spec"]["versions"] if entry["name"] == "v1"]
    schema = subset(served["schema"]["openAPIV3Schema"])
    comment = f"Made by make_schema.py from {CRD} of KubeRay {version} (github.com/ray-project/kuberay, Apache-2.0)"
    print(json.dumps({"$comment": comment, **share(schema)}, separators=(",", ":")).replace('"part', '\n"part'))


if __name__ == "__main__":
    main(*sys.argv[1:])
