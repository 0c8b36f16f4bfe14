"""Which initiators may log in, by their names and networks, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cstor_core.errors import InputError
from cstor_target.access import Access, AccessRules
from cstor_target.login_scopes import ALL_VOLUMES, DISCOVERY
from tests.unit.target.standin import IQN

HOST, OTHER = "iqn.2004-10.com.example:a", "iqn.2004-10.com.example:b"
HERE, THERE = "10.0.0.7:50000", "10.0.1.7:50000"


def rules_in(directory: Path) -> AccessRules:
    """As a target that starts has them."""
    rules = AccessRules(directory / "access.json")
    rules.load()
    return rules


def admitted(rules: AccessRules, target: str = IQN) -> list[tuple[str, str]]:
    return [
        (name, peer)
        for name in (HOST, OTHER)
        for peer in (HERE, THERE)
        if rules.admits(target, name, peer)
    ]


EVERYBODY = [(HOST, HERE), (HOST, THERE), (OTHER, HERE), (OTHER, THERE)]


def test_names_and_networks_restrict_each_by_itself(tmp_path: Path) -> None:
    rules = rules_in(tmp_path)
    assert admitted(rules) == EVERYBODY
    rules.allow("vol1", [HOST.upper()], [])
    assert admitted(rules) == [(HOST, HERE), (HOST, THERE)]
    rules.allow("vol1", [], ["10.0.0.0/24"])
    assert admitted(rules) == [(HOST, HERE)]
    rules.allow("vol1", [OTHER], ["10.0.1.7"])
    assert admitted(rules) == EVERYBODY
    rules.deny("vol1", [], ["10.0.0.0/24"])
    assert admitted(rules) == [(HOST, THERE), (OTHER, THERE)]
    assert admitted(rules, IQN + "-other") == EVERYBODY
    assert admitted(rules, "") == EVERYBODY


def test_when_the_last_one_is_denied_nobody_is_let_in(tmp_path: Path) -> None:
    rules = rules_in(tmp_path)
    rules.allow("vol1", [HOST], [])
    rules.deny("vol1", [HOST], [])
    assert admitted(rules) == []
    assert rules_in(tmp_path).scopes() == {"vol1": Access(frozenset())}
    rules.allow_everybody("vol1")
    assert admitted(rules) == EVERYBODY
    assert rules.scopes() == {}


def test_own_rules_of_a_volume_take_the_place_of_those_for_all(tmp_path: Path) -> None:
    rules = rules_in(tmp_path)
    rules.allow(ALL_VOLUMES, [HOST], ["10.0.0.0/24"])
    assert admitted(rules) == [(HOST, HERE)]
    rules.allow("vol1", [OTHER], [])
    assert admitted(rules) == [(OTHER, HERE)], "each by itself"
    assert admitted(rules, IQN + "-other") == [(HOST, HERE)]
    assert admitted(rules, "") == EVERYBODY
    rules.allow(DISCOVERY, [], ["10.0.1.0/24"])
    assert admitted(rules, "") == [(HOST, THERE), (OTHER, THERE)]


@pytest.mark.parametrize(
    ("network", "peer", "is_in"),
    [
        ("0.0.0.0/0", HERE, True),
        ("fd00::/64", "[fd00::7]:50000", True),
        ("fd00::/64", "[fd00:0:0:1::7]:50000", False),
        ("fd00::/64", HERE, False),
        ("fe80::/10", "[fe80::7%eth0]:50000", True),
        ("10.0.0.0/24", "[::ffff:10.0.0.7]:50000", True),
        ("::/0", "[::ffff:10.0.0.7]:50000", False),
        ("0.0.0.0/0", "", False),
        ("0.0.0.0/0", "host:1", False),
    ],
)
def test_networks_are_those_of_the_address_that_is_seen(
    tmp_path: Path, network: str, peer: str, is_in: bool
) -> None:
    rules = rules_in(tmp_path)
    rules.allow("vol1", [], [network])
    assert rules.admits(IQN, HOST, peer) is is_in


def test_rules_are_there_after_a_restart(tmp_path: Path) -> None:
    rules = rules_in(tmp_path)
    rules.allow("vol1", [HOST, OTHER], ["10.0.0.0/24", "fd00::/64"])
    rules.allow(DISCOVERY, [HOST], [])
    assert rules_in(tmp_path).scopes() == rules.scopes()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"scopes": {"vol1": {"networks": ["x"]}}}',
        '{"scopes": {"vol1": {"initiators": [""]}}}',
    ],
)
def test_damaged_file_lets_nobody_in(tmp_path: Path, text: str) -> None:
    (tmp_path / "access.json").write_text(text)
    (tmp_path / "access.json").chmod(0o600)
    with pytest.raises(InputError, match="is damaged"):
        rules_in(tmp_path)


@pytest.mark.parametrize(
    ("names", "networks", "sentence"),
    [
        ([], [], "say who"),
        (["host-a"], [], "no iSCSI name"),
        (["iqn.a b"], [], "no iSCSI name"),
        ([], ["10.0.0.7/24"], "has host bits set"),
        ([], ["10.0.0"], "write it like"),
    ],
)
def test_what_is_no_name_and_no_network_is_refused(
    tmp_path: Path, names: list[str], networks: list[str], sentence: str
) -> None:
    rules = rules_in(tmp_path)
    with pytest.raises(InputError, match=sentence):
        rules.allow("vol1", names, networks)
    assert admitted(rules) == EVERYBODY


def test_who_was_not_allowed_by_itself_cannot_be_denied(tmp_path: Path) -> None:
    rules = rules_in(tmp_path)
    for scope in ("vol1", ALL_VOLUMES):
        with pytest.raises(InputError, match="everybody may log in until somebody is allowed"):
            rules.deny(scope, [HOST], [])
        rules.allow(ALL_VOLUMES, [OTHER], ["10.0.0.0/24"])
    with pytest.raises(InputError, match="was not allowed by itself"):
        rules.deny(ALL_VOLUMES, [OTHER], ["10.0.0.7"])
    assert admitted(rules) == [(OTHER, HERE)], "none of it is done"
