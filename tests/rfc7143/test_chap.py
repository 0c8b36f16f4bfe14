"""CHAP over the wire, with digests computed here (RFC 7143, 12.1.3; RFC 1994)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest

from cstor_target.iscsi.chap import Credential, Realm
from tests.rfc7143.initiator import NAME, TARGET, Digests, RawInitiator
from tests.rfc7143.portal import Portal
from tests.rfc7143.wire import Op

SECRET, OWN_SECRET = b"secret of the host", b"secret of the target"
ALGORITHMS: dict[str, Callable[[bytes], bytes]] = {
    "5": lambda data: hashlib.md5(data).digest(),
    "6": lambda data: hashlib.sha1(data).digest(),
    "7": lambda data: hashlib.sha256(data).digest(),
    "8": lambda data: hashlib.sha3_256(data).digest(),
}


def hexadecimal(value: bytes) -> str:
    return "0x" + value.hex()


def base_64(value: bytes) -> str:
    return "0b" + base64.b64encode(value).decode()


def binary(text: str) -> bytes:
    """A binary value in either of its forms (6.1)."""
    form, digits = text[:2].lower(), text[2:]
    return base64.b64decode(digits) if form == "0b" else bytes.fromhex(digits)


@pytest.fixture
def realm(portal: Portal) -> Realm:
    portal.nodes.secrets = Realm({"host": SECRET}, Credential("vol", OWN_SECRET))
    return portal.nodes.secrets


async def challenged(portal: Portal, algorithms: str) -> tuple[RawInitiator, dict[str, str]]:
    """A login up to the target's challenge."""
    initiator = await portal.connect()
    who = {"InitiatorName": NAME, "TargetName": TARGET, "AuthMethod": "None,CHAP"}
    initiator.login_request(who, (0, 1))
    first = await initiator.receive(Op.LOGIN_RESPONSE)
    assert (first.final, first.keys["AuthMethod"]) == (False, "CHAP")
    initiator.login_request({"CHAP_A": algorithms}, (0, 1))
    second = await initiator.receive(Op.LOGIN_RESPONSE)
    assert not second.final
    return initiator, second.keys


@pytest.mark.parametrize("form", [hexadecimal, base_64])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_both_sides_prove_that_they_know_a_secret(
    portal: Portal,
    realm: Realm,
    digests: Digests,
    algorithm: str,
    form: Callable[[bytes], str],
) -> None:
    compute = ALGORITHMS[algorithm]
    initiator, keys = await challenged(portal, f"99,{algorithm}")
    assert keys["CHAP_A"] == algorithm
    identifier = bytes((int(keys["CHAP_I"]),))
    proof = compute(identifier + SECRET + binary(keys["CHAP_C"]))
    pairs = {"CHAP_N": "host", "CHAP_R": form(proof), "CHAP_I": "7", "CHAP_C": form(b"challenge")}
    initiator.login_request(pairs, (0, 1))
    answer = await initiator.receive(Op.LOGIN_RESPONSE)
    assert (answer.login_status, answer.final) == (0, True)
    assert answer.keys["CHAP_N"] == "vol"
    assert binary(answer.keys["CHAP_R"]) == compute(b"\x07" + OWN_SECRET + b"challenge")
    initiator.login_request(digests.keys, (1, 3))
    answer = await initiator.receive(Op.LOGIN_RESPONSE)
    assert (answer.login_status, answer.final) == (0, True)
    initiator.logged_in(answer, digests)
    await initiator.settle()


@pytest.mark.parametrize(
    "wrong",
    [
        {"CHAP_N": "host", "CHAP_R": hexadecimal(bytes(32))},
        {"CHAP_N": "nobody", "CHAP_R": hexadecimal(bytes(32))},
        {"CHAP_N": "host", "CHAP_R": "0xnonsense"},
        {"CHAP_N": "host"},
        {},
    ],
)
async def test_a_wrong_proof_ends_the_login(
    portal: Portal, realm: Realm, wrong: dict[str, str]
) -> None:
    initiator, _ = await challenged(portal, "7")
    initiator.login_request(wrong, (0, 1))
    assert (await initiator.receive(Op.LOGIN_RESPONSE)).login_status == 0x0201
    assert await initiator.is_closed()
    assert len(portal.server.sessions) == 0


async def test_no_algorithm_of_ours_ends_the_login(portal: Portal, realm: Realm) -> None:
    initiator = await portal.connect()
    who = {"InitiatorName": NAME, "TargetName": TARGET, "AuthMethod": "CHAP"}
    initiator.login_request(who, (0, 1))
    await initiator.receive(Op.LOGIN_RESPONSE)
    initiator.login_request({"CHAP_A": "99,100"}, (0, 1))
    assert (await initiator.receive(Op.LOGIN_RESPONSE)).login_status == 0x0201


async def test_a_challenge_of_the_target_is_not_taken_back(portal: Portal, realm: Realm) -> None:
    initiator, keys = await challenged(portal, "7")
    challenge = binary(keys["CHAP_C"])
    proof = ALGORITHMS["7"](bytes((int(keys["CHAP_I"]),)) + SECRET + challenge)
    pairs = {
        "CHAP_N": "host",
        "CHAP_R": hexadecimal(proof),
        "CHAP_I": "7",
        "CHAP_C": keys["CHAP_C"],
    }
    initiator.login_request(pairs, (0, 1))
    assert (await initiator.receive(Op.LOGIN_RESPONSE)).login_status == 0x0201


@pytest.mark.parametrize("stages", [(0, 3), (1, 3)])
async def test_the_security_stage_is_not_left_out(
    portal: Portal, realm: Realm, stages: tuple[int, int]
) -> None:
    initiator = await portal.connect()
    initiator.login_request({"InitiatorName": NAME, "TargetName": TARGET}, stages)
    answer = await initiator.receive(Op.LOGIN_RESPONSE)
    assert not answer.final
    assert answer.login_status == (0x0201 if stages[0] else 0)
    assert len(portal.server.sessions) == 0
