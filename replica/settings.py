"""The settings of `cstor-replica`: flags, then CSTOR_REPLICA_… in the environment, then TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from cstor_core.settings import Address, AddressSetting, DaemonSettings, SizeSetting
from cstor_core.units import MIB
from replica.store.limits import StoreLimits

LISTEN_PORT = 7778
METRICS_PORT = 9501
HOST = "127.0.0.1"
"""Only the machine itself reaches these ports by default."""


MAP_CACHE_BYTES_MIN = MIB


class ListenSettings(DaemonSettings):
    """Of the settings of a daemon those that say where it is asked; others may be there."""

    model_config = SettingsConfigDict(env_prefix="CSTOR_REPLICA_", extra="ignore")

    listen: AddressSetting = Address(HOST, None)


class ReplicaSettings(DaemonSettings):
    """What one replica daemon needs to know."""

    model_config = SettingsConfigDict(env_prefix="CSTOR_REPLICA_")

    UNGUARDED = ("listen", "metrics")

    pool: Annotated[Path, AfterValidator(Path.absolute)]
    witness: bool = False
    """The directory is one of witnesses."""
    listen: AddressSetting = Address(HOST, None)
    metrics: AddressSetting = Address(HOST, None)
    marks: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    map_cache: Annotated[SizeSetting, Field(ge=MAP_CACHE_BYTES_MIN)] = StoreLimits().map_cache_bytes
    """Bytes, for the map of each replica."""
