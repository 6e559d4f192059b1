import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import RemoteProtocolError
from messaging.identity import Identity
from messaging.username import UserName, parse_user_name

LEGACY = "api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003"
PYTHON_2_14 = "h/D/M/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0%28x%3By%29"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "h/D/?api-version=2021-04-12&DeviceClientType=x&model-id=dtmi:a;1",
            UserName(Identity("D"), "2021-04-12", "x", "dtmi:a;1"),
            id="row 1: device, product, model",
        ),
        pytest.param("h/D/M/?api-version=V", UserName(Identity("D", "M"), "V"), id="row 2: module"),
        pytest.param("h/D/M/api-version=V", UserName(Identity("D", "M"), "V"), id="row 2: without ?"),
        pytest.param("h/D/api-version=V", UserName(Identity("D"), "V"), id="device without ?"),
        pytest.param(
            f"h/D/M/{LEGACY}",
            UserName(Identity("D", "M"), "2017-06-30", "Microsoft.Azure.Devices.Client/1.5.1-preview-003"),
            id="row 3: legacy",
        ),
        pytest.param(
            f"h/D/M/{LEGACY.upper()}",
            UserName(Identity("D", "M"), "2017-06-30", "Microsoft.Azure.Devices.Client/1.5.1-preview-003"),
            id="legacy in capitals",
        ),
        pytest.param(
            PYTHON_2_14,
            UserName(Identity("D", "M"), "2019-10-01", "azure-iot-device-iothub-py/2.14.0(x;y)"),
            id="Python SDK 2.14.0",
        ),
        pytest.param("/ D / M /?api-version=V", UserName(Identity("D", "M"), "V"), id="blanks, no host"),
        pytest.param("h/D%41/?api-version=V", UserName(Identity("D%41"), "V"), id="ids are not decoded"),
        pytest.param(
            "h/D/?api-version=a&api-version=b&other&DeviceClientType=1=2+3%20",
            UserName(Identity("D"), "a", "1=2+3 "),
            id="first wins, unknown ignored, first = splits, plus stays",
        ),
        pytest.param(
            "h/D/?api-version=V&auth-chain=leaf;inner;edge",
            UserName(Identity("D"), "V", auth_chain=("leaf", "inner", "edge")),
            id="auth chain",
        ),
    ],
)
def test_a_user_name_is_read(text: str, expected: UserName) -> None:
    assert parse_user_name(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h/D",
        "h/D/M",
        "h?api-version=V",
        "h/D?api-version=V",
        "h//?api-version=V",
        "h/ /?api-version=V",
        "h/D//?api-version=V",
        "h/D/M/?version=V",
        "h/D/M/api-version",
        "h/D/M/DeviceClientType=x",
        "h/D/M/api-version=V/x",
        "h/D/?api-version=",
        "h/D/?api-version=%20",
        "h/D/?xapi-version=V",
        "h/D/?Api-Version=V",
        "h/a b/?api-version=V",
        f"h/D/M/{LEGACY}/prodInfo",
        f"h/D/{LEGACY}",
    ],
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="user name"):
        parse_user_name(text)


def test_a_long_user_name_is_cut_in_the_error() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_user_name("x" * 60_000)

    assert len(str(caught.value)) < 300


ids = st.text(string.ascii_letters + string.digits + "-.%_*?!(),:=@$'", min_size=1, max_size=128)


@given(
    device_id=ids, module_id=st.none() | ids, version=st.text(min_size=1), product=st.text(), model=st.text()
)
def test_what_an_sdk_writes_is_read(
    device_id: str, module_id: str | None, version: str, product: str, model: str
) -> None:
    identity = Identity(device_id, module_id)
    pairs = [("api-version", "V" + version), ("DeviceClientType", product), ("model-id", model)]
    text = f"hub.net/{identity}/?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in pairs)

    assert parse_user_name(text) == UserName(identity, "V" + version, product, model)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for candidate in (text, f"h/{text}/?api-version=V", f"h/D/{text}", f"h/D/?{text}"):
        try:
            parse_user_name(candidate)
        except RemoteProtocolError:
            continue
