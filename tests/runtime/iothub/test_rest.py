"""The REST API: what it refuses and how, and what the SDK suites do not reach."""

from __future__ import annotations

import base64
import hashlib
import hmac
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messaging.clock import ManualClock
from messaging.identity import Identity
from messaging.sas import make_token
from runtime.iothub import registry
from runtime.iothub.hub import IotHub
from runtime.iothub.records import Telemetry
from runtime.iothub.rest.api import ROUTES
from runtime.iothub.rest.call import Route
from tests.runtime.iothub.fakes import HOST, FakeDevice, run, token_of
from tests.runtime.iothub.rest_client import RestClient

Scene = Callable[[RestClient, IotHub], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scene], None]:
    """Run a scene with a hub that has the device d1 and the edge device e1."""

    def start(scene: Scene) -> None:
        async def test(hub: IotHub, _: ManualClock) -> None:
            await hub.put(Identity("d1"), {})
            await hub.put(Identity("e1"), {"capabilities": {"iotEdge": True}})
            await scene(RestClient(hub), hub)

        run(tmp_path, test)

    return start


Play = Callable[[Scene], None]


BAD_REQUESTS = [
    # path, method
    pytest.param(("GET", "/nothing"), {}, (404, "GenericNotFound"), id="unknown path"),
    pytest.param(("GET", "/devices/d1/x"), {}, (404, "GenericNotFound"), id="unknown path below a device"),
    pytest.param(("PATCH", "/devices/d1"), {}, (405, "GenericMethodNotAllowed"), id="wrong method"),
    pytest.param(("DELETE", "/twins/d1"), {}, (405, "GenericMethodNotAllowed"), id="wrong method of a twin"),
    # api-version
    pytest.param(("GET", "/devices/d1"), {"query": ""}, (400, "InvalidProtocolVersion"), id="no version"),
    pytest.param(
        ("GET", "/devices/d1"), {"query": "api-version="}, (400, "InvalidProtocolVersion"), id="empty version"
    ),
    pytest.param(
        ("GET", "/devices/d1"), {"query": "api-version=2"}, (400, "InvalidProtocolVersion"), id="bad version"
    ),
    # content type and body
    pytest.param(
        ("PUT", "/devices/d2", {}),
        {"content_type": "text/xml"},
        (415, "GenericUnsupportedMediaType"),
        id="wrong content type",
    ),
    pytest.param(("PUT", "/devices/d2"), {"raw": b""}, (400, "ArgumentInvalid"), id="no body"),
    pytest.param(("PUT", "/devices/d2"), {"raw": b"{"}, (400, "ArgumentInvalid"), id="half a body"),
    pytest.param(("PUT", "/devices/d2"), {"raw": b"\xff\xfe"}, (400, "ArgumentInvalid"), id="no text"),
    pytest.param(("PUT", "/devices/d2"), {"raw": b"[" * 5000}, (400, "ArgumentInvalid"), id="too deep"),
    pytest.param(("PUT", "/devices/d2", []), {}, (400, "ArgumentInvalid"), id="an array"),
    pytest.param(
        ("PUT", "/devices/d2", {"deviceId": "x"}), {}, (400, "ArgumentInvalid"), id="id unlike the path"
    ),
    pytest.param(
        ("PUT", "/devices/d2", {"status": "off"}), {}, (400, "ArgumentInvalid"), id="unknown status"
    ),
    pytest.param(
        ("PUT", "/devices/d2", {"capabilities": {"iotEdge": 1}}), {}, (400, "ArgumentInvalid"), id="no bool"
    ),
    pytest.param(
        ("PUT", "/devices/d2", {"authentication": {"type": "magic"}}),
        {},
        (400, "ArgumentInvalid"),
        id="unknown type of authentication",
    ),
    pytest.param(
        ("PUT", "/devices/d2", {"authentication": {"symmetricKey": {"primaryKey": "c2hvcnQ="}}}),
        {},
        (400, "ArgumentInvalid"),
        id="short key",
    ),
    pytest.param(
        ("PUT", "/devices/d2", {"authentication": {"x509Thumbprint": {"primaryThumbprint": "XYZ"}}}),
        {},
        (400, "ArgumentInvalid"),
        id="no thumbprint",
    ),
    pytest.param(
        ("PUT", "/devices/d2", {"authentication": {"type": "selfSigned"}}),
        {},
        (400, "ArgumentInvalid"),
        id="self-signed without a thumbprint",
    ),
    pytest.param(
        ("PUT", "/devices/d2", {"deviceScope": "ms-azure-iot-edge://e1-1"}),
        {},
        (400, "InvalidDeviceScope"),
        id="scope of nobody",
    ),
    pytest.param(
        ("PUT", "/devices/d2", {"parentScopes": ["e1"]}), {}, (400, "InvalidDeviceScope"), id="no scope"
    ),
    # ids
    pytest.param(("PUT", "/devices/a%20b", {}), {}, (400, "ArgumentInvalid"), id="blank in an id"),
    pytest.param(("PUT", "/devices/a%2Fb", {}), {}, (400, "ArgumentInvalid"), id="slash in an id"),
    pytest.param(("PUT", "/devices/a%23b", {}), {}, (400, "ArgumentInvalid"), id="number sign in an id"),
    pytest.param(("PUT", "/devices/%C3%A4", {}), {}, (400, "ArgumentInvalid"), id="umlaut in an id"),
    pytest.param(("PUT", "/devices/%FF", {}), {}, (400, "ArgumentInvalid"), id="id that is no text"),
    pytest.param(("PUT", f"/devices/{'x' * 129}", {}), {}, (400, "ArgumentInvalid"), id="long id"),
    # If-Match
    pytest.param(("PUT", "/devices/d1", {}), {}, (409, "DeviceAlreadyExists"), id="create what there is"),
    pytest.param(
        ("PUT", "/devices/d1", {}), {"if_match": '"x"'}, (412, "PreconditionFailed"), id="update, other etag"
    ),
    pytest.param(
        ("DELETE", "/devices/d1"), {"if_match": '"x"'}, (412, "PreconditionFailed"), id="delete, other etag"
    ),
    pytest.param(
        ("PATCH", "/twins/d1", {}), {"if_match": '"x"'}, (412, "PreconditionFailed"), id="twin, other etag"
    ),
    pytest.param(
        ("PUT", "/devices/d2", {}), {"if_match": "*"}, (404, "DeviceNotFound"), id="update what there is not"
    ),
    pytest.param(
        ("PUT", "/devices/e1/modules/$edgeHub", {}),
        {},
        (409, "ModuleAlreadyExistsOnDevice"),
        id="module twice",
    ),
    # what there is not
    pytest.param(("GET", "/devices/x"), {}, (404, "DeviceNotFound"), id="unknown device"),
    pytest.param(("DELETE", "/devices/x"), {}, (404, "DeviceNotFound"), id="delete an unknown device"),
    pytest.param(("GET", "/devices/x/modules"), {}, (404, "DeviceNotFound"), id="modules of nobody"),
    pytest.param(("GET", "/devices/d1/modules/m"), {}, (404, "ModuleNotFound"), id="unknown module"),
    pytest.param(("PUT", "/devices/x/modules/m", {}), {}, (404, "DeviceNotFound"), id="module of nobody"),
    pytest.param(("GET", "/twins/x"), {}, (404, "DeviceNotFound"), id="twin of nobody"),
    pytest.param(("PATCH", "/twins/d1/modules/m", {}), {}, (404, "ModuleNotFound"), id="twin of no module"),
    pytest.param(("DELETE", "/devices/x/commands"), {}, (404, "DeviceNotFound"), id="purge nobody"),
    pytest.param(("GET", "/configurations/x"), {}, (404, "ConfigurationNotFound"), id="no configuration"),
    # twins
    pytest.param(("PATCH", "/twins/d1", {"tags": [1]}), {}, (400, "ArgumentInvalid"), id="tags are an array"),
    pytest.param(("PATCH", "/twins/d1", {"properties": 1}), {}, (400, "ArgumentInvalid"), id="properties"),
    pytest.param(
        ("PATCH", "/twins/d1", {"properties": {"desired": {"a.b": 1}}}),
        {},
        (400, "ArgumentInvalid"),
        id="key",
    ),
    pytest.param(
        ("PATCH", "/twins/d1", {"tags": {f"k{n}": "x" * 4000 for n in range(3)}}),
        {},
        (400, "ArgumentInvalid"),
        id="tags over 8 KB",
    ),
    # methods
    pytest.param(("POST", "/twins/d1/methods", {}), {}, (400, "ArgumentInvalid"), id="method without a name"),
    pytest.param(
        ("POST", "/twins/d1/methods", {"methodName": "a/b"}), {}, (400, "ArgumentInvalid"), id="method name"
    ),
    pytest.param(
        ("POST", "/twins/d1/methods", {"methodName": "m", "responseTimeoutInSeconds": 4}),
        {},
        (400, "ArgumentInvalid"),
        id="answer time too short",
    ),
    pytest.param(
        ("POST", "/twins/d1/methods", {"methodName": "m", "responseTimeoutInSeconds": 301}),
        {},
        (400, "ArgumentInvalid"),
        id="answer time too long",
    ),
    pytest.param(
        ("POST", "/twins/d1/methods", {"methodName": "m", "connectTimeoutInSeconds": "x"}),
        {},
        (400, "ArgumentInvalid"),
        id="connect time no number",
    ),
    pytest.param(
        ("POST", "/twins/d1/methods", {"methodName": "m", "payload": "x" * 131_072}),
        {},
        (413, "MessageTooLarge"),
        id="payload too large",
    ),
    pytest.param(
        ("POST", "/twins/d1/methods", {"methodName": "m"}), {}, (404, "DeviceNotOnline"), id="offline"
    ),
    pytest.param(("POST", "/twins/x/methods", {"methodName": "m"}), {}, (404, "DeviceNotFound"), id="nobody"),
    # lists and queries
    pytest.param(
        ("GET", "/devices"), {"query": "api-version=2021-04-12&top=0"}, (400, "ArgumentInvalid"), id="0"
    ),
    pytest.param(
        ("GET", "/devices"),
        {"query": "api-version=2021-04-12&top=x"},
        (400, "ArgumentInvalid"),
        id="top no number",
    ),
    pytest.param(("POST", "/devices/query", {}), {}, (400, "ArgumentInvalid"), id="no query"),
    pytest.param(
        ("POST", "/devices/query", {"query": "SELECT * FROM jobs"}),
        {},
        (400, "ArgumentInvalid"),
        id="bad query",
    ),
    pytest.param(
        ("POST", "/devices/query", {"query": "SELECT * FROM devices"}),
        {"x_ms_continuation": "%%"},
        (400, "ArgumentInvalid"),
        id="bad continuation",
    ),
    pytest.param(
        ("POST", "/devices/query", {"query": "SELECT * FROM devices"}),
        {"x_ms_max_item_count": "0"},
        (400, "ArgumentInvalid"),
        id="pages of nothing",
    ),
    # deployments
    pytest.param(
        (
            "POST",
            "/devices/d1/applyConfigurationContent",
            {"modulesContent": {"m": {"properties.desired": {}}}},
        ),
        {},
        (400, "ArgumentInvalid"),
        id="modules for a device that is no edge",
    ),
    pytest.param(
        ("POST", "/devices/e1/applyConfigurationContent", {"modulesContent": {"m": {"desired": {}}}}),
        {},
        (400, "InvalidConfigurationContent"),
        id="content for another section",
    ),
    pytest.param(
        ("POST", "/devices/e1/applyConfigurationContent", {"modulesContent": {"a b": {}}}),
        {},
        (400, "ArgumentInvalid"),
        id="module id",
    ),
    pytest.param(("PUT", "/configurations/Big", {}), {}, (400, "ArgumentInvalid"), id="configuration id"),
    pytest.param(
        ("PUT", "/configurations/c", {"priority": "x"}), {}, (400, "ArgumentInvalid"), id="priority no number"
    ),
    pytest.param(
        ("PUT", "/configurations/c", {"targetCondition": "tags."}),
        {},
        (400, "ArgumentInvalid"),
        id="condition",
    ),
    pytest.param(
        ("PUT", "/configurations/c", {"labels": {"a": 2**70}}), {}, (400, "ArgumentInvalid"), id="huge number"
    ),
    pytest.param(("POST", "/devices", {}), {}, (400, "ArgumentInvalid"), id="bulk of no array"),
    pytest.param(("POST", "/devices", [{}] * 101), {}, (400, "ArgumentInvalid"), id="bulk over its limit"),
    # messages
    pytest.param(
        ("POST", "/devices/d1/messages/devicebound", {"body": "!"}), {}, (400, "ArgumentInvalid"), id="body"
    ),
    pytest.param(
        ("POST", "/devices/d1/messages/devicebound", {"ack": "maybe"}), {}, (400, "ArgumentInvalid"), id="ack"
    ),
    pytest.param(
        ("POST", "/devices/d1/messages/devicebound", {"body": base64.b64encode(b"x" * 65_536).decode()}),
        {},
        (413, "MessageTooLarge"),
        id="C2D over 64 KiB",
    ),
    pytest.param(
        ("DELETE", "/messages/serviceBound/feedback/x"), {}, (412, "DeviceMessageLockLost"), id="unknown lock"
    ),
]


@pytest.mark.parametrize(("arguments", "keywords", "expected"), BAD_REQUESTS)
def test_a_bad_request_gets_the_documented_error(
    play: Play, arguments: Any, keywords: Any, expected: tuple[int, str]
) -> None:
    async def scene(client: RestClient, _: IotHub) -> None:
        status, name, code = await client.refused(*arguments, **keywords)

        assert (status, name) == expected
        assert code // 1000 == status

    play(scene)


@pytest.mark.parametrize(
    "make_token_of",
    [
        pytest.param(lambda client: None, id="no token"),
        pytest.param(lambda client: "", id="empty"),
        pytest.param(lambda client: "Bearer x", id="another scheme"),
        pytest.param(lambda client: client.token(seconds=-301), id="expired, or the clock is wrong"),
        pytest.param(lambda client: client.token("other.host"), id="another host"),
        pytest.param(lambda client: client.token(f"{HOST}/devices/d2"), id="another resource"),
        pytest.param(lambda client: client.token(f"{HOST}/devices/d"), id="a beginning of the resource"),
        pytest.param(lambda client: client.token()[:-4] + "nobody", id="unknown policy"),
        pytest.param(
            lambda client: make_token(HOST, b"x" * 32, int(2e9), "iothubowner"), id="signed with another key"
        ),
        pytest.param(lambda client: make_token(HOST, b"x" * 32, int(2e9)), id="without a policy"),
    ],
)
def test_a_request_without_good_credentials_is_unauthorized(
    play: Play, make_token_of: Callable[[RestClient], str | None]
) -> None:
    async def scene(client: RestClient, _: IotHub) -> None:
        refused = await client.refused("GET", "/devices/d1", authorization=make_token_of(client))

        assert refused == (401, "IotHubUnauthorized", 401003)

    play(scene)


@pytest.mark.parametrize(
    "audience",
    [HOST, HOST.upper(), f"{HOST}:443", f"{HOST}/", f"{HOST}/devices", f"{HOST}/devices/D1"],
    ids=["host", "capitals", "with port", "with slash", "resource above", "resource in capitals"],
)
def test_a_token_counts_for_what_lies_below_its_audience(play: Play, audience: str) -> None:
    async def scene(client: RestClient, _: IotHub) -> None:
        assert (await client.ask("GET", "/devices/d1", authorization=client.token(audience)))[
            "deviceId"
        ] == "d1"

    play(scene)


def test_an_account_without_the_permission_is_told_so(play: Play) -> None:
    async def scene(client: RestClient, hub: IotHub) -> None:
        reader = RestClient(hub, "registryRead")

        assert (await reader.ask("GET", "/devices/d1"))["deviceId"] == "d1"
        assert await reader.refused("PUT", "/devices/d2", {}) == (401, "IotHubUnauthorizedAccess", 401002)

    play(scene)


def test_the_registry_refuses_what_is_over_its_limits(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DEVICES", 3)
    monkeypatch.setattr(registry, "CHILDREN_PER_EDGE", 1)

    async def scene(client: RestClient, hub: IotHub) -> None:
        scope = {"deviceScope": (await hub.find(Identity("e1"))).device_scope}
        for number in range(registry.MODULES_PER_DEVICE):
            await client.ask("PUT", f"/devices/d1/modules/m{number}", {})
        await client.ask("PUT", "/devices/d2", scope)

        assert await client.refused("PUT", "/devices/d1/modules/more", {}) == (
            413,
            "TooManyModulesOnDevice",
            413003,
        )
        assert await client.refused("PUT", "/devices/d3", {}) == (413, "TooManyDevices", 413002)
        assert await client.refused("PUT", "/devices/d1", scope, if_match="*") == (
            403,
            "IotHubQuotaExceeded",
            403002,
        )
        await client.ask("POST", "/devices/d1/messages/devicebound", {})
        for _ in range(49):
            await client.ask("POST", "/devices/d1/messages/devicebound", {"body": "eA=="})
        refused = await client.refused("POST", "/devices/d1/messages/devicebound", {})
        assert refused == (403, "DeviceMaximumQueueDepthExceeded", 403004)

    play(scene)


def test_the_longest_id_with_every_sign_is_taken(play: Play) -> None:
    async def scene(client: RestClient, _: IotHub) -> None:
        device_id = "-.%_*?!(),:=@$'".ljust(128, "x")
        path = "/devices/" + "".join(f"%{ord(sign):02X}" for sign in device_id)

        assert (await client.ask("PUT", path, {"deviceId": device_id}))["deviceId"] == device_id

    play(scene)


def test_edges_stand_below_each_other_only_so_deep_and_never_in_a_circle(play: Play) -> None:
    async def scene(client: RestClient, _: IotHub) -> None:
        edge = {"capabilities": {"iotEdge": True}}
        scopes = [(await client.ask("GET", "/devices/e1"))["deviceScope"]]
        for number in range(2, 6):
            made = await client.ask("PUT", f"/devices/e{number}", edge | {"parentScopes": scopes[-1:]})
            assert made["parentScopes"] == scopes[-1:]
            scopes.append(made["deviceScope"])

        deeper = await client.refused("PUT", "/devices/e6", edge | {"parentScopes": scopes[-1:]})
        circle = await client.refused("PUT", "/devices/e1", {"parentScopes": scopes[-1:]}, if_match="*")

        assert deeper == circle == (400, "InvalidDeviceScope", 400028)

    play(scene)


def test_children_of_a_deleted_edge_have_no_parent(play: Play) -> None:
    async def scene(client: RestClient, _: IotHub) -> None:
        scope = (await client.ask("GET", "/devices/e1"))["deviceScope"]
        await client.ask("PUT", "/devices/leaf", {"deviceScope": scope})

        await client.ask("DELETE", "/devices/e1")

        assert "deviceScope" not in await client.ask("GET", "/devices/leaf")

    play(scene)


def test_the_identity_service_of_an_edge_manages_its_modules(play: Play) -> None:
    """The calls and tokens of security-daemon.md section 4.3: audience in small letters, life of 30 s."""

    async def scene(client: RestClient, hub: IotHub) -> None:
        await hub.put(Identity("Edge2"), {"capabilities": {"iotEdge": True}})
        key = base64.b64decode((await hub.find(Identity("Edge2"))).authentication.primary_key)
        own = _signed_raw(f"{HOST}/devices/edge2", key, int(hub.clock.now_s()) + 30)
        keys = {"primaryKey": "A" * 43 + "=", "secondaryKey": "B" * 43 + "="}
        modules = "/devices/Edge2/modules"

        async def ask(method: str, path: str, body: Any = None, **headers: str) -> Any:
            return await client.ask(
                method, path, body, query="api-version=2017-11-08-preview", authorization=own, **headers
            )

        created = await ask("PUT", f"{modules}/m1", {"moduleId": "m1", "deviceId": "Edge2"})
        wanted = {
            "moduleId": "m1",
            "deviceId": "Edge2",
            "generationId": created["generationId"],
            "authentication": {"type": "sas", "symmetricKey": keys},
        }
        updated = await ask("PUT", f"{modules}/m1", wanted, if_match="*")
        listed = await ask("GET", modules)
        agent = await ask("GET", f"{modules}/%24edgeAgent")
        await ask("DELETE", f"{modules}/m1", if_match="*")

        assert client.status == 204
        assert updated["authentication"]["symmetricKey"] == keys
        assert updated["generationId"] == created["generationId"]
        assert [module["moduleId"] for module in listed] == ["$edgeAgent", "$edgeHub", "m1"]
        assert (agent["managedBy"], agent["authentication"]["type"]) == ("iotEdge", "none")
        assert await client.refused("GET", "/devices/e1/modules", authorization=own) == (
            401,
            "IotHubUnauthorized",
            401003,
        )
        assert (await client.refused("DELETE", "/devices/Edge2", authorization=own))[0] == 401

    play(scene)


def _signed_raw(audience: str, key: bytes, expires_s: int) -> str:
    """Return a token whose audience is not percent-encoded."""
    signature = hmac.digest(key, f"{audience}\n{expires_s}".encode(), hashlib.sha256)
    sig = quote(base64.b64encode(signature).decode(), safe="")
    return f"SharedAccessSignature sr={audience}&sig={sig}&se={expires_s}"


def test_the_hub_of_an_edge_asks_for_what_is_below_it(play: Play) -> None:
    async def scene(client: RestClient, hub: IotHub) -> None:
        key = {"primaryKey": "A" * 43 + "=", "secondaryKey": "B" * 43 + "="}
        await hub.put(
            Identity("e1", "$edgeHub"), {"authentication": {"type": "sas", "symmetricKey": key}}, "*"
        )
        scope = (await hub.find(Identity("e1"))).device_scope
        for number in range(3):
            await hub.put(Identity(f"leaf{number}"), {"deviceScope": scope})
        below = await hub.put(Identity("e2"), {"capabilities": {"iotEdge": True}, "parentScopes": [scope]})
        await hub.put(Identity("far"), {"deviceScope": below.device_scope})
        token = await token_of(hub, Identity("e1", "$edgeHub"))
        base = "/devices/e1/modules/%24edgeHub"

        async def ask(name: str, **body: Any) -> Any:
            return await client.ask("POST", f"{base}/{name}", body, authorization=token)

        first = await ask("devicesAndModulesInTargetDeviceScope", pageSize=3, authChain="e1")
        second = await ask(
            "devicesAndModulesInTargetDeviceScope", continuationLink=first["continuationLink"], authChain="e1"
        )
        nested = await ask("devicesAndModulesInTargetDeviceScope", authChain="e2;e1")
        one = await ask("getDeviceAndModuleOnBehalfOf", targetDeviceId="far", authChain="far;e2;e1")
        module = await ask(
            "getDeviceAndModuleOnBehalfOf",
            targetDeviceId="e2",
            targetModuleId="$edgeAgent",
            authChain="e2/$edgeAgent;e2;e1",
        )
        flat = await client.ask(
            "GET",
            "/devices/e1/modules/$edgeHub/devicesAndModulesInDeviceScope",
            query="deviceCount=100&continuationToken=&api-version=2018-08-30-preview",
            authorization=token,
        )

        assert [device["deviceId"] for device in first["devices"]] == ["e1", "e2", "leaf0"]
        assert [each["moduleId"] for each in first["modules"]] == ["$edgeAgent", "$edgeHub"]
        assert first["devices"][2]["deviceScope"] == first["devices"][2]["parentScopes"][0] == scope
        assert len(first["devices"][2]["authentication"]["symmetricKey"]["primaryKey"]) == 44
        assert [device["deviceId"] for device in second["devices"]] == ["leaf1", "leaf2"]
        assert (second["modules"], second["continuationLink"]) == ([], None)
        assert [device["deviceId"] for device in nested["devices"]] == ["e2", "far"]
        assert [device["deviceId"] for device in one["devices"]] == ["far"]
        assert module["modules"][0]["moduleId"] == "$edgeAgent"
        assert len(flat["devices"]) == 5
        stranger = await client.refused(
            "POST",
            f"{base}/getDeviceAndModuleOnBehalfOf",
            {"targetDeviceId": "d1", "authChain": "d1;e1"},
            authorization=token,
        )
        assert stranger == (401, "IotHubUnauthorizedAccess", 401002)
        other = await token_of(hub, Identity("d1"))
        assert (
            await client.refused(
                "POST", f"{base}/devicesAndModulesInTargetDeviceScope", {}, authorization=other
            )
        )[0] == 401

    play(scene)


def test_a_message_goes_out_and_events_come_in(play: Play) -> None:
    async def scene(client: RestClient, hub: IotHub) -> None:
        device = await FakeDevice.connect(hub, "d1")
        sent = await client.ask(
            "POST",
            "/devices/d1/messages/devicebound",
            {
                "body": "aGk=",
                "properties": {"p": "1"},
                "systemProperties": {"messageId": "m-1", "contentType": "text/plain"},
                "ack": "full",
                "expiryTimeUtc": "2033-05-18T03:33:20Z",
            },
        )
        _, message, _ = await device.next()
        await hub.telemetry(device.grant, [Telemetry({"q": "2"}, {"contentType": "x"}, b"\x00\xff")])

        got = await client.ask("GET", "/messages/events", query="api-version=2021-04-12&after=0")

        assert (client.status, sent["messageId"]) == (200, "m-1")
        assert (message.body, message.properties, message.expires_s) == (b"hi", {"p": "1"}, 2_000_000_000)
        assert message.system_properties["absolute-expiry-time"] == "2033-05-18T03:33:20.000000Z"
        (event,) = got["events"]
        assert (event["sequenceNumber"], got["after"]) == (1, 1)
        assert base64.b64decode(event["body"]) == b"\x00\xff"
        assert event["properties"] == {"q": "2"}
        assert event["annotations"]["iothub-connection-device-id"] == "d1"
        assert event["annotations"]["iothub-message-source"] == "Telemetry"

    play(scene)


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"id": "d1"}, "DeviceAlreadyExists"),
        ({"id": 5}, "ArgumentInvalid"),
        ({"id": "d2", "moduleId": 5}, "ArgumentInvalid"),
        ({"id": "d2", "importMode": "magic"}, "ArgumentInvalid"),
        ({"id": "d2", "importMode": "update"}, "DeviceNotFound"),
        ({"id": "d1", "importMode": "updateIfMatchETag", "eTag": "x"}, "PreconditionFailed"),
        ({"id": "d1", "importMode": "updateTwin", "tags": 5}, "ArgumentInvalid"),
    ],
)
def test_a_bulk_request_says_which_devices_failed_and_does_the_others(
    play: Play, item: Any, name: str
) -> None:
    async def scene(client: RestClient, _: IotHub) -> None:
        result = await client.ask("POST", "/devices", [{"id": "good"}, item])

        assert client.status == 400
        assert result["isSuccessful"] is False
        assert [error["errorCode"] for error in result["errors"]] == [name]
        assert (await client.ask("GET", "/devices/good"))["status"] == "enabled"

    play(scene)


def test_a_wrong_method_is_answered_with_those_that_are_right(play: Play) -> None:
    async def scene(client: RestClient, _: IotHub) -> None:
        await client.refused("PATCH", "/devices/d1")

        assert client.headers["allow"] == "DELETE, GET, PUT"

    play(scene)


MEMBERS = """
    id moduleId importMode status statusReason capabilities iotEdge authentication type symmetricKey
    primaryKey x509Thumbprint primaryThumbprint tags properties desired modulesContent deviceContent content m
    properties.desired properties.desired.a parentScopes deviceScope methodName payload certificate
    responseTimeoutInSeconds query labels targetCondition priority customMetricQueries pageSize authChain
    targetDeviceId targetModuleId continuationLink body systemProperties messageId expiryTimeUtc ack metrics
"""
NAMES = st.sampled_from(MEMBERS.split())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        ["", "d1", "e1", "sas", "selfSigned", "*", "create", "delete", "full", "ä/\x00", "9" * 30]
    ),
    st.sampled_from([2**70, -(2**70), 1e308]),
)
BODIES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.dictionaries(NAMES, inner, max_size=6), st.lists(inner, max_size=3)),
    max_leaves=20,
)
OBJECTS = st.dictionaries(NAMES, BODIES, max_size=10)
CALLS = [route for route in ROUTES if route.method in ("PUT", "PATCH", "POST")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(CALLS),
            st.one_of(OBJECTS, st.lists(OBJECTS, max_size=3)),
            st.sampled_from([None, "*", '"x"']),
        ),
        max_size=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_body_makes_the_hub_fail(calls: list[tuple[Route, Any, str | None]]) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        client = RestClient(hub)
        await hub.put(Identity("d1"), {})
        await hub.put(Identity("e1"), {"capabilities": {"iotEdge": True}})
        for route, body, if_match in calls:
            path = route.path.format(device="e1", module="m", configuration="c", certificate="ca", lock="x")
            token = client.token() if route.needs else await token_of(hub, Identity("e1"))
            await client.ask(route.method, path, body, if_match=if_match, authorization=token)
            assert client.status < 500, (route.path, body)

    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), test)
