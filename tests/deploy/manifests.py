"""The manifests as `kubectl kustomize` renders them, and what pods they make."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
Manifest = dict[str, Any]


@cache
def render(overlay: str) -> list[Manifest]:
    """All objects of an overlay; skips the test where there is no kubectl with a Kustomize that knows components."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: it renders the manifests")
    command = [kubectl, "kustomize", str(KUBERNETES / "overlays" / overlay)]
    rendered = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


@dataclass(frozen=True)
class Pod:
    """A pod template of a manifest: whose it is, its labels, its spec."""

    owner: str
    labels: dict[str, str]
    spec: Manifest

    @property
    def containers(self) -> list[Manifest]:
        found: list[Manifest] = self.spec["containers"]
        return found

    @property
    def starting(self) -> list[Manifest]:
        found: list[Manifest] = self.spec.get("initContainers", [])
        return found

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for one in self.containers for port in one.get("ports", [])}


def pods(manifests: list[Manifest]) -> Iterator[Pod]:
    """The pod templates of workloads and of the Ray cluster's groups, these with the labels that KubeRay adds."""
    for one in manifests:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] == "RayCluster":
            added = {"ray.io/cluster": one["metadata"]["name"]}
            for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
                template = group["template"]
                yield Pod(
                    f"{name}/{group.get('groupName', 'head')}", template["metadata"]["labels"] | added, template["spec"]
                )
        elif "template" in spec:
            yield Pod(name, spec["template"]["metadata"]["labels"], spec["template"]["spec"])


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector (``matchLabels`` and ``In`` expressions) matches."""
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


def named(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Objects of a kind by name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}
