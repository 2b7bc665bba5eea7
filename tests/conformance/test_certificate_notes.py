"""Certificates of destruction as somebody reads them who has the page and a public key: the vectors verify, and no twin does."""
import ast
import pathlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from verify_certificate import Refused, verify

HERE = pathlib.Path(__file__).resolve().parent
VECTORS = HERE.parent / "vectors/certificates"
CASES = [("version.txt", "key.txt", 14), ("tenant.txt", "key.txt", 17), ("version-p256.txt", "key-p256.txt", 14)]


def read(note, key):
    return (VECTORS / note).read_bytes(), (VECTORS / key).read_text().strip()


@pytest.mark.parametrize("note,key,facts", CASES)
def test_a_genuine_one(note, key, facts):
    said = verify(*read(note, key))
    assert len(said) == facts and said["destroyed"] == "2027-03-17T08:00:01.000000007Z" and said["seal-epoch"] == "1"
    assert said["kind"] == note.split(".")[0].split("-")[0]


@pytest.mark.parametrize("note,key,facts", CASES)
def test_every_byte_counts(note, key, facts):
    whole, by = read(note, key)
    refused = 0
    for at in range(len(whole)):
        for other in {whole[at] ^ 1, whole[at] ^ 0x80, 0x0a} - {whole[at]}:
            twin = whole[:at] + bytes([other]) + whole[at + 1:]
            with pytest.raises((Refused, UnicodeDecodeError)):
                verify(twin, by)
            refused += 1
    for end in range(len(whole)):
        with pytest.raises((Refused, UnicodeDecodeError)):
            verify(whole[:end], by)
    assert refused >= 2 * len(whole)


def test_under_another_key():
    whole, by = read("version.txt", "key.txt")
    for other in ("key-p256.txt",):
        with pytest.raises(Refused, match="no signature of this key"):
            verify(whole, read("version.txt", other)[1])
    for bad in ("", "claviger/node1", by.replace("+", "-"), by[:-4], by.replace("node1", "node2"), by[:15] + "00000000" + by[23:]):
        with pytest.raises(Refused):
            verify(whole, bad)


def test_a_checkpoint_is_no_certificate():
    """Signed by the same key, and well: what it says is not one."""
    import base64
    _, by = read("version.txt", "key.txt")
    key = ed25519.Ed25519PrivateKey.from_private_bytes(b"stand-in audit key".ljust(28, b"\0") + b"\0\0\0\1")
    name, kid, _ = by.split("+", 2)
    good = (VECTORS / "version.txt").read_bytes().split(b"\n\n")[0].decode() + "\n"
    for text in ("claviger/node1\n5\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", good.replace("/v1\n", "/v2\n"), good.replace("node1", "node2"),
                 good.replace("kind: version", "kind: key"), good + "more: than it may\n", good.replace("seal-epoch: 1\n", ""), good):
        signed = base64.b64encode(bytes.fromhex(kid) + key.sign(text.encode())).decode()
        note = f"{text}\n\u2014 {name} {signed}\n".encode()
        if text == good:
            verify(note, by)
            continue
        with pytest.raises(Refused) as why:
            verify(note, by)
        assert "signature" not in str(why.value)


def test_shares_no_code_with_what_it_verifies():
    tree = ast.parse((HERE / "verify_certificate.py").read_text())
    modules = {n.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
    modules |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"base64", "hashlib", "re", "sys", "cryptography"}
