"""Certificates of every kind, good and bad."""
import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
DAY = datetime.timedelta(days=1)


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(folder, name, cert, key):
    c, k = folder / f"{name}.pem", folder / f"{name}.key"
    c.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    k.touch(mode=0o600)
    k.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                    serialization.NoEncryption()))
    return c, k


def load(folder, name):
    cert = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    return cert, serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)


def make_ca(folder, name):
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name(name)).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - DAY).not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(True, 0), True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256()))
    return _write(folder, name, cert, key)


def issue(folder, name, ca, *, uris=(), dns=(), ips=(), raw=(), usage=CLIENT, start=-DAY, end=9 * DAY, serial=None):
    """ca: (certificate, key) as load() gives them. Times are relative to now. raw: (kind, text) as no honest authority would write it."""
    issuer, issuer_key = ca
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.utcnow()
    builder = (x509.CertificateBuilder().subject_name(_name(name)).issuer_name(issuer.subject).public_key(key.public_key())
               .serial_number(serial or x509.random_serial_number()).not_valid_before(now + start).not_valid_after(now + end)
               .add_extension(x509.BasicConstraints(False, None), True)
               .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), True)
               .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False))
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    names = ([x509.UniformResourceIdentifier(u) for u in uris] + [x509.DNSName(d) for d in dns] + [x509.IPAddress(i) for i in ips]
             + [kind._init_without_validation(text) for kind, text in raw])
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return _write(folder, name, builder.sign(issuer_key, hashes.SHA256()), key)
