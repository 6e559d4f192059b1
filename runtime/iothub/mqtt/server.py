"""Serves MQTT 3.1.1 to devices and modules of the IoT Hub stand-in."""

from __future__ import annotations

from messaging.clock import Clock, SystemClock
from runtime.iothub.credit import Credit
from runtime.iothub.device_server import DeviceServer
from runtime.iothub.hub import IotHub
from runtime.iothub.mqtt.session import MqttSession


class MqttServer(DeviceServer[MqttSession]):
    """All connections have their credit in common."""

    def __init__(self, hub: IotHub, clock: Clock = SystemClock()) -> None:  # noqa: B008 - it has no state
        credit = Credit()
        super().__init__(lambda transport, ended: MqttSession(hub, clock, credit, transport, ended))
