"""A stand-in for the daemon, for tests of the client alone: real gRPC over mutual TLS, pretended cryptography, and keys whose
last name part says how to misbehave. Arguments: directory for certificates, directory of generated stubs. Prints the port,
then serves until stdin closes. `calls` counts what arrived, by method, and is served as the key name "count".
"""
import datetime
import hashlib
import ipaddress
import os
import sys
import threading
import time
from concurrent import futures

work, stubs = sys.argv[1:3]
sys.path.insert(0, stubs)
import claviger_pb  # noqa: E402,F401
import grpc  # noqa: E402
from claviger.audit.v1 import audit_pb2, audit_pb2_grpc, event_pb2  # noqa: E402
from claviger.envelope.v1 import envelope_pb2 as env, envelope_pb2_grpc as env_grpc  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.x509.oid import NameOID  # noqa: E402
from google.cloud.kms.v1 import service_pb2 as kms, service_pb2_grpc as kms_grpc  # noqa: E402
from google.protobuf import any_pb2, duration_pb2  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def issue(name, issuer=None, san=None):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.utcnow()
    b = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0].subject if issuer else subject)
         .public_key(key.public_key()).serial_number(x509.random_serial_number())
         .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
         .add_extension(x509.BasicConstraints(issuer is None, None), True))
    if san:
        b = b.add_extension(x509.SubjectAlternativeName(san), False)
    cert = b.sign(issuer[1] if issuer else key, hashes.SHA256())
    with open(os.path.join(work, name + ".pem"), "wb") as f:
        f.write(cert.public_bytes(serialization.Encoding.PEM))
    with open(os.path.join(work, name + ".key"), "wb") as f:
        f.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return cert, key


class Refused(Exception):
    """An error of one item or one call: (grpc code, reason)."""


def binding(context, aad):
    text = repr(sorted(context.items())).encode() + b"|" + aad
    return hashlib.sha256(text).digest()[:8]


def seal(kind, name, context, aad, data):
    tag = hashlib.sha256(name.encode() + binding(context, aad) + data).digest()[:8]
    return kind + binding(context, aad) + tag + bytes(b ^ 0x5A for b in data)


def unseal(kind, name, context, aad, sealed):
    data = bytes(b ^ 0x5A for b in sealed[20:])
    if kind == b"FAKE" and sealed[:4] == b"FAK2":  # of the key's second version
        kind = b"FAK2"
    if sealed != seal(kind, name, context, aad, data):
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "CIPHERTEXT")
    return data


lock = threading.Lock()
counts = {}


def behave(method, name, ctx):
    """What the key's name asks for; returns its last part."""
    how = name.rsplit("/", 1)[-1]
    with lock:
        counts[how] = counts.get(how, 0) + 1
        n = counts[how]
    meta = dict(ctx.invocation_metadata())
    if len(meta.get("x-request-id", "")) != 32:
        refuse(ctx, grpc.StatusCode.INTERNAL, "NO_REQUEST_ID")
    if how == "denied":
        refuse(ctx, grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED", message="permission denied")
    if how == "state":
        refuse(ctx, grpc.StatusCode.FAILED_PRECONDITION, "KEY_VERSION_DISABLED", field="name")
    if how == "absent":
        refuse(ctx, grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    if how == "limit":
        refuse(ctx, grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE", retry_ms=1250)
    if how == "lying":  # details that contradict the status
        refuse(ctx, grpc.StatusCode.NOT_FOUND, "FORGED", claimed=7)
    if how == "garbage":
        ctx.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff\x01garbage"),))
        ctx.abort(grpc.StatusCode.ABORTED, "with\x1b[31m colour")
    if how.startswith("flaky") and n <= 2:
        refuse(ctx, grpc.StatusCode.UNAVAILABLE, "RESTARTING")
    if how == "down":
        refuse(ctx, grpc.StatusCode.UNAVAILABLE, "RESTARTING")
    if how == "slow":
        time.sleep(2)
    return how


def refuse(ctx, code, reason, field=None, retry_ms=0, claimed=None, message="refused"):
    details = []

    def add(m):
        a = any_pb2.Any()
        a.Pack(m)
        details.append(a)
    add(error_details_pb2.ErrorInfo(reason=reason, domain="claviger.dev"))
    if field:
        add(error_details_pb2.BadRequest(field_violations=[error_details_pb2.BadRequest.FieldViolation(field=field)]))
    if retry_ms:
        add(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=retry_ms // 1000, nanos=retry_ms % 1000 * 1000000)))
    st = status_pb2.Status(code=claimed or code.value[0], message=message, details=details)
    ctx.set_trailing_metadata((("grpc-status-details-bin", st.SerializeToString()),))
    ctx.abort(code, message)


def checked(ctx, crc, data):
    if crc.value != crc32c(data):
        refuse(ctx, grpc.StatusCode.INVALID_ARGUMENT, "CRC32C_MISMATCH")


class Kms(kms_grpc.KeyManagementServiceServicer):
    def Encrypt(self, q, ctx):
        how = behave("Encrypt", q.name, ctx)
        checked(ctx, q.plaintext_crc32c, q.plaintext)
        data = str(counts.get(q.additional_authenticated_data.decode(), 0)).encode() if how == "count" else \
            seal(b"FAKE", q.name, {}, q.additional_authenticated_data, q.plaintext)
        p = kms.EncryptResponse(name=q.name + "/cryptoKeyVersions/1", ciphertext=data, verified_plaintext_crc32c=how != "unverified",
                                verified_additional_authenticated_data_crc32c=True)
        if how != "nocrc":
            p.ciphertext_crc32c.value = crc32c(data) ^ (how == "damaged")
        return p

    def Decrypt(self, q, ctx):
        how = behave("Decrypt", q.name, ctx)
        checked(ctx, q.ciphertext_crc32c, q.ciphertext)
        try:
            data = unseal(b"FAKE", q.name, {}, q.additional_authenticated_data, q.ciphertext)
        except Refused as r:
            refuse(ctx, *r.args)
        p = kms.DecryptResponse(plaintext=data)
        p.plaintext_crc32c.value = crc32c(data) ^ (how == "damaged-back")
        return p


class Envelope(env_grpc.EnvelopeServicer):
    def Wrap(self, q, ctx):
        behave("Wrap", q.name, ctx)
        checked(ctx, q.plaintext_key_crc32c, q.plaintext_key)
        w = seal(b"WRAP", q.name, q.context, b"", q.plaintext_key)
        p = env.WrapResponse(name=q.name, wrapped_key=w, verified_plaintext_key_crc32c=True)
        p.wrapped_key_crc32c.value = crc32c(w)
        return p

    def Unwrap(self, q, ctx):
        behave("Unwrap", q.name, ctx)
        try:
            k = unseal(b"WRAP", q.name, q.context, b"", q.wrapped_key)
        except Refused as r:
            refuse(ctx, *r.args)
        p = env.UnwrapResponse(name=q.name, plaintext_key=k)
        p.plaintext_key_crc32c.value = crc32c(k)
        return p

    def GenerateDataKey(self, q, ctx):
        how = behave("GenerateDataKey", q.name, ctx)
        k = os.urandom((q.key_bytes or 32) - (how == "short"))
        w = seal(b"WRAP", q.name, q.context, b"", k)
        p = env.GenerateDataKeyResponse(name=q.name, wrapped_key=w)
        p.wrapped_key_crc32c.value = crc32c(w)
        if not q.wrapped_only:
            p.plaintext_key = k
            p.plaintext_key_crc32c.value = crc32c(k)
        return p

    def batch(self, q, ctx, fn):
        how = behave("Batch", q.name, ctx)
        results, failed = [], 0
        for item in q.items:
            try:
                results.append(fn(q.name, item))
            except Refused as r:
                failed += 1
                bad = env.ItemStatus(code=r.args[0].value[0], reason=r.args[1])
                results.append(env.EncryptResult(status=bad) if isinstance(item, env.EncryptItem) else env.DecryptResult(status=bad))
        return (results[:-1] if how == "lost" else results), failed

    def BatchEncrypt(self, q, ctx):
        def one(name, i):
            if i.plaintext == b"poison":
                raise Refused(grpc.StatusCode.PERMISSION_DENIED, "ITEM_DENIED")
            return env.EncryptResult(ciphertext=seal(b"FAKE", name, i.context, i.additional_authenticated_data, i.plaintext))
        r, failed = self.batch(q, ctx, one)
        return env.BatchEncryptResponse(results=r, failed=failed)

    def BatchDecrypt(self, q, ctx):
        r, failed = self.batch(q, ctx, lambda name, i: env.DecryptResult(
            plaintext=unseal(b"FAKE", name, i.context, i.additional_authenticated_data, i.ciphertext)))
        return env.BatchDecryptResponse(results=r, failed=failed)

    def rewrapped(self, q):
        """From version 1 (FAKE) to 2 (FAK2)."""
        def one(i):
            if i.ciphertext_crc32c.value != crc32c(i.ciphertext):
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "CRC32C_MISMATCH")
            data = unseal(b"FAKE", q.name, i.context, i.additional_authenticated_data, i.ciphertext)
            r = env.RewrapResult(version=2, source_version=2 if i.ciphertext[:4] == b"FAK2" else 1)
            r.already_newest = r.source_version == 2
            r.ciphertext = seal(b"FAK2", q.name, i.context, i.additional_authenticated_data, data)
            if not q.name.endswith("nocrc"):
                r.ciphertext_crc32c.value = crc32c(r.ciphertext) ^ q.name.endswith("damaged")
            return r
        results = []
        for i in q.items:
            try:
                results.append(one(i))
            except Refused as r:
                results.append(env.RewrapResult(status=env.ItemStatus(code=r.args[0].value[0], reason=r.args[1], message="refused")))
        return results, sum(r.status.code != 0 for r in results)

    def BatchRewrap(self, q, ctx):
        how = behave("BatchRewrap", q.name, ctx)
        r, failed = self.rewrapped(q)
        return env.BatchRewrapResponse(results=r[:-1] if how == "lost" else r, failed=failed)

    def RewrapStream(self, requests, ctx):
        """One message at a time, as the daemon. `breaks`: every third message of all ends the stream; `leaves`: it ends well, but early;
        `silent`: no answer; `swapped`: another's sequence; `throttled`: over the rate at first; `down` and so on: as everywhere."""
        for q in requests:
            how = q.name.rsplit("/", 1)[-1]
            with lock:
                counts["stream " + how] = n = counts.get("stream " + how, 0) + 1
            if how in ("denied", "state", "down"):
                behave("RewrapStream", q.name, ctx)
            if how == "throttled" and n <= 2:
                refuse(ctx, grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_ms=20)
            if how == "budget":
                refuse(ctx, grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_DAY", retry_ms=20)
            if how == "breaks" and n % 3 == 0:
                refuse(ctx, grpc.StatusCode.UNAVAILABLE, "RESTARTING")
            if how == "leaves" and n % 3 == 0:
                return
            if how == "silent":
                gone = threading.Event()
                ctx.add_callback(gone.set)
                gone.wait(10)
                return
            r, failed = self.rewrapped(q)
            yield env.RewrapStreamResponse(sequence=q.sequence + (how == "swapped"), results=r[:-1] if how == "lost" else r, failed=failed)

    def EncryptStream(self, requests, ctx):
        for q in requests:
            if q.name == "end":
                return
            if q.name == "fail":
                refuse(ctx, grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED")
            yield env.EncryptStreamResponse(sequence=q.sequence, results=[env.EncryptResult(ciphertext=i.plaintext[::-1]) for i in q.items])


class Audit(audit_pb2_grpc.AuditServicer):
    def Tail(self, q, ctx):
        for n in range(q.limit or 3):
            ev = event_pb2.Event(time_unix_ns=1763640000000000000 + n, principal="acme-orders", action="kms.cryptoKeys.encrypt",
                                 outcome="ok", code="OK", rule="service-use")
            yield audit_pb2.TailResponse(index=q.from_index + n, event=ev.SerializeToString())


def main():
    ca = issue("ca")
    issue("server", ca, [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    issue("client", ca, [x509.UniformResourceIdentifier("spiffe://dev.claviger/acme-orders")])
    other = issue("other-ca")
    issue("stranger", other, [x509.UniformResourceIdentifier("spiffe://dev.claviger/acme-orders")])

    def text(name):
        with open(os.path.join(work, name), "rb") as f:
            return f.read()
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 1 << 20)])
    kms_grpc.add_KeyManagementServiceServicer_to_server(Kms(), server)
    env_grpc.add_EnvelopeServicer_to_server(Envelope(), server)
    audit_pb2_grpc.add_AuditServicer_to_server(Audit(), server)
    creds = grpc.ssl_server_credentials([(text("server.key"), text("server.pem"))], text("ca.pem"), require_client_auth=True)
    print(server.add_secure_port("127.0.0.1:0", creds), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)


main()
