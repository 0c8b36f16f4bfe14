"""Settings of the daemons: addresses, and what wins over what."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from cstor_core.errors import InputError
from cstor_core.logs import LogLevel
from cstor_core.settings import (
    Address,
    AddressSetting,
    DaemonSettings,
    load_settings,
    parse_address,
)


class Sample(DaemonSettings):
    """A daemon's settings."""

    model_config = SettingsConfigDict(env_prefix="CSTOR_SAMPLE_")

    pool: Path
    listen: AddressSetting = Address("127.0.0.1", None)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7778", Address("127.0.0.1", 7778)),
        ("node-1", Address("node-1", None)),
        ("node-1:", Address("node-1", None)),
        (":0", Address("0.0.0.0", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[fe80::2]", Address("fe80::2", None)),
        ("fe80::2", Address("fe80::2", None)),
    ],
)
def test_an_address_is_host_and_port_and_the_port_may_be_left_out(
    text: str, address: Address
) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "h:x", "h:65536", "h:-1", "[::1", "[::1]7", "a b:1", "h:١"])
def test_what_is_no_address_is_an_error(text: str) -> None:
    with pytest.raises(InputError):
        parse_address(text)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sample.toml"
    file.write_text('pool = "/file"\nlisten = "file:1"\nlog_level = "debug"\n')
    monkeypatch.setenv("CSTOR_SAMPLE_POOL", "/environment")
    monkeypatch.setenv("CSTOR_SAMPLE_LISTEN", "environment:2")
    settings = load_settings(Sample, {"pool": "/flag", "listen": None}, file)
    assert settings.pool == Path("/flag")
    assert settings.listen == Address("environment", 2)
    assert settings.log_level is LogLevel.DEBUG


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("pool = ", "is not TOML"),
        ('listne = "h:1"', "listne"),
        ('listen = "h:x"', "is not a port"),
        ('log_level = "loud"', "log_level"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_setting(
    tmp_path: Path, toml: str, sentence: str
) -> None:
    file = tmp_path / "sample.toml"
    file.write_text(toml)
    with pytest.raises(InputError, match=sentence):
        load_settings(Sample, {"pool": "/flag"}, file)
