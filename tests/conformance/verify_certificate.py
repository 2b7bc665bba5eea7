#!/usr/bin/python3
"""Is a certificate of destruction genuine? Written from docs/FORMATS.md, section 10, alone; needs nothing but python3-cryptography.

    verify_certificate.py FILE NAME+ID+KEY      prints the facts; exit 1 when it does not verify"""
import base64
import hashlib
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
ID, NUMBER, TEXT = re.compile(r"[0-9a-f]{32}"), re.compile(r"0|[1-9]\d*"), re.compile(r".+")
MAYBE = re.compile(f"-|{TIME.pattern}")
END = [("created", TIME), ("requested", MAYBE), ("requested-by", TEXT), ("due", MAYBE), ("destroyed", TIME), ("seal-epoch", NUMBER), ("covers", TEXT),
       ("remains", TEXT)]
FACTS = {
    "version": [("name", TEXT), ("instance", ID), ("tenant", ID), ("kvid", ID), ("protection", re.compile("SOFTWARE|HSM")), *END],
    "tenant": [("name", TEXT), ("instance", ID), ("tenant", ID), *((n, NUMBER) for n in ("key-rings", "keys", "versions", "principals", "token-objects")), *END],
}


class Refused(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Refused(why)


def decoded(text):
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused("base64") from None
    need(base64.b64encode(raw).decode() == text, "base64 that is not canonical")
    return raw


class Key:
    def __init__(self, text):
        parts = text.split("+", 2)
        need(len(parts) == 3 and parts[0] and re.fullmatch("[0-9a-f]{8}", parts[1]), "a key is NAME+ID+KEY")
        self.name, raw = parts[0], decoded(parts[2])
        need(raw[:1] in (b"\x01", b"\x02"), "type of key")
        self.ed = raw[0] == 1
        self.id = hashlib.sha256(self.name.encode() + b"\n" + raw if self.ed else raw[1:]).digest()[:4]
        need(self.id.hex() == parts[1], "the key's id is not of this key")
        if self.ed:
            need(len(raw) == 33, "length of key")
            self.public = ed25519.Ed25519PublicKey.from_public_bytes(raw[1:])
        else:
            self.public = serialization.load_der_public_key(raw[1:])
            need(isinstance(self.public.curve, ec.SECP256R1), "curve")

    def check(self, signature, text):
        try:
            if self.ed:
                self.public.verify(signature, text)
            else:
                self.public.verify(signature, text, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise Refused("the signature does not verify") from None


def opened(note, key):
    """The text of a signed note, once a signature of the key over it was found and verified."""
    need(not re.search(rb"[\x00-\x09\x0b-\x1f]", note), "control characters")
    at = note.rfind(b"\n\n")
    need(at >= 0, "no empty line")
    text, lines = note[:at + 1], note[at + 2:]
    need(lines.endswith(b"\n"), "the last line has no end")
    found = False
    for line in lines.decode().split("\n")[:-1]:
        m = re.fullmatch("\u2014 ([^ +]+) ([A-Za-z0-9+/=]+)", line)
        need(m, "a signature line")
        raw = decoded(m[2])
        if (m[1], raw[:4]) == (key.name, key.id):
            key.check(raw[4:], text)
            found = True
    need(found, "no signature of this key")
    return text


def verify(note, key_text):
    """The facts, in their order."""
    key = Key(key_text)
    lines = opened(note, key).decode().split("\n")
    need(lines[0] == "claviger.certificate/v1", "not a certificate")
    need(lines[1] == key.name, "of another log")
    kind = lines[2].removeprefix("kind: ")
    need(lines[2].startswith("kind: ") and kind in FACTS, "kind")
    facts, rest = {"kind": kind}, lines[3:-1]
    need(len(rest) == len(FACTS[kind]), "number of facts")
    for line, (name, form) in zip(rest, FACTS[kind]):
        need(line.startswith(name + ": ") and form.fullmatch(line[len(name) + 2:]), name)
        facts[name] = line[len(name) + 2:]
    return facts


if __name__ == "__main__":
    try:
        for fact in verify(open(sys.argv[1], "rb").read(), sys.argv[2]).items():
            print("%s: %s" % fact)
    except (Refused, UnicodeDecodeError) as e:
        sys.exit(f"does not verify: {e}")
