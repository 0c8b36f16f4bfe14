"""What is in deploy/ beside the manifests fits the product: the image, the compose file, the units'
settings, and the one version that all of them name.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from cstor_core.settings import DaemonSettings, load_settings
from cstor_target.settings import TargetSettings
from replica.settings import ReplicaSettings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SETTINGS: tuple[type[DaemonSettings], ...] = (TargetSettings, ReplicaSettings)
DEFAULT = re.compile(r"\$\{(\w+):-([^}]*)\}")
VARIABLE = re.compile(r"\b(CSTOR_(?:TARGET|REPLICA)_[A-Z_]+)\b")


def version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def compose() -> dict[str, Any]:
    """The compose file with its defaults filled in."""
    text = DEFAULT.sub(r"\2", (DEPLOY / "compose.yaml").read_text())
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def check_settings(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are settings of one daemon, and enough for it to start."""
    (kind,) = (
        kind
        for kind in SETTINGS
        if all(name.startswith(str(kind.model_config["env_prefix"])) for name in variables)
    )
    names = {name.removeprefix(str(kind.model_config["env_prefix"])).lower() for name in variables}
    assert names <= set(kind.model_fields)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    load_settings(kind, {}, None)


def test_the_compose_file_is_what_the_specification_says() -> None:
    document = compose()
    compose_spec.PyCompose.from_json(json.dumps(document)).validate()
    document["services"]["target"]["readonly"] = True
    with pytest.raises(ValueError, match="readonly"):
        compose_spec.PyCompose.from_json(json.dumps(document))


@pytest.mark.parametrize("service", ["replica-0", "replica-1", "replica-2", "target"])
def test_services_of_the_compose_file_start(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compose()["services"][service]
    check_settings(found["environment"], monkeypatch)
    (command,) = found["command"]
    assert found["healthcheck"]["test"] == ["CMD", command, "health"]


def test_services_of_the_compose_file_have_no_more_rights_than_they_need() -> None:
    services = compose()["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] == "10001:10001", name
    for port in services["target"]["ports"]:
        assert port.startswith("127.0.0.1:")


def test_the_volume_is_founded_and_served_with_the_same_replicas() -> None:
    services = compose()["services"]
    named = services["target"]["environment"]["CSTOR_TARGET_REPLICA"].split(",")
    command = services["found"]["command"]
    assert [word.removeprefix("--replica=") for word in command if "replica" in word] == named
    assert {address.partition(":")[0] for address in named} <= services.keys()
    assert services["target"]["environment"]["CSTOR_TARGET_VOLUME"] in command


@pytest.mark.parametrize("daemon", ["target", "replica"])
def test_settings_of_the_units_are_enough_to_start(
    daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = (DEPLOY / "systemd" / f"cstor-{daemon}@.service").read_text().replace("%i", "name")
    assignments = [
        word
        for line in unit.splitlines()
        if line.startswith("Environment=")
        for word in shlex.split(line.removeprefix("Environment="))
    ]
    example = (DEPLOY / "systemd" / f"cstor-{daemon}.env").read_text()
    assignments += [line for line in example.splitlines() if line and not line.startswith("#")]
    check_settings(dict(each.split("=", 1) for each in assignments), monkeypatch)


def test_every_variable_in_deploy_is_a_setting() -> None:
    known = {
        f"{kind.model_config['env_prefix']}{name.upper()}"
        for kind in SETTINGS
        for name in kind.model_fields
    }
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    found = {name for path in files for name in VARIABLE.findall(path.read_text())}
    assert len(found) > 10
    assert found <= known, found - known


def test_all_name_the_version_of_the_product() -> None:
    component = yaml.safe_load((DEPLOY / "kubernetes" / "image" / "kustomization.yaml").read_text())
    (image,) = component["images"]
    name = f"{image['newName']}:{image['newTag']}"
    assert name == f"localhost/cstor:{version()}"
    assert {service["image"] for service in compose()["services"].values()} == {name}


def test_the_image_is_built_from_the_lock_and_runs_as_nobody_in_particular() -> None:
    lines = (DEPLOY / "container" / "Containerfile").read_text()
    assert "--require-hashes" in lines
    assert re.search(r"^USER 10001:10001$", lines, re.MULTILINE)
    last_stage = lines.rpartition("\nFROM ")[2]
    assert "gcc" not in last_stage
    for architecture in ("amd64", "arm64", "x86_64", "aarch64"):
        assert architecture not in lines
