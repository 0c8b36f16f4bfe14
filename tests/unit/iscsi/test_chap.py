"""CHAP in the login phase (RFC 7143, 12.1.3): who is let in, and who is not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from cstor_target.iscsi.chap import CHALLENGE_BYTES, Credential, Realm
from cstor_target.iscsi.connection import Phase
from cstor_target.iscsi.constants import LoginStatus, Stage
from tests.unit.iscsi.trace import INITIATOR, TARGET, Answer, Initiator, Process, StandInDirectory

NAME, SECRET = "host-a", b"of the host: 12 bytes"
OWN = Credential("volume", b"of the target itself")
NAMES = {"InitiatorName": INITIATOR, "TargetName": TARGET}
DISCOVERY = {"InitiatorName": INITIATOR, "SessionType": "Discovery"}
DIGESTS: dict[str, Callable[[bytes], Any]] = {
    "5": hashlib.md5,
    "6": hashlib.sha1,
    "7": hashlib.sha256,
    "8": hashlib.sha3_256,
}
BACK = bytes(range(16))
"""The initiator's own challenge."""

Keys = dict[str, str]


def process(target: Credential | None = OWN, name: str = NAME) -> Process:
    """A target node into which one initiator is let."""
    realms = {TARGET: Realm({name: SECRET}, target)}
    return Process(directory=StandInDirectory(realms=realms))


def digest(algorithm: str, identifier: str, secret: bytes, challenge: str | bytes) -> str:
    """CHAP_R, in hexadecimal."""
    bare = challenge if isinstance(challenge, bytes) else bytes.fromhex(challenge[2:])
    made = DIGESTS[algorithm](bytes((int(identifier),)) + secret + bare)
    return f"0x{made.hexdigest()}"


def challenged(
    initiator: Initiator, algorithms: str = "5", names: Keys = NAMES, nsg: int | None = None
) -> Keys:
    """The target's challenge."""
    (offered,) = initiator.login_request(names | {"AuthMethod": "CHAP,None"}, csg=0, nsg=nsg)
    assert offered.keys.get("AuthMethod") == "CHAP"
    assert not offered.fields.transit
    (answer,) = initiator.login_request({"CHAP_A": algorithms}, csg=0, nsg=nsg)
    assert not answer.fields.transit
    assert len(bytes.fromhex(answer.keys["CHAP_C"][2:])) == CHALLENGE_BYTES
    return answer.keys


def proof(asked: Keys, secret: bytes = SECRET, name: str = NAME) -> Keys:
    response = digest(asked["CHAP_A"], asked["CHAP_I"], secret, asked["CHAP_C"])
    return {"CHAP_N": name, "CHAP_R": response}


def proven(initiator: Initiator, keys: Keys, nsg: int | None = Stage.FULL_FEATURE) -> Answer:
    return initiator.login_request(keys, csg=0, nsg=nsg)[-1]


def is_refused(initiator: Initiator, answer: Answer) -> bool:
    assert initiator.core.session is None
    return bool(
        answer.fields.status == LoginStatus.AUTHENTICATION_FAILURE
        and initiator.core.closing
        and not answer.keys
    )


@pytest.mark.parametrize("algorithm", DIGESTS)
@pytest.mark.parametrize("nsg", [Stage.FULL_FEATURE, Stage.OPERATIONAL_NEGOTIATION])
def test_who_knows_the_secret_is_let_in(algorithm: str, nsg: Stage) -> None:
    initiator = process().connect()
    asked = challenged(initiator, f"4,{algorithm},5", nsg=Stage.OPERATIONAL_NEGOTIATION)
    assert asked["CHAP_A"] == algorithm
    answer = proven(initiator, proof(asked), nsg)
    assert answer.fields.transit
    if nsg is Stage.OPERATIONAL_NEGOTIATION:
        assert initiator.core.session is None
        initiator.login_request({"HeaderDigest": "None"})
    assert initiator.core.phase is Phase.FULL_FEATURE


@pytest.mark.parametrize("name", ["0xdeadbeef", "0bAAAA", "h\u00f6st", "a,b", " "])
def test_names_are_compared_as_they_are_written(name: str) -> None:
    initiator = process(name=name).connect()
    proven(initiator, proof(challenged(initiator), name=name))
    assert initiator.core.phase is Phase.FULL_FEATURE


def test_response_may_come_in_base64_and_in_capitals() -> None:
    for is_base64 in (True, False):
        initiator = process().connect()
        keys = proof(challenged(initiator))
        raw = bytes.fromhex(keys["CHAP_R"][2:])
        written = base64.b64encode(raw).decode() if is_base64 else raw.hex().upper()
        keys["CHAP_R"] = ("0b" if is_base64 else "0X") + written
        proven(initiator, keys)
        assert initiator.core.phase is Phase.FULL_FEATURE


@pytest.mark.parametrize("algorithm", DIGESTS)
def test_target_proves_itself_where_it_is_asked(algorithm: str) -> None:
    initiator = process().connect()
    asked = challenged(initiator, algorithm)
    back = {"CHAP_I": "0x11", "CHAP_C": "0x" + BACK.hex()}
    answer = proven(initiator, proof(asked) | back)
    assert answer.keys["CHAP_N"] == OWN.name
    assert answer.keys["CHAP_R"] == digest(algorithm, "17", OWN.secret, BACK)
    assert initiator.core.phase is Phase.FULL_FEATURE


@pytest.mark.parametrize(
    "wrong",
    [
        {"CHAP_N": "host-b"},
        {"CHAP_N": ""},
        {"CHAP_R": "0x" + "00" * 16},
        {"CHAP_R": "0x00"},
        {"CHAP_R": "0x"},
        {"CHAP_R": "0xzz"},
        {"CHAP_R": "0b!"},
        {"CHAP_R": "0bAAA"},
        {"CHAP_R": "1"},
        {"CHAP_R": "0x" + "0" * 2050},
        {"CHAP_I": "1"},
        {"CHAP_C": "0x11"},
        {"CHAP_A": "5"},
        {"CHAP_I": "256", "CHAP_C": "0x11"},
        {"CHAP_I": "-1", "CHAP_C": "0x11"},
        {"CHAP_I": "x", "CHAP_C": "0x11"},
        {"CHAP_I": "1", "CHAP_C": "11"},
        {"CHAP_I": "1", "CHAP_C": "0x" + "11" * 1025},
    ],
)
def test_anybody_else_is_refused(wrong: Keys) -> None:
    target = process()
    initiator = target.connect()
    answer = proven(initiator, proof(challenged(initiator)) | wrong)
    assert is_refused(initiator, answer)
    assert target.counters.authentication_failures == 1


def test_another_secret_is_refused_and_so_is_the_secret_of_the_target() -> None:
    for secret in (SECRET + b"\n", SECRET[:-1], b"", OWN.secret):
        initiator = process().connect()
        answer = proven(initiator, proof(challenged(initiator), secret))
        assert is_refused(initiator, answer)


def test_challenge_that_is_sent_back_is_refused() -> None:
    initiator = process().connect()
    asked = challenged(initiator)
    answer = proven(initiator, proof(asked) | {"CHAP_I": "1", "CHAP_C": asked["CHAP_C"]})
    assert is_refused(initiator, answer)


def test_target_without_a_secret_of_its_own_lets_nobody_in_who_wants_it_proven() -> None:
    initiator = process(target=None).connect()
    answer = proven(initiator, proof(challenged(initiator)) | {"CHAP_I": "1", "CHAP_C": "0x11"})
    assert is_refused(initiator, answer)


def test_challenges_and_identifiers_are_made_up_anew() -> None:
    target = process()
    asked = [challenged(target.connect()) for _ in range(64)]
    assert len({one["CHAP_C"] for one in asked}) == 64
    assert len({one["CHAP_I"] for one in asked}) > 1
    initiator = target.connect()
    challenged(initiator)
    assert is_refused(initiator, proven(initiator, proof(asked[0])))


@pytest.mark.parametrize(
    ("pairs", "fields"),
    [
        ({}, {}),
        ({"AuthMethod": "None"}, {"csg": 0, "nsg": 1}),
        ({"AuthMethod": "None,KRB5"}, {"csg": 0, "nsg": 3}),
        ({"CHAP_A": "5"}, {"csg": 0, "nsg": 1}),
        ({"AuthMethod": "CHAP"}, {"csg": 1, "nsg": 3}),
        ({"AuthMethod": "CHAP", "CHAP_A": "1,2,9,x"}, {"csg": 0, "nsg": 1}),
        ({"AuthMethod": "CHAP", "CHAP_N": NAME, "CHAP_R": "0x00"}, {"csg": 0, "nsg": 1}),
    ],
)
def test_who_leaves_it_out_is_refused(pairs: Keys, fields: dict[str, int]) -> None:
    initiator = process().connect()
    (answer,) = initiator.login_request(NAMES | pairs, **fields)
    assert is_refused(initiator, answer)


def test_stage_is_not_left_before_the_proof_however_often_that_is_asked() -> None:
    initiator = process().connect()
    initiator.login_request(NAMES, csg=0, nsg=Stage.FULL_FEATURE)
    while not initiator.core.closing:
        (answer,) = initiator.login_request({}, csg=0, nsg=Stage.FULL_FEATURE)
        assert not answer.fields.transit
    assert answer.fields.status == LoginStatus.INITIATOR_ERROR
    assert initiator.core.session is None


def test_a_proof_is_given_once() -> None:
    initiator = process().connect()
    keys = proof(challenged(initiator))
    proven(initiator, keys, nsg=None)
    assert is_refused(initiator, proven(initiator, keys))


def test_discovery_has_a_realm_of_its_own() -> None:
    target = process()
    target.connect().discover()
    target.directory.realms = {"": Realm({NAME: SECRET})}
    target.connect().login()
    initiator = target.connect()
    (answer,) = initiator.login_request(DISCOVERY)
    assert is_refused(initiator, answer)
    initiator = target.connect()
    proven(initiator, proof(challenged(initiator, names=DISCOVERY)))
    assert initiator.core.phase is Phase.FULL_FEATURE


def test_nothing_prints_a_secret() -> None:
    realm = Realm({NAME: SECRET}, OWN)
    assert SECRET.decode() not in repr(realm)
    assert OWN.secret.decode() not in repr(realm)
