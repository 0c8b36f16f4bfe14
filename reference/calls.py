"""The page of the calls over gRPC, from the declarations and comments of proto/."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

from reference.tables import table

PROTO = Path(__file__).parent.parent / "proto"
PACKAGE = "cstor.v1."
HEAD = """# Calls over gRPC

`cstor.v1.ControlService` answers on the control port of a target (7777),
`cstor.v1.ReplicaService` on the port of a replica daemon (7778). Both answer reflection and the
health service as well, so `grpcurl` works on them without these declarations. Fields and calls are
only ever added ([Upgrading](../upgrade.md#what-is-promised)).
"""
MESSAGE, ENUM, SERVICE = 4, 5, 6
MEMBER, NESTED_MESSAGE, NESTED_ENUM = 2, 3, 4
"""Numbers of fields of a descriptor, of which the paths of comments are made."""
SCALARS = {
    number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()
}


@dataclass(frozen=True, slots=True)
class Comments:
    """What stands before the declarations of a file."""

    by_path: dict[tuple[int, ...], str]

    @classmethod
    def of(cls, file: FileDescriptorProto) -> Comments:
        """All of them, by the paths of what they are of."""
        locations = file.source_code_info.location
        return cls({tuple(one.path): one.leading_comments.strip() for one in locations})

    def at(self, *path: int) -> str:
        """That of one declaration; empty where there is none."""
        return self.by_path.get(path, "")


def calls_page() -> str:
    """The page as Markdown.  Raises RuntimeError where protoc refuses the declarations."""
    parts = [HEAD]
    for file in _declarations():
        comments = Comments.of(file)
        for index, service in enumerate(file.service):
            parts.append(_service(service, comments, (SERVICE, index)))
    parts.append("## Messages\n")
    for file in _declarations():
        comments = Comments.of(file)
        for index, message in enumerate(file.message_type):
            parts += _message("", message, comments, (MESSAGE, index))
        for index, enum in enumerate(file.enum_type):
            parts.append(_enum("", enum, comments, (ENUM, index)))
    return "\n".join(parts)


def _declarations() -> list[FileDescriptorProto]:
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        words = [
            "protoc",
            f"--proto_path={PROTO}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            "--include_source_info",
            f"--descriptor_set_out={out.name}",
            *sources,
        ]
        if protoc.main(words) != 0:
            raise RuntimeError("protoc refused the .proto files; its words are above")
        return list(FileDescriptorSet.FromString(Path(out.name).read_bytes()).file)


def _service(service: ServiceDescriptorProto, comments: Comments, path: Sequence[int]) -> str:
    rows = []
    for index, call in enumerate(service.method):
        asked = _link(call.input_type, is_stream=call.client_streaming)
        answered = _link(call.output_type, is_stream=call.server_streaming)
        words = comments.at(*path, MEMBER, index)
        rows.append((f"`{call.name}`", asked, answered, words))
    head = ("call", "asks with", "is answered with", "")
    return f"## {service.name}\n\n{comments.at(*path)}\n\n{table(head, rows)}"


def _message(
    where: str, message: DescriptorProto, comments: Comments, path: tuple[int, ...]
) -> Iterator[str]:
    name = where + message.name
    rows = [
        (
            str(field.number),
            f"`{field.name}`",
            _type(field, message),
            comments.at(*path, MEMBER, index),
        )
        for index, field in enumerate(message.field)
    ]
    fields = table(("number", "field", "type", ""), rows) if rows else "It has no fields.\n"
    yield f"### {name}\n\n{comments.at(*path)}\n\n{fields}"
    for index, nested in enumerate(message.nested_type):
        yield from _message(f"{name}.", nested, comments, (*path, NESTED_MESSAGE, index))
    for index, enum in enumerate(message.enum_type):
        yield _enum(f"{name}.", enum, comments, (*path, NESTED_ENUM, index))


def _enum(where: str, enum: EnumDescriptorProto, comments: Comments, path: tuple[int, ...]) -> str:
    rows = [
        (str(value.number), f"`{value.name}`", comments.at(*path, MEMBER, index))
        for index, value in enumerate(enum.value)
    ]
    values = table(("number", "value", ""), rows)
    return f"### {where}{enum.name}\n\n{comments.at(*path)}\n\n{values}"


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    name = _link(field.type_name) if field.type_name else SCALARS[field.type]
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return name


def _link(type_name: str, *, is_stream: bool = False) -> str:
    name = type_name.removeprefix(".").removeprefix(PACKAGE)
    anchor = name.lower().replace(".", "")
    return f"{'stream of ' if is_stream else ''}[{name}](#{anchor})"
