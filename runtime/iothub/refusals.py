"""What the stand-in refuses, in IoT Hub's numbers and names. One function each, so that they read as a list.

Source: spec sheet security-daemon.md section 4.6
        MicrosoftDocs/azure-docs: articles/iot-hub/troubleshoot-error-codes.md
"""

from __future__ import annotations

from collections.abc import Sequence

from messaging.errors import IotHubError
from messaging.identity import Identity
from messaging.text import quoted


def argument_invalid(message: str) -> IotHubError:
    """What was sent does not make sense."""
    return IotHubError(400004, "ArgumentInvalid", message)


def invalid_scope(message: str) -> IotHubError:
    """A device scope does not name an edge device that can be a parent."""
    return IotHubError(400028, "InvalidDeviceScope", message)


def bad_version(message: str) -> IotHubError:
    """A REST request has no usable api-version."""
    return IotHubError(400001, "InvalidProtocolVersion", message)


def bad_content(message: str) -> IotHubError:
    """The content of a configuration is not what it may be."""
    return IotHubError(400402, "InvalidConfigurationContent", message)


def content_fixed(configuration_id: str) -> IotHubError:
    """The content of a configuration stays what it was when that was created."""
    return IotHubError(
        400403,
        "CannotModifyImmutableConfigurationContent",
        f"the content of configuration '{configuration_id}' cannot be changed; create another one",
    )


def unauthorized(message: str) -> IotHubError:
    """Who asks has not proven who they are."""
    return IotHubError(401003, "IotHubUnauthorized", message)


def not_permitted(message: str) -> IotHubError:
    """Who asks is known and may not do this."""
    return IotHubError(401002, "IotHubUnauthorizedAccess", message)


def too_many_children(parent_id: str, limit: int) -> IotHubError:
    """An edge device has as many children as it may."""
    return IotHubError(403002, "IotHubQuotaExceeded", f"edge device '{parent_id}' has {limit} children")


def queue_full(device_id: str, limit: int) -> IotHubError:
    """The queue of a device is full."""
    return IotHubError(
        403004,
        "DeviceMaximumQueueDepthExceeded",
        f"device '{device_id}' has {limit} messages waiting; let it take some, or purge its queue",
    )


def unknown(identity: Identity) -> IotHubError:
    """There is no such device or module."""
    if identity.module_id is None:
        return IotHubError(404001, "DeviceNotFound", f"device '{identity}' is not registered")
    return IotHubError(404010, "ModuleNotFound", f"module '{identity}' is not registered")


def unknown_configuration(configuration_id: str) -> IotHubError:
    """There is no such configuration."""
    return IotHubError(404301, "ConfigurationNotFound", f"configuration '{configuration_id}' does not exist")


def no_such_resource(path: str) -> IotHubError:
    """The hub has nothing at this path."""
    return IotHubError(404000, "GenericNotFound", f"there is nothing at {quoted(path)}")


def method_not_allowed(method: str, allowed: Sequence[str]) -> IotHubError:
    """There is something at the path, and it is not for this HTTP method."""
    return IotHubError(
        405000,
        "GenericMethodNotAllowed",
        f"the method {quoted(method)} is not for this path; allowed: {', '.join(allowed)}",
    )


def bad_media_type(content_type: str) -> IotHubError:
    """The body is not what this API understands."""
    return IotHubError(
        415000, "GenericUnsupportedMediaType", f"Content-Type {quoted(content_type)} is not application/json"
    )


def not_online(identity: Identity) -> IotHubError:
    """A direct method needs a connected target that listens for methods."""
    return IotHubError(
        404103, "DeviceNotOnline", f"'{identity}' is not connected, or does not listen for direct methods"
    )


def exists(identity: Identity) -> IotHubError:
    """There is such a device or module already."""
    if identity.module_id is None:
        return IotHubError(409001, "DeviceAlreadyExists", f"device '{identity}' is registered already")
    return IotHubError(409301, "ModuleAlreadyExistsOnDevice", f"module '{identity}' is registered already")


def no_such_certificate(name: str) -> IotHubError:
    """There is no such certificate authority."""
    return IotHubError(404003, "CertificateNotFound", f"there is no certificate {quoted(name)}")


def configuration_exists(configuration_id: str) -> IotHubError:
    """There is such a configuration already."""
    return IotHubError(
        409401, "ConfigurationAlreadyExists", f"configuration '{configuration_id}' exists already"
    )


def precondition_failed(what: str, etag: str) -> IotHubError:
    """`If-Match` names another version than the one there is."""
    return IotHubError(412001, "PreconditionFailed", f"{what} has the etag {etag}, not the one in If-Match")


def lock_lost(lock: str) -> IotHubError:
    """A message is not locked under this token any more."""
    return IotHubError(412002, "DeviceMessageLockLost", f"no message is locked under the token '{lock}'")


def too_large(message: str) -> IotHubError:
    """What was sent is over a size limit."""
    return IotHubError(413001, "MessageTooLarge", message)


def too_many_devices(limit: int) -> IotHubError:
    """The registry is full."""
    return IotHubError(413002, "TooManyDevices", f"the hub has {limit} devices; delete one first")


def too_many_modules(device_id: str, limit: int) -> IotHubError:
    """A device has as many modules as it may."""
    return IotHubError(
        413003, "TooManyModulesOnDevice", f"device '{device_id}' has {limit} modules; delete one first"
    )


def too_many_configurations(limit: int) -> IotHubError:
    """The hub has as many configurations as it may."""
    return IotHubError(
        413101,
        "ConfigurationCountLimitExceeded",
        f"the hub has {limit} configurations; delete one first",
    )


def server_error(message: str) -> IotHubError:
    """Something failed that is no fault of who asks."""
    return IotHubError(500001, "ServerError", message)


def unavailable(message: str) -> IotHubError:
    """The hub cannot do this now."""
    return IotHubError(503001, "ServiceUnavailable", message)


def no_answer(identity: Identity, timeout_s: float) -> IotHubError:
    """The target is connected and did not answer a direct method in time."""
    return IotHubError(504101, "GatewayTimeout", f"'{identity}' did not answer within {timeout_s:g} s")
