"""What the settings of the two daemons have in common.

A setting comes from a flag, else from the environment, else from a TOML file, else it is the
default.  A wrong one is an InputError whose sentence names the setting; nothing is touched then.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cstor_core.errors import InputError
from cstor_core.logs import LogFormat, LogLevel
from cstor_core.units import parse_duration, parse_rate, parse_size

PORT_MAX = 65535


class DataStream(StrEnum):
    """Who speaks gRPC's wire format on the data streams: cStor itself, or the gRPC library."""

    FAST = "fast"
    GRPC = "grpc"


class Address(NamedTuple):
    """Where a port listens.  `port` is None where the user left it unset; 0 is any free one."""

    host: str
    port: int | None

    def __str__(self) -> str:
        return join_address(self.host, self.port or 0)


def join_address(host: str, port: int) -> str:
    """HOST:PORT, with the brackets that an IPv6 host needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host; of a name, only `localhost` is known to be so."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_address(text: str) -> Address:
    """An address from HOST:PORT, HOST, [IPV6]:PORT or :PORT (any local address).

    Raises InputError when the text is none of these.
    """
    host, port = text.strip(), ""
    if host.startswith("["):
        host, closed, port = host[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise InputError(f"{text!r} is not an address: write [IPV6]:PORT")
        port = port[1:]
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
        host = host or "0.0.0.0"  # noqa: S104 - the user wrote :PORT, which says all addresses
    if not host or any(character.isspace() for character in host):
        raise InputError(f"{text!r} is not an address: write HOST:PORT")
    if not port:
        return Address(host, None)
    if not (port.isascii() and port.isdigit()) or int(port) > PORT_MAX:
        raise InputError(f"{port!r} in {text!r} is not a port: write a number up to {PORT_MAX}")
    return Address(host, int(port))


def _read_by(parse: Callable[[str], object]) -> Callable[[object], object]:
    """What makes a value of a text, and leaves others as they are."""

    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except InputError as error:
            raise ValueError(str(error)) from error

    return read


AddressSetting = Annotated[Address, NoDecode, BeforeValidator(_read_by(parse_address))]
"""A setting that is written as HOST:PORT, or as HOST where the port may be chosen."""


SizeSetting = Annotated[int, NoDecode, BeforeValidator(_read_by(parse_size))]
"""A setting in bytes, written as `128MiB` or as a number."""
RateSetting = Annotated[int, NoDecode, BeforeValidator(_read_by(parse_rate))]
"""A setting in bytes a second, written as `100MiB/s` or as a number."""
DurationSetting = Annotated[float, NoDecode, BeforeValidator(_read_by(parse_duration))]
"""A setting in seconds, written as `7d`, `12h` or as a number."""


class DaemonSettings(BaseSettings):
    """The settings that every daemon has; a subclass adds its own and its `env_prefix`."""

    model_config = SettingsConfigDict(extra="forbid", env_ignore_empty=True)

    log_format: LogFormat = LogFormat.CONSOLE
    log_level: LogLevel = LogLevel.INFO
    log_file: Path | None = None
    ready_file: Path | None = None
    data_stream: DataStream = DataStream.FAST
    tls: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    """A directory with tls.crt, tls.key and ca.crt."""
    insecure_network: bool = False

    UNGUARDED: ClassVar[tuple[str, ...]] = ()
    """The settings of ports that show and obey whoever reaches them, where there is no TLS."""

    @model_validator(mode="after")
    def _within_reason(self) -> Self:
        """Nothing that is not guarded is open to a network by accident."""
        if self.tls is not None or self.insecure_network:
            return self
        for name in self.UNGUARDED:
            host = getattr(self, name).host
            if not is_loopback(host):
                raise ValueError(
                    f"{name} would be open to the network at {host}, and whoever reaches it could "
                    "do everything: give certificates (--tls DIR), keep it on 127.0.0.1, or say "
                    "--insecure-network where nobody else can reach that network"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags and the file both come by `load_settings`: the file as `_file` among the flags."""
        flags: dict[str, Any] = dict(init_settings())
        file: dict[str, Any] = flags.pop("_file", {})
        return (
            InitSettingsSource(settings_cls, flags),
            env_settings,
            InitSettingsSource(settings_cls, file),
        )


S = TypeVar("S", bound=DaemonSettings)


def load_settings(kind: type[S], flags: Mapping[str, object], config: Path | None) -> S:
    """The settings of a daemon; a flag of None was not given, `config` is a TOML file.

    Raises InputError with one sentence for everything that is wrong.
    """
    values: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    values["_file"] = _read_toml(config) if config is not None else {}
    try:
        return kind(**values)
    except ValidationError as error:
        reasons = "; ".join(_reason(detail) for detail in error.errors())
        where = f" (flags, environment, {config})" if config is not None else ""
        raise InputError(f"the settings are wrong{where}: {reasons}") from error


def _reason(detail: ErrorDetails) -> str:
    setting = ".".join(str(part) for part in detail["loc"]) or "settings"
    return f"{setting}: {detail['msg'].removeprefix('Value error, ')}"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the file of settings {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # bad TOML, or bytes that are no text
        raise InputError(f"the file of settings {path} is not TOML: {error}") from error
