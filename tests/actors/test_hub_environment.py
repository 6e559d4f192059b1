"""What the hub takes from the environment variables of `edgeHub`."""

from __future__ import annotations

import pytest

from actors.hub_environment import HubEnvironment, parse_environment
from messaging.errors import ConfigError


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, HubEnvironment(None, True), id="nothing given"),
        pytest.param({"MaxConnectedClients": "100"}, HubEnvironment(100, True), id="limit"),
        pytest.param({"maxconnectedclients": " 7 "}, HubEnvironment(7, True), id="any case"),
        pytest.param({"ClientCertAuthEnabled": "False"}, HubEnvironment(None, False), id="no certificates"),
        pytest.param({"CLIENTCERTAUTHENABLED": "true"}, HubEnvironment(None, True), id="certificates"),
        pytest.param({"MaxConnectedClients": "", "HTTP_PROXY": "x"}, HubEnvironment(None, True), id="empty"),
    ],
)
def test_settings_of_the_deployment(environment: dict[str, str], expected: HubEnvironment) -> None:
    assert parse_environment(environment) == expected


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        *(
            ("MaxConnectedClients", text, "a number from 1 to")
            for text in ("0", "-1", "many", "1.5", "9" * 30)
        ),
        *(("ClientCertAuthEnabled", text, "true or false") for text in ("1", "yes", "off")),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_what_is_allowed(
    name: str, text: str, allowed: str
) -> None:
    with pytest.raises(ConfigError, match=rf"edgeHub\.env\.{name} is '{text}'; allowed: {allowed}"):
        parse_environment({name: text})
