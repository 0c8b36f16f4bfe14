"""The manifests of Kubernetes and the units of systemd, judged by their own tools and schemas."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from cstor_core.settings import load_settings, parse_address
from cstor_target.settings import TargetSettings
from replica.settings import ReplicaSettings
from tests.system.manifests import (
    DIRECTORY,
    FOUNDING,
    Document,
    built,
    containers,
    environment,
    only,
    templates,
)
from tests.system.tools import check, program

pytestmark = pytest.mark.system

UNITS = DIRECTORY.parent / "systemd"
EXPOSURE_MAX = 20
"""Of systemd's ten points of exposure, in tenths."""
NEEDED = {"state_dir": "state", "volume": "vol1", "replica": ["a:1"]}
VOLUME_PORTS = {"cstor-iscsi": 3260, "cstor-grpc": 7777, "mgmt": 6060, "exporter": 9500}
REPLICA_PORTS = {"cstor-replica": 7778, "exporter": 9501}


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """What is applied for one volume."""
    return built()


@pytest.fixture(scope="module")
def two_volumes(
    documents: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> list[Document]:
    """The same with a second volume, made as the how-to says."""
    copy = tmp_path_factory.mktemp("deploy") / "kubernetes"
    shutil.copytree(DIRECTORY, copy)
    shutil.copytree(copy / "vol1", copy / "vol2")
    file = copy / "vol2" / "kustomization.yaml"
    file.write_text(file.read_text().replace("vol1", "vol2"))
    return [*documents, *built(copy / "vol2")]


def selects(selector: dict[str, str], template: Document) -> bool:
    """Whether a selector of labels chooses the pods of a template."""
    labels: dict[str, str] = template["metadata"]["labels"]
    return selector.items() <= labels.items()


@pytest.mark.parametrize("directory", [DIRECTORY, FOUNDING], ids=["all", "founding"])
def test_manifests_are_what_the_schemas_of_kubernetes_say(directory: Path) -> None:
    for document in built(directory):
        version = kubernetes_validate.latest_version()
        kubernetes_validate.validate(document, version, strict=True)


def test_the_example_of_a_claim_is_what_the_schemas_say() -> None:
    text = (DIRECTORY / "persistent-volume.yaml").read_text()
    for document in yaml.safe_load_all(text):
        version = kubernetes_validate.latest_version()
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_know_a_field_that_there_is_not(documents: list[Document]) -> None:
    document = only(documents, "Deployment", "cstor-target") | {"specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_services_have_the_ports_that_initiators_operators_and_scrapers_know(
    documents: list[Document],
) -> None:
    for name, ports in (("cstor-target-vol1", VOLUME_PORTS), ("cstor-replica", REPLICA_PORTS)):
        spec = only(documents, "Service", name)["spec"]
        assert {port["name"]: port["port"] for port in spec["ports"]} == ports
        (template,) = (each for _, each in templates(documents) if selects(spec["selector"], each))
        (container,) = template["spec"]["containers"]
        open_ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert open_ports == ports
        assert all(port["targetPort"] == port["name"] for port in spec["ports"])
        variables = environment(container, documents)
        for number in ports.values():
            assert any(value == f"0.0.0.0:{number}" for value in variables.values())


def test_network_policies_name_ports_of_pods(documents: list[Document]) -> None:
    known = {*VOLUME_PORTS, *REPLICA_PORTS, 53}
    for document in documents:
        if document["kind"] == "NetworkPolicy":
            rules = document["spec"]["ingress"] + document["spec"]["egress"]
            assert {port["port"] for rule in rules for port in rule["ports"]} <= known


def test_each_service_and_policy_chooses_the_pods_of_one_volume(
    two_volumes: list[Document],
) -> None:
    of_a_volume = re.compile(r"cstor-target-(vol\d)")
    for kind, field in (("Service", "selector"), ("NetworkPolicy", "podSelector")):
        for document in two_volumes:
            if document["kind"] != kind:
                continue
            selector = document["spec"][field]
            chosen = [
                name
                for name, template in templates(two_volumes)
                if selects(selector.get("matchLabels", selector), template)
            ]
            assert chosen == [document["metadata"]["name"]]
    names = {match[1] for name, _ in templates(two_volumes) if (match := of_a_volume.match(name))}
    assert names == {"vol1", "vol2"}


def test_a_second_volume_reaches_the_same_replicas(two_volumes: list[Document]) -> None:
    labels = only(two_volumes, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for document in two_volumes:
        if document["metadata"]["name"].startswith("cstor-target-vol") and document["kind"] == (
            "NetworkPolicy"
        ):
            replicas, _names = document["spec"]["egress"]
            (expression,) = replicas["to"][0]["podSelector"]["matchExpressions"]
            assert "matchLabels" not in replicas["to"][0]["podSelector"]
            assert labels[expression["key"]] in expression["values"]


def pods(documents: list[Document]) -> Iterator[tuple[str, Document, Document]]:
    """Each container that is made: whose, its pod's spec and its own."""
    for name, template in templates(documents):
        for container in containers(template):
            yield f"{name}/{container['name']}", template["spec"], container


@pytest.mark.parametrize("directory", [DIRECTORY, FOUNDING], ids=["all", "founding"])
def test_pods_have_no_more_rights_than_they_need(directory: Path) -> None:
    found = list(pods(built(directory)))
    assert found
    for name, spec, container in found:
        own, all_of_them = container["securityContext"], spec["securityContext"]
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["allowPrivilegeEscalation"] is False, name
        assert all_of_them["runAsNonRoot"] is True, name
        assert all_of_them["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
        assert "memory" in container["resources"]["limits"], name
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert not any("hostPath" in volume for volume in spec.get("volumes", [])), mounted


def test_settings_in_manifests_are_those_of_the_daemons(
    documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemons = (("Deployment", "cstor-target", TargetSettings), ("StatefulSet", "", ReplicaSettings))
    for kind, owner, settings in daemons:
        (container,) = only(documents, kind, owner)["spec"]["template"]["spec"]["containers"]
        prefix = settings.model_config["env_prefix"]
        variables = environment(container, documents)
        assert {name.removeprefix(prefix).lower() for name in variables} <= set(
            settings.model_fields
        )
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        load_settings(settings, {}, None)


def test_replicas_are_looked_for_and_founded_where_the_stateful_set_has_them(
    documents: list[Document],
) -> None:
    spec = only(documents, "StatefulSet")["spec"]
    assert only(documents, "Service", spec["serviceName"])["spec"]["clusterIP"] == "None"
    expected = [f"cstor-replica-{number}.cstor-replica:7778" for number in range(spec["replicas"])]
    assert spec["serviceName"] == "cstor-replica"
    configuration = only(documents, "ConfigMap")["data"]
    assert configuration["CSTOR_TARGET_REPLICA"].split(",") == expected
    (container,) = only(built(FOUNDING), "Job")["spec"]["template"]["spec"]["containers"]
    flag = "--replica="
    named = [word.removeprefix(flag) for word in container["args"] if word.startswith(flag)]
    assert named == expected
    assert all(parse_address(address).port for address in named)
    assert container["args"][3] == configuration["CSTOR_TARGET_VOLUME"]


def test_two_targets_of_a_volume_are_never_meant_to_run_at_a_time(
    documents: list[Document],
) -> None:
    spec = only(documents, "Deployment", "cstor-target")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_a_second_target_stands_by_on_another_node(tmp_path: Path) -> None:
    copy = tmp_path / "kubernetes"
    shutil.copytree(DIRECTORY, copy)
    file = copy / "vol1" / "kustomization.yaml"
    file.write_text(f"{file.read_text()}components:\n  - ../standby\n")
    documents = built(copy)
    for document in documents:
        version = kubernetes_validate.latest_version()
        kubernetes_validate.validate(document, version, strict=True)
    deployment = only(documents, "Deployment", "cstor-target")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (2, {"type": "Recreate"})
    (container,) = deployment["template"]["spec"]["containers"]
    variables = environment(container, documents)
    assert TargetSettings.model_validate(
        {"standby": variables["CSTOR_TARGET_STANDBY"]} | NEEDED
    ).standby
    # Behind one address both have the same port group, so that registrations hold.
    assert "CSTOR_TARGET_PORTAL_GROUP" not in variables
    affinity = deployment["template"]["spec"]["affinity"]["podAntiAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = term["labelSelector"]["matchLabels"]
    assert selects(labels, deployment["template"])
    assert labels["app.kubernetes.io/instance"] == "vol1"


def test_a_quorum_of_replicas_stays_on_different_nodes(documents: list[Document]) -> None:
    spec = only(documents, "StatefulSet")["spec"]
    quorum = spec["replicas"] // 2 + 1
    budget = only(documents, "PodDisruptionBudget")["spec"]
    assert spec["replicas"] - budget["maxUnavailable"] >= quorum
    affinity = spec["template"]["spec"]["affinity"]["podAntiAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    for selector in (term["labelSelector"], budget["selector"]):
        assert selects(selector["matchLabels"], spec["template"])


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """One instance of each unit, with the commands of this environment."""
    found = []
    for file in sorted(UNITS.glob("cstor*.service")) + sorted(UNITS.glob("cstor*.target")):
        unit = tmp_path / file.name.replace("@.", "@vol1.")
        text = file.read_text()
        assert file.suffix == ".target" or "ExecStart=/opt/cstor/bin/" in text
        unit.write_text(text.replace("/opt/cstor/bin", str(Path(sys.executable).parent)))
        found.append(unit)
    assert len(found) == 3
    return found


def test_units_are_what_systemd_reads(units: list[Path]) -> None:
    said = check([program("systemd-analyze"), "verify", "--man=no", *map(str, units)])
    assert said == ""


def test_units_are_hardened(units: list[Path]) -> None:
    for unit in units:
        if unit.suffix == ".service":
            limit = f"--threshold={EXPOSURE_MAX}"
            check([program("systemd-analyze"), "security", "--offline=true", limit, str(unit)])
