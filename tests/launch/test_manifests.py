"""The manifests against the published schemas, where unknown fields and wrong types fail, and against the program."""

import copy
import re
import shlex
from pathlib import Path

import pytest
import yaml

from sandbox_service.__main__ import parse
from sandbox_service.policy import Policy

pytestmark = pytest.mark.deep
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")

LAUNCH = Path(__file__).parents[2] / "launch"
# The oldest that has every field used, and a recent one.
VERSIONS = ("1.31", "1.34")
AGENT_SANDBOX = "extensions.agents.x-k8s.io/v1beta1"
# Fields of the custom resources, from the Go types of sigs.k8s.io/agent-sandbox v1beta1 (extensions/api/v1beta1).
TEMPLATE = {
    "podTemplate", "volumeClaimTemplates", "networkPolicy", "networkPolicyManagement", "envVarsInjectionPolicy",
    "volumeClaimTemplatesPolicy", "generatedSecrets",
}  # fmt: skip
WARM_POOL = {"replicas": int, "sandboxTemplateRef": dict, "updateStrategy": dict}
CLAIM = {"warmPoolRef": dict, "lifecycle": dict, "additionalPodMetadata": dict, "safeToEvict": str, "env": list}
LIFECYCLE = {"shutdownTime": str, "ttlSecondsAfterFinished": int, "shutdownPolicy": str}


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((LAUNCH / "kubernetes" / name).read_text()))


EVERYTHING = {name: documents(name) for name in ("service.yaml", "one-pod-per-sandbox.yaml")}
BY_KIND = {d["kind"]: d for name in EVERYTHING for d in EVERYTHING[name]}


def check(document: dict, version: str) -> None:
    """Raises when a document is not what the schemas say."""
    if document["apiVersion"] != AGENT_SANDBOX:
        kubernetes_validate.validate(document, version, strict=True)
        return
    assert document.keys() <= {"apiVersion", "kind", "metadata", "spec"}
    spec, kind = document["spec"], document["kind"]
    if kind == "SandboxTemplate":
        assert spec.keys() <= TEMPLATE
        # What it embeds are Kubernetes' own types.
        pod = {"apiVersion": "v1", "kind": "Pod", **spec["podTemplate"]}
        kubernetes_validate.validate(pod, version, strict=True)
        rules = {**spec["networkPolicy"], "podSelector": {}}
        policy = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "x"},
            "spec": rules,
        }
        kubernetes_validate.validate(policy, version, strict=True)
        assert spec["networkPolicyManagement"] in ("Managed", "Unmanaged")
        assert spec["envVarsInjectionPolicy"] in ("Allowed", "Overrides", "Disallowed")
        return
    fields = {"SandboxWarmPool": WARM_POOL, "SandboxClaim": CLAIM}[kind]
    assert all(isinstance(value, fields[name]) for name, value in spec.items())
    for name in ("sandboxTemplateRef", "warmPoolRef"):
        assert spec.get(name, {"name": ""}).keys() == {"name"}
    assert all(isinstance(value, LIFECYCLE[name]) for name, value in spec.get("lifecycle", {}).items())
    assert spec.get("lifecycle", {}).get("shutdownPolicy", "Delete") in ("Delete", "DeleteForeground", "Retain")
    assert spec.get("updateStrategy", {"type": "Recreate"})["type"] in ("Recreate", "OnReplenish")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", BY_KIND)
def test_what_the_schemas_say(kind, version):
    check(BY_KIND[kind], version)


def broken(kind: str, path: str, value) -> dict:
    """A copy with one place changed."""
    document = copy.deepcopy(BY_KIND[kind])
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    place[last] = value
    return document


CONTAINER = "spec.template.spec.containers.0"


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "spec.replica", 3),
        ("Deployment", "spec.replicas", "3"),
        ("Deployment", f"{CONTAINER}.readinessProbe.httpGet.port", {}),
        ("Deployment", f"{CONTAINER}.securityContext.readOnlyRootFileSystem", True),
        ("Deployment", f"{CONTAINER}.ports.0.containerPort", "50051"),
        ("HorizontalPodAutoscaler", "spec.metrics.0.pods.target.averageValu", "1"),
        ("NetworkPolicy", "spec.ingress.0.ports.0.protocols", "TCP"),
        ("PodDisruptionBudget", "spec.maxUnavailable", []),
        ("SandboxTemplate", "spec.podTemplate.spec.runtimeClass", "kata"),
        ("SandboxTemplate", "spec.runtimeClassName", "kata"),
        ("SandboxTemplate", "spec.networkPolicy.ingres", []),
        ("SandboxWarmPool", "spec.replicas", "16"),
        ("SandboxClaim", "spec.lifecycle.shutdownPolicy", "Later"),
    ],
)
def test_the_check_can_fail(kind, path, value):
    with pytest.raises((kubernetes_validate.ValidationError, AssertionError, KeyError)):
        check(broken(kind, path, value), VERSIONS[-1])


def containers() -> list[dict]:
    deployment = BY_KIND["Deployment"]["spec"]["template"]["spec"]["containers"]
    return [*deployment, *BY_KIND["SandboxTemplate"]["spec"]["podTemplate"]["spec"]["containers"]]


def test_the_program_takes_the_arguments():
    for container in containers():
        options = parse(container["args"])
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert options.bind.rpartition(":")[2] == str(ports["grpc"])
        assert options.metrics.rpartition(":")[2] == str(ports["metrics"])
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {str(options.state), str(options.credentials), str(options.tasks[0].parent)} <= mounts
    assert BY_KIND["SandboxTemplate"]["spec"]["podTemplate"]["spec"]["activeDeadlineSeconds"] > Policy.lifetime_s


def test_everything_speaks_of_the_same_pods():
    labels = BY_KIND["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [BY_KIND[k]["spec"]["selector"] for k in ("Deployment", "PodDisruptionBudget")]
    assert [s["matchLabels"] for s in selectors] == [labels, labels]
    assert BY_KIND["Service"]["spec"]["selector"] == labels and BY_KIND["Service"]["spec"]["clusterIP"] == "None"
    assert BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "sandbox-service"
    runtime_class = BY_KIND["SandboxTemplate"]["spec"]["podTemplate"]["spec"]["runtimeClassName"]
    assert BY_KIND["RuntimeClass"]["metadata"]["name"] == runtime_class
    assert BY_KIND["SandboxWarmPool"]["spec"]["sandboxTemplateRef"]["name"] == "sandbox-session"
    assert BY_KIND["SandboxClaim"]["spec"]["warmPoolRef"]["name"] == "sandbox-session"


def test_pods_reach_nothing_and_hold_no_secrets_of_the_cluster():
    template = BY_KIND["SandboxTemplate"]["spec"]
    for spec in (BY_KIND["Deployment"]["spec"]["template"]["spec"], template["podTemplate"]["spec"]):
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["privileged"] is False and context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"] and "memory" in container["resources"]["limits"]
    assert BY_KIND["NetworkPolicy"]["spec"]["egress"] == template["networkPolicy"]["egress"] == []
    assert set(BY_KIND["NetworkPolicy"]["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_the_autoscaler_follows_a_metric_that_the_service_has():
    source = (LAUNCH.parent / "sandbox_service/metrics.py").read_text()
    (metric,) = BY_KIND["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "skillrl_sandbox_load"
    assert "skillrl_sandbox_load" in source and '"load": (' in source


def test_the_unit_starts_the_program():
    text = (LAUNCH / "sandbox-service.service").read_text().replace("\\\n", " ")
    command = re.search(r"^ExecStart=(.*)$", text, re.M)[1]
    words = shlex.split(command)
    assert words[1:3] == ["-m", "sandbox_service"]
    options = parse(words[3:])
    assert str(options.state) == "/var/lib/sandbox-service" and "StateDirectory=sandbox-service" in text
    assert "Delegate=cpu memory pids" in text and "RestartPreventExitStatus=2 3" in text
