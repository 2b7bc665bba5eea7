"""The true key bytes of an instance, reckoned from its token's files, its PIN and its store by what docs/FORMATS.md and the README.md
of kms/store say, and by nothing of the daemon's: what is looked for are the keys themselves, not what happens to look like one.

That the reckoning is right shows by itself: a store row opens under no other store key, a key version under no other KEK."""
import hashlib
import importlib.util
import pathlib
import sqlite3
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_at = pathlib.Path(__file__).resolve().parents[1] / "conformance/decrypt.py"
_spec = importlib.util.spec_from_file_location("conformance_decrypt", _at)
formats = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(formats)
kdf, v16, u16, u32 = formats.kdf, formats.v16, formats.u16, formats.u32

META, TENANT, VERSION = 1, 2, 5  # enum rec_kind


def u64(n):
    return (n & (1 << 64) - 1).to_bytes(8, "big")


# ---- SoftHSM2's object files --------------------------------------------------------------------------------------------------
CKA_LABEL, CKA_VALUE, CKA_CLASS, CKA_OS_USERPIN = 3, 0x11, 0, 0x8000534A + 3
CKO_SECRET_KEY = 4


def _attributes(path):
    """attribute type -> value. A generation number, then type, kind and value of each, all 64 bit big endian."""
    data, at, found = path.read_bytes(), 8, {}
    while at + 16 <= len(data):
        kind, form = struct.unpack_from(">QQ", data, at)
        at += 16
        if form == 1:
            found[kind], at = data[at], at + 1
        elif form == 2:
            found[kind], at = struct.unpack_from(">Q", data, at)[0], at + 8
        else:  # a string of bytes, or an array or a set, whose length comes first likewise
            n = struct.unpack_from(">Q", data, at)[0]
            found[kind], at = data[at + 8:at + 8 + n], at + 8 + n * (8 if form == 5 else 1)
    return found


def _open_aes(key, data):
    d = Cipher(algorithms.AES(key), modes.CBC(data[:16])).decryptor()
    plain = d.update(data[16:]) + d.finalize()
    return plain[:-plain[-1]]


def token_secrets(token, pin):
    """label -> bytes of each secret key in a SoftHSM2 token folder, opened with the user PIN as SoftHSM2 does."""
    blob = next(v for k, v in _attributes(token / "token.object").items() if k == CKA_OS_USERPIN)
    salt, sealed = blob[:8], blob[8:]
    key = hashlib.sha256(salt + pin).digest()
    for _ in range(1500 + salt[-1] - 1):
        key = hashlib.sha256(key).digest()
    opened = _open_aes(key, sealed)
    assert opened[:3] == b"RJR", "not the PIN of this token"
    found = {}
    for path in token.glob("*.object"):
        a = _attributes(path)
        if a.get(CKA_CLASS) == CKO_SECRET_KEY:
            found[_open_aes(opened[3:], a[CKA_LABEL]).decode()] = _open_aes(opened[3:], a[CKA_VALUE])
    return found


# ---- what is kept ready in place of a key -----------------------------------------------------------------------------------------
_K = [int(x, 16) for x in (
    "428a2f98 71374491 b5c0fbcf e9b5dba5 3956c25b 59f111f1 923f82a4 ab1c5ed5 d807aa98 12835b01 243185be 550c7dc3 72be5d74 80deb1fe 9bdc06a7 "
    "c19bf174 e49b69c1 efbe4786 0fc19dc6 240ca1cc 2de92c6f 4a7484aa 5cb0a9dc 76f988da 983e5152 a831c66d b00327c8 bf597fc7 c6e00bf3 d5a79147 "
    "06ca6351 14292967 27b70a85 2e1b2138 4d2c6dfc 53380d13 650a7354 766a0abb 81c2c92e 92722c85 a2bfe8a1 a81a664b c24b8b70 c76c51a3 d192e819 "
    "d6990624 f40e3585 106aa070 19a4c116 1e376c08 2748774c 34b0bcb5 391c0cb3 4ed8aa4a 5b9cca4f 682e6ff3 748f82ee 78a5636f 84c87814 8cc70208 "
    "90befffa a4506ceb bef9a3f7 c67178f2").split()]
_H0 = [int(x, 16) for x in "6a09e667 bb67ae85 3c6ef372 a54ff53a 510e527f 9b05688c 1f83d9ab 5be0cd19".split()]


def sha256_state(block):
    """The eight words of SHA-256 after one block of 64 bytes (FIPS 180-4 section 6.2.2)."""
    def r(x, n):
        return (x >> n | x << 32 - n) & 0xffffffff
    w = list(struct.unpack(">16I", block))
    for t in range(16, 64):
        s0, s1 = r(w[t - 15], 7) ^ r(w[t - 15], 18) ^ w[t - 15] >> 3, r(w[t - 2], 17) ^ r(w[t - 2], 19) ^ w[t - 2] >> 10
        w.append((w[t - 16] + s0 + w[t - 7] + s1) & 0xffffffff)
    a, b, c, d, e, f, g, h = _H0
    for t in range(64):
        t1 = h + (r(e, 6) ^ r(e, 11) ^ r(e, 25)) + (e & f ^ ~e & g) + _K[t] + w[t]
        t2 = (r(a, 2) ^ r(a, 13) ^ r(a, 22)) + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (t1 + t2) & 0xffffffff, a, b, c, (d + t1) & 0xffffffff, e, f, g
    return [(x + y) & 0xffffffff for x, y in zip(_H0, (a, b, c, d, e, f, g, h))]


def ready_forms(name, key):
    """A key, and what is as good as the key: its HMAC's inner and outer state, in both orders of bytes; the second AES round key."""
    found = {name: key}
    padded = key.ljust(64, b"\0")
    for what, pad in (("inner", 0x36), ("outer", 0x5c)):
        state = sha256_state(bytes(b ^ pad for b in padded))
        found[f"{name}, {what} state"] = struct.pack(">8I", *state)
        found[f"{name}, {what} state, little endian"] = struct.pack("<8I", *state)
    return found


# ---- the store ------------------------------------------------------------------------------------------------------------------------
class Store:
    """A stopped instance's store, opened with the token's secrets."""

    def __init__(self, path, secrets):
        self.db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self.instance, self.incarnation = self.db.execute("SELECT instance, incarnation FROM identity").fetchone()
        self.secrets, self.keys = secrets, {}

    def close(self):
        self.db.close()

    def store_key(self, epoch):
        return kdf(self.secrets[f"claviger-seal-{epoch}"], b"claviger.v1.store-key", self.instance, u32(epoch))

    def pair(self, epoch, area):
        made = tuple(kdf(self.store_key(epoch), b"claviger.v1.store", area, use) for use in (b"encrypt", b"commit"))
        self.keys[f"store {area.decode()} {epoch}"] = made
        return made

    def rows(self, kind):
        """(tenant, id, body) of each row of a kind, opened."""
        q = "SELECT tenant, id, revision, name, state, time, count, epoch, body FROM record WHERE kind = ?"
        for tenant, id_, revision, name, state, time, count, epoch, body in self.db.execute(q, (kind,)):
            aad = (b"\x01" + self.incarnation + u32(epoch) + u16(kind) + tenant + v16(id_) + u64(revision) + v16(name) + u32(state) +
                   u64(time) + u64(count))
            yield tenant, id_, formats.open_sealed(*self.pair(epoch, b"record"), 1, aad, body)

    def freshness_key(self):
        epoch, body = self.db.execute("SELECT seal, body FROM root ORDER BY epoch DESC LIMIT 1").fetchone()
        return formats.open_sealed(*self.pair(epoch, b"note"), 1, b"\x01\x01" + u32(epoch) + self.incarnation, body)[-32:]


class Take:
    def __init__(self, data):
        self.data = data

    def __call__(self, n):
        taken, self.data = self.data[:n], self.data[n:]
        assert len(taken) == n
        return taken

    def number(self, n):
        return int.from_bytes(self(n), "big")

    def v16(self):
        return self(self.number(2))


class Truth:
    """Every key of an instance. `never`: keys that nothing keeps (L0's place is the token; L1 and L2 live while others are derived from
    them); `kept`: those that core keeps in locked memory, when they are in use. name -> bytes, with all ready forms."""

    def __init__(self, instance):
        self.pin = (instance.dir / "pin").read_bytes().strip()
        tokens = [p.parent for p in (instance.dir / "tokens").rglob("token.object")]
        assert len(tokens) == 1
        self.master = token_secrets(tokens[0], self.pin)
        assert len(self.master) >= 2
        self.raw_never, self.raw_kept, self.versions = dict(self.master), {}, {}
        store = Store(instance.state / "store.db", self.master)
        try:
            self._read(store)
        finally:
            store.close()
        self.never = {f: b for n, k in self.raw_never.items() for f, b in ready_forms(n, k).items()}
        self.kept = {f: b for n, k in self.raw_kept.items() for f, b in ready_forms(n, k).items()}

    def _pair(self, name, pair):
        self.raw_kept[f"{name}, encrypt"], self.raw_kept[f"{name}, commit"] = pair

    def _read(self, store):
        self.raw_never["store key"] = store.store_key(1)
        self.raw_kept["freshness key"] = store.freshness_key()
        facts = {id_: body for _, id_, body in store.rows(META)}
        self.raw_kept["system audit key"] = facts[b"system-audit"]
        self.raw_never["page token key"] = facts[b"page-token-key"]
        self._pair("page tokens", [kdf(facts[b"page-token-key"], b"claviger.v1.store", b"token", u) for u in (b"encrypt", b"commit")])
        tenants = {}
        for _, name, body in store.rows(TENANT):
            t = self._tenant(store, name.decode(), Take(body))
            tenants[bytes.fromhex(t["tenant"])] = t
        for tenant, id_, body in store.rows(VERSION):
            self._version(tenants[tenant], id_, Take(body))
        store.pair(1, b"outbox")
        for area, pair in store.keys.items():
            self._pair(area, pair)

    def _tenant(self, store, name, take):
        assert take(1) == b"\x01"
        t = {"name": name, "instance": store.instance.hex(), "tenant": take(16).hex(), "location": take.v16().decode()}
        take.v16()
        t["salt"], audit_key, t["master_version"] = take(32).hex(), take(32), take.number(4)
        kcv = take(16)
        t["l1"] = formats.tenant_kek({**t, "master_secret": self.master[f"claviger-master-{t['master_version']}"].hex()})
        assert formats.check_value(t["l1"]) == kcv, "our reckoning of L1 is wrong"
        self.raw_never[f"L1 of {name}"] = t["l1"]
        self.raw_never[f"audit key of {name}"] = audit_key
        self._pair(f"wrap key of {name}", [kdf(t["l1"], b"claviger.v1.kek-wrap", u) for u in (b"encrypt", b"commit")])
        self._pair(f"audit pair of {name}", [kdf(audit_key, b"claviger.v1.audit", u) for u in (b"encrypt", b"commit")])
        return t

    def _version(self, t, id_, take):
        location, ring, key = (x.decode() for x in id_[:-5].split(b"\0"))
        take(1)
        number, _, _, kvid = take.number(4), take(1 + 32 + 8), take.v16(), take(16)
        master, wrapped = take.number(4), take.v16()
        full = f"projects/{t['name']}/locations/{location}/keyRings/{ring}/cryptoKeys/{key}"
        record = {**t, "master_version": master, "crypto_key": full, "version": number, "wrapped_key_version": wrapped.hex()}
        if not wrapped:  # destroyed, or of level HSM: those are on the token, and among its secrets
            return
        l2 = formats.open_key_version(record, t["l1"], kvid)
        self.raw_never[f"L2 of {ring}/{key}@{number}"] = l2
        for purpose in (b"encrypt", b"wrap"):
            pair = formats.purpose_pair(record, l2, kvid, purpose)
            self._pair(f"L3 of {ring}/{key}@{number}, {purpose.decode()}", pair)
            self.versions[kvid, purpose] = pair[0]

    def message_keys(self, ciphertexts):
        """L4 of each: the key of one message, which lives while it is sealed or opened."""
        found = {}
        for i, c in enumerate(ciphertexts):
            kind, kvid, _ = formats.parse_header(c)
            found[f"message key {i}"] = formats.xaes_message_key(self.versions[kvid, formats.PURPOSES[kind]], c[72:96])
        return found
