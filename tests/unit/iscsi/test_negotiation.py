"""The table of keys at work: what each offer is answered with (RFC 7143, chapter 13)."""

from __future__ import annotations

import pytest

from cstor_target.iscsi.errors import TextError
from cstor_target.iscsi.keys import KEYS, Use
from cstor_target.iscsi.negotiation import Negotiator
from cstor_target.iscsi.text import decode, encode


@pytest.mark.parametrize(
    ("key", "offer", "answer"),
    [
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "X-sha,CRC32C", "CRC32C"),
        ("DataDigest", "X-sha", "Reject"),
        ("MaxConnections", "8", "1"),
        ("MaxConnections", "0", "Reject"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "yes", "Reject"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxRecvDataSegmentLength", "65536", None),
        ("MaxRecvDataSegmentLength", "511", "Reject"),
        ("MaxRecvDataSegmentLength", "16777216", "Reject"),
        ("MaxBurstLength", "16776192", "1048576"),
        ("MaxBurstLength", "65536", "65536"),
        ("MaxBurstLength", "0x10000", "65536"),
        ("MaxBurstLength", "0x1000000000", "Reject"),
        ("MaxBurstLength", "-1", "Reject"),
        ("MaxBurstLength", "", "Reject"),
        ("FirstBurstLength", "1048576", "262144"),
        ("FirstBurstLength", "65536", "65536"),
        ("DefaultTime2Wait", "2", "2"),
        ("DefaultTime2Wait", "3601", "Reject"),
        ("DefaultTime2Retain", "20", "0"),
        ("MaxOutstandingR2T", "1", "1"),
        ("MaxOutstandingR2T", "65535", "8"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("ErrorRecoveryLevel", "3", "Reject"),
        ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("IFMarker", "Yes", "No"),
        ("OFMarker", "No", "No"),
        ("IFMarkInt", "1~65535", "Reject"),
        ("OFMarkInt", "1~65535", "Reject"),
        ("TargetAlias", "x", "Reject"),
        ("TargetAddress", "x", "Reject"),
        ("TargetPortalGroupTag", "1", "Reject"),
        ("SendTargets", "All", "Reject"),
        ("InitiatorAlias", "x", None),
        ("AuthMethod", "None", "None"),
        ("AuthMethod", "SRP,KRB5", "Reject"),
        ("X-com.example.key", "1", "NotUnderstood"),
        ("NoSuchKey", "1", "NotUnderstood"),
        ("NoSuchKey", "NotUnderstood", None),
        ("MaxBurstLength", "Irrelevant", None),
    ],
)
def test_offer_is_answered_by_the_rule_of_its_key(key: str, offer: str, answer: str | None) -> None:
    answers = Negotiator(leading=True).answer([(key, offer)], Use.LOGIN)
    assert answers == ([] if answer is None else [(key, answer)])


def test_every_default_of_the_table_is_the_standards() -> None:
    parameters = Negotiator(leading=True).parameters()
    assert parameters.initial_r2t
    assert parameters.immediate_data
    assert parameters.first_burst_length == 65536
    assert parameters.max_burst_length == 262144
    assert parameters.initiator_max_recv_data_segment_length == 8192
    assert parameters.target_max_recv_data_segment_length == 8192
    assert parameters.max_outstanding_r2t == 1
    assert (parameters.default_time2wait, parameters.default_time2retain) == (2, 20)
    assert not parameters.header_digest
    assert not parameters.data_digest


def test_our_own_offers_are_legal_values() -> None:
    for key in KEYS.values():
        if key.maximum:
            assert key.minimum <= int(key.ours) <= key.maximum, key.name
            assert key.minimum <= int(key.default) <= key.maximum, key.name


def test_first_burst_never_exceeds_max_burst_whatever_the_order() -> None:
    negotiator = Negotiator(leading=True)
    offers = [("FirstBurstLength", "65536"), ("MaxBurstLength", "8192")]
    assert dict(negotiator.answer(offers, Use.LOGIN)) == {
        "MaxBurstLength": "8192",
        "FirstBurstLength": "8192",
    }


def test_first_burst_is_bounded_by_max_burst_even_if_it_is_not_negotiated() -> None:
    negotiator = Negotiator(leading=True)
    negotiator.answer([("MaxBurstLength", "512")], Use.LOGIN)
    assert negotiator.parameters().first_burst_length == 512


def test_in_a_discovery_session_operational_keys_are_irrelevant() -> None:
    offers = [("InitialR2T", "No"), ("MaxBurstLength", "512"), ("SessionType", "Discovery")]
    answers = Negotiator(leading=True).answer(offers, Use.LOGIN)
    assert answers == [("InitialR2T", "Irrelevant"), ("MaxBurstLength", "Irrelevant")]


def test_only_the_leading_login_negotiates_the_session() -> None:
    answers = Negotiator(leading=False).answer(
        [("MaxBurstLength", "512"), ("HeaderDigest", "CRC32C")], Use.LOGIN
    )
    assert dict(answers) == {"MaxBurstLength": "Reject", "HeaderDigest": "CRC32C"}


def test_in_full_feature_phase_only_declarations_are_left() -> None:
    negotiator = Negotiator(leading=True)
    offers = [("MaxRecvDataSegmentLength", "4096"), ("HeaderDigest", "CRC32C")]
    assert negotiator.answer(offers, Use.FULL_FEATURE) == [("HeaderDigest", "Reject")]
    assert negotiator.parameters().initiator_max_recv_data_segment_length == 4096


def test_what_we_declare_is_declared_once() -> None:
    negotiator = Negotiator(leading=True)
    assert negotiator.declare() == [("MaxRecvDataSegmentLength", "262144")]
    assert negotiator.declare() == []
    assert negotiator.parameters().target_max_recv_data_segment_length == 262144


def test_text_survives_a_round_trip() -> None:
    pairs = [("A", ""), ("B", "a=b"), ("C", "ü")]
    assert decode(encode(pairs), 10) == pairs
    assert decode(b"A=1\0\0\0B=2", 10) == [("A", "1"), ("B", "2")]


@pytest.mark.parametrize("text", [b"A", b"=1", b"A b=1", b"\xff=1", b"A=1\0A=2", b"-A=1"])
def test_what_is_no_text_is_refused(text: bytes) -> None:
    with pytest.raises(TextError):
        decode(text, 10)
