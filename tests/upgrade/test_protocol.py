"""What goes over the wire has only grown since the earlier release: no field or call changed."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto

from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2, stream_pb2, volume_pb2

MODULES = {
    "control": control_pb2,
    "replica": replica_pb2,
    "stream": stream_pb2,
    "volume": volume_pb2,
}
_TELL = """
import base64, importlib, json
names = {names!r}
files = {{name: importlib.import_module("cstor_core.generated.cstor.v1." + name + "_pb2").DESCRIPTOR
         for name in names}}
print(json.dumps({{name: base64.b64encode(file.serialized_pb).decode()
                  for name, file in files.items()}}))
"""


def declarations_of(earlier: Path) -> dict[str, FileDescriptorProto]:
    """The .proto files of the earlier release, as its stubs have them."""
    program = _TELL.format(names=list(MODULES))
    said = subprocess.run(
        [earlier / "python", "-I", "-c", program], capture_output=True, check=True, text=True
    )
    return {
        name: FileDescriptorProto.FromString(base64.b64decode(content))
        for name, content in json.loads(said.stdout).items()
    }


def facts(file: FileDescriptorProto) -> set[tuple[object, ...]]:
    """All that the other end relies on, one thing each."""
    found = {fact for message in file.message_type for fact in _of_message("", message)}
    found |= {fact for enum in file.enum_type for fact in _of_enum("", enum)}
    for service in file.service:
        for call in service.method:
            streams = (call.client_streaming, call.server_streaming)
            found.add((service.name, call.name, call.input_type, call.output_type, *streams))
    return found


def _of_message(where: str, message: DescriptorProto) -> Iterator[tuple[object, ...]]:
    name = f"{where}.{message.name}"
    for field in message.field:
        kind = (field.type, field.label, field.type_name)
        yield (name, field.number, field.name, *kind, field.HasField("oneof_index"))
    for nested in message.nested_type:
        yield from _of_message(name, nested)
    for enum in message.enum_type:
        yield from _of_enum(name, enum)


def _of_enum(where: str, enum: EnumDescriptorProto) -> Iterator[tuple[object, ...]]:
    yield from ((f"{where}.{enum.name}", value.number, value.name) for value in enum.value)


def test_what_the_earlier_release_says_and_asks_means_the_same_today(earlier: Path) -> None:
    for name, file in declarations_of(earlier).items():
        before, now = facts(file), facts(FileDescriptorProto.FromString(_today(name)))
        assert len(before) > 10
        assert before <= now, sorted(before - now, key=str)


def _today(name: str) -> bytes:
    content: bytes = MODULES[name].DESCRIPTOR.serialized_pb
    return content
