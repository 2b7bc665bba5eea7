#!/usr/bin/python3
"""Picks the few published values of this folder out of the large files, keeping their form, so that the same test code reads
both. Run again only to pick others: pick.py <folder of the large files>. Sources and licences: README.md beside this."""
import json, pathlib, re, sys

big, here = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent


def blocks(text, is_start):
    out, cur = [], []
    for line in text.splitlines():
        if is_start(line) and cur:
            out.append(cur)
            cur = []
        cur.append(line)
    return out + [cur]


def gcm():
    text = (big / "aes-gcm-cavp/gcmDecrypt256.rsp").read_text()
    out, taken = ["# Picked from NIST CAVS 14.0 gcmDecrypt256.rsp (public domain)"], {}
    head = {}
    for block in blocks(text, lambda l: l.startswith("Count") or l.startswith("[Keylen")):
        for line in block:
            m = re.match(r"\[(\w+) = (\d+)\]", line)
            if m:
                head[m[1]] = m[2]
        if not block[0].startswith("Count"):
            continue
        kind = (tuple(head.items()), "FAIL" in block)
        small = head["IVlen"] in ("96", "8") and head["PTlen"] in ("0", "128", "408") and head["AADlen"] in ("0", "160") \
            and head["Taglen"] in ("128", "96")
        if small and kind not in taken:
            taken[kind] = 1
            out += [""] + [f"[{k} = {v}]" for k, v in head.items()] + [""] + [l for l in block if l.strip()]
    (here / "gcmDecrypt256.rsp").write_text("\n".join(out) + "\n")


def kbkdf():
    text = (big / "kbkdf/nist-800-108-KBKDF-CTR.txt").read_text()
    part = text.split("[PRF=HMAC_SHA256]\n[CTRLOCATION=BEFORE_FIXED]\n[RLEN=32_BITS]\n")[1].split("[PRF=")[0]
    cases = blocks(part, lambda l: l.startswith("COUNT="))
    cases = [[l for l in c if "instring" not in l and "Binary" not in l and l.strip()] for c in cases if "COUNT" in c[0]]
    picked = {next(l for l in c if l.startswith("L =")): c for c in reversed(cases)}
    lines = ["# Picked from NIST CAVS 14.4 SP800-108 KDF, counter mode (public domain)", "",
             "[PRF=HMAC_SHA256]", "[CTRLOCATION=BEFORE_FIXED]", "[RLEN=32_BITS]"]
    for c in picked.values():
        lines += [""] + c
    (here / "nist-800-108-KBKDF-CTR.txt").write_text("\n".join(lines) + "\n")
    aws = (big / "kbkdf/aws-lc-kbkdf_counter.txt").read_text().strip().split("\n\n")
    aws = [a for a in aws if a.startswith("HASH=SHA-256")]
    (here / "aws-lc-kbkdf_counter.txt").write_text("\n\n".join([aws[0], aws[10], aws[-1]]) + "\n")
    (here / "structured-label-context.json").write_text((big / "kbkdf/structured-label-context.json").read_text())


def wycheproof(name, keep):
    d = json.loads((big / "wycheproof" / name).read_text())
    groups = []
    for g in d["testGroups"]:
        tests = []
        for result in ("valid", "invalid"):
            tests += [t for t in g["tests"] if t["result"] == result and len(t["msg"]) <= 64][:3]
        if tests and keep(g):
            groups.append(dict({k: v for k, v in g.items() if k != "source"}, tests=tests))
    out = {"source": "picked from C2SP/wycheproof dac1dd47 testvectors_v1/" + name + " (Apache-2.0)", "testGroups": groups}
    (here / name).write_text(json.dumps(out, indent=1) + "\n")


gcm()
kbkdf()
wycheproof("aes_gcm_test.json", lambda g: (g["ivSize"], g["keySize"]) in ((96, 256), (96, 128), (64, 256), (0, 256)))
wycheproof("hmac_sha256_test.json", lambda g: True)
(here / "rfc-4231-sha256.txt").write_text((big / "hmac/rfc-4231-sha256.txt").read_text())
