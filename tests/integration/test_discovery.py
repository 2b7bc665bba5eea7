"""Health and reflection: what load balancers and curious people ask, without being anybody."""
import itertools

import pytest

from claviger.audit.v1 import audit_pb2  # noqa: F401  (registers the descriptors that are compared)
from claviger.envelope.v1 import envelope_pb2
from claviger.tenants.v1 import tenants_pb2
from conftest import msg, res
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc.health.v1 import health_pb2
from grpc.reflection.v1 import reflection_pb2 as refl
from kit import certs
from kit.client import DEADLINE, connect
from kit.instance import TRUST_DOMAIN
from kit.wire import Code, refused

SERVICES = {"google.cloud.kms.v1.KeyManagementService", "claviger.envelope.v1.Envelope", "claviger.tenants.v1.Tenants",
            "claviger.identity.v1.Identity", "claviger.policy.v1.Policy", "claviger.lifecycle.v1.Lifecycle", "claviger.lifecycle.v1.Certificates", "claviger.masters.v1.Masters", "claviger.masters.v1.Seals", "claviger.audit.v1.Audit", "claviger.system.v1.System",
            "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}


def test_health_of_the_server_and_of_each_service(world):
    for service in [""] + sorted(SERVICES):
        r = world.orders.health.Check(health_pb2.HealthCheckRequest(service=service))
        assert r.status == health_pb2.HealthCheckResponse.SERVING, service
    for service in ("nonsense", "Envelope", "claviger.envelope.v1", "claviger.envelope.v1.envelope"):
        with refused(Code.NOT_FOUND):
            world.orders.health.Check(health_pb2.HealthCheckRequest(service=service))


def test_health_may_be_watched(world):
    call = world.orders.health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
    assert next(call).status == health_pb2.HealthCheckResponse.SERVING
    call.cancel()
    unknown = world.orders.health.Watch(health_pb2.HealthCheckRequest(service="nonsense"), timeout=DEADLINE)
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_the_public_services_ask_for_no_principal_but_nothing_else_is_public(world, base):
    folder = base / "stranger"
    folder.mkdir()
    pair = certs.issue(folder, "stranger", certs.load(world.instance.dir / "certs", "ca"), uris=[f"spiffe://{TRUST_DOMAIN}/stranger"])
    stranger = connect(world.instance, None, cert=pair[0], key=pair[1])
    assert stranger.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert {s.name for s in ask(stranger, "v1", list_services="")[0].list_services_response.service} == SERVICES
    for file in (msg.DESCRIPTOR, envelope_pb2.DESCRIPTOR, tenants_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                if method.client_streaming:
                    call = stranger.channel.stream_stream(path)(iter([b""]), timeout=DEADLINE)
                    with refused(Code.UNAUTHENTICATED):
                        next(call)
                else:
                    with refused(Code.UNAUTHENTICATED):
                        stranger.raw(path, b"")


# ---- reflection, as grpcurl does it -----------------------------------------------------------------------------------------------
def ask(client, version, *more, **question):
    questions = [question, *more]
    call = client.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                                        refl.ServerReflectionRequest.SerializeToString, refl.ServerReflectionResponse.FromString)
    return list(call(iter([refl.ServerReflectionRequest(host="h", **q) for q in questions]), timeout=DEADLINE))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_services_are_listed_and_described(world, version):
    (r,) = ask(world.orders, version, list_services="*")
    assert {s.name for s in r.list_services_response.service} == SERVICES
    assert r.valid_host == "h" and r.original_request.list_services == "*"
    answers = ask(world.orders, version, *[dict(file_containing_symbol=s) for s in sorted(SERVICES)[1:]], file_containing_symbol=sorted(SERVICES)[0])
    assert len(answers) == len(SERVICES)
    for name, r in zip(sorted(SERVICES), answers):
        files = [descriptor_pb2.FileDescriptorProto.FromString(f) for f in r.file_descriptor_response.file_descriptor_proto]
        have = {f.name for f in files}
        assert set(itertools.chain.from_iterable(f.dependency for f in files)) <= have  # whole: a client can use it as it is
        assert any(f"{f.package}.{s.name}" == name for f in files for s in f.service)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("file", [msg.DESCRIPTOR, res.DESCRIPTOR, envelope_pb2.DESCRIPTOR, tenants_pb2.DESCRIPTOR])
def test_descriptors_are_those_we_publish(world, version, file):
    wanted = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(wanted)
    for question in (dict(file_by_filename=file.name), dict(file_containing_symbol=next(iter(file.message_types_by_name.values())).full_name)):
        (r,) = ask(world.orders, version, **question)
        got = [f for f in map(descriptor_pb2.FileDescriptorProto.FromString, r.file_descriptor_response.file_descriptor_proto) if f.name == file.name]
        assert len(got) == 1
        for f in (got[0], wanted):  # json names are filled in by one compiler and not by the other
            for m in f.message_type:
                for field in itertools.chain(m.field, *(n.field for n in m.nested_type)):
                    field.ClearField("json_name")
        assert got[0] == wanted


def test_questions_without_an_answer_do_not_end_the_stream(world):
    a, b, c, d = ask(world.orders, "v1", dict(file_by_filename="nonsense.proto"), dict(file_containing_extension=dict(containing_type="x", extension_number=1)),
                     dict(list_services=""), file_containing_symbol="no.such.Thing")
    for r in (a, b, c):
        assert r.error_response.error_code == Code.NOT_FOUND.value[0]
    assert d.list_services_response.service
    with refused(Code.INVALID_ARGUMENT):
        ask(world.orders, "v1")


def test_methods_of_a_symbol_can_be_called_from_its_description_alone(world, key):
    """What grpcurl does: from a name to a call, with nothing but reflection."""
    (r,) = ask(world.orders, "v1", file_containing_symbol="google.cloud.kms.v1.KeyManagementService")
    pool = descriptor_pool.DescriptorPool()
    for raw in reversed(r.file_descriptor_response.file_descriptor_proto):
        pool.AddSerializedFile(raw)
    method = pool.FindServiceByName("google.cloud.kms.v1.KeyManagementService").FindMethodByName("GetCryptoKey")
    factory = message_factory.MessageFactory(pool)
    request, answer = (factory.GetPrototype(t) for t in (method.input_type, method.output_type))
    raw = world.orders.raw(f"/{method.containing_service.full_name}/{method.name}", request(name=key).SerializeToString())
    assert answer.FromString(raw).name == key


def test_reflection_can_be_switched_off(fresh):
    fresh.configure(reflection="false")
    client = connect(fresh.start(), "acme-orders")
    with refused(Code.UNIMPLEMENTED, "REFLECTION_OFF"):
        ask(client, "v1", list_services="")
    assert client.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
