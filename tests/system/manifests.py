"""What `kubectl apply -k` would send: the manifests of deploy/kubernetes, built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.system.tools import HarnessError, program, run

Document = dict[str, Any]

DIRECTORY = Path(__file__).parents[2] / "deploy" / "kubernetes"
FOUNDING = DIRECTORY / "founding"
POD_OWNERS = ("Deployment", "StatefulSet", "Job")


def built(directory: Path = DIRECTORY) -> list[Document]:
    """The documents of a kustomization.

    Raises HarnessError where it cannot be built.
    """
    ended = run([program("kubectl"), "kustomize", str(directory)])
    if ended.returncode != 0:
        raise HarnessError(
            f"kubectl kustomize {directory} ended with {ended.returncode} (it takes kubectl 1.22 "
            f"or later):\n{ended.stdout}"
        )
    return [document for document in yaml.safe_load_all(ended.stdout) if document]


def only(documents: list[Document], kind: str, name: str = "") -> Document:
    """The one document of a kind, whose name begins so."""
    (found,) = (
        document
        for document in documents
        if document["kind"] == kind and document["metadata"]["name"].startswith(name)
    )
    return found


def templates(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Each pod template, and the name of what makes pods of it."""
    for document in documents:
        if document["kind"] in POD_OWNERS:
            yield document["metadata"]["name"], document["spec"]["template"]


def containers(template: Document) -> list[Document]:
    """The containers of a pod template, those that only prepare it first."""
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(container: Document, documents: list[Document]) -> dict[str, str]:
    """The variables that a container finds."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= only(documents, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {each["name"]: each["value"] for each in container.get("env", [])}
