import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.connection_string import ConnectionString, format_connection_string, parse_connection_string
from messaging.errors import ConfigError
from messaging.identity import Identity

KEY = "c2VjcmV0IGtleQ=="


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            f"HostName=h.net;DeviceId=D;SharedAccessKey={KEY}",
            ConnectionString("h.net", Identity("D"), KEY),
            id="device",
        ),
        pytest.param(
            f"HostName=h.net;DeviceId=D;ModuleId=M;SharedAccessKey={KEY};GatewayHostName=edge.local",
            ConnectionString("h.net", Identity("D", "M"), KEY, "edge.local"),
            id="module behind a gateway",
        ),
        pytest.param(
            f" SharedAccessKey={KEY}; HostName=h.net ;DeviceId=a=b;\n",
            ConnectionString("h.net", Identity("a=b"), KEY),
            id="another order, blanks, an = in an id, ; at the end",
        ),
        pytest.param(
            "HostName=h.net;DeviceId=D;x509=true;GatewayHostName=edge.local",
            ConnectionString("h.net", Identity("D"), "", "edge.local"),
            id="a device with a certificate",
        ),
        pytest.param(
            "HostName=h.net;DeviceId=D;x509=True",
            ConnectionString("h.net", Identity("D"), ""),
            id="true in other letters",
        ),
    ],
)
def test_a_connection_string_is_read(text: str, expected: ConnectionString) -> None:
    assert parse_connection_string(text) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "Name=value"),
        ("HostName=h;DeviceId=D", "SharedAccessKey missing"),
        ("DeviceId=D", "HostName, SharedAccessKey missing"),
        (f"HostName=h;HostName=h;DeviceId=D;SharedAccessKey={KEY}", "HostName is there twice"),
        (f"hostname=h;DeviceId=D;SharedAccessKey={KEY}", "'hostname'; did you mean 'HostName'?"),
        (f"HostName=h;DeviceId=D;SharedAccesKey={KEY}", "did you mean 'SharedAccessKey'?"),
        (f"HostName=h;DeviceId=D;x509=true;SharedAccessKey={KEY}", "x509=true and SharedAccessKey are both"),
        (f"HostName=h;DeviceId=D;x509=false;SharedAccessKey={KEY}", "x509 is 'false'; it can only be true"),
        ("HostName=h;DeviceId=D;x509=yes", "x509 is 'yes'"),
        ("DeviceId=D;x509=true", "HostName missing"),
        (f"HostName=h;DeviceId=D;Key={KEY}", "unknown key 'Key'"),
        (f"HostName=;DeviceId=D;SharedAccessKey={KEY}", "HostName is empty"),
        (f"HostName=h;DeviceId=a b;SharedAccessKey={KEY}", "'a b'"),
        ("HostName=h;DeviceId=D;SharedAccessKey=secret key", "not base64"),
        (f"HostName=h;;DeviceId=D;SharedAccessKey={KEY}", "Name=value"),
    ],
)
def test_what_is_wrong_is_named_and_the_key_is_not_shown(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_connection_string(text)

    assert part in str(caught.value)
    assert KEY not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_key_does_not_show_in_a_repr() -> None:
    assert KEY not in repr(ConnectionString("h", Identity("D"), KEY))


names = st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True)


@given(
    host=names,
    device=names,
    module=st.none() | names,
    key=st.sampled_from((KEY, "")),
    gateway=st.none() | names,
)
def test_what_is_written_is_read(
    host: str, device: str, module: str | None, key: str, gateway: str | None
) -> None:
    parts = ConnectionString(host, Identity(device, module), key, gateway)

    assert parse_connection_string(format_connection_string(parts)) == parts


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for candidate in (text, f"HostName=h;DeviceId=D;SharedAccessKey={text}"):
        try:
            parse_connection_string(candidate)
        except ConfigError:
            continue
