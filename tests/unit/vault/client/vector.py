"""Computes the vector of test_seal.c from docs/CLIENT.md ("Local messages, to the byte"), sharing no code with the library:
    /usr/bin/python3 tests/unit/vault/client/vector.py > tests/unit/vault/client/local_vector.inc
"""
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

key, wrapped, aad, plain, salt = bytes(range(32)), b"wrapped", b"aad1abc", b"hello", b"\1" * 32
header = b"CLVL\1\0\0\0" + struct.pack(">H", len(wrapped)) + wrapped + salt
commitment = hmac.new(key, b"claviger.local.v1.commit\0" + salt, hashlib.sha256).digest()
message_key = hmac.new(key, b"claviger.local.v1.encrypt\0" + salt, hashlib.sha256).digest()
gcm_aad = struct.pack(">II", len(header), len(aad)) + header + commitment + aad
message = header + commitment + AESGCM(message_key).encrypt(bytes(12), plain, gcm_aad)
print(f'"{message.hex()}"')
