"""Certificates of destruction, as far as a real clock goes: who may read them, what is not there, and kmsctl's verification of notes that were
not made here. The day itself is in tests/matrix/test_destruction_clock.py."""
import base64
import hashlib

import pytest
from claviger.lifecycle.v1 import certificates_pb2 as cert
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from kit import ROOT
from kit.wire import Code, refused
from test_kmsctl import ABSENT, DENIED, USAGE, Ctl

VECTORS = ROOT / "tests/vectors/certificates"
INVALID = 7


def get(who, name):
    return who.certificates.GetCertificate(cert.GetCertificateRequest(name=name))


def of_tenant(who, name):
    return who.certificates.GetTenantCertificate(cert.GetTenantCertificateRequest(name=name))


def listed(who, parent, **kw):
    return who.certificates.ListCertificates(cert.ListCertificatesRequest(parent=parent, **kw)).certificates


def tenants(who, **kw):
    return who.certificates.ListTenantCertificates(cert.ListTenantCertificatesRequest(**kw)).certificates


def test_who_may_read(world, key):
    version, ring = f"{key}/cryptoKeyVersions/1", key.rsplit("/", 2)[0]
    for who in (world.orders, world.billing, world.admin):
        for call in (lambda: get(who, version), lambda: listed(who, key), lambda: listed(who, ring), lambda: listed(who, "projects/acme/locations/eu")):
            with refused(Code.PERMISSION_DENIED, "PERMISSION_DENIED"):
                call()
    with refused(Code.NOT_FOUND):  # it lives
        get(world.keyadmin, version)
    with refused(Code.NOT_FOUND):
        get(world.keyadmin, key + "x/cryptoKeyVersions/1")
    for missing in ("projects/acme/locations/us", key + "x", ring + "x", ring + "x/cryptoKeys/none"):
        with refused(Code.NOT_FOUND):
            listed(world.keyadmin, missing)
    for parent in (key, ring, "projects/acme/locations/eu"):
        assert list(listed(world.keyadmin, parent)) == []


def test_of_tenants(world):
    assert list(tenants(world.admin)) == []
    with refused(Code.INVALID_ARGUMENT, field="page_token"):
        tenants(world.admin, page_token="bm9uZQ")
    with refused(Code.NOT_FOUND):
        of_tenant(world.admin, "projects/acme")
    for who in (world.keyadmin, world.orders):
        with refused(Code.PERMISSION_DENIED):
            tenants(who)
    with refused(Code.PERMISSION_DENIED):
        of_tenant(world.orders, "projects/acme")
    with refused(Code.PERMISSION_DENIED):
        of_tenant(world.keyadmin, "projects/globex")


def test_what_is_malformed(world, key):
    for name in ("", "nonsense", key, "projects/acme"):
        with refused(Code.INVALID_ARGUMENT, field="name"):
            of_tenant(world.admin, name.replace("acme", ""))
        with refused(Code.INVALID_ARGUMENT, field="name"):
            get(world.keyadmin, name)
    for parent in ("", "nonsense", "projects/acme", f"{key}/cryptoKeyVersions/1"):
        with refused(Code.INVALID_ARGUMENT, field="parent"):
            listed(world.keyadmin, parent)
    with refused(Code.INVALID_ARGUMENT, field="page_token"):
        listed(world.keyadmin, key, page_token="bm9uZQ")


def test_kmsctl_of_what_is_not_destroyed(world, key):
    ctl, short = Ctl(world), "acme/eu/" + "/".join(key.split("/")[5::2])
    ctl("certificates", "show", f"{short}@1", code=ABSENT)
    ctl("certificates", "show", "acme", code=ABSENT)
    ctl("certificates", "show", short, code=USAGE)
    assert ctl.json("certificates", "list", short)["certificates"] == []
    assert ctl.json("certificates", "tenants")["certificates"] == []
    certs = dict(KMS_KEYADMIN_CERT=ctl.env["KMS_SERVICE_CERT"], KMS_KEYADMIN_KEY=ctl.env["KMS_SERVICE_KEY"])
    ctl("certificates", "show", f"{short}@1", code=DENIED, **certs)
    assert ctl.json("audit", "status")["audit_key"].startswith("claviger/dev+")


# ---- verify: notes by another hand ------------------------------------------------------------------------------------------------
@pytest.fixture
def verify(world, tmp_path):
    ctl = Ctl(world)

    def run(note, key, code=0):
        file = tmp_path / "note.txt"
        file.write_bytes(note)
        return ctl("certificates", "verify", str(file), "--audit-key", key, code=code)
    return run


def vector(name):
    return (VECTORS / f"{name}.txt").read_bytes()


def key_of(name):
    return vector(name).decode().strip()


@pytest.mark.parametrize("note,key", [("version", "key"), ("tenant", "key"), ("version-p256", "key-p256")])
def test_vectors(verify, note, key):
    whole = vector(note)
    assert b"projects/acme" in verify(whole, key_of(key))
    for at in range(3, len(whole), 101):
        verify(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:], key_of(key), INVALID)
    for end in range(0, len(whole), 301):
        verify(whole[:end], key_of(key), INVALID)
    verify(whole + b"\xe2\x80\x94 somebody/else AAAAAAAA\n", key_of(key))  # signatures of unknown keys are passed over
    verify(whole + b"no signature line\n", key_of(key), INVALID)
    verify(whole, key_of("key-p256" if key == "key" else "key"), INVALID)


def test_keys_that_are_none(verify):
    good = key_of("key")
    name, kid, raw = good.split("+", 2)
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    for bad in ("", "x", name, f"{name}+{kid}", f"{name}+{kid[:-1]}+{raw}", f"{name}+00000000+{raw}", f"{name}x+{kid}+{raw}", f"{name}+{kid}+{raw[:-4]}", f"+{kid}+{raw}",
                f"{name}+{kid}+{raw}=", f"{name}+{hashlib.sha256(p384).digest()[:4].hex()}+{base64.b64encode(bytes([2]) + p384).decode()}"):
        verify(vector("version"), bad, USAGE)


def test_well_signed_and_no_certificate(verify):
    key = ed25519.Ed25519PrivateKey.generate()
    raw = b"\x01" + key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    kid = hashlib.sha256(b"claviger/node1\n" + raw).digest()[:4]
    text_key = f"claviger/node1+{kid.hex()}+{base64.b64encode(raw).decode()}"

    def note(text):
        return f"{text}\n\u2014 claviger/node1 {base64.b64encode(kid + key.sign(text.encode())).decode()}\n".encode()
    good = vector("version").decode().split("\n\n")[0] + "\n"
    verify(note(good), text_key)
    for other in ("claviger/node1\n5\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", good.replace("/v1", "/v2"), good.replace("claviger/node1", "claviger/node2"),
                  good + "no fact\n", "claviger.certificate/v1\nclaviger/node1\n"):
        assert "no certificate" in verify(note(other), text_key, INVALID)
