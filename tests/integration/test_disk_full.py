"""A full disk: work is refused with a clear error, nothing that was answered is lost, and service returns with the space."""
import errno
import itertools
import os
import resource
import subprocess
import threading

import grpc
import pytest

from claviger.system.v1 import system_pb2
from conftest import ENCRYPT_DECRYPT, World, msg
from grpc.health.v1 import health_pb2
from kit.client import DEADLINE, connect
from kit.instance import Instance, until
from kit.wire import Code, Details, refused

MIB = 1 << 20
DISK = 24 * MIB
LONG = [("x-request-id", "r" * 128), ("traceparent", "t" * 128)]  # long events fill a journal faster


class SmallDisk:
    """The journal on a file system of its own, filled up by a file beside it: what an operator sees. Needs root."""

    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast"
        folder.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "none", folder], check=True, capture_output=True)

    def fill(self, instance):
        fd = os.open(self.ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            while True:
                os.write(fd, bytes(4096))
        except OSError as e:
            assert e.errno == errno.ENOSPC
        finally:
            os.close(fd)

    def free(self, instance):
        self.ballast.unlink()

    def close(self):
        subprocess.run(["umount", "-l", self.folder], check=False)


class FileLimit:
    """No file may grow, by the core's RLIMIT_FSIZE: what anybody can do to one's own process."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(mode=0o700)

    def _set(self, instance, limit):
        _, hard = resource.prlimit(instance.children()["core"], resource.RLIMIT_FSIZE)
        resource.prlimit(instance.children()["core"], resource.RLIMIT_FSIZE, (limit, hard))

    def fill(self, instance):
        self._set(instance, MIB // 2)

    def free(self, instance):
        self._set(instance, resource.RLIM_INFINITY)

    def close(self):
        pass


def can_mount(folder):
    try:
        d = SmallDisk(folder)
    except (subprocess.CalledProcessError, PermissionError):
        return False
    d.close()
    return True


numbers = itertools.count()


@pytest.fixture(params=[SmallDisk, FileLimit], ids=["small disk", "file limit"])
def full(request, base, template):
    """(instance, disk): its journal in 1 MiB files on a disk that can be filled. Where nothing can be mounted both are the
    file limit: the promise is tested for everybody."""
    folder = base / f"full{next(numbers)}"
    folder.mkdir()
    kind = request.param if request.param is FileLimit or can_mount(folder / "try") else FileLimit
    disk = kind(folder / "journal")
    instance = Instance(folder)
    instance.config.write_text(template.config.read_text())
    instance.configure(journal_dir="journal", journal_segment_bytes=MIB, journal_reserve_bytes=65536)
    Instance.create(folder)
    try:
        yield instance.start(), disk
    finally:
        instance.stop()
        disk.close()


def test_full_and_free_again(full):
    instance, disk = full
    world = World(instance)
    ring = world.ring()
    key = world.key(ring)
    sealed = world.encrypt(key)
    disk.fill(instance)
    answered, made, refusals = [0], [], []

    def use(i):
        client = connect(instance, "acme-orders")
        while True:
            try:
                client.kms.Encrypt(msg.EncryptRequest(name=key, plaintext=b"x"), timeout=DEADLINE, metadata=LONG)
                answered[0] += 1  # (under the interpreter's lock)
            except grpc.RpcError as e:
                refusals.append(e)
                return

    def change():
        client, n = connect(instance, "acme-keyadmin"), 0
        while True:
            n += 1
            try:
                made.append(client.kms.CreateCryptoKey(msg.CreateCryptoKeyRequest(
                    parent=ring, crypto_key_id=f"k{n}", crypto_key=dict(purpose=ENCRYPT_DECRYPT)), timeout=DEADLINE).name)
            except grpc.RpcError as e:
                refusals.append(e)
                return
    threads = [threading.Thread(target=use, args=(i,)) for i in range(8)] + [threading.Thread(target=change)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(4 * DEADLINE)
    assert len(refusals) == 9
    reasons = {"AUDIT_UNAVAILABLE"} | ({"STORE_IO", "STORE_FULL"} if isinstance(disk, FileLimit) else set())  # it holds for all files
    for e in refusals:
        d = Details(e)
        assert e.code() == Code.UNAVAILABLE and d.reason in reasons, (e, d.reason)
        assert d.retry.retry_delay.seconds >= 1
    # now nothing is served: neither use, nor change, nor a mere look; and the answer says why
    for call in (lambda: world.decrypt(key, sealed), lambda: world.orders.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key)),
                 lambda: world.key(ring), lambda: world.admin.system.GetStatus(system_pb2.GetStatusRequest())):
        with refused(Code.UNAVAILABLE, "AUDIT_UNAVAILABLE"):
            call()
    assert world.orders.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert "level=error" in instance.log and set(instance.children()) == {"hsm", "core", "front"}
    disk.free(instance)
    until(lambda: _served(world, key, sealed), what="service returns by itself")
    assert world.orders.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    # the store is believed again when a probe of its own has been written, which is tried every second
    until(lambda: world.admin.system.GetStatus(system_pb2.GetStatusRequest()).health == "healthy", what="healthy again by itself")
    assert world.key(ring)
    for name in made[-5:] + made[:5]:
        assert world.orders.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=name))
    check_log(world, key, answered[0], made)
    assert instance.stop() == 0, instance.log
    world = World(instance.start())  # and what is on the disk is whole
    assert world.decrypt(key, sealed) == b"jane@example.com"
    check_log(world, key, answered[0], made)


def _served(world, key, sealed):
    try:
        return world.decrypt(key, sealed) == b"jane@example.com"
    except grpc.RpcError as e:
        assert e.code() == Code.UNAVAILABLE, e
        return False


def check_log(world, key, answered, made):
    events = world.audit.read()
    assert [e.index for e in events] == list(range(len(events)))
    assert sum(e.event.action == "kms.cryptoKeys.encrypt" and e.event.outcome == "ok" and e.event.request_id != "" for e in events) >= answered > 100
    # a change may have outrun the journal: then its answer had an event id, and the event follows from the outbox
    until(lambda: set(made) <= set(created(world)), what="every change that was answered is in the log")
    assert len(created(world)) == len(set(created(world)))


def created(world):
    return [e.event.resource for e in world.audit.find(0, action="kms.cryptoKeys.create", outcome="ok")]


def test_a_start_on_a_full_disk_serves_while_there_is_room_in_what_it_has(full):
    instance, disk = full
    world = World(instance)
    key = world.key()
    sealed = world.encrypt(key)
    assert instance.stop() == 0
    if isinstance(disk, SmallDisk):
        disk.fill(instance)
        instance.start()
    else:
        instance.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, resource.RLIM_INFINITY)))
    assert World(instance).decrypt(key, sealed) == b"jane@example.com"
    disk.free(instance)
    assert instance.stop() == 0, instance.log
