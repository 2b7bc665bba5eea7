#!/usr/bin/python3
"""Writes the worked examples: tests/vectors/formats.json, and section 8 of docs/FORMATS.md made from one of them.

usage: update_formats.py <make_records> [--check]      --check writes nothing and says whether both are up to date"""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE, VECTORS = ROOT / "docs/FORMATS.md", ROOT / "tests/vectors/formats.json"
HEADING = "## 8. Worked examples\n"
WIDTH = 64


def lines_of(hex_text):
    cut = [hex_text[i:i + WIDTH] for i in range(0, len(hex_text), WIDTH)] or ["(empty)"]
    return ("\n" + " " * 24).join(cut)


def section(r):
    s, c, w = r["steps"], r["ciphertext"], r["wrapped_key_version"]
    rows = [
        ("master secret", r["master_secret"]), ("master version", str(r["master_version"])), ("instance", r["instance"]),
        ("tenant", r["tenant"]), ("location", r["location"]), ("salt", r["salt"]), None,
        ("input of L1", s["l1_input"]), ("L1", s["l1"]), ("check value", s["kcv"]), ("wrap, encrypt", s["kek_encrypt"]),
        ("wrap, commit", s["kek_commit"]), None,
        ("key name", r["crypto_key"]), ("version", str(r["version"])), ("kvid", c[16:48]), ("wrapped version", w), ("L2", s["l2"]),
        None,
        ("L3, encrypt", s["l3_encrypt"]), ("L3, commit", s["l3_commit"]), None,
        ("aad given", r["aad"] or "(empty)"), ("canonical aad", s["canonical_aad"]), ("header", c[:80]),
        ("commitment", c[80:144]), ("nonce", c[144:192]), ("Kx", s["l3_kx"]), ("GCM, tag", c[192:]), ("plaintext", r["plaintext"]),
    ]
    text = [f"    {row[0]:<20}{lines_of(row[1])}" if row else "" for row in rows]
    return (HEADING + f"""
Made by `tests/conformance/update_formats.py`; a test compares this section with what the code computes. Type E, no subject, plain additional data:

""" + "\n".join(text) + """

Five records, these among them, one with a context, one with a subject, and one of type W, are in `tests/vectors/formats.json`, in the form that
`tests/conformance/decrypt.py` reads.
""")


def main():
    text = subprocess.run([sys.argv[1], "--fixed"], check=True, capture_output=True, text=True).stdout
    before, old = PAGE.read_text().split(HEADING)
    after = old[old.find("\n## "):] if "\n## " in old else ""
    page = before + section(json.loads(text)[1]) + after
    if sys.argv[2:] == ["--check"]:
        stale = [str(p.relative_to(ROOT)) for p, want in ((PAGE, page), (VECTORS, text)) if not p.exists() or p.read_text() != want]
        sys.exit("not what the code computes: " + " ".join(stale) if stale else 0)
    PAGE.write_text(page)
    VECTORS.write_text(text)


if __name__ == "__main__":
    main()
