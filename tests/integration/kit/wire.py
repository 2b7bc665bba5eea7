"""Independent reckoning: CRC-32C, error details, frames of HTTP/2, protobuf by hand. Nothing here is shared with the daemon."""
import contextlib
import struct

import grpc
import pytest

import claviger_pb  # noqa: F401  (first: it makes google.rpc importable)
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "claviger.dev"
Code = grpc.StatusCode


def _crc_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_CRC = _crc_table()


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = _CRC[(c ^ b) & 0xFF] ^ (c >> 8)
    return c ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720's appendix


class Details:
    """grpc-status-details-bin, decoded; every part that the daemon sends must be of a known type."""

    def __init__(self, error):
        self.raw = b""
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                self.raw = value
        self.status = status_pb2.Status.FromString(self.raw)
        self.info = self.bad_request = self.retry = None
        for any_ in self.status.details:
            kind = any_.type_url.rsplit(".", 1)[-1]
            message = getattr(error_details_pb2, kind)()
            assert any_.Unpack(message)
            setattr(self, {"ErrorInfo": "info", "BadRequest": "bad_request", "RetryInfo": "retry"}[kind], message)

    @property
    def reason(self):
        return self.info.reason if self.info else None

    @property
    def fields(self):
        return [v.field for v in self.bad_request.field_violations] if self.bad_request else []


class Refusal:
    error = details = None

    @property
    def shape(self):
        """All that a caller can see of a refusal, for comparing two of them byte by byte."""
        return self.error.code(), self.error.details(), self.details.raw


@contextlib.contextmanager
def refused(code, reason=None, field=None):
    """The block must fail with exactly this status; with ErrorInfo of our domain, and the field where one is at fault."""
    seen = Refusal()
    with pytest.raises(grpc.RpcError) as caught:
        yield seen
    seen.error = caught.value
    seen.details = Details(caught.value)
    where = f"{caught.value.code()} {caught.value.details()!r} {seen.details.status}"
    assert caught.value.code() == code, where
    assert seen.details.info is not None and seen.details.info.domain == DOMAIN, where
    assert seen.details.status.code == code.value[0] and seen.details.status.message == caught.value.details(), where
    if reason is not None:
        assert seen.details.reason == reason, where
    if field is not None:
        assert seen.details.fields == [field], where


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, payload):
    """One length-delimited field, or a varint when payload is a number."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def grpc_message(payload, compressed=0):
    return struct.pack(">BI", compressed, len(payload)) + payload
