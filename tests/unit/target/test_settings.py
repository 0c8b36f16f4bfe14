"""Where the target's settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cstor_core.errors import InputError
from cstor_core.settings import Address, load_settings
from cstor_target.iscsi.limits import Limits
from cstor_target.settings import TargetSettings

NEEDED = {"state_dir": "state", "volume": "vol1", "replica": ["127.0.0.1:7778"]}


def load(**flags: object) -> TargetSettings:
    """Settings from the needed flags and these."""
    return load_settings(TargetSettings, {**NEEDED, **flags}, None)


def test_ports_are_local_and_may_move_unless_set() -> None:
    settings = load()
    for address in (settings.portal, settings.control, settings.http, settings.metrics):
        assert address == Address("127.0.0.1", None)
    assert load(portal="0.0.0.0:3260").portal == Address("0.0.0.0", 3260)


def test_flag_wins_over_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "target.toml"
    file.write_text('portal = "127.0.0.1:1"\nhttp = "127.0.0.1:2"\ncontrol = "127.0.0.1:3"\n')
    monkeypatch.setenv("CSTOR_TARGET_HTTP", "127.0.0.1:12")
    monkeypatch.setenv("CSTOR_TARGET_CONTROL", "127.0.0.1:13")
    flags = {**NEEDED, "control": "127.0.0.1:23"}
    settings = load_settings(TargetSettings, flags, file)
    ports = (settings.portal.port, settings.http.port, settings.control.port)
    assert ports == (1, 12, 23)


def test_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSTOR_TARGET_STATE_DIR", "/var/lib/cstor")
    monkeypatch.setenv("CSTOR_TARGET_VOLUME", "vol1")
    monkeypatch.setenv("CSTOR_TARGET_REPLICA", "a:1,b:2, c:3")
    settings = load_settings(TargetSettings, {}, None)
    assert settings.replica == ("a:1", "b:2", "c:3")
    assert settings.volume == "vol1"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"replica": []}, "no replica is named"),
        ({"replica": ["127.0.0.1"]}, "names no port"),
        ({"replica": ["a:1", "a:1"]}, "given twice"),
        ({"advertise": ["a:1", "b:1"]}, "2 addresses are to be advertised, and the portals are 1"),
        ({"advertise": ["a"]}, "names no port"),
        ({"volume": ""}, "volume"),
        ({"volume": None}, "volume"),
        ({"portal": "nowhere:port"}, "portal"),
        ({"write_timeout_s": 0}, "write_timeout_s"),
        ({"scrub_every": "weekly"}, "scrub_every: 'weekly' is not a duration"),
        ({"scrub_rate": "1KiB/s"}, "scrub_rate"),
        ({"logins_per_address": 0}, "logins_per_address"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_wrong_setting_is_named(flags: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load(**flags)


def test_pool_alone_is_enough() -> None:
    assert load(replica=None, pool="pool").pool == Path("pool")


def test_scrubs_are_off_unless_they_are_wanted() -> None:
    assert load().engine.scrub_every_s == 0
    engine = load(scrub_every="7d", scrub_rate="100MiB/s").engine
    assert (engine.scrub_every_s, engine.scrub_rate_bytes_per_s) == (7 * 86400, 100 << 20)


def test_connections_that_have_not_logged_in_are_bounded_as_set() -> None:
    assert load().limits == Limits()
    assert load(logins_per_address=7).limits.logins_per_address_max == 7


@pytest.mark.parametrize("port", ["control", "http", "metrics", "replica_grpc", "replica_metrics"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "node-a.example", "[::]:9"])
def test_nothing_unguarded_is_open_to_a_network_without_a_word(port: str, host: str) -> None:
    with pytest.raises(InputError, match=rf"{port} would be open .*--tls .*--insecure-network"):
        load(**{port: host})
    assert load(**{port: host}, insecure_network=True).insecure_network
    assert load(**{port: host}, tls="certificates").tls == Path("certificates").absolute()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9:1", "::1", "localhost:7777"])
def test_what_only_this_machine_reaches_needs_no_word(host: str) -> None:
    assert load(control=host).tls is None
