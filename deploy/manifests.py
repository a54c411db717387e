"""Holds rendered Kubernetes manifests to the schemas of the Kubernetes API and of Prometheus'
operator, and to what the README promises of them. Files named after their overlay flow in as
arguments; what is wrong is printed, and the exit code is 1 if anything is."""

import pathlib
import sys

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator

# The oldest that still gets fixes anywhere, and the newest.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
ADDED = {"privileged": ["NET_RAW", "BPF", "NET_ADMIN"]}


def lost(read, written, path):
    """Every key that the model did not know: reading drops it, so that writing has it no more."""
    if isinstance(read, dict):
        for key, value in read.items():
            if not isinstance(written, dict) or key not in written:
                yield f"{path}.{key}: the schema has no such key"
            else:
                yield from lost(value, written[key], f"{path}.{key}")
    elif isinstance(read, list):
        for index, (one, other) in enumerate(zip(read, written)):
            yield from lost(one, other, f"{path}[{index}]")


def against_schema(resource):
    """What the schema of this resource's kind says against it."""
    if resource["apiVersion"].startswith("monitoring.coreos.com/"):
        try:
            model = getattr(operator, resource["kind"]).model_validate(resource)
        except ValueError as error:
            yield str(error)
            return
        written = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
        yield from lost(resource, written, resource["kind"])
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {error}"


def wrong_pod(name, pod):
    """Where the pods of this overlay may do more than the README says, or less."""
    added = ADDED.get(name, [])
    container = pod["containers"][0]
    context = container["securityContext"]
    wanted = {
        "drop": (context["capabilities"]["drop"], ["ALL"]),
        "add": (context["capabilities"].get("add", []), added),
        "readOnlyRootFilesystem": (context["readOnlyRootFilesystem"], True),
        "allowPrivilegeEscalation": (context["allowPrivilegeEscalation"], False),
        "runAsNonRoot": (pod["securityContext"]["runAsNonRoot"], not added),
        "runAsUser": (pod["securityContext"]["runAsUser"], 0 if added else 65532),
        "seccompProfile": (
            pod["securityContext"]["seccompProfile"]["type"],
            "Localhost" if added else "RuntimeDefault",
        ),
        "livenessProbe": (container["livenessProbe"]["httpGet"]["path"], "/-/healthy"),
        "readinessProbe": (container["readinessProbe"]["httpGet"]["path"], "/-/ready"),
        "volumes": (pod["volumes"], [{"name": "config", "configMap": {"name": "rttscope"}}]),
        "volumeMounts": (
            [(mount["name"], mount["readOnly"]) for mount in container["volumeMounts"]],
            [("config", True)],
        ),
        "privileged": (context.get("privileged", False), False),
    }
    for key, (found, expected) in wanted.items():
        if found != expected:
            yield f"{key} is {found!r}, wanted {expected!r}"
    if ":" not in container["image"] or container["image"].endswith(":latest"):
        yield f"the image {container['image']} has no version"


def joined(name, resources):
    """Where the resources of one overlay do not fit each other."""
    by_kind = {resource["kind"]: resource for resource in resources}
    daemon_set, service = by_kind["DaemonSet"], by_kind["Service"]
    template = daemon_set["spec"]["template"]
    pod = template["spec"]
    yield from wrong_pod(name, pod)
    ports = {port["name"] for port in pod["containers"][0]["ports"]}
    targets = {port["targetPort"] for port in service["spec"]["ports"]}
    if service["spec"]["clusterIP"] != "None" or targets != ports:
        yield "the Service is not headless, or its ports are not the container's"
    level = by_kind["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    if level != ("privileged" if name in ADDED else "restricted"):
        yield f"the namespace lets in pods that are {level}"
    policy = by_kind["NetworkPolicy"]["spec"]
    allowed = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    if allowed != ports:
        yield f"the NetworkPolicy allows {allowed}, the container has {ports}"
    labelled = [
        ("Service", service["spec"]["selector"], template["metadata"]["labels"]),
        ("DaemonSet", daemon_set["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]),
    ]
    for kind, endpoints, chosen in [
        ("ServiceMonitor", "endpoints", service["metadata"]["labels"]),
        ("PodMonitor", "podMetricsEndpoints", template["metadata"]["labels"]),
    ]:
        if kind in by_kind:
            spec = by_kind[kind]["spec"]
            labelled.append((kind, spec["selector"]["matchLabels"], chosen))
            if {endpoint["port"] for endpoint in spec[endpoints]} - ports:
                yield f"{kind}: the container has no such port"
            if chosen.get(spec["jobLabel"]) != "rttscope":
                yield f"{kind}: the job would not be rttscope, as rules and dashboards want it"
    for kind, selector, labels in labelled:
        if not selector or not selector.items() <= labels.items():
            yield f"{kind}: {selector} does not choose {labels}"
    kinds = set(by_kind) & {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    if len(kinds) != (0 if name == "base" else 2):
        yield f"it has {kinds} of Prometheus' operator"


def lenient(resource):
    """Whether the schema of this resource's kind lets a key pass that does not exist."""
    part = "spec" if "spec" in resource else "metadata"
    changed = {**resource, part: {**resource[part], "noSuchKey": 1}}
    return not list(against_schema(changed))


def check(path, seen):
    """What is wrong with one rendered overlay, but for resources that were seen before."""
    resources = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    for resource in resources:
        # Most are the same in every overlay.
        if resource in seen:
            continue
        for wrong in against_schema(resource):
            yield f"{path.stem}: {resource['kind']} {resource['metadata']['name']}: {wrong}"
        if resource["kind"] not in {other["kind"] for other in seen} and lenient(resource):
            yield f"{path.stem}: {resource['kind']}: its schema lets every key pass"
        seen.append(resource)
    for wrong in joined(path.stem, resources):
        yield f"{path.stem}: {wrong}"


def main():
    paths = [pathlib.Path(argument) for argument in sys.argv[1:]]
    seen = []
    found = [line for path in paths for line in check(path, seen)]
    for line in found:
        print(line)
    if not found:
        print(f"{len(paths)} overlays are as {', '.join(VERSIONS)} and the operator want them")
    sys.exit(1 if found or not paths else 0)


if __name__ == "__main__":
    main()
