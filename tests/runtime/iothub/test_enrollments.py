"""What may stand in an enrollment, and the keys of a group's devices."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import IotHubError
from runtime.iothub import enrollments
from runtime.iothub.enrollments import derived_key, wanted_enrollment

HOST = "hub.local"
NOW_S = 1_700_000_000.0
KEY = base64.b64encode(b"k" * 32).decode()
KEYS = {"type": "symmetricKey", "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}}
PEM = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n"


def put(body: object, kind: Any = "enrollment", before: Any = None, name: str = "r1") -> Any:
    return wanted_enrollment(kind, name, body, before, HOST, NOW_S)


def test_a_devices_key_derives_from_its_groups() -> None:
    # Known vector: learn.microsoft.com, azure/iot-dps/concepts-symmetric-key-attestation, group enrollments.
    group_key = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="

    key = derived_key(group_key, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")

    assert key == "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
    assert derived_key(group_key, "SN-007-888-ABC-mac-a1-b2-c3-d4-e5-f6") == key


def test_keys_that_are_not_sent_are_generated_and_stay() -> None:
    first = put({"attestation": {"type": "symmetricKey"}})
    again = put({"attestation": {"type": "symmetricKey"}, "provisioningStatus": "disabled"}, before=first)

    keys = first.attestation.symmetric_key
    assert len(base64.b64decode(keys.primary_key)) == 64
    assert keys.primary_key != keys.secondary_key
    assert again.attestation.symmetric_key == keys
    assert again.etag != first.etag
    assert not again.is_enabled


def test_keys_are_kept_but_not_shown() -> None:
    enrollment = put({"attestation": KEYS, "capabilities": {"iotEdge": True}})

    kept = enrollments.from_document(enrollments.to_document(enrollment))

    assert kept == enrollment
    assert kept.keys_for("r1") == (KEY, KEY)
    assert KEY not in str(enrollments.shown(enrollment))
    assert KEY not in repr(enrollment)


BAD = {
    "no attestation": ({}, "attestation"),
    "not an object": ([], "enrollment"),
    "unknown attestation": ({"attestation": {"type": "tpm"}}, "tpm"),
    "key that is no base64": (
        {"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": "??"}}},
        "16 to 64 bytes",
    ),
    "key that is too short": (
        {"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": "AAAA"}}},
        "16 to 64 bytes",
    ),
    "no certificate": ({"attestation": {"type": "x509"}}, "clientCertificates"),
    "certificate of another kind": (
        {"attestation": {"type": "x509", "x509": {"signingCertificates": {"primary": {"certificate": PEM}}}}},
        "clientCertificates",
    ),
    "certificate that is none": (
        {"attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": "%"}}}}},
        "neither PEM nor base64",
    ),
    "another id in the body": ({"attestation": KEYS, "registrationId": "r2"}, "registrationId"),
    "a group's id in the body": ({"attestation": KEYS, "enrollmentGroupId": "g"}, "registrationId"),
    "status": ({"attestation": KEYS, "provisioningStatus": "on"}, "'on'"),
    "status of another type": ({"attestation": KEYS, "provisioningStatus": 1}, "provisioningStatus"),
    "allocation by code of somebody's": ({"attestation": KEYS, "allocationPolicy": "custom"}, "'custom'"),
    "another hub": ({"attestation": KEYS, "iotHubHostName": "other.example"}, "other.example"),
    "device id": ({"attestation": KEYS, "deviceId": "a b"}, "'a b'"),
    "initial twin": ({"attestation": KEYS, "initialTwin": {"reported": {}}}, "initialTwin"),
    "reported properties": (
        {"attestation": KEYS, "initialTwin": {"properties": {"reported": {}}}},
        "initialTwin",
    ),
    "key of the initial twin": ({"attestation": KEYS, "initialTwin": {"tags": {"a.b": 1}}}, "'a.b'"),
}


@pytest.mark.parametrize(("body", "named"), BAD.values(), ids=list(BAD))
def test_a_bad_enrollment_is_refused_with_what_is_wrong(body: object, named: str) -> None:
    with pytest.raises(IotHubError) as refused:
        put(body)

    assert refused.value.status == 400
    assert named in str(refused.value)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "ends.", "ends_", "ä", "a/b"])
def test_an_id_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(IotHubError, match="no registration id"):
        put({"attestation": KEYS}, name=name)


@pytest.mark.parametrize("name", ["a", "x" * 128, "Sn-1.2_3:4", "ends-", "7"])
def test_an_id_of_the_grammar_is_taken(name: str) -> None:
    assert put({"attestation": KEYS}, name=name).id == name


def test_a_group_has_no_device_id() -> None:
    with pytest.raises(IotHubError, match="a group has no deviceId"):
        put({"attestation": KEYS, "deviceId": "d"}, kind="enrollmentGroup")


MEMBERS = """
    attestation type symmetricKey primaryKey secondaryKey x509 clientCertificates signingCertificates primary
    certificate capabilities iotEdge initialTwin tags properties desired provisioningStatus reprovisionPolicy
    allocationPolicy iotHubHostName iotHubs deviceId registrationId etag
"""
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(max_size=5),
        st.sampled_from(["symmetricKey", "x509", "enabled", "static", KEY, PEM, HOST]),
    ),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(MEMBERS.split()), inner, max_size=5), st.lists(inner, max_size=2)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(MEMBERS.split()), VALUES, max_size=8), st.booleans())
def test_whatever_is_sent_is_taken_or_refused_as_wrong(body: dict[str, Any], is_attested: bool) -> None:
    if is_attested:
        body = {**body, "attestation": KEYS}
    refused: list[IotHubError] = []
    try:
        enrollment = put(body)
    except IotHubError as exc:
        refused.append(exc)

    if refused:
        assert refused[0].status == 400
    else:
        assert enrollments.from_document(enrollments.to_document(enrollment)) == enrollment
