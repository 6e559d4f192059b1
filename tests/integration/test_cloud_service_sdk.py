"""The official service SDK of Python, unmodified, against the stand-in over REST (azure-iot-hub 2.7.0)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cloud_server import CloudServer, cloud_server

pytest.importorskip("uamqp", reason="azure-iot-hub needs uamqp, of which there is no wheel for this Python")

from azure.iot.hub import IoTHubConfigurationManager, IoTHubHttpRuntimeManager, IoTHubRegistryManager
from azure.iot.hub.models import (
    CloudToDeviceMethod,
    Configuration,
    ConfigurationContent,
    ExportImportDevice,
    QuerySpecification,
    Twin,
    TwinProperties,
)
from msrest.exceptions import HttpOperationError

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
THUMBPRINTS = ["A" * 40, "B" * 64]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    with (
        cloud_server(Path(tmp_path_factory.mktemp("cloud"))) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
        yield server


@pytest.fixture
def registry(cloud: CloudServer) -> Iterator[Any]:
    manager = IoTHubRegistryManager.from_connection_string(cloud.connection_string())
    yield manager
    for device in manager.get_devices():
        manager.delete_device(device.device_id)


def refused(error: pytest.ExceptionInfo[HttpOperationError]) -> tuple[int, str]:
    """Return status and error code of a refusal, as the SDK shows it."""
    response = error.value.response
    return response.status_code, response.json()["Message"].partition(";")[0]


def test_a_device_with_keys_is_created_read_updated_and_deleted(registry: Any) -> None:
    created = registry.create_device_with_sas("d1", *KEYS, status="enabled")

    assert created.authentication.symmetric_key.primary_key == KEYS[0]
    assert (created.status, created.connection_state) == ("enabled", "Disconnected")
    assert created.generation_id.isdecimal()

    updated = registry.update_device_with_sas("d1", created.etag, KEYS[1], KEYS[0], "disabled")
    read = registry.get_device("d1")

    assert read.authentication.symmetric_key.primary_key == KEYS[1]
    assert read.status == "disabled"
    assert read.generation_id == created.generation_id
    assert read.etag == updated.etag != created.etag
    registry.delete_device("d1", read.etag)
    with pytest.raises(HttpOperationError) as error:
        registry.get_device("d1")
    assert refused(error) == (404, "ErrorCode:DeviceNotFound")


def test_devices_with_certificates_are_created(registry: Any) -> None:
    self_signed = registry.create_device_with_x509("d1", *THUMBPRINTS, status="enabled")
    authority = registry.create_device_with_certificate_authority("d2", status="enabled")

    assert self_signed.authentication.type == "selfSigned"
    assert self_signed.authentication.x509_thumbprint.primary_thumbprint == THUMBPRINTS[0]
    assert authority.authentication.type == "certificateAuthority"


def test_an_edge_device_has_its_modules_and_takes_children(registry: Any) -> None:
    edge = registry.create_device_with_sas("e1", "", "", status="enabled", iot_edge=True)
    leaf = registry.create_device_with_sas("leaf", "", "", status="enabled", device_scope=edge.device_scope)

    assert edge.capabilities.iot_edge
    assert {module.module_id for module in registry.get_modules("e1")} == {"$edgeAgent", "$edgeHub"}
    assert leaf.device_scope == edge.device_scope
    assert leaf.parent_scopes == [edge.device_scope]
    assert len(base64.b64decode(leaf.authentication.symmetric_key.primary_key)) == 32


def test_a_device_is_created_only_once_and_changed_only_with_its_etag(registry: Any) -> None:
    created = registry.create_device_with_sas("d1", *KEYS, status="enabled")
    registry.update_device_with_sas("d1", created.etag, *KEYS, "enabled")

    with pytest.raises(HttpOperationError) as twice:
        registry.create_device_with_sas("d1", *KEYS, status="enabled")
    with pytest.raises(HttpOperationError) as stale:
        registry.update_device_with_sas("d1", created.etag, *KEYS, "enabled")

    assert refused(twice) == (409, "ErrorCode:DeviceAlreadyExists")
    assert refused(stale) == (412, "ErrorCode:PreconditionFailed")


def test_modules_are_created_read_updated_and_deleted(registry: Any) -> None:
    registry.create_device_with_sas("d1", "", "", status="enabled")
    created = registry.create_module_with_sas("d1", "m1", "me", *KEYS)
    registry.create_module_with_x509("d1", "m2", "me", *THUMBPRINTS)
    registry.create_module_with_certificate_authority("d1", "m3", "me")

    updated = registry.update_module_with_sas("d1", "m1", "you", "*", *reversed(KEYS))

    assert created.managed_by == "me"
    assert updated.managed_by == "you"
    assert registry.get_module("d1", "m1").authentication.symmetric_key.primary_key == KEYS[1]
    assert [module.module_id for module in registry.get_modules("d1")] == ["m1", "m2", "m3"]
    registry.delete_module("d1", "m1")
    with pytest.raises(HttpOperationError) as error:
        registry.get_module("d1", "m1")
    assert refused(error) == (404, "ErrorCode:ModuleNotFound")


def test_a_twin_is_read_patched_and_replaced(registry: Any) -> None:
    registry.create_device_with_sas("d1", "", "", status="enabled")
    before = registry.get_twin("d1")

    patched = registry.update_twin(
        "d1",
        Twin(tags={"site": "a"}, properties=TwinProperties(desired={"x": 1, "y": {"z": 2}})),
        before.etag,
    )
    again = registry.update_twin("d1", Twin(properties=TwinProperties(desired={"y": {"z": None}, "x": 5})))

    assert before.properties.desired["$version"] == 1
    assert patched.tags == {"site": "a"}
    assert patched.properties.desired["$version"] == 2
    assert "$lastUpdated" in patched.properties.desired["$metadata"]["y"]["z"]
    assert (again.properties.desired["x"], again.properties.desired["y"]) == (5, {})
    replaced = registry.replace_twin("d1", Twin(tags={}, properties=TwinProperties(desired={"only": True})))
    assert {key for key in replaced.properties.desired if not key.startswith("$")} == {"only"}
    assert replaced.tags == {}
    with pytest.raises(HttpOperationError) as stale:
        registry.update_twin("d1", Twin(tags={"site": "b"}), before.etag)
    assert refused(stale) == (412, "ErrorCode:PreconditionFailed")


def test_a_twin_of_a_module_is_its_own(registry: Any) -> None:
    registry.create_device_with_sas("d1", "", "", status="enabled")
    registry.create_module_with_sas("d1", "m1", "", "", "")

    registry.update_module_twin("d1", "m1", Twin(properties=TwinProperties(desired={"of": "module"})), "*")
    registry.replace_module_twin("d1", "m1", Twin(properties=TwinProperties(desired={"of": "m1"})))

    assert registry.get_module_twin("d1", "m1").properties.desired["of"] == "m1"
    assert "of" not in registry.get_twin("d1").properties.desired


def test_direct_methods_reach_devices_and_modules(cloud: CloudServer, registry: Any) -> None:
    registry.create_device_with_sas("d1", "", "", status="enabled")
    registry.create_module_with_sas("d1", "m1", "", "", "")
    cloud.answering_device("d1")
    cloud.answering_device("d1", "m1")
    method = CloudToDeviceMethod(method_name="ping", payload={"n": [1, None]}, response_timeout_in_seconds=10)

    of_device = registry.invoke_device_method("d1", method)
    of_module = registry.invoke_device_module_method("d1", "m1", CloudToDeviceMethod(method_name="ping"))

    assert (of_device.status, of_device.payload) == (207, {"name": "ping", "payload": {"n": [1, None]}})
    assert of_module.status == 207
    assert registry.get_device("d1").connection_state == "Connected"
    assert registry.get_service_statistics().connected_device_count == 1


def test_a_method_for_a_device_that_is_away_says_so(registry: Any) -> None:
    registry.create_device_with_sas("d1", "", "", status="enabled")

    with pytest.raises(HttpOperationError) as error:
        registry.invoke_device_method("d1", CloudToDeviceMethod(method_name="ping", payload=""))

    assert refused(error) == (404, "ErrorCode:DeviceNotOnline")


def test_queries_come_in_pages(registry: Any) -> None:
    for number in range(5):
        registry.create_device_with_sas(f"d{number}", "", "", status="enabled", iot_edge=number == 3)
    found: list[str] = []
    more = None

    while True:
        page = registry.query_iot_hub(QuerySpecification(query="SELECT * FROM devices"), more, 2)
        found += [twin.device_id for twin in page.items]
        more = page.continuation_token
        if not more:
            break

    edges = registry.query_iot_hub(
        QuerySpecification(query="SELECT * FROM devices WHERE capabilities.iotEdge = true")
    )
    assert found == [f"d{number}" for number in range(5)]
    assert [twin.device_id for twin in edges.items] == ["d3"]


def test_devices_are_created_and_deleted_in_bulk(registry: Any) -> None:
    registry.bulk_create_or_update_devices(
        [ExportImportDevice(id=f"b{n}", import_mode="create", status="enabled") for n in range(3)]
    )
    assert [device.device_id for device in registry.get_devices()] == ["b0", "b1", "b2"]

    registry.bulk_create_or_update_devices([ExportImportDevice(id="b1", import_mode="delete")])

    assert [device.device_id for device in registry.get_devices(max_number_of_devices=1)] == ["b0"]
    statistics = registry.get_device_registry_statistics()
    assert (statistics.total_device_count, statistics.enabled_device_count) == (2, 2)


def test_content_is_applied_to_an_edge_device(cloud: CloudServer, registry: Any) -> None:
    registry.create_device_with_sas("e1", "", "", status="enabled", iot_edge=True)
    configurations = IoTHubConfigurationManager.from_connection_string(cloud.connection_string())

    configurations.apply_configuration_on_edge_device(
        "e1",
        ConfigurationContent(
            modules_content={
                "$edgeAgent": {"properties.desired": {"schemaVersion": "1.1", "modules": {}}},
                "$edgeHub": {"properties.desired": {"routes": {}}, "properties.desired.routes.up": "FROM /*"},
                "sensor": {"properties.desired": {"interval": 5}},
            }
        ),
    )

    hub = registry.get_module_twin("e1", "$edgeHub").properties.desired
    assert hub["routes"] == {"up": "FROM /*"}
    assert registry.get_module_twin("e1", "sensor").properties.desired["interval"] == 5
    assert registry.get_module("e1", "sensor").managed_by == "IotEdge"


def test_configurations_are_stored(cloud: CloudServer) -> None:
    manager = IoTHubConfigurationManager.from_connection_string(cloud.connection_string())
    configuration = Configuration(
        id="c1",
        schema_version="1.0",
        content=ConfigurationContent(modules_content={"$edgeAgent": {"properties.desired.modules.x": {}}}),
        target_condition="tags.site = 'a'",
        priority=7,
        labels={"by": "test"},
        etag="*",
    )

    created = manager.create_configuration(configuration)
    created.priority = 9
    updated = manager.update_configuration(created, created.etag)

    assert (created.id, updated.priority) == ("c1", 9)
    assert [each.id for each in manager.get_configurations()] == ["c1"]
    assert manager.get_configuration("c1").target_condition == "tags.site = 'a'"
    assert manager.test_configuration_queries({"targetCondition": "tags.site ="}).target_condition_error
    manager.delete_configuration("c1")
    with pytest.raises(HttpOperationError) as error:
        manager.get_configuration("c1")
    assert refused(error) == (404, "ErrorCode:ConfigurationNotFound")


def test_waiting_messages_are_purged_and_senders_told(cloud: CloudServer, registry: Any) -> None:
    registry.create_device_with_sas("d1", "", "", status="enabled")
    cloud.run(cloud.hub.send_c2d("d1", b"x", ack="full", system_properties={"messageId": "m-1"}))
    runtime = IoTHubHttpRuntimeManager.from_connection_string(cloud.connection_string())
    queues = runtime.protocol.cloud_to_device_messages

    assert registry.get_device("d1").cloud_to_device_message_count == 1
    assert queues.purge_cloud_to_device_message_queue("d1").total_messages_purged == 1

    assert registry.get_device("d1").cloud_to_device_message_count == 0
    reply = queues.receive_feedback_notification(raw=True).response
    assert [(each["originalMessageId"], each["statusCode"]) for each in reply.json()] == [("m-1", "Purged")]
    runtime.abandon_feedback_notification(reply.headers["iothub-lockToken"])
    again = queues.receive_feedback_notification(raw=True).response
    assert again.json() == reply.json()
    runtime.complete_feedback_notification(again.headers["iothub-lockToken"])
    assert queues.receive_feedback_notification(raw=True).response.status_code == 204


@pytest.mark.parametrize(
    ("policy", "reads", "writes", "serves"),
    [
        ("iothubowner", True, True, True),
        ("service", False, False, True),
        ("registryRead", True, False, False),
        ("registryReadWrite", True, True, False),
        ("device", False, False, False),
    ],
)
def test_an_account_may_do_what_its_permissions_say(
    cloud: CloudServer, registry: Any, policy: str, reads: bool, writes: bool, serves: bool
) -> None:
    registry.create_device_with_sas("d1", "", "", status="enabled")
    manager = IoTHubRegistryManager.from_connection_string(cloud.connection_string(policy))

    def may(call: Any, *arguments: Any) -> bool:
        try:
            call(*arguments)
        except HttpOperationError as exc:
            if exc.response.status_code == 401:
                return False
            raise
        return True

    assert may(manager.get_device, "d1") is reads
    assert may(manager.create_device_with_sas, "d2", "", "", "enabled") is writes
    assert may(manager.get_twin, "d1") is serves
