"""The canonical names of system properties: what the hub stores, and what a route writes after `$`.

Source: spec sheets routing.md section 2.6, hub-protocols.md section 1.11
"""

from __future__ import annotations

from typing import Final

MESSAGE_ID: Final = "messageId"
CORRELATION_ID: Final = "cid"
USER_ID: Final = "userId"
TO: Final = "to"
CONTENT_TYPE: Final = "contentType"
CONTENT_ENCODING: Final = "contentEncoding"
EXPIRY: Final = "absolute-expiry-time"
CREATION_TIME: Final = "creationTime"
MESSAGE_SCHEMA: Final = "messageSchema"
OPERATION: Final = "operation"
ACK: Final = "ack"
OUTPUT_NAME: Final = "outputName"
INTERFACE_ID: Final = "iothub-interface-id"
COMPONENT: Final = "dt-subject"

# From here on set by the hub alone; a client that sends such a name sends an application property.
CONNECTION_DEVICE_ID: Final = "connectionDeviceId"
CONNECTION_MODULE_ID: Final = "connectionModuleId"
ENQUEUED_TIME: Final = "enqueuedTime"
DELIVERY_COUNT: Final = "deliveryCount"
SEQUENCE_NUMBER: Final = "sequenceNumber"
MODEL_ID: Final = "modelId"
ORIGIN: Final = "edgeHubOriginInterface"
MESSAGE_TYPE: Final = "messageType"
REPORTER_DEVICE_ID: Final = "rpSenderDeviceId"
REPORTER_MODULE_ID: Final = "rpSenderModuleId"
