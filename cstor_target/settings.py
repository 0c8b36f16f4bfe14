"""The settings of the target daemon: flags, environment (`CSTOR_TARGET_…`) and a TOML file.

Ports are those of `docs/operations.md`.  Every address is of this machine alone unless the user
says otherwise: operators are authenticated where there are certificates, initiators where somebody
has set who may log in, so nothing is open to a network by default.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from cstor_core.errors import InputError
from cstor_core.settings import (
    Address,
    AddressSetting,
    DaemonSettings,
    DurationSetting,
    RateSetting,
    SizeSetting,
    parse_address,
)
from cstor_target.iscsi.directory import FIRST_PORTAL_GROUP
from cstor_target.iscsi.limits import Limits
from cstor_target.volume.scrubs import RATE_BYTES_PER_S_MIN
from cstor_target.volume.settings import EngineSettings

LOCAL_HOST = "127.0.0.1"
ISCSI_PORT = 3260
CONTROL_PORT = 7777
HTTP_PORT = 6060
METRICS_PORT = 9500
REPLICA_GRPC_PORT = 7778
REPLICA_METRICS_PORT = 9501
ADDRESSES_MAX = 15
ALSO_PORTALS_MAX = 15
PORTAL_GROUP_MAX = 0xFFFF - ALSO_PORTALS_MAX


def _addresses(value: object) -> object:
    """Addresses of replicas: a list, or one text with commas (as the environment has it)."""
    if isinstance(value, str):
        value = [part for part in value.replace(",", " ").split() if part]
    if not isinstance(value, list | tuple):
        return value
    for text in value:
        try:
            address = parse_address(str(text))
        except InputError as error:
            raise ValueError(str(error)) from error
        if not address.port:
            raise ValueError(f"{text!r} names no port: write HOST:PORT of a replica daemon")
    if len(set(value)) != len(value):
        raise ValueError("an address is given twice: each replica has one of its own")
    return tuple(value)


ReplicaAddresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_addresses)]


def _portals(value: object) -> object:
    """Addresses to listen on: a list, or one text with commas (as the environment has it)."""
    if isinstance(value, str):
        value = [part for part in value.replace(",", " ").split() if part]
    if not isinstance(value, list | tuple):
        return value
    found = []
    for text in value:
        try:
            found.append(parse_address(str(text)))
        except InputError as error:
            raise ValueError(str(error)) from error
        if found[-1].port is None:
            raise ValueError(f"{text!r} names no port: write HOST:PORT")
    return tuple(found)


Portals = Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_portals)]


class ControlSettings(DaemonSettings):
    """Of the settings of a target those that say where it is asked; others may be there."""

    model_config = SettingsConfigDict(env_prefix="CSTOR_TARGET_", extra="ignore")

    control: AddressSetting = Address(LOCAL_HOST, None)


class TargetSettings(DaemonSettings):
    """What `cstor-target` can be told; see `docs/operations.md`."""

    model_config = SettingsConfigDict(
        env_prefix="CSTOR_TARGET_", extra="forbid", env_ignore_empty=True
    )

    UNGUARDED = ("control", "http", "metrics", "replica_grpc", "replica_metrics")

    state_dir: Path
    volume: str = Field(min_length=1, max_length=200)
    replica: Annotated[ReplicaAddresses, Field(max_length=ADDRESSES_MAX)] = ()
    pool: Path | None = None
    all_volumes: bool = False
    standby: bool = False
    require_chap: bool = False
    portal: AddressSetting = Address(LOCAL_HOST, None)
    also_portal: Annotated[Portals, Field(max_length=ALSO_PORTALS_MAX)] = ()
    portal_group: Annotated[int, Field(ge=1, le=PORTAL_GROUP_MAX)] = FIRST_PORTAL_GROUP
    advertise: Portals = ()
    """Of the portals, in their order, what discovery names in their place."""
    control: AddressSetting = Address(LOCAL_HOST, None)
    http: AddressSetting = Address(LOCAL_HOST, None)
    metrics: AddressSetting = Address(LOCAL_HOST, None)
    replica_grpc: AddressSetting = Address(LOCAL_HOST, None)
    replica_metrics: AddressSetting = Address(LOCAL_HOST, None)
    logins_per_address: Annotated[int, Field(ge=1)] = Limits().logins_per_address_max
    write_timeout_s: Annotated[float, Field(gt=0, le=3600)] = EngineSettings().write_timeout_s
    read_cache: Annotated[SizeSetting, Field(ge=0)] = EngineSettings().read_cache_bytes
    scrub_every: Annotated[DurationSetting, Field(ge=0)] = EngineSettings().scrub_every_s
    scrub_rate: Annotated[RateSetting, Field(ge=RATE_BYTES_PER_S_MIN)] = (
        EngineSettings().scrub_rate_bytes_per_s
    )

    @model_validator(mode="after")
    def _somewhere(self) -> TargetSettings:
        if not self.replica and self.pool is None:
            raise ValueError(
                "no replica is named: give --replica HOST:PORT for each daemon, or --pool DIR"
            )
        if len(self.advertise) > 1 + len(self.also_portal):
            raise ValueError(
                f"{len(self.advertise)} addresses are to be advertised, and the portals are "
                f"{1 + len(self.also_portal)}: name one for each at most"
            )
        return self

    @property
    def limits(self) -> Limits:
        """What initiators are allowed."""
        return replace(Limits(), logins_per_address_max=self.logins_per_address)

    @property
    def engine(self) -> EngineSettings:
        """What the engine is told."""
        return EngineSettings(
            write_timeout_s=self.write_timeout_s,
            read_cache_bytes=self.read_cache,
            scrub_rate_bytes_per_s=self.scrub_rate,
            scrub_every_s=self.scrub_every,
        )


def is_uuid(volume: str) -> bool:
    """Whether a volume is named by its UUID rather than by its name."""
    try:
        UUID(volume)
    except ValueError:
        return False
    return True
