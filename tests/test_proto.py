"""The .proto files keep the rules of the protobuf style guide, and the stubs are made from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

from proto.generate import HERE, OUT, generate

CAMEL = re.compile(r"[A-Z][a-z0-9]*(?:[A-Z][a-z0-9]*)*")
SNAKE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
SHOUT = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")

MADE_BY_PROTOC = ("*.py", "*.pyi")
SYNTAX_PATH = [12]
"""Where a FileDescriptorProto keeps `syntax`: the comment above it is the file's."""


def described(folder: Path) -> list[FileDescriptorProto]:
    """The .proto files below a folder as protoc understands them, with their comments."""
    out = folder / "descriptors.bin"
    sources = sorted(str(path.relative_to(HERE)) for path in HERE.rglob("*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={HERE}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--descriptor_set_out={out}",
            "--include_source_info",
            *sources,
        ]
    )
    assert status == 0
    assert sources
    return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def upper_snake(camel: str) -> str:
    """`MemberStatus` as the prefix of its values: `MEMBER_STATUS`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", camel).upper()


def faults_of_enum(enum: EnumDescriptorProto) -> Iterator[str]:
    """What the style guide says against an enum."""
    if not CAMEL.fullmatch(enum.name):
        yield f"enum {enum.name}: not CamelCase"
    prefix = upper_snake(enum.name) + "_"
    zero = enum.value[0]
    if zero.number != 0 or zero.name != prefix + "UNSPECIFIED":
        yield f"enum {enum.name}: its first value must be {prefix}UNSPECIFIED = 0"
    for value in enum.value:
        if not SHOUT.fullmatch(value.name) or not value.name.startswith(prefix):
            yield f"enum value {value.name}: not {prefix}UPPER_SNAKE"


def faults_of_field(owner: str, field: FieldDescriptorProto) -> Iterator[str]:
    """What the style guide says against a field."""
    if not SNAKE.fullmatch(field.name):
        yield f"field {owner}.{field.name}: not lower_snake_case"
    if field.label == FieldDescriptorProto.LABEL_REPEATED and not field.name.endswith("s"):
        yield f"field {owner}.{field.name}: a repeated field has a plural name"
    if field.label == FieldDescriptorProto.LABEL_REQUIRED:
        yield f"field {owner}.{field.name}: required can never be taken back"


def faults_of_message(message: DescriptorProto, owner: str = "") -> Iterator[str]:
    """What the style guide says against a message and what is in it."""
    name = f"{owner}{message.name}"
    if not CAMEL.fullmatch(message.name):
        yield f"message {name}: not CamelCase"
    for field in message.field:
        yield from faults_of_field(name, field)
    of_optional_fields = {field.oneof_index for field in message.field if field.proto3_optional}
    for index, oneof in enumerate(message.oneof_decl):
        if index in of_optional_fields:
            continue  # protoc makes and names these
        if not SNAKE.fullmatch(oneof.name):
            yield f"oneof {name}.{oneof.name}: not lower_snake_case"
    numbers = sorted(field.number for field in message.field)
    reserved = {n for gap in message.reserved_range for n in range(gap.start, gap.end)}
    if numbers and set(range(1, numbers[-1])) - set(numbers) - reserved:
        yield f"message {name}: a number that is not used any more must be reserved"
    for enum in message.enum_type:
        yield from faults_of_enum(enum)
    for nested in message.nested_type:
        yield from faults_of_message(nested, f"{name}.")


def faults_of_service(service: ServiceDescriptorProto) -> Iterator[str]:
    """What the style guide says against a service: each call has messages of its own."""
    if not CAMEL.fullmatch(service.name) or not service.name.endswith("Service"):
        yield f"service {service.name}: not CamelCase ending in Service"
    for method in service.method:
        if not CAMEL.fullmatch(method.name):
            yield f"rpc {method.name}: not CamelCase"
        for kind, type_name in (("Request", method.input_type), ("Response", method.output_type)):
            if type_name.rpartition(".")[2] != method.name + kind:
                yield f"rpc {method.name}: its {kind.lower()} must be {method.name}{kind}"


def faults_of_file(file: FileDescriptorProto) -> Iterator[str]:
    """What the style guide says against a file: where it lies, its package, its comment."""
    folder, _, name = file.name.rpartition("/")
    if not SNAKE.fullmatch(name.removesuffix(".proto")):
        yield f"{file.name}: not lower_snake_case.proto"
    if file.package != folder.replace("/", ".") or not re.search(r"\.v\d+$", file.package):
        yield f"{file.name}: package {file.package} is not its folder with a version"
    if file.syntax != "proto3":
        yield f"{file.name}: not proto3"
    if list(file.dependency) != sorted(file.dependency):
        yield f"{file.name}: imports are not sorted"
    locations = file.source_code_info.location
    if not any(list(at.path) == SYNTAX_PATH and at.leading_comments for at in locations):
        yield f"{file.name}: no comment at its head says what it is for"
    for enum in file.enum_type:
        yield from faults_of_enum(enum)
    for message in file.message_type:
        yield from faults_of_message(message)
    for service in file.service:
        yield from faults_of_service(service)


def test_proto_files_keep_the_style_guide(tmp_path: Path) -> None:
    faults = [
        f"{file.name}: {fault}" for file in described(tmp_path) for fault in faults_of_file(file)
    ]
    assert not faults, "\n".join(faults)


def test_stubs_are_made_from_the_proto_files_as_they_are(tmp_path: Path) -> None:
    fresh = tmp_path / "generated"
    generate(fresh)

    def contents(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): path.read_text()
            for pattern in MADE_BY_PROTOC
            for path in folder.rglob(pattern)
        }

    stale = {name for name, text in contents(fresh).items() if contents(OUT).get(name) != text} | (
        contents(OUT).keys() - contents(fresh).keys()
    )
    assert not stale, f"run make proto: {sorted(stale)}"


@pytest.mark.parametrize(
    ("enum", "fault"),
    [
        ({"name": "State", "value": [{"name": "STATE_ON", "number": 0}]}, "first value"),
        ({"name": "state", "value": [{"name": "STATE_UNSPECIFIED", "number": 0}]}, "CamelCase"),
        (
            {
                "name": "State",
                "value": [
                    {"name": "STATE_UNSPECIFIED", "number": 0},
                    {"name": "ON", "number": 1},
                ],
            },
            "UPPER_SNAKE",
        ),
    ],
)
def test_lint_sees_a_bad_enum(enum: dict[str, object], fault: str) -> None:
    message = EnumDescriptorProto(**enum)  # type: ignore[arg-type]
    assert any(fault in line for line in faults_of_enum(message))


def test_lint_sees_a_bad_message() -> None:
    message = DescriptorProto(
        name="Thing",
        field=[
            FieldDescriptorProto(name="camelCase", number=1),
            FieldDescriptorProto(name="block", number=3, label=FieldDescriptorProto.LABEL_REPEATED),
        ],
    )
    faults = "\n".join(faults_of_message(message))
    assert "lower_snake_case" in faults
    assert "plural" in faults
    assert "reserved" in faults
