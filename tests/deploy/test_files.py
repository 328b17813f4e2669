"""Dockerfile, compose and Kubernetes files: valid, and what they say to the daemon is what it understands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocssd_tcp.config import Config, load
from tests.deploy.conftest import Check
from tests.deploy.containers import ROOT

yaml = pytest.importorskip("yaml", reason="no yaml: pip install -e '.[deploy]'")

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
KUBERNETES = DEPLOY / "kubernetes"
BASE, FLEET = KUBERNETES / "base", KUBERNETES / "overlays/fleet"
MANIFESTS = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")
#: Resources that Kubernetes itself does not define; their schema is the Prometheus operator's.
CUSTOM = {"podmonitor.yaml"}
IMAGE_DEFAULTS = [DEPLOY / "image.toml", DEPLOY / "drive.toml"]


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def daemon(environment: dict[str, str]) -> Config:
    """The configuration of a daemon in the image with these variables."""
    return load(IMAGE_DEFAULTS, environment=environment)


# --- Dockerfile and compose -------------------------------------------------------------------------------


def test_the_dockerfile_has_no_known_mistakes(checker: Check) -> None:
    checker("hadolint", ROOT / "Dockerfile")


def test_the_build_context_is_what_the_dockerfile_copies() -> None:
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for word in line.split()
    }
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept
    assert all((ROOT / path).exists() for path in copied)


def test_the_compose_file_is_valid(checker: Check) -> None:
    checker("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_the_files_that_compose_mounts_exist() -> None:
    for service in documents(COMPOSE)[0]["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in documents(COMPOSE)[0]["volumes"]


def test_drives_of_compose_are_told_apart_and_tell_of_each_other() -> None:
    services = documents(COMPOSE)[0]["services"]
    drives = {
        name: service for name, service in services.items() if "OCSSD_SET_TARGET__NQN" in service.get("environment", {})
    }
    configs = {name: daemon(service["environment"]) for name, service in drives.items()}
    assert len({config.target.nqn for config in configs.values()}) == len(configs) == 2
    assert len({config.drive.serial for config in configs.values()}) == 2
    for name, config in configs.items():
        assert {peer.host for peer in config.discovery.peers} == configs.keys() - {name}
        published = [port.rpartition(":")[0] for port in drives[name]["ports"] if port.endswith(":4420")]
        assert [str(address) for address in config.target.advertise] == published


def test_prometheus_watches_the_drives_of_compose() -> None:
    targets = documents(DEPLOY / "prometheus.yml")[0]["scrape_configs"][0]["static_configs"][0]["targets"]
    port = daemon({}).observe.listen
    assert port is not None
    services = documents(COMPOSE)[0]["services"]
    assert {f"{name}:{port.port}" for name in services if name.startswith("drive-")} == set(targets)


# --- Kubernetes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in MANIFESTS if path.name not in CUSTOM], ids=lambda path: path.name)
def test_a_manifest_is_valid(path: Path, checker: Check, tmp_path: Path) -> None:
    complete = path
    if path == FLEET / "drives.yaml":  # a patch says only what differs
        complete = tmp_path / path.name
        complete.write_text(yaml.safe_dump(fleet_drives()))
    checker("kubernetes-validate", "--strict", "-k", "1.31", complete)


@pytest.mark.parametrize("folder", [BASE, FLEET], ids=lambda folder: folder.name)
def test_a_kustomization_names_files_that_exist_and_all_of_them(folder: Path) -> None:
    (kustomization,) = documents(folder / "kustomization.yaml")
    patches = [patch["path"] for patch in kustomization.get("patches", [])]
    named = {folder / name for name in [*kustomization["resources"], *patches]}
    assert all(path.exists() for path in named)
    assert {path for path in named if path.suffix} == set(folder.glob("*.yaml")) - {folder / "kustomization.yaml"}


def test_the_overlay_changes_what_the_base_has() -> None:
    (kustomization,) = documents(FLEET / "kustomization.yaml")
    resources = [document for path in sorted(BASE.glob("[!k]*.yaml")) for document in documents(path)]
    sets = {each["metadata"]["name"] for each in resources if each["kind"] == "StatefulSet"}
    assert {each["name"] for each in kustomization["replicas"]} <= sets
    images = {container["image"].partition(":")[0] for _, container in pods()}
    assert {each["name"] for each in kustomization["images"]} == images
    (monitor,) = documents(FLEET / "podmonitor.yaml")
    labels = documents(BASE / "kustomization.yaml")[0]["labels"][0]
    assert monitor["spec"]["selector"]["matchLabels"] == labels["pairs"]
    assert labels["includeTemplates"] is True
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert all(endpoint["port"] in ports(container) for _, container in pods())


def workload(path: Path, kind: str) -> dict[str, Any]:
    return next(document for document in documents(path) if document["kind"] == kind)


def pods() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(specification, its container) of each kind of pod."""
    for name, kind in (("drives", "StatefulSet"), ("discovery", "Deployment")):
        specification = workload(BASE / f"{name}.yaml", kind)["spec"]["template"]["spec"]
        (container,) = specification["containers"]
        yield specification, container


def ports(container: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def fleet_drives() -> dict[str, Any]:
    """The StatefulSet as kustomize makes it of the base and the overlay: variables by name, the claim as a whole."""
    merged = workload(BASE / "drives.yaml", "StatefulSet")
    (patch,) = documents(FLEET / "drives.yaml")
    (container,) = merged["spec"]["template"]["spec"]["containers"]
    (change,) = patch["spec"]["template"]["spec"]["containers"]
    assert change.keys() == {"name", "env"}
    assert change["name"] == container["name"]
    assert patch["metadata"] == merged["metadata"]
    container["env"] += change["env"]
    merged["spec"]["volumeClaimTemplates"] = patch["spec"]["volumeClaimTemplates"]
    return merged


def variables(container: dict[str, Any], pod: str) -> dict[str, str]:
    """The environment of a container in the pod of that name."""
    found: dict[str, str] = {}
    for entry in container["env"]:
        if "valueFrom" in entry:
            assert entry["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
            found[entry["name"]] = pod
        else:  # $(NAME) stands for a variable further up
            found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], entry["value"])
    return found


@pytest.mark.parametrize(
    "drives", [workload(BASE / "drives.yaml", "StatefulSet"), fleet_drives()], ids=["base", "fleet"]
)
def test_each_replica_is_a_drive_of_its_own_on_a_volume_that_holds_it(drives: dict[str, Any]) -> None:
    (container,) = drives["spec"]["template"]["spec"]["containers"]
    configs = [daemon(variables(container, f"{drives['metadata']['name']}-{i}")) for i in (0, 1, 999)]
    assert len({config.target.nqn for config in configs}) == len({config.drive.serial for config in configs}) == 3
    (claim,) = drives["spec"]["volumeClaimTemplates"]
    gibibytes = int(re.fullmatch(r"(\d+)Gi", claim["spec"]["resources"]["requests"]["storage"])[1])  # type: ignore[index]
    geometry = configs[0].namespaces[0].geometry
    assert geometry.ncap * geometry.block_stride < gibibytes << 30
    assert {mount["name"] for mount in container["volumeMounts"]} == {claim["metadata"]["name"]}


def test_the_discovery_service_reads_the_drives_and_is_none() -> None:
    container = next(container for _, container in pods() if container["name"] == "discovery")
    config = daemon(variables(container, "x"))
    headless = workload(BASE / "drives.yaml", "Service")
    assert config.discovery.only
    assert [peer.host for peer in config.discovery.peers] == [headless["metadata"]["name"]]
    assert headless["spec"]["clusterIP"] == "None"


def test_ports_and_probes_are_those_of_the_image() -> None:
    config = daemon({})
    assert config.observe.listen is not None
    for _, container in pods():
        assert ports(container) == {"nvme": config.target.listen[0].port, "http": config.observe.listen.port}
        probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in container]
        assert {probe["httpGet"]["path"] for probe in probes} == {"/readyz", "/healthz"}
        assert {probe["httpGet"]["port"] for probe in probes} == {"http"}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data"}


def test_pods_meet_the_restricted_standard() -> None:
    """Pod Security Standards, "restricted"."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    for specification, container in pods():
        context, own = specification["securityContext"], container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in dockerfile
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not specification.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        kinds = {key for volume in specification.get("volumes", []) for key in volume} - {"name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim"}
    (namespace,) = documents(FLEET / "namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_dashboard_that_compose_mounts_is_json() -> None:
    assert json.loads((DEPLOY / "grafana/ocssd-dashboard.json").read_text())["panels"]
