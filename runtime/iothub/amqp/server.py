"""Serves AMQP 1.0 to devices, modules and services of the IoT Hub stand-in."""

from __future__ import annotations

from messaging.clock import Clock, SystemClock
from runtime.iothub.amqp.front import AmqpConnection
from runtime.iothub.amqp.services import service_links
from runtime.iothub.credit import Credit
from runtime.iothub.device_server import DeviceServer
from runtime.iothub.hub import IotHub


class AmqpServer(DeviceServer[AmqpConnection]):
    """All connections have their credit and the links of services in common."""

    def __init__(self, hub: IotHub, clock: Clock = SystemClock()) -> None:  # noqa: B008 - it has no state
        credit, services = Credit(), service_links()
        super().__init__(
            lambda transport, ended: AmqpConnection(hub, clock, credit, transport, services, ended)
        )
