"""The page and the code agree: records made by the daemon's code are decrypted by a program written from docs/FORMATS.md alone,
and whatever is changed in one is refused. CLV_MAKE_RECORDS names the built tool (make conformance sets it)."""
import copy
import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
TOOL = os.environ["CLV_MAKE_RECORDS"]  # absent: an error, never a skip
sys.path.insert(0, str(HERE))

import decrypt  # noqa: E402


def made(*args):
    return json.loads(subprocess.run([TOOL, *args], check=True, capture_output=True, text=True, timeout=60).stdout)


FRESH, FIXED = made(), made("--fixed")


def test_there_are_as_many_records_as_expected():
    assert len(FRESH) == 7 and len(FIXED) == 5
    assert {bytes.fromhex(r["ciphertext"])[3:4] for r in FRESH} == {b"E", b"W"}
    assert sum("context" in r for r in FRESH) == 2 and sum(r["subject_salt"] != "" for r in FRESH) == 1


@pytest.mark.parametrize("record", FRESH + FIXED, ids=lambda r: r["name"])
def test_decrypts(record):
    plaintext, steps = decrypt.decrypt(record)
    assert plaintext.hex() == record["plaintext"]
    assert steps == {k: v for k, v in record["steps"].items() if k != "l1_input"}


def test_nonces_are_drawn_afresh():
    nonces = {r[f][144:192] for r in FRESH + made() for f in ("ciphertext", "wrapped_key_version")}
    assert len(nonces) == 4 * len(FRESH)


@pytest.mark.parametrize("field", ["ciphertext", "wrapped_key_version"])
def test_every_changed_byte_is_refused(field):
    record = copy.deepcopy(FRESH[3])
    good = bytes.fromhex(record[field])
    for at in range(len(good)):
        record[field] = (good[:at] + bytes([good[at] ^ 1]) + good[at + 1:]).hex()
        with pytest.raises(decrypt.Refused):
            decrypt.decrypt(record)
    for n in list(range(len(good))):
        record[field] = good[:n].hex()
        with pytest.raises(decrypt.Refused):
            decrypt.decrypt(record)
    record[field] = good.hex()
    assert decrypt.decrypt(record)[0].hex() == record["plaintext"]


def flipped(text):
    return f"{int(text[:2], 16) ^ 1:02x}" + text[2:]


@pytest.mark.parametrize("field", ["master_secret", "instance", "tenant", "salt", "subject_salt"])
def test_another_secret_or_id_is_refused(field):
    record = dict(FRESH[3])
    record[field] = flipped(record[field])
    with pytest.raises(decrypt.Refused):
        decrypt.decrypt(record)


@pytest.mark.parametrize("field,value", [("master_version", 2), ("version", 4), ("location", "us"),
                                         ("crypto_key", FRESH[3]["crypto_key"].replace("acme", "globex"))])
def test_another_name_is_refused(field, value):
    record = dict(FRESH[3])
    assert record[field] != value
    record[field] = value
    with pytest.raises(decrypt.Refused):
        decrypt.decrypt(record)


@pytest.mark.parametrize("context", [{}, {"table": "people"}, {"table": "people", "column": "e-mail", "étage": "2"},
                                     {"table": "e-mail", "column": "people", "étage": ""}])
def test_another_context_is_refused(context):
    record = dict(FRESH[2])
    assert record["context"] != context
    record["context"] = context
    with pytest.raises(decrypt.Refused):
        decrypt.decrypt(record)


def test_plain_data_is_not_a_context():
    record = dict(FRESH[2])
    record["aad"] = record["steps"]["canonical_aad"]
    del record["context"]
    with pytest.raises(decrypt.Refused):
        decrypt.decrypt(record)


def test_a_record_of_another_key_version_is_refused():
    record = dict(FRESH[0], wrapped_key_version=FRESH[1]["wrapped_key_version"])
    with pytest.raises(decrypt.Refused):
        decrypt.decrypt(record)


def test_the_page_and_the_vectors_are_up_to_date():
    run = subprocess.run([sys.executable, HERE / "update_formats.py", TOOL, "--check"], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


def test_the_command_line():
    def call(record):
        return subprocess.run([sys.executable, HERE / "decrypt.py"], input=json.dumps(record).encode(), capture_output=True, timeout=60)
    good = call(FRESH[1])
    assert (good.returncode, good.stdout) == (0, b"jane.doe@example.org")
    bad = call(dict(FRESH[1], aad="00"))
    assert (bad.returncode, bad.stdout) == (1, b"") and bad.stderr == b"decrypt.py: the ciphertext cannot be decrypted\n"
    for other in ([], {}, dict(FRESH[1], ciphertext="zz"), dict(FRESH[1], version=-1), dict(FRESH[1], version=1 << 32)):
        run = call(other)
        assert (run.returncode, run.stdout) == (2, b"") and run.stderr.startswith(b"decrypt.py: not a record: ")


def test_it_shares_no_code():
    source = (HERE / "decrypt.py").read_text()
    imports = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imports == {"hmac", "json", "sys", "cryptography"}
