#!/usr/bin/python3
"""Decrypts one record with nothing but docs/FORMATS.md and python3-cryptography; shares no code with the daemon.

usage: decrypt.py < record.json > plaintext        exit status 1: it cannot be decrypted; 2: this is not a record

The record: master_secret, master_version, instance, tenant, location, salt, crypto_key, version, wrapped_key_version,
subject_salt ("" for none), ciphertext, and either aad or context ({"key": "value"}). Byte strings are hex."""
import hmac
import json
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC

HEADER_BYTES, COMMITMENT_BYTES, NONCE_BYTES, TAG_BYTES = 40, 32, 24, 16
PURPOSES = {b"E": b"encrypt", b"W": b"wrap"}


class Refused(Exception):
    """The record cannot be decrypted; the reason is for whoever debugs a decryptor, and is no part of the format."""


def u16(n):
    return n.to_bytes(2, "big")


def u32(n):
    return n.to_bytes(4, "big")


def v16(data):
    return u16(len(data)) + data


def hmac_sha256(key, message):
    h = HMAC(key, hashes.SHA256())
    h.update(message)
    return h.finalize()


def sha256(message):
    h = hashes.Hash(hashes.SHA256())
    h.update(message)
    return h.finalize()


# ---- section 1


def kdf(key, label, *fields):
    return hmac_sha256(key, u32(1) + label + b"\x00" + b"".join(v16(f) for f in fields) + u32(256))


# ---- section 2


def aes_blocks(key, data):
    e = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return e.update(data) + e.finalize()


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def xaes_message_key(key, nonce):
    l = aes_blocks(key, bytes(16))
    k1 = bytearray(((int.from_bytes(l, "big") << 1) & ((1 << 128) - 1)).to_bytes(16, "big"))
    if l[0] & 0x80:
        k1[15] ^= 0x87
    prefix = nonce[:12]
    return aes_blocks(key, xor(b"\x00\x01\x58\x00" + prefix, k1) + xor(b"\x00\x02\x58\x00" + prefix, k1))


def open_sealed(encrypt_key, commit_key, header_bytes, aad, sealed):
    if len(sealed) < header_bytes + COMMITMENT_BYTES + NONCE_BYTES + TAG_BYTES:
        raise Refused("too short")
    header, rest = sealed[:header_bytes], sealed[header_bytes:]
    commitment, nonce, body = rest[:32], rest[32:56], rest[56:]
    bound = u32(len(header)) + header
    if not hmac.compare_digest(commitment, hmac_sha256(commit_key, bound + nonce + sha256(aad))):
        raise Refused("commitment")
    try:
        return AESGCM(xaes_message_key(encrypt_key, nonce)).decrypt(nonce[12:], body, bound + commitment + sha256(aad))
    except InvalidTag:
        raise Refused("tag") from None


# ---- section 3


def tenant_kek(record):
    return kdf(bytes.fromhex(record["master_secret"]), b"claviger.v1.tenant-kek", bytes.fromhex(record["instance"]),
               bytes.fromhex(record["tenant"]), record["location"].encode(), bytes.fromhex(record["salt"]),
               u32(record["master_version"]))


def check_value(l1):
    return kdf(l1, b"claviger.v1.kek-kcv")[:16]


def purpose_pair(record, l2, kvid, purpose):
    def one(use):
        return kdf(l2, b"claviger.v1.purpose", bytes.fromhex(record["tenant"]), record["location"].encode(),
                   record["crypto_key"].encode(), u32(record["version"]), kvid, purpose, use,
                   bytes.fromhex(record.get("subject_salt", "")))
    return one(b"encrypt"), one(b"commit")


# ---- section 4


def parse_header(sealed):
    if len(sealed) < HEADER_BYTES:
        raise Refused("too short")
    magic, kind, version, zero = sealed[:3], sealed[3:4], sealed[4], sealed[5:8]
    if magic != b"CLV" or kind not in (b"E", b"W", b"K") or version != 1 or zero != bytes(3):
        raise Refused("header")
    return kind, sealed[8:24], sealed[24:40]


# ---- section 5


def canonical_aad(record):
    if "context" not in record:
        return b"aad1" + bytes.fromhex(record.get("aad", ""))
    pairs = sorted((k.encode(), v.encode()) for k, v in record["context"].items())
    return b"ctx1" + u16(len(pairs)) + b"".join(v16(k) + v16(v) for k, v in pairs)


# ---- sections 6 and 7


def open_key_version(record, l1, kvid):
    wrapped = bytes.fromhex(record["wrapped_key_version"])
    kind, wrapped_kvid, _ = parse_header(wrapped)
    if kind != b"K" or wrapped_kvid != kvid:
        raise Refused("not the key version that the ciphertext names")
    aad = (b"l2v1" + bytes.fromhex(record["instance"]) + bytes.fromhex(record["tenant"]) + v16(record["location"].encode()) +
           v16(record["crypto_key"].encode()) + u32(record["version"]) + u32(record["master_version"]) + u32(1))
    l2 = open_sealed(kdf(l1, b"claviger.v1.kek-wrap", b"encrypt"), kdf(l1, b"claviger.v1.kek-wrap", b"commit"),
                     HEADER_BYTES, aad, wrapped)
    if len(l2) != 32:
        raise Refused("a key version is 32 bytes")
    return l2


def decrypt(record):
    """The plaintext and every intermediate value, or Refused."""
    sealed = bytes.fromhex(record["ciphertext"])
    kind, kvid, subject = parse_header(sealed)
    if kind not in PURPOSES:
        raise Refused("a wrapped key version is not a client's ciphertext")
    if (subject == bytes(16)) != (record.get("subject_salt", "") == ""):
        raise Refused("subject salt and handle go together")
    l1 = tenant_kek(record)
    l2 = open_key_version(record, l1, kvid)
    encrypt_key, commit_key = purpose_pair(record, l2, kvid, PURPOSES[kind])
    aad = canonical_aad(record)
    plaintext = open_sealed(encrypt_key, commit_key, HEADER_BYTES, aad, sealed)
    nonce = sealed[HEADER_BYTES + COMMITMENT_BYTES:][:NONCE_BYTES]
    steps = {"l1": l1, "kcv": check_value(l1), "kek_encrypt": kdf(l1, b"claviger.v1.kek-wrap", b"encrypt"),
             "kek_commit": kdf(l1, b"claviger.v1.kek-wrap", b"commit"), "l2": l2, "l3_encrypt": encrypt_key,
             "l3_commit": commit_key, "canonical_aad": aad, "l3_kx": xaes_message_key(encrypt_key, nonce)}
    return plaintext, {name: value.hex() for name, value in steps.items()}


def main():
    try:
        plaintext, _ = decrypt(json.load(sys.stdin))
    except Refused:
        sys.exit("decrypt.py: the ciphertext cannot be decrypted")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
        print(f"decrypt.py: not a record: {problem!r}", file=sys.stderr)
        sys.exit(2)
    sys.stdout.buffer.write(plaintext)


if __name__ == "__main__":
    main()
