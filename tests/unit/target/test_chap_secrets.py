"""Where CHAP secrets are kept, for whom they are in force, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cstor_core.errors import InputError
from cstor_target.chap_secrets import ChapSecrets
from cstor_target.iscsi.chap import Realm
from cstor_target.login_scopes import ALL_VOLUMES, DISCOVERY
from tests.unit.target.standin import IQN

SECRET, OTHER, OWN = "a secret of one", "a secret of another", "the target's own"


def secrets_in(directory: Path, *, required: bool = False) -> ChapSecrets:
    """As a target that starts has them."""
    secrets = ChapSecrets(directory / "chap.json", required=required)
    secrets.load()
    return secrets


def names(realm: Realm | None) -> list[str] | None:
    return None if realm is None else sorted(realm.initiators)


def test_everybody_may_log_in_until_a_secret_is_set_and_when_the_last_one_is_gone(
    tmp_path: Path,
) -> None:
    secrets = secrets_in(tmp_path)
    assert secrets.realm(IQN) is None
    secrets.set("vol1", "a", SECRET, of_target=False)
    secrets.set("vol1", "b", SECRET, of_target=False)
    assert names(secrets.realm(IQN)) == ["a", "b"]
    assert secrets.realm(IQN + "-other") is None
    assert secrets.clear("vol1", "a") == ["a"]
    assert secrets.clear("vol1", "a") == []
    assert names(secrets.realm(IQN)) == ["b"]
    assert secrets.clear("vol1", "") == ["b"]
    assert secrets.realm(IQN) is None
    assert secrets.scopes() == {}


def test_where_it_is_required_nobody_may_log_in_until_then(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path, required=True)
    assert names(secrets.realm(IQN)) == names(secrets.realm("")) == []
    secrets.set(ALL_VOLUMES, "a", SECRET, of_target=False)
    assert names(secrets.realm(IQN)) == ["a"]
    assert names(secrets.realm("")) == []


def test_own_secrets_of_a_volume_take_the_place_of_those_for_all(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path)
    secrets.set(ALL_VOLUMES, "a", SECRET, of_target=False)
    assert names(secrets.realm(IQN)) == ["a"]
    secrets.set("vol1", "b", OTHER, of_target=False)
    assert names(secrets.realm(IQN)) == ["b"]
    assert names(secrets.realm(IQN + "-other")) == ["a"]
    assert secrets.realm("") is None
    secrets.set(DISCOVERY, "c", OTHER, of_target=False)
    assert names(secrets.realm("")) == ["c"]


def test_a_targets_own_secret_opens_no_volume_and_asks_for_no_proof(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path)
    secrets.set(ALL_VOLUMES, "a", SECRET, of_target=False)
    secrets.set("vol1", "own", OWN, of_target=True)
    realm = secrets.realm(IQN)
    assert names(realm) == ["a"]
    assert realm is not None
    assert realm.target is not None
    secrets.clear(ALL_VOLUMES, "")
    assert secrets.realm(IQN) is None


def test_they_are_there_after_a_restart_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path)
    secrets.set("vol1", "a", SECRET, of_target=False)
    secrets.set("vol1", "own", OWN, of_target=True)
    path = tmp_path / "chap.json"
    assert path.stat().st_mode & 0o777 == 0o600
    again = secrets_in(tmp_path)
    assert again.scopes() == secrets.scopes()
    realm = again.realm(IQN)
    assert realm is not None
    assert realm.initiators == {"a": SECRET.encode()}
    assert realm.target is not None
    assert realm.target.secret == OWN.encode()
    path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        secrets_in(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2}', '{"format": 1, "scopes": {"vol1": {"initiators": {"a": 7}}}}'],
)
def test_damaged_file_lets_nobody_in_and_is_repeated_to_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chap.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InputError, match=r"is damaged: remove it") as raised:
        secrets_in(tmp_path)
    assert not text or text not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("a", "eleven char"),
        ("a", "x" * 256),
        ("a", "twelve chars\n"),
        ("a", "\0" * 12),
        ("", SECRET),
        ("a\n", SECRET),
        ("\u00e4" * 128, SECRET),
    ],
)
def test_what_cannot_be_a_name_or_a_secret_is_refused(
    tmp_path: Path, name: str, secret: str
) -> None:
    secrets = secrets_in(tmp_path)
    with pytest.raises(InputError, match=r"a CHAP (name|secret) has"):
        secrets.set("vol1", name, secret, of_target=False)
    assert not (tmp_path / "chap.json").exists()


def test_initiators_and_the_target_have_different_secrets(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path)
    secrets.set("vol1", "a", SECRET, of_target=False)
    with pytest.raises(InputError, match="need different"):
        secrets.set(DISCOVERY, "own", SECRET, of_target=True)
    secrets.set(DISCOVERY, "own", OWN, of_target=True)
    with pytest.raises(InputError, match="need different"):
        secrets.set("vol1", "b", OWN, of_target=False)


def test_what_cannot_be_written_is_not_in_force(tmp_path: Path) -> None:
    secrets = secrets_in(tmp_path)
    secrets.set("vol1", "a", SECRET, of_target=False)
    os.mkfifo(tmp_path / ".chap.json.new")  # one that was left behind is no obstacle
    secrets.set("vol1", "b", SECRET, of_target=False)
    (tmp_path / ".chap.json.new").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        secrets.set("vol1", "c", SECRET, of_target=False)
    assert names(secrets.realm(IQN)) == ["a", "b"]
    kept = json.loads((tmp_path / "chap.json").read_text())
    assert sorted(kept["scopes"]["vol1"]["initiators"]) == ["a", "b"]
