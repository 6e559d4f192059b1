"""A device or module on `uamqp`, the engine of the C SDK, moved by a test. Speaks as device.js does.

    python uamqp_program.py CREDENTIAL KIND

CREDENTIAL is a connection string, or `edge` for a module that takes everything from its environment; KIND is
device or module. Lines come and go on standard input and output, or on a connection to CONTROL (host:port).
What is on the wire is what the C SDK puts there: spec sheet hub-protocols.md sections 3.8, 3.9 and 8.3.
It imports nothing of the project.
"""

from __future__ import annotations

import calendar
import itertools
import json
import os
import queue
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import IO, Any

import uamqp
from azure.iot.device.common.auth.sastoken import RenewableSasToken
from azure.iot.device.common.auth.signing_mechanism import SymmetricKeySigningMechanism
from azure.iot.device.iothub.edge_hsm import IoTEdgeHsm
from uamqp.authentication import SASTokenAuth
from uamqp.constants import MessageSendResult, ReceiverSettleMode, SenderSettleMode
from uamqp.message import Message, MessageProperties
from uamqp.receiver import MessageReceiver
from uamqp.sender import MessageSender
from uamqp.types import AMQPInt, AMQPSymbol

PORT = int(os.environ.get("AMQP_PORT", "5671"))
BATCH_FORMAT = 0x80013700
EMPTY_DATA = b"\x00\x53\x75\xa0\x00"  # the section that a message without a body ends with here
PUT_TOKEN_S = 20
ANSWER_S = 20.0
PAUSE_S = 0.05  # between two attempts to connect
IDLE_S = 0.001  # between two looks at socket and requests

Done = Callable[[Any, BaseException | None], None]


class LostError(Exception):
    """The connection broke before the answer came."""


class Account:
    """Who this is, where its hub is, and what signs its tokens."""

    def __init__(self, credential: str) -> None:
        if credential == "edge":
            environment = os.environ
            self.device, self.module = (
                environment["IOTEDGE_DEVICEID"],
                environment["IOTEDGE_MODULEID"],
            )
            iothub, self.host = environment["IOTEDGE_IOTHUBHOSTNAME"], environment["IOTEDGE_GATEWAYHOSTNAME"]
            hsm = IoTEdgeHsm(
                self.module,
                environment["IOTEDGE_MODULEGENERATIONID"],
                environment["IOTEDGE_WORKLOADURI"],
                environment["IOTEDGE_APIVERSION"],
            )
            self._signing: Any = hsm
            with tempfile.NamedTemporaryFile("w", suffix=".pem", delete=False) as file:
                file.write(hsm.get_certificate())
            self.ca_file = file.name
        else:
            parts = dict(part.split("=", 1) for part in credential.split(";"))
            self.device, self.module = parts["DeviceId"], parts.get("ModuleId", "")
            iothub = parts["HostName"]
            self.host = parts.get("GatewayHostName", iothub)
            self._signing = SymmetricKeySigningMechanism(parts["SharedAccessKey"])
            self.ca_file = os.environ["CA_FILE"]
        of_module = f"/modules/{self.module}" if self.module else ""
        self.path = f"/devices/{self.device}{of_module}"
        self.audience = iothub + self.path

    def token(self) -> RenewableSasToken:
        return RenewableSasToken(self.audience, self._signing, ttl=3600)


class Pair:
    """The two links of methods or twins; what was asked on them and not answered."""

    def __init__(self, sender: MessageSender, receiver: MessageReceiver) -> None:
        self.sender = sender
        self.receiver = receiver
        self.asked: dict[str, Done] = {}


class Connection:
    """One connection, and the links that were asked for on it. One thread; `work` moves it."""

    def __init__(self, account: Account, on_message: Callable[[Message], None]) -> None:
        self.account = account
        self._on_message = on_message
        token = account.token()
        self._auth = SASTokenAuth(
            audience=account.audience,
            uri=f"amqps://{account.host}{account.path}",
            token=str(token),
            expires_at=token.expiry_time,
            port=PORT,
            timeout=PUT_TOKEN_S,
            verify=account.ca_file,
        )
        self._connection = uamqp.Connection(
            account.host, self._auth, container_id=str(uuid.uuid4()), idle_timeout=240_000
        )
        self._links: list[Any] = []
        self._under_way: dict[int, tuple[Message, Done]] = {}  # the engine does not hold what it sends
        self._numbers = itertools.count()
        try:
            # As in the C SDK, all links are in the one session of the tokens.
            self._auth.create_authenticator(self._connection, incoming_window=65_536, outgoing_window=65_536)
            self._session = self._auth._session
            while self._auth.handle_token()[1]:
                self._connection.work()
                time.sleep(IDLE_S)
            self._connection.work()  # says so when it was a broken connection that ended the wait
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it; what was under way has failed."""
        for link in self._links:
            link.destroy()
        self._auth.close_authenticator()
        self._connection.destroy()
        for _, done in self._under_way.values():
            done(None, LostError("the connection broke"))

    def work(self) -> None:
        """Read and write what there is.

        Raises:
            Exception: connection or a link is no more.
        """
        self._connection.work()
        self._auth.handle_token()
        for link in self._links:
            link.work()
            link.get_state()

    def renew(self) -> None:
        """Show another token on the same connection."""
        token = self.account.token()
        self._auth._cbs_auth.refresh(str(token).encode(), int(token.expiry_time))

    def send(self, sender: MessageSender, message: Message, done: Done) -> None:
        """Send; `done` is told what became of it."""
        number = next(self._numbers)
        self._under_way[number] = (message, done)

        def sent(message: Message, result: int, delivery_state: Any = None) -> None:
            _, done = self._under_way.pop(number, (None, None))
            if done is not None:
                outcome = MessageSendResult(result)
                done(
                    None,
                    None
                    if outcome is MessageSendResult.Ok
                    else LostError(f"{outcome.name}: {delivery_state}"),
                )

        sender.send(message, sent)

    def telemetry(self) -> MessageSender:
        return self._open(
            MessageSender(
                self._session,
                "telemetry",
                uamqp.address.Target(f"amqps://{self.account.host}{self.account.path}/messages/events"),
                name=f"link-snd-{uuid.uuid4()}",
                receive_settle_mode=ReceiverSettleMode.ReceiveAndDelete,
                properties={AMQPSymbol("com.microsoft:client-version"): "uamqp"},
            )
        )

    def messages(self) -> MessageReceiver:
        """Open the link for what comes from the cloud, or to the inputs of a module."""
        end = "events" if self.account.module else "devicebound"
        return self._receiver(f"messages/{end}", self._on_message, None)

    def pair(self, kind: str, on_message: Callable[[Pair, Message], None]) -> Pair:
        """Open the links of methods (kind `methods/devicebound`) or twins (`twin`)."""
        channel = f"twin:{uuid.uuid4()}" if kind == "twin" else self.account.path
        properties = {AMQPSymbol("com.microsoft:channel-correlation-id"): channel}
        sender = self._open(
            MessageSender(
                self._session,
                kind,
                uamqp.address.Target(f"amqps://{self.account.host}{self.account.path}/{kind}"),
                name=f"link-snd-{uuid.uuid4()}",
                send_settle_mode=SenderSettleMode.Settled,
                receive_settle_mode=ReceiverSettleMode.ReceiveAndDelete,
                properties=properties,
            )
        )
        receiver = self._receiver(
            kind, lambda message: on_message(pair, message), SenderSettleMode.Settled, properties
        )
        pair = Pair(sender, receiver)
        return pair

    def _receiver(
        self,
        end: str,
        on_message: Callable[[Message], None],
        send_settle_mode: SenderSettleMode | None,
        properties: dict[Any, Any] | None = None,
    ) -> MessageReceiver:
        return self._open(
            MessageReceiver(
                self._session,
                uamqp.address.Source(f"amqps://{self.account.host}{self.account.path}/{end}"),
                end,
                on_message,
                name=f"link-rcv-{uuid.uuid4()}",
                receive_settle_mode=None,
                send_settle_mode=send_settle_mode,
                properties=properties,
            )
        )

    def _open(self, link: Any) -> Any:
        link.open()
        self._links.append(link)
        return link


class Program:
    """What the test can have done. One thread; a connection that breaks is replaced, with all its links."""

    def __init__(self, account: Account, say: Callable[[dict[str, Any]], None]) -> None:
        self.account = account
        self.say = say
        self.connection: Connection | None = None
        self._reopens = False
        self._is_open = False
        self._listens = False
        self._wants_desired = False
        self._statuses: dict[str, int | None] = {}
        self._telemetry: MessageSender | None = None
        self._methods: Pair | None = None
        self._twin: Pair | None = None
        self._retry_at_s = 0.0
        self._later: list[Callable[[], None]] = []

    def work(self) -> None:
        """Do what is to be done now."""
        try:
            later, self._later = self._later, []
            for do in later:
                do()
            if self.connection is not None:
                self.connection.work()
            elif self._reopens and time.monotonic() >= self._retry_at_s:
                self._connect()
        except Exception as exc:  # noqa: BLE001 - whatever it was, the connection is no more
            self._lose(exc)

    def _connect(self) -> None:
        self.connection = Connection(self.account, self._message)
        if self._listens:
            self.connection.messages()
        if self._statuses:
            self._methods = self.connection.pair("methods/devicebound", self._called)
        if self._wants_desired:
            self._request("PUT", b"", lambda result, error: None)

    def _lose(self, error: BaseException) -> None:
        self.say({"event": "disconnect", "error": repr(error)})
        connection, self.connection = self.connection, None
        twin, self._telemetry, self._methods, self._twin = self._twin, None, None, None
        for done in list(twin.asked.values()) if twin else ():
            done(None, LostError("the connection broke"))
        if connection is not None:
            connection.close()
        self._retry_at_s = time.monotonic() + PAUSE_S

    def _connected(self) -> Connection:
        if self.connection is None:
            raise LostError("not connected")
        return self.connection

    # requests

    def open(self, done: Done, options: dict[str, Any], reopens: bool) -> None:
        self._connect()
        self._reopens = reopens
        done(None, None)

    def send(self, done: Done, message: dict[str, Any], output: str = "") -> None:
        connection = self._connected()
        if self._telemetry is None:
            self._telemetry = connection.telemetry()
        batch = Message(body=[element_of(message, output)], msg_format=BATCH_FORMAT)
        connection.send(self._telemetry, batch, done)

    def send_output(self, done: Done, output: str, message: dict[str, Any]) -> None:
        self.send(done, message, output)

    def send_many(self, done: Done, output: str, first: int, count: int) -> None:
        """Send numbers, each again until it is acknowledged, in their order."""
        numbers = iter(range(first, first + count))

        def following() -> None:
            number = next(numbers, None)
            if number is None:
                done(None, None)
            else:
                again(number)

        def again(number: int) -> None:
            try:
                self.send(lambda _, error: sent(number, error), {"body": str(number)}, output)
            except Exception as exc:  # noqa: BLE001 - whatever it was, it is tried again
                sent(number, exc)

        def sent(number: int, error: BaseException | None) -> None:
            if error is None:
                self.later(following)
            else:
                self.later(lambda: again(number))

        following()

    def listen(self, done: Done) -> None:
        self._listens = True
        self._connected().messages()
        done(None, None)

    def method(self, done: Done, name: str, status: int | None) -> None:
        """Answer calls of a method with a status; None: never."""
        self._statuses[name] = status
        if self._methods is None:
            self._methods = self._connected().pair("methods/devicebound", self._called)
        done(None, None)

    def twin(self, done: Done) -> None:
        self._request("GET", b"", done)

    def desired(self, done: Done) -> None:
        self._wants_desired = True
        self._request("PUT", b"", done)

    def report(self, done: Done, patch: dict[str, Any]) -> None:
        self._request("PATCH", json.dumps(patch).encode(), done)

    def renew(self, done: Done) -> None:
        self._connected().renew()
        done(None, None)

    def close(self, done: Done) -> None:
        self._reopens = False
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        done(None, None)

    # what comes

    def _message(self, message: Message) -> None:
        self.say({"event": "message", **shown(message)})
        message.accept()

    def _called(self, pair: Pair, call: Message) -> None:
        identifier = call.properties.correlation_id
        if not isinstance(identifier, uuid.UUID):
            raise TypeError("the C SDK takes no call whose correlation id is not a uuid")
        name = plain(call.application_properties)["IoThub-methodname"]
        status = self._statuses.get(name, 404)
        if status is not None:
            payload = json.loads(b"".join(call.get_data()) or b"null")
            answer = Message(
                json.dumps({"name": name, "payload": payload}).encode(),
                properties=MessageProperties(correlation_id=identifier),
                application_properties={"IoThub-status": AMQPInt(status)},
            )
            self.later(lambda: self._connected().send(pair.sender, answer, lambda result, error: None))

    def _request(self, operation: str, body: bytes, done: Done) -> None:
        """Ask for something of the twin."""
        connection = self._connected()
        if self._twin is None:
            self._twin = connection.pair("twin", self._twin_message)
        identifier = str(uuid.uuid4())
        annotations = {AMQPSymbol("operation"): operation}
        if operation != "GET":
            annotations[AMQPSymbol("resource")] = {
                "PATCH": "/properties/reported",
                "PUT": "/notifications/twin/properties/desired",
            }[operation]
        request = Message(
            body or b" ",
            properties=MessageProperties(correlation_id=identifier),
            annotations=annotations,
        )
        self._twin.asked[identifier] = done
        connection.send(self._twin.sender, request, lambda result, error: None)

    def _twin_message(self, pair: Pair, message: Message) -> None:
        body = b"".join(message.get_data() or ())
        identifier = message.properties.correlation_id if message.properties else None
        if identifier is None:
            self.say({"event": "desired", "patch": json.loads(body)})
            return
        status = plain(message.annotations)["status"]
        done = pair.asked.pop(text_of(identifier), None)
        if done is None:
            return
        if type(status) is not int or status >= 300:
            done(None, RuntimeError(f"status {status!r}: {body.decode()}"))
        else:
            done(json.loads(body) if body else None, None)

    # the loop

    def run(self, requests: queue.SimpleQueue[tuple[int, str, list[Any]] | None]) -> None:
        """Do what is asked for until there is nobody to ask."""
        while True:
            self.work()
            try:
                asked = requests.get(timeout=0 if self._later else IDLE_S)
            except queue.Empty:
                continue
            if asked is None:
                return
            request_id, name, arguments = asked
            method = "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)
            done = self._done(request_id)
            try:
                getattr(self, method)(done, *arguments)
            except Exception as exc:  # noqa: BLE001 - the test is told
                done(None, exc)

    def later(self, do: Callable[[], None]) -> None:
        """Do something behind what is being done: the engine calls from within its work, under its lock."""
        self._later.append(do)

    def _done(self, request_id: int) -> Done:
        def done(result: Any, error: BaseException | None) -> None:
            if error is None:
                self.say({"id": request_id, "result": result})
            else:
                self.say({"id": request_id, "error": {"name": type(error).__name__, "message": str(error)}})

        return done


def element_of(content: dict[str, Any], output: str) -> bytes:
    """Return a message as the C SDK puts it into a batch: sections in its order, not that of the standard."""
    expires = content.get("expiryTimeUtc")
    properties = MessageProperties(
        message_id=content.get("messageId"),
        correlation_id=content.get("correlationId"),
        user_id=content["userId"].encode() if "userId" in content else None,
        content_type=content.get("contentType"),
        content_encoding=content.get("contentEncoding"),
        absolute_expiry_time=None
        if expires is None
        else calendar.timegm(datetime.fromisoformat(expires).utctimetuple()) * 1000,
    )
    of_application = dict(content.get("properties", {}))
    if output:
        of_application["iothub-outputname"] = output
    if content.get("interfaceId"):
        annotations = {AMQPSymbol("iothub-interface-id"): content["interfaceId"]}
    else:
        annotations = {}
    return (
        section(properties=properties)
        + (section(application_properties=of_application) if of_application else b"")
        + (section(annotations=annotations) if annotations else b"")
        + bytes(Message(content["body"].encode()).encode_message())
    )


def section(**parts: Any) -> bytes:
    return bytes(Message(b"", **parts).encode_message()).removesuffix(EMPTY_DATA)


def shown(message: Message) -> dict[str, Any]:
    found = message.properties or MessageProperties()
    properties = plain(message.application_properties or {})
    annotations = plain(message.annotations or {})
    expires_ms = found.absolute_expiry_time
    body = b"".join(message.get_data() or ())
    return {
        "body": body.decode(),
        "ack": properties.pop("iothub-ack", None),
        "properties": properties,
        "input": annotations.get("x-opt-input-name"),
        "sender": [annotations.get(f"iothub-connection-{kind}-id", "") for kind in ("device", "module")],
        "messageId": text_of(found.message_id),
        "correlationId": text_of(found.correlation_id),
        "userId": text_of(found.user_id),
        "contentType": text_of(found.content_type),
        "contentEncoding": text_of(found.content_encoding),
        "expiryTimeUtc": None
        if not expires_ms
        else datetime.utcfromtimestamp(expires_ms / 1000).isoformat() + "+00:00",
    }


def text_of(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)


def plain(values: dict[Any, Any]) -> dict[str, Any]:
    """Return a map with its texts as such; the engine has them as bytes."""
    return {
        key.decode() if isinstance(key, bytes) else str(key): value.decode()
        if isinstance(value, bytes)
        else value
        for key, value in values.items()
    }


def read(reader: IO[str], requests: queue.SimpleQueue[tuple[int, str, list[Any]] | None]) -> None:
    for line in reader:
        request_id, name, *arguments = json.loads(line)
        requests.put((request_id, name, arguments))
    requests.put(None)


def main() -> None:
    credential, _kind = sys.argv[1:3]
    if os.environ.get("CONTROL"):
        host, port = os.environ["CONTROL"].rsplit(":", 1)
        control = socket.create_connection((host, int(port)))
        reader, writer = control.makefile(), control.makefile("w")
    else:
        reader, writer = sys.stdin, sys.stdout  # type: ignore[assignment]

    def say(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=writer, flush=True)

    program = Program(Account(credential), say)
    say({"event": "hello", "module": os.environ.get("IOTEDGE_MODULEID", "")})
    requests: queue.SimpleQueue[tuple[int, str, list[Any]] | None] = queue.SimpleQueue()
    threading.Thread(target=read, args=(reader, requests), daemon=True).start()
    program.run(requests)
    os._exit(0)  # the engine may wait for a hub that is gone


if __name__ == "__main__":
    main()
