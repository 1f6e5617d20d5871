"""The custom resources that we write, by the fields that their operators document: KubeRay's RayCluster, Strimzi's Kafka,
KafkaNodePool, KafkaUser and KafkaTopic, Prometheus's ServiceMonitor, PodMonitor and PrometheusRule. Pod templates in them
are checked as those of Kubernetes are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Count = Annotated[int, Field(ge=0)]
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")]
Quantities = dict[Literal["cpu", "memory", "storage", "nvidia.com/gpu"], Quantity]
Duration = Annotated[str, Field(pattern=r"^\d+(ms|s|m|h)$")]


class Known(BaseModel):
    """Nothing but documented fields."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class Metadata(Known):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resources(Known):
    requests: Quantities
    limits: Quantities


class SecretKey(Known):
    name: str
    key: str


class FromSecret(Known):
    secret_key_ref: SecretKey


class Credential(Known):
    value_from: FromSecret  # a value in plain text is not ours


class GcsFaultTolerance(Known):
    redis_address: str
    redis_password: Credential
    external_storage_namespace: str


class Autoscaler(Known):
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"]
    idle_timeout_seconds: Count
    resources: Resources
    security_context: dict[str, Any]
    volume_mounts: list[dict[str, Any]]


class RayGroup(Known):
    ray_start_params: dict[str, str]
    template: dict[str, Any]


class RayWorkers(RayGroup):
    group_name: str
    replicas: Count
    min_replicas: Count
    max_replicas: Count


class RayAuth(Known):
    mode: Literal["token"]


class RayClusterSpec(Known):
    ray_version: str
    auth_options: RayAuth
    enable_in_tree_autoscaling: bool
    autoscaler_options: Autoscaler
    gcs_fault_tolerance_options: GcsFaultTolerance
    head_group_spec: RayGroup
    worker_group_specs: list[RayWorkers]


class Authentication(Known):
    type: Literal["scram-sha-512", "tls"]


class Listener(Known):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]{1,11}$")]
    port: Annotated[int, Field(ge=9092)]
    type: Literal["internal"]
    tls: Literal[True]
    authentication: Authentication
    network_policy_peers: list[dict[str, Any]] = []


class Authorization(Known):
    type: Literal["simple"]


class Brokers(Known):
    version: str
    metadata_version: str
    listeners: list[Listener]
    authorization: Authorization
    config: dict[str, int | bool | str]


class Operator(Known):
    resources: Resources


class EntityOperator(Known):
    topic_operator: Operator
    user_operator: Operator


class KafkaSpec(Known):
    kafka: Brokers
    entity_operator: EntityOperator


class Volume(Known):
    id: Count
    type: Literal["persistent-claim"]
    size: Quantity
    delete_claim: bool
    kraft_metadata: Literal["shared"]


class Storage(Known):
    type: Literal["jbod"]
    volumes: list[Volume]


class NodePoolSpec(Known):
    replicas: Count
    roles: list[Literal["controller", "broker"]]
    storage: Storage
    resources: Resources


class AclResource(Known):
    type: Literal["topic", "group", "cluster"]
    name: str = ""
    pattern_type: Literal["literal", "prefix"] = "literal"


class Acl(Known):
    resource: AclResource
    operations: list[Literal["Read", "Write", "Create", "Describe", "DescribeConfigs", "IdempotentWrite"]]


class UserAuthorization(Authorization):
    acls: list[Acl]


class KafkaUserSpec(Known):
    authentication: Authentication
    authorization: UserAuthorization


class KafkaTopicSpec(Known):
    partitions: Annotated[int, Field(ge=1)]
    replicas: Annotated[int, Field(ge=1)]
    config: dict[str, int | str]


class Requirement(Known):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []


class Selector(Known):
    match_labels: dict[str, str] = {}
    match_expressions: list[Requirement] = []


class Endpoint(Known):
    port: str
    path: str
    interval: Duration
    scrape_timeout: Duration


class Monitor(Known):
    job_label: str
    selector: Selector


class ServiceMonitorSpec(Monitor):
    endpoints: list[Endpoint]


class PodMonitorSpec(Monitor):
    pod_metrics_endpoints: list[Endpoint]


class Alert(Known):
    alert: str
    expr: str
    for_: Annotated[Duration, Field(alias="for")] = "0s"
    labels: dict[str, str]
    annotations: dict[str, str]


class Rules(Known):
    name: str
    rules: list[Alert]


class PrometheusRuleSpec(Known):
    groups: list[Rules]


SPECS: dict[tuple[str, str], type[Known]] = {
    ("ray.io/v1", "RayCluster"): RayClusterSpec,
    ("kafka.strimzi.io/v1", "Kafka"): KafkaSpec,
    ("kafka.strimzi.io/v1", "KafkaNodePool"): NodePoolSpec,
    ("kafka.strimzi.io/v1", "KafkaUser"): KafkaUserSpec,
    ("kafka.strimzi.io/v1", "KafkaTopic"): KafkaTopicSpec,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitorSpec,
    ("monitoring.coreos.com/v1", "PodMonitor"): PodMonitorSpec,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRuleSpec,
}


def check_custom(resource: dict[str, Any]) -> None:
    """Fail unless a custom resource has its kind's fields and no others."""
    assert resource.keys() == {"apiVersion", "kind", "metadata", "spec"}
    Metadata.model_validate(resource["metadata"])
    SPECS[resource["apiVersion"], resource["kind"]].model_validate(resource["spec"])
