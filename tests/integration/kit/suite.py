"""Fixtures of every suite that runs daemons: one template instance a session, throw-away copies of it, and a client for each identity.
A conftest imports what it wants of them."""
import contextlib
import itertools
import shutil

import claviger_pb  # noqa: F401
import pytest

from google.cloud.kms.v1 import resources_pb2 as res, service_pb2 as msg
from kit.client import AuditLog, connect
from kit.instance import Instance

ENCRYPT_DECRYPT = res.CryptoKey.ENCRYPT_DECRYPT


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A short folder for everything, gone at the end: unix socket paths are short, and nothing may be left behind."""
    folder = tmp_path_factory.mktemp("i")
    yield folder
    mine = tmp_path_factory.getbasetemp()
    shutil.rmtree(mine, ignore_errors=True)
    for link in mine.parent.iterdir():  # pytest's own "current", which now leads nowhere
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another run may be using it
        mine.parent.rmdir()


@pytest.fixture(scope="session")
def template(base):
    """Tenants acme (eu) and globex (us) with their principals; no keys; never started by a test."""
    return Instance.create(base / "template")


@pytest.fixture(scope="session")
def copies(base, template):
    number = itertools.count()
    made = []

    def copy():
        made.append(template.copy(base / f"c{next(number)}"))
        return made[-1]
    yield copy
    for i in made:
        i.stop()


@pytest.fixture
def fresh(copies):
    """A daemon of one's own, stopped: for tests that break things."""
    instance = copies()
    yield instance
    instance.stop()
    shutil.rmtree(instance.dir, ignore_errors=True)


class World:
    """A started instance with a client for each identity, and what tests make in it."""

    def __init__(self, instance):
        self.instance = instance
        self.names = itertools.count(1)
        self.admin, self.keyadmin, self.orders, self.keyadmin2, self.billing = (
            connect(instance, n) for n in ("admin", "acme-keyadmin", "acme-orders", "globex-keyadmin", "globex-billing"))
        self.audit = AuditLog(self.admin)
        self.location, self.location2 = "projects/acme/locations/eu", "projects/globex/locations/us"

    def word(self, prefix="t"):
        return f"{prefix}{next(self.names)}"

    def ring(self, who=None, location=None):
        who, location = who or self.keyadmin, location or self.location
        return who.kms.CreateKeyRing(msg.CreateKeyRingRequest(parent=location, key_ring_id=self.word("ring"))).name

    def key(self, ring=None, versions=1, who=None, **fields):
        """A key with that many versions; the last one is primary."""
        who = who or self.keyadmin
        name = who.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
            parent=ring or self.ring(who), crypto_key_id=self.word("key"),
            crypto_key=res.CryptoKey(purpose=ENCRYPT_DECRYPT, **fields))).name
        for _ in range(versions - 1):
            self.rotate(name, who)
        return name

    def key2(self):
        return self.key(self.ring(self.keyadmin2, self.location2), who=self.keyadmin2)

    def rotate(self, key, who=None):
        who = who or self.keyadmin
        version = who.kms.CreateCryptoKeyVersion(msg.CreateCryptoKeyVersionRequest(parent=key)).name
        who.kms.UpdateCryptoKeyPrimaryVersion(msg.UpdateCryptoKeyPrimaryVersionRequest(
            name=key, crypto_key_version_id=version.rsplit("/", 1)[1]))
        return version

    def set_state(self, version, state):
        request = msg.UpdateCryptoKeyVersionRequest(crypto_key_version=res.CryptoKeyVersion(name=version, state=state))
        request.update_mask.paths.append("state")
        return self.keyadmin.kms.UpdateCryptoKeyVersion(request)

    def encrypt(self, key, plaintext=b"jane@example.com", who=None, **kw):
        return (who or self.orders).kms.Encrypt(msg.EncryptRequest(name=key, plaintext=plaintext, **kw)).ciphertext

    def decrypt(self, key, ciphertext, who=None, **kw):
        return (who or self.orders).kms.Decrypt(msg.DecryptRequest(name=key, ciphertext=ciphertext, **kw)).plaintext
