"""Who may speak at all: certificates of every kind, and principals that come and go."""
import datetime
import ipaddress
import socket
import ssl

import grpc
import pytest

from claviger.identity.v1 import identity_pb2 as idy
from claviger.system.v1 import system_pb2
from conftest import msg
from kit import certs
from kit.client import DEADLINE, connect
from kit.instance import PATIENCE, TRUST_DOMAIN, until
from kit.wire import Code, refused

DAY = certs.DAY
REGISTERED = f"spiffe://{TRUST_DOMAIN}/acme-orders"


@pytest.fixture(scope="module")
def folder(base):
    made = base / "more-certs"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def ca(daemon):
    return certs.load(daemon.dir / "certs", "ca")


def call_with(world, pair, key="projects/acme/locations/eu/keyRings/x/cryptoKeys/y"):
    client = connect(world.instance, None, cert=pair[0], key=pair[1])
    return world.encrypt(key, who=client)


BAD = {
    "unknown uri": dict(uris=[f"spiffe://{TRUST_DOMAIN}/nobody"]),
    "other trust domain": dict(uris=["spiffe://evil.example/acme-orders"]),
    "uri in other case": dict(uris=[f"spiffe://{TRUST_DOMAIN}/Acme-Orders"]),
    "uri with more path": dict(uris=[REGISTERED + "/x"]),
    "common name only": dict(),
    "two uris": dict(uris=[REGISTERED, f"spiffe://{TRUST_DOMAIN}/admin"]),
    "the same uri twice": dict(uris=[REGISTERED, REGISTERED]),
    "unregistered dns": dict(dns=["acme-orders"]),
    "address only": dict(ips=[ipaddress.ip_address("127.0.0.1")]),
    "server usage": dict(uris=[REGISTERED], usage=certs.SERVER),
    "expired": dict(uris=[REGISTERED], start=-9 * DAY, end=-DAY),
    "not yet valid": dict(uris=[REGISTERED], start=DAY),
}


def test_every_bad_certificate_is_refused_alike_and_on_record(new_world, tmp_path):
    world = new_world
    ca = certs.load(world.instance.dir / "certs", "ca")
    start, shapes = world.audit.position(), {}
    pairs = {why: certs.issue(tmp_path, why.replace(" ", "-"), ca, **how) for why, how in BAD.items()}
    certs.make_ca(tmp_path, "other-ca")
    pairs["unknown authority"] = certs.issue(tmp_path, "unknown-authority", certs.load(tmp_path, "other-ca"), uris=[REGISTERED])
    own = certs.issue(tmp_path, "selfmade", ca, uris=[REGISTERED])
    pairs["issued by a leaf"] = certs.issue(tmp_path, "by-a-leaf", certs.load(tmp_path, "selfmade"), uris=[f"spiffe://{TRUST_DOMAIN}/admin"])
    for why, pair in pairs.items():
        with refused(Code.UNAUTHENTICATED) as r:
            call_with(world, pair)
        shapes.setdefault(r.shape, []).append(why)
    assert len(shapes) == 1, shapes
    with refused(Code.NOT_FOUND):  # the twin: the same certificate, with nothing wrong
        call_with(world, own)
    # ten of a source in full, the rest counted (at the end of the minute, or when the daemon stops)
    full = until(lambda: len(found := world.audit.find(start, outcome="refused", code="UNAUTHENTICATED")) >= 10 and found)
    assert len(full) == 10 and all(e.event.principal == "" and e.event.address == "127.0.0.1" and e.event.action == "kms.cryptoKeys.encrypt"
                                   for e in full)
    # the record says what the callers were not told: each cause in its own words, and which certificate it was
    assert len({e.event.cause for e in full}) >= 5 and all(e.event.cause for e in full), [e.event.cause for e in full]
    assert len({e.event.certificate for e in full}) == 10
    assert world.instance.stop() == 0
    world = type(world)(world.instance.start())
    rest = world.audit.one(start, code="UNAUTHENTICATED", outcome="refused", repeats=len(pairs) - 10)
    assert rest.event.address == "127.0.0.1" and rest.event.action == "kms.cryptoKeys.encrypt"


def test_dns_names_may_be_registered_too(world, folder, ca):
    name = world.word("dns-principal")
    world.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(
        principal_id=name, principal=dict(tenant="projects/acme", san="dns:billing.example.org")))
    pair = certs.issue(folder, name, ca, dns=["billing.example.org"])
    start = world.audit.position()
    with refused(Code.PERMISSION_DENIED):  # it is known; no role is bound to it
        call_with(world, pair)
    e = world.audit.one(start, principal=name)
    assert (e.event.rule, e.event.outcome, e.event.tenant) == ("default-deny", "denied", "acme")


def test_a_new_principal_is_known_at_once_and_a_disabled_one_refused_at_once(world, folder, ca):
    name = world.word("comes-and-goes")
    san = f"spiffe://{TRUST_DOMAIN}/{name}"
    pair = certs.issue(folder, name, ca, uris=[san])
    client = connect(world.instance, None, cert=pair[0], key=pair[1])
    ask = lambda: world.encrypt("projects/acme/locations/eu/keyRings/x/cryptoKeys/y", who=client)  # noqa: E731
    with refused(Code.UNAUTHENTICATED):
        ask()
    p = world.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id=name, principal=dict(tenant="projects/acme", san=san)))
    assert (p.name, p.tenant, p.san, p.state) == ("principals/" + name, "projects/acme", san, idy.Principal.ACTIVE)
    with refused(Code.PERMISSION_DENIED):
        ask()
    set_state(world, p.name, idy.Principal.DISABLED)
    with refused(Code.UNAUTHENTICATED):  # on the same connection, on the next call
        ask()
    set_state(world, p.name, idy.Principal.ACTIVE)
    with refused(Code.PERMISSION_DENIED):
        ask()
    assert world.admin.identity.GetPrincipal(idy.GetPrincipalRequest(name=p.name)) == p
    assert p in world.admin.identity.ListPrincipals(idy.ListPrincipalsRequest(tenant="projects/acme")).principals
    assert p not in world.admin.identity.ListPrincipals(idy.ListPrincipalsRequest(tenant="projects/globex")).principals


def set_state(world, name, state, paths=("state",)):
    request = idy.UpdatePrincipalRequest(principal=idy.Principal(name=name, state=state))
    request.update_mask.paths.extend(paths)
    return world.admin.identity.UpdatePrincipal(request)


def test_principals_that_are_refused(world):
    create = lambda id_, **p: world.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id=id_, principal=p))  # noqa: E731
    for bad in ("", "Upper", "a b", "-a", "a/b", "x" * 129, "ä"):
        with refused(Code.INVALID_ARGUMENT):
            create(bad, tenant="projects/acme", san=f"spiffe://{TRUST_DOMAIN}/x1")
    for bad in ("", "x", "spiffe://", "spiffe://evil.example/x", "dns:", "cn:x", f"spiffe://{TRUST_DOMAIN}/../x", f"spiffe://{TRUST_DOMAIN}", "x" * 300):
        with refused(Code.INVALID_ARGUMENT):
            create("fine", tenant="projects/acme", san=bad)
    with refused(Code.NOT_FOUND):
        create("fine", tenant="projects/absent", san=f"spiffe://{TRUST_DOMAIN}/x1")
    with refused(Code.INVALID_ARGUMENT, field="principal.tenant"):
        create("fine", tenant="acme", san=f"spiffe://{TRUST_DOMAIN}/x1")
    with refused(Code.ALREADY_EXISTS):
        create("acme-orders", tenant="projects/acme", san=f"spiffe://{TRUST_DOMAIN}/x1")
    with refused(Code.ALREADY_EXISTS):
        create("fine", tenant="projects/acme", san=REGISTERED)
    with refused(Code.NOT_FOUND):
        world.admin.identity.GetPrincipal(idy.GetPrincipalRequest(name="principals/fine"))
    with refused(Code.FAILED_PRECONDITION, "OWN_PRINCIPAL"):
        set_state(world, "principals/admin", idy.Principal.DISABLED)
    for state, paths, field in ((0, ("state",), "principal.state"), (9, ("state",), "principal.state"), (2, (), "update_mask"), (2, ("san",), "update_mask")):
        with refused(Code.INVALID_ARGUMENT, field=field):
            set_state(world, "principals/acme-orders", state, paths)


# ---- TLS ------------------------------------------------------------------------------------------------------------------
def tls(daemon, identity="acme-orders", version=None, alpn=("h2",)):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(daemon.cert("ca")[0])
    if identity:
        context.load_cert_chain(*daemon.cert(identity))
    if version:
        context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(list(alpn))
    host, port = daemon.endpoint.rsplit(":", 1)
    return context.wrap_socket(socket.create_connection((host, int(port)), 5), server_hostname="127.0.0.1")


def test_tls_1_3_with_a_certificate_is_spoken(daemon):
    with tls(daemon) as s:
        assert s.version() == "TLSv1.3" and s.selected_alpn_protocol() == "h2" and s.session_reused is False
        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert s.recv(9)[3] == 4  # SETTINGS
        assert not s.session or not s.session.has_ticket


def test_tls_1_2_is_refused(daemon):
    with pytest.raises(ssl.SSLError) as e:
        tls(daemon, version=ssl.TLSVersion.TLSv1_2)
    assert "PROTOCOL_VERSION" in str(e.value) or "protocol version" in str(e.value)


def test_no_certificate_is_refused_in_the_handshake(daemon):
    with pytest.raises(ssl.SSLError) as e:  # TLS 1.3: the alert comes with the first read
        with tls(daemon, identity=None) as s:
            s.settimeout(PATIENCE)
            s.recv(1)
    assert "CERTIFICATE_REQUIRED" in str(e.value) or "certificate required" in str(e.value)


def test_no_certificate_by_grpc(world):
    channel = grpc.secure_channel(world.instance.endpoint, grpc.ssl_channel_credentials(world.instance.cert("ca")[0].read_bytes()))
    with channel, pytest.raises(grpc.RpcError) as e:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=DEADLINE)
    assert e.value.code() == Code.UNAVAILABLE


@pytest.mark.parametrize("first", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 64, b"\x16\x03\x01\xff\xff"])
def test_plaintext_is_refused(daemon, first):
    host, port = daemon.endpoint.rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE) as s:
        s.sendall(first + b"\0" * 70000)
        s.settimeout(PATIENCE)
        try:
            answer = b"".join(iter(lambda: s.recv(4096), b""))
        except ConnectionError:
            answer = b""
    assert b"HTTP" not in answer and len(answer) < 64  # an alert at most


def test_plaintext_by_grpc(world):
    with grpc.insecure_channel(world.instance.endpoint) as channel, pytest.raises(grpc.RpcError) as e:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=3)
    assert e.value.code() in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
    assert world.admin.system.GetStatus(system_pb2.GetStatusRequest()).health == "healthy"


def test_a_certificate_that_expires_while_its_connection_lives_is_refused_on_the_next_call(world, folder, ca, key):
    """Short-lived on purpose: the connection stays, its calls don't."""
    pair = certs.issue(folder, "short", ca, uris=[REGISTERED], end=datetime.timedelta(seconds=5))
    client = connect(world.instance, None, cert=pair[0], key=pair[1])
    assert world.encrypt(key, who=client)

    def ended():
        try:
            client.kms.GetCryptoKey(msg.GetCryptoKeyRequest(name=key))
            return False
        except grpc.RpcError as e:
            assert e.code() == Code.UNAUTHENTICATED, e
            return True
    until(ended)
