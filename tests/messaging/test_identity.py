import pytest

from messaging.errors import ConfigError
from messaging.identity import Identity


@pytest.mark.parametrize(
    ("text", "device_id", "module_id"),
    [
        ("press-7", "press-7", None),
        ("edge/filter", "edge", "filter"),
        ("edge/$edgeHub", "edge", "$edgeHub"),
        ("A.b_c-1%*?!(),:=@$'", "A.b_c-1%*?!(),:=@$'", None),
        ("d" * 128 + "/" + "m" * 128, "d" * 128, "m" * 128),
    ],
)
def test_an_id_is_read_and_written_the_same(text: str, device_id: str, module_id: str | None) -> None:
    identity = Identity.parse(text)

    assert (identity.device_id, identity.module_id) == (device_id, module_id)
    assert identity.id == str(identity) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "device id is empty"),
        ("/m", "device id is empty"),
        ("d/", "module id is empty"),
        ("d/m/x", "'m/x'"),
        ("a b", "'a b'"),
        ("a+b", "'a+b'"),
        ("a#", "'a#'"),
        ("ä", "'ä'"),
        ("line\n", r"'line\n'"),
        ("x" * 129, "129 characters"),
    ],
)
def test_an_id_that_iot_hub_refuses_is_named(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Identity.parse(text)

    assert part in str(caught.value)


def test_ids_differ_by_case_and_a_module_is_not_its_device() -> None:
    assert Identity("D") != Identity("d")
    assert Identity("D", "m") != Identity("D")


def test_hub_and_agent_of_an_edge_device_are_modules() -> None:
    assert Identity.edge_hub("edge").id == "edge/$edgeHub"
    assert Identity.edge_agent("edge").id == "edge/$edgeAgent"
