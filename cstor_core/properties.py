"""Properties of a volume: what can be set of it while it lives (`VolumeProperties`)."""

from __future__ import annotations

from cstor_core.generated.cstor.v1 import volume_pb2

_REPORTED_SINCE = {"removable": "reservations", "thin": "sanitization"}
"""Of the properties that came later: what else the same daemons report."""


def set_property(
    properties: volume_pb2.VolumeProperties, setting: volume_pb2.PropertySetting
) -> None:
    """Give the property that a setting names the value that it has there."""
    match setting.WhichOneof("property"):
        case "delete_protection":
            properties.delete_protection = setting.delete_protection
        case "write_cache":
            properties.write_cache = setting.write_cache
        case "read_only":
            properties.read_only = setting.read_only
        case "removable":
            properties.removable = setting.removable
        case "thin":
            properties.thin = setting.thin


def has_write_cache(
    identity: volume_pb2.VolumeIdentity, properties: volume_pb2.VolumeProperties
) -> bool:
    """Whether GOOD for a write does not mean that it is on stable storage: as it was set, or else
    as the volume was founded.
    """
    return properties.write_cache if properties.HasField("write_cache") else identity.write_cache


def is_thin(properties: volume_pb2.VolumeProperties) -> bool:
    """Whether initiators may discard blocks."""
    return properties.thin if properties.HasField("thin") else True


def known_with(setting: volume_pb2.PropertySetting) -> str:
    """The field of a replica's report that all daemons have which know the property."""
    name = setting.WhichOneof("property")
    return _REPORTED_SINCE.get(name, "properties") if name is not None else "properties"
