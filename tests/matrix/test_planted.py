"""A new RPC is in the matrix without anyone adding it: a daemon that has two more than ours, of a service nobody has heard of. What
this folder does for the real ones it does for them, and it sees which of the two tells another's things apart."""
import subprocess

import pytest
from google.cloud.kms.v1 import service_pb2  # noqa: F401
from google.protobuf import descriptor_pb2, descriptor_pool
from kit.instance import BUILD
from kit.client import connect

import rows
import walk
from conftest import World
from walk import Code

PLANTED = BUILD / "matrix/planted"
WHO = {"admin": "", "acme-keyadmin": "acme", "acme-orders": "acme", "globex-keyadmin": "globex"}


@pytest.fixture(scope="module")
def new_rows():
    """The .proto that would come with them, and the table as their daemon prints it."""
    file = descriptor_pb2.FileDescriptorProto(name="claviger/planted/v1/planted.proto", package="claviger.planted.v1", syntax="proto3",
                                              dependency=["google/cloud/kms/v1/service.proto", "google/cloud/kms/v1/resources.proto"])
    service = file.service.add(name="Planted")
    for method in ("Good", "Leaky"):
        service.method.add(name=method, input_type=".google.cloud.kms.v1.GetCryptoKeyRequest", output_type=".google.cloud.kms.v1.CryptoKey")
    descriptor_pool.Default().Add(file)
    printed = subprocess.run([PLANTED / "api_rows", "rows"], check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    return [r for r in rows.table(printed) if r.path not in {o.path for o in rows.table()}]


@pytest.fixture(scope="module")
def looked_at(new_rows, copies):
    """The same walk as everywhere, over what is new."""
    instance = copies()
    instance.programs = PLANTED / "bin"
    instance.configure(log_level="error")
    instance.start()
    world = World(instance)
    made = {}
    for tenant, who, location in (("acme", world.keyadmin, "eu"), ("globex", world.keyadmin2, "us")):
        made[tenant] = walk.Place(tenant, location, world.key(world.ring(who, f"projects/{tenant}/locations/{location}"), versions=2, who=who))
    yield walk.Walk(new_rows, {n: connect(instance, n) for n in WHO}, WHO, made, world.admin).all()
    assert instance.stop() == 0, instance.log


def test_they_are_in_the_table(new_rows):
    assert [r.path for r in new_rows] == ["/claviger.planted.v1.Planted/Good", "/claviger.planted.v1.Planted/Leaky"]


def test_they_were_exercised(looked_at):
    assert looked_at.complaints() == []
    for row in looked_at.table:
        assert {s.identity for s in looked_at.of(row=row)} == set(WHO) and len(looked_at.of(row=row)) > 40


def test_the_one_that_leaks_is_seen(looked_at):
    good, leaky = looked_at.table
    refusal = looked_at.answers[next(s for s in looked_at.of(row=good, identity="acme-orders", whose="foreign") if s.kind == "key")].shape
    assert refusal[0] is Code.PERMISSION_DENIED
    for identity, tenant in WHO.items():
        seen, problems = walk.told_apart(looked_at, good, identity, refusal)
        assert problems == [] and (seen[False] > 5 or not tenant)
        seen, problems = walk.told_apart(looked_at, leaky, identity, refusal)
        assert not tenant or any("told apart" in p and "NOT_FOUND" in p for p in problems), (identity, problems)
