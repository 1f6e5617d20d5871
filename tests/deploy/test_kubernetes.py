"""The manifests, by Kubernetes's schemas, by their operators' documented fields, and by what they refer to. No cluster is
needed, and none is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kubernetes_validate.utils import validate

from common.stream import REQUEST_BYTES, TOPICS
from deploy.kubernetes.prometheus_rule import ALERTS, RULE, as_rule
from tests.deploy.commands import check_command, check_shell, check_variable
from tests.deploy.custom_resources import SPECS, check_custom
from tests.deploy.manifests import Manifest, Pod, matches, named, pods, render

OVERLAYS = ("dev", "production")
VERSION = "1.34"
"""Of Kubernetes, whose schemas are used."""
PINNED = re.compile(r"[a-z0-9./-]+:\d+\.\d+\.\d+(-[a-z0-9]+)?")
MADE_ELSEWHERE = {"onerec", "onerec-kafka", "kafka-cluster-ca-cert"}
"""Secrets: by the operator of the loop, by Strimzi, by Strimzi."""


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(str(request.param))


@pytest.fixture
def all_pods(manifests: list[Manifest]) -> list[Pod]:
    return list(pods(manifests))


def test_every_object_fits_its_schema(manifests: list[Manifest]) -> None:
    for one in manifests:
        if (one["apiVersion"], one["kind"]) in SPECS:
            check_custom(one)
        else:
            validate(one, VERSION, strict=True)


def test_pod_templates_of_the_ray_cluster_fit_the_schema_of_pods(all_pods: list[Pod]) -> None:
    for pod in all_pods:
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any", "labels": pod.labels}, "spec": pod.spec}
        validate(body, VERSION, strict=True)


def test_every_container_is_pinned_confined_and_bounded(all_pods: list[Pod]) -> None:
    for pod in all_pods:
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True, pod.owner
        assert context["runAsUser"] >= 10_000, pod.owner
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, pod.owner
        assert pod.spec.get("automountServiceAccountToken") is False or pod.component == "ray-head"
        for container in pod.containers + pod.starting:
            assert PINNED.fullmatch(container["image"]), container["image"]
            confined = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == confined, (pod.owner, container["name"])
            for bound in ("requests", "limits"):
                assert container["resources"][bound].keys() >= {"cpu", "memory"}, (pod.owner, container["name"])


def test_probes_ask_at_ports_that_are_opened(all_pods: list[Pod]) -> None:
    for pod in all_pods:
        for container in pod.containers:
            if pod.component == "prepare":  # it does one thing and ends
                continue
            opened = {port["name"] for port in container["ports"]}
            for probe in ("readinessProbe", "livenessProbe"):
                asked = container[probe].get("httpGet") or container[probe].get("tcpSocket")
                assert asked is None or asked["port"] in opened, (pod.owner, probe)
            told = re.findall(
                r"--(?:metrics-|master-)?port=(\d+)", " ".join(container["command"] + container.get("args", []))
            )
            assert set(map(int, told)) <= set(pod.ports().values()), pod.owner


def test_commands_and_variables_exist(manifests: list[Manifest], all_pods: list[Pod]) -> None:
    for pod in all_pods:
        for container in pod.containers:
            if container["command"] == ["sh", "-c"]:
                check_shell(container["args"][0])
            elif container["name"] != "redis":
                check_command(container["command"])
            for variable in container.get("env", []):
                check_variable(variable["name"])
    for told in named(manifests, "ConfigMap").values():
        for variable in told["data"]:
            check_variable(variable)


def test_secrets_are_only_referred_to(manifests: list[Manifest], all_pods: list[Pod]) -> None:
    assert not named(manifests, "Secret")
    for pod in all_pods:
        for variable in (one for container in pod.containers for one in container.get("env", [])):
            if re.search(r"PASSWORD|TOKEN|KEY|URL|AUTH", variable["name"]):
                assert variable["valueFrom"]["secretKeyRef"]["name"] in MADE_ELSEWHERE


def test_what_is_referred_to_is_there(manifests: list[Manifest], all_pods: list[Pod]) -> None:
    claims, accounts = named(manifests, "PersistentVolumeClaim"), named(manifests, "ServiceAccount")
    maps = named(manifests, "ConfigMap")
    for pod in all_pods:
        assert pod.spec.get("serviceAccountName", "onerec") in accounts
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {"claimName": "run"})["claimName"] in claims
            assert volume.get("secret", {"secretName": "onerec"})["secretName"] in MADE_ELSEWHERE
        for container in pod.containers + pod.starting:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
            assert {one["configMapRef"]["name"] for one in container.get("envFrom", [])} <= maps.keys()


def test_selectors_select_something(manifests: list[Manifest], all_pods: list[Pod]) -> None:
    for service in named(manifests, "Service").values():
        found = [pod for pod in all_pods if matches({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        assert found, service["metadata"]["name"]
        assert all(port["targetPort"] in pod.ports() for pod in found for port in service["spec"]["ports"])
    for budget in named(manifests, "PodDisruptionBudget").values():
        assert any(matches(budget["spec"]["selector"], pod.labels) for pod in all_pods)
    deployments = named(manifests, "Deployment")
    for scaler in named(manifests, "HorizontalPodAutoscaler").values():
        assert "replicas" not in deployments[scaler["spec"]["scaleTargetRef"]["name"]]["spec"]


def test_network_policies_deny_what_they_do_not_name(manifests: list[Manifest], all_pods: list[Pod]) -> None:
    policies = named(manifests, "NetworkPolicy")
    deny = policies["deny-all"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & deny.keys()
    assert all(matches(deny["podSelector"], pod.labels) for pod in all_pods)
    for name, policy in policies.items():
        assert any(matches(policy["spec"]["podSelector"], pod.labels) for pod in all_pods), name


def test_every_worker_is_scraped_by_its_name(manifests: list[Manifest], all_pods: list[Pod]) -> None:
    scraped = set()
    for one in named(manifests, "PodMonitor").values():
        assert one["spec"]["jobLabel"] == "app.kubernetes.io/component"
        for pod in (pod for pod in all_pods if matches(one["spec"]["selector"], pod.labels)):
            assert {end["port"] for end in one["spec"]["podMetricsEndpoints"]} <= pod.ports().keys(), pod.owner
            scraped.add(pod.component)
    for one in named(manifests, "ServiceMonitor").values():
        for service in named(manifests, "Service").values():
            if matches(one["spec"]["selector"], service["metadata"].get("labels", {})):
                assert {end["port"] for end in one["spec"]["endpoints"]} <= {
                    port["name"] for port in service["spec"]["ports"]
                }
                scraped.add(service["metadata"]["labels"]["app.kubernetes.io/component"])
    assert scraped == {"trainer", "rollout", "learner", "tokenizer", "reward", "recommend"}


def test_topics_are_those_of_the_loop(manifests: list[Manifest], request: pytest.FixtureRequest) -> None:
    run = named(manifests, "ConfigMap")["onerec-run"]["data"]
    partitions = int(run["ONEREC_STREAM__PARTITIONS"])
    replayed = request.node.callspec.params["manifests"] == "dev"
    wanted = {
        f"onerec.main.{one.name}": (
            one.count(partitions),
            -1 if replayed and one.replayed else one.retention_ms,
            REQUEST_BYTES,
        )
        for one in TOPICS.values()
    }
    topics = named(manifests, "KafkaTopic")
    assert {
        name: (one["spec"]["partitions"], one["spec"]["config"]["retention.ms"], one["spec"]["config"]["max.message.bytes"])
        for name, one in topics.items()
    } == wanted
    brokers = named(manifests, "KafkaNodePool")["brokers"]["spec"]["replicas"]
    assert {one["spec"]["replicas"] for one in topics.values()} == {brokers}
    prepare = named(manifests, "Job")["prepare"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert "--name=main" in prepare


def test_ranks_and_actors_have_room(manifests: list[Manifest]) -> None:
    run = named(manifests, "ConfigMap")["onerec-run"]["data"]
    assert named(manifests, "StatefulSet")["trainer"]["spec"]["replicas"] == int(run["ONEREC_TRAINER__RANKS"])
    actors = named(manifests, "RayCluster")["rollout"]["spec"]["workerGroupSpecs"][0]
    room = actors["maxReplicas"] * float(actors["rayStartParams"]["num-cpus"])
    rollout = named(manifests, "ConfigMap")["onerec-rollout"]["data"]
    assert room >= int(rollout["ONEREC_ROLLOUT__ACTORS"]) * float(rollout["ONEREC_ROLLOUT__ACTOR_CPUS"])
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text()
    assert f"\nray=={named(manifests, 'RayCluster')['rollout']['spec']['rayVersion']}\n" in constraints


def test_alerts_are_those_of_prometheus() -> None:
    assert RULE.read_text() == as_rule(ALERTS.read_text())


def test_redis_lets_in_whoever_asks_it(manifests: list[Manifest]) -> None:
    (policy,) = (one for one in manifests if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "redis")
    (rule,) = policy["spec"]["ingress"]
    (chosen,) = rule["from"][0]["podSelector"]["matchExpressions"]
    assert set(chosen["values"]) == {"trainer", "rollout", "actors", "recommend", "ray-head", "dashboard"}
