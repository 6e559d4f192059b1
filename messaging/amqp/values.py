"""AMQP values in Python: their types, and bytes ↔ values by the engine's own encoder and decoder.

An AMQP type that Python has comes as that: null, boolean, long (`int`), double, string, binary, uuid, list
and map. The classes below are the others that matter here; the few left (byte, short, ushort, char, float,
decimals) are read as the plain type nearest to them and never written.

Source: AMQP 1.0 part 1.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cproton_ffi import ffi, lib

from messaging.errors import LocalProtocolError, RemoteProtocolError

_MAX_DESCRIPTORS = 32  # in front of one value; more are refused


class Symbol(str):
    """An AMQP symbol: ASCII."""

    __slots__ = ()


class Int(int):
    """An AMQP int, 32 bits."""

    __slots__ = ()


class Long(int):
    """An AMQP long, 64 bits. A plain `int` is encoded as this and decoded from it."""

    __slots__ = ()


class UByte(int):
    """An AMQP ubyte."""

    __slots__ = ()


class UInt(int):
    """An AMQP uint, 32 bits."""

    __slots__ = ()


class ULong(int):
    """An AMQP ulong, 64 bits."""

    __slots__ = ()


class Timestamp(int):
    """An AMQP timestamp: milliseconds since 1970-01-01 UTC."""

    __slots__ = ()


class StringArray(tuple[str, ...]):
    """An AMQP array of strings; it is read as a list."""

    __slots__ = ()


class Described(NamedTuple):
    """A value with a descriptor."""

    descriptor: object
    value: object


def encode_value(value: object) -> bytes:
    """Return the encoded value.

    Raises:
        LocalProtocolError: It has no AMQP type, or does not fit into the one it names.
    """
    desk = _desks.pop() if _desks else _new_desk()
    data, room = desk
    try:
        put(data, value)
        written = lib.pn_data_encode(data, room, _ROOM_BYTES)
        if written == lib.PN_OVERFLOW:
            size = lib.pn_data_encoded_size(data)
            room = ffi.new("char[]", size)
            written = lib.pn_data_encode(data, room, size)
        if written < 0:
            raise LocalProtocolError(f"a value of type {type(value).__name__} cannot be encoded")
        return bytes(ffi.unpack(room, written))
    except RecursionError as exc:
        raise LocalProtocolError("a value of too many levels for AMQP") from exc
    finally:
        lib.pn_data_clear(data)
        _desks.append(desk)


def decode_value(encoded: bytes) -> object:
    """Read one value, which must be all there is.

    Raises:
        RemoteProtocolError: This is not one AMQP value.
    """
    if value_end(encoded, 0) != len(encoded):
        raise RemoteProtocolError("bytes behind an AMQP value")
    desk = _desks.pop() if _desks else _new_desk()
    data = desk[0]
    try:
        if lib.pn_data_decode(data, ffi.from_buffer(encoded), len(encoded)) < 0:
            raise RemoteProtocolError("an AMQP value that cannot be read")
        lib.pn_data_rewind(data)
        return get(data) if lib.pn_data_next(data) else None
    except UnicodeDecodeError as exc:
        raise RemoteProtocolError("an AMQP string that is no UTF-8") from exc
    except RecursionError as exc:
        raise RemoteProtocolError("an AMQP value of too many levels") from exc
    finally:
        lib.pn_data_clear(data)
        _desks.append(desk)


# The engine's room for one value and its bytes, used again and again: making one costs more than using it.
# Taking one and giving it back is atomic, so threads may share them.
_desks: list[tuple[Any, Any]] = []
_ROOM_BYTES = 4096


def _new_desk() -> tuple[Any, Any]:
    return ffi.gc(lib.pn_data(16), lib.pn_data_free), ffi.new("char[]", _ROOM_BYTES)


# Widths by the upper four bits of a constructor: how many bytes follow, or how long the length in front is.
_FIXED = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_SIZED = {0xA: 1, 0xB: 4, 0xC: 1, 0xD: 4, 0xE: 1, 0xF: 4}


def value_end(data: bytes | bytearray, pos: int) -> int:
    """Return where the value that starts at `pos` ends, without looking into it.

    Raises:
        RemoteProtocolError: It has no known width, or would end behind `data`.
    """
    waiting = 1  # a descriptor and the value it describes are two
    end = len(data)
    while waiting:
        if pos >= end or waiting > _MAX_DESCRIPTORS:
            break
        constructor = data[pos]
        pos += 1
        kind = constructor >> 4
        if constructor == 0:
            waiting += 1
        elif (width := _FIXED.get(kind)) is not None:
            pos += width
            waiting -= 1
        elif (width := _SIZED.get(kind)) is not None and pos + width <= end:
            pos += width + int.from_bytes(data[pos : pos + width], "big")
            waiting -= 1
        else:
            break
    if waiting or pos > end:
        raise RemoteProtocolError("an AMQP value that is cut off, or of no known type")
    return pos


def _octets(value: Any) -> bytes:
    return ffi.unpack(value.start, value.size) if value.size else b""


def _get_list(data: Any) -> list[object]:
    values = []
    lib.pn_data_enter(data)
    while lib.pn_data_next(data):
        values.append(get(data))
    lib.pn_data_exit(data)
    return values


def _get_map(data: Any) -> dict[object, object]:
    pairs: dict[object, object] = {}
    lib.pn_data_enter(data)
    while lib.pn_data_next(data):
        key = get(data)
        value = get(data) if lib.pn_data_next(data) else None
        if isinstance(key, list | dict | Described):
            raise RemoteProtocolError("an AMQP map with a compound key")
        pairs[key] = value
    lib.pn_data_exit(data)
    return pairs


def _get_described(data: Any) -> Described:
    lib.pn_data_enter(data)
    descriptor = get(data) if lib.pn_data_next(data) else None
    value = get(data) if lib.pn_data_next(data) else None
    lib.pn_data_exit(data)
    return Described(descriptor, value)


def _get_array(data: Any) -> list[object]:
    values = _get_list(data)
    return values[1:] if lib.pn_data_is_array_described(data) else values


_GET: dict[int, Callable[[Any], object]] = {
    lib.PN_NULL: lambda data: None,
    lib.PN_BOOL: lambda data: bool(lib.pn_data_get_bool(data)),
    lib.PN_UBYTE: lambda data: UByte(lib.pn_data_get_ubyte(data)),
    lib.PN_BYTE: lib.pn_data_get_byte,
    lib.PN_USHORT: lib.pn_data_get_ushort,
    lib.PN_SHORT: lib.pn_data_get_short,
    lib.PN_UINT: lambda data: UInt(lib.pn_data_get_uint(data)),
    lib.PN_INT: lambda data: Int(lib.pn_data_get_int(data)),
    lib.PN_CHAR: lib.pn_data_get_char,
    lib.PN_ULONG: lambda data: ULong(lib.pn_data_get_ulong(data)),
    lib.PN_LONG: lib.pn_data_get_long,
    lib.PN_TIMESTAMP: lambda data: Timestamp(lib.pn_data_get_timestamp(data)),
    lib.PN_FLOAT: lib.pn_data_get_float,
    lib.PN_DOUBLE: lib.pn_data_get_double,
    lib.PN_DECIMAL32: lib.pn_data_get_decimal32,
    lib.PN_DECIMAL64: lib.pn_data_get_decimal64,
    lib.PN_DECIMAL128: lambda data: ffi.unpack(lib.pn_data_get_decimal128(data).bytes, 16),
    lib.PN_UUID: lambda data: uuid.UUID(bytes=ffi.unpack(lib.pn_data_get_uuid(data).bytes, 16)),
    lib.PN_BINARY: lambda data: _octets(lib.pn_data_get_binary(data)),
    lib.PN_STRING: lambda data: _octets(lib.pn_data_get_string(data)).decode(),
    lib.PN_SYMBOL: lambda data: Symbol(_octets(lib.pn_data_get_symbol(data)).decode("ascii")),
    lib.PN_DESCRIBED: _get_described,
    lib.PN_ARRAY: _get_array,
    lib.PN_LIST: _get_list,
    lib.PN_MAP: _get_map,
}


def get(data: Any) -> object:
    """Return the value that the engine's data object points to."""
    return _GET[lib.pn_data_type(data)](data)


def _put_octets(put_one: Callable[[Any, Any], int], data: Any, octets: bytes) -> None:
    put_one(data, (len(octets), ffi.from_buffer(octets)))


def _put_uuid(data: Any, value: uuid.UUID) -> None:
    lib.pn_data_put_uuid(data, {"bytes": value.bytes})


def _put_list(data: Any, values: list[object] | tuple[object, ...]) -> None:
    lib.pn_data_put_list(data)
    lib.pn_data_enter(data)
    for value in values:
        put(data, value)
    lib.pn_data_exit(data)


def _put_string_array(data: Any, values: StringArray) -> None:
    lib.pn_data_put_array(data, False, lib.PN_STRING)
    lib.pn_data_enter(data)
    for value in values:
        put(data, value)
    lib.pn_data_exit(data)


def _put_map(data: Any, pairs: Mapping[object, object]) -> None:
    lib.pn_data_put_map(data)
    lib.pn_data_enter(data)
    for key, value in pairs.items():
        put(data, key)
        put(data, value)
    lib.pn_data_exit(data)


def _put_described(data: Any, described: Described) -> None:
    lib.pn_data_put_described(data)
    lib.pn_data_enter(data)
    put(data, described.descriptor)
    put(data, described.value)
    lib.pn_data_exit(data)


_PUT: dict[type, Callable[[Any, Any], object]] = {
    type(None): lambda data, value: lib.pn_data_put_null(data),
    bool: lib.pn_data_put_bool,
    UByte: lib.pn_data_put_ubyte,
    UInt: lib.pn_data_put_uint,
    Int: lib.pn_data_put_int,
    ULong: lib.pn_data_put_ulong,
    Long: lib.pn_data_put_long,
    int: lib.pn_data_put_long,
    Timestamp: lib.pn_data_put_timestamp,
    float: lib.pn_data_put_double,
    uuid.UUID: _put_uuid,
    bytes: lambda data, value: _put_octets(lib.pn_data_put_binary, data, value),
    str: lambda data, value: _put_octets(lib.pn_data_put_string, data, value.encode()),
    Symbol: lambda data, value: _put_octets(lib.pn_data_put_symbol, data, value.encode("ascii")),
    Described: _put_described,
    list: _put_list,
    tuple: _put_list,
    StringArray: _put_string_array,
    dict: _put_map,
}


def put(data: Any, value: object) -> None:
    """Append a value to the engine's data object.

    Raises:
        LocalProtocolError: As in `encode_value`.
    """
    put_one = _PUT.get(type(value))
    if put_one is None:
        raise LocalProtocolError(f"a value of type {type(value).__name__} has no AMQP type")
    try:
        put_one(data, value)
    except (OverflowError, UnicodeEncodeError) as exc:
        raise LocalProtocolError(
            f"a value does not fit into the AMQP type of {type(value).__name__}"
        ) from exc


def put_fields(data: Any, fields: Mapping[str, object]) -> None:
    """Append a map with symbols as keys, as properties and annotations have them."""
    put(data, {Symbol(key): value for key, value in fields.items()})
