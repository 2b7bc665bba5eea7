"""kmsctl as an operator uses it, against the real daemon: every verb once, what it prints in both forms, and its exit codes."""
import base64
import json
import os
import re
import socket
import subprocess

import pytest

from claviger.identity.v1 import identity_pb2 as idy
from kit.client import DEADLINE
from kit.instance import BUILD, PATIENCE, TRUST_DOMAIN, until

FINE, FAILED, USAGE, DENIED, ABSENT, CONFLICT, INVALID = 0, 1, 2, 3, 4, 5, 7


class Ctl:
    def __init__(self, world):
        i = world.instance
        self.env = {"PATH": "/usr/bin:/bin", "HOME": str(i.dir), "KMS_ENDPOINT": i.endpoint, "KMS_CA": str(i.cert("ca")[0])}
        for role, name in (("OPERATOR", "admin"), ("KEYADMIN", "acme-keyadmin"), ("SERVICE", "acme-orders")):
            self.env[f"KMS_{role}_CERT"], self.env[f"KMS_{role}_KEY"] = map(str, i.cert(name))

    def run(self, *words, data=b"", **env):
        patience = ["--timeout", f"{DEADLINE}s"] if words and "--timeout" not in words else []
        done = subprocess.run([BUILD / "bin/kmsctl", *patience, *map(str, words)], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env={**self.env, **env}, timeout=2 * PATIENCE)
        return done.returncode, done.stdout, done.stderr.decode()

    def __call__(self, *words, code=FINE, **kw):
        got, out, err = self.run(*words, **kw)
        assert got == code, (words, got, out, err)
        return out if code == FINE else err

    def text(self, *words, **kw):
        return self(*words, **kw).decode()

    def json(self, *words, **kw):
        return json.loads(self(*words, "--output", "json", **kw))


@pytest.fixture(scope="module")
def ctl(daemon, world):
    return Ctl(world)


@pytest.fixture(scope="module")
def place(ctl, world):
    """A key ring with one key, made by kmsctl."""
    ring = f"acme/eu/{world.word('ctlring')}"
    assert ctl.json("keyrings", "create", ring)["name"].endswith(ring.rsplit("/", 1)[1])
    made = ctl.json("keys", "create", f"{ring}/email", "--label", "team=web", "--rotation-period", "90d")
    assert made["labels"] == {"team": "web"} and made["rotation_period"] == "7776000s" and made["primary"]["state"] == "ENABLED"
    return ring


def test_rings_and_keys(ctl, place, world):
    assert "NAME" in ctl.text("keyrings", "get", place) and place.rsplit("/", 1)[1] in ctl.text("keyrings", "list", "acme/eu")
    assert ctl.text("keyrings", "list", KMS_TENANT="acme", KMS_LOCATION="eu") == ctl.text("keyrings", "list", "acme/eu")
    ctl("keyrings", "create", place, code=CONFLICT)
    ctl("keyrings", "get", place + "x", code=ABSENT)
    assert "is not a name" in ctl("keyrings", "create", "acme/eu/a b", code=USAGE)  # not even sent
    key = f"{place}/email"
    assert ctl.json("keys", "get", key)["labels"] == {"team": "web"}
    changed = ctl.json("keys", "update", key, "--label", "team=", "--label", "tier=1", "--label", "tier=2", "--rotation-period", "none")
    assert changed["labels"] == {"tier": "2"} and not changed.get("rotation_period")
    assert "nothing to change" in ctl("keys", "update", key, code=USAGE)
    assert "duration" in ctl("keys", "update", key, "--rotation-period", "soon", code=USAGE)
    ctl("keys", "create", f"{place}/bare", "--no-version")
    ctl("keys", "create", f"{place}/bare", code=CONFLICT)
    names = [k["name"].rsplit("/", 1)[1] for k in ctl.json("keys", "list", place)["crypto_keys"]]
    assert names == ["bare", "email"]
    assert [k["name"].rsplit("/", 1)[1] for k in ctl.json("keys", "list", place, "--order-by", "name desc")["crypto_keys"]] == ["email", "bare"]
    assert [k["name"].rsplit("/", 1)[1] for k in ctl.json("keys", "list", place, "--filter", "labels.tier=2")["crypto_keys"]] == ["email"]
    ctl("keys", "list", place + "x", code=ABSENT)
    ctl("keyrings", "list", "acme/us", code=ABSENT)
    ctl("keyrings", "list", "globex/us", code=DENIED)


def test_versions(ctl, place):
    key = f"{place}/versioned"
    ctl("keys", "create", key)
    assert ctl.json("versions", "create", key)["name"].endswith("/2")
    assert ctl.json("keys", "set-primary", f"{key}@2")["primary"]["name"].endswith("/2")
    ctl("versions", "create", key, "--primary")
    assert ctl.json("keys", "get", key)["primary"]["name"].endswith("/3")
    ctl("versions", "create", key, "--primary", "--idempotency-key", "x", code=USAGE)
    assert ctl.json("versions", "get", f"{key}@1")["state"] == "ENABLED"
    for verb, state in (("disable", "DISABLED"), ("enable", "ENABLED"), ("destroy", "DESTROY_SCHEDULED"), ("restore", "DISABLED")):
        extra = ("--confirm", f"{key}@1") if verb == "destroy" else ()
        assert ctl.json("versions", verb, f"{key}@1", *extra)["state"] == state
    assert [v["name"].rsplit("/", 1)[1] for v in ctl.json("versions", "list", key)["crypto_key_versions"]] == ["1", "2", "3"]
    assert len(ctl.json("versions", "list", key, "--filter", "state=DISABLED")["crypto_key_versions"]) == 1
    assert "lost for good" in ctl("versions", "destroy", f"{key}@1", code=USAGE)  # without being told twice
    ctl("versions", "destroy", f"{key}@1", "--confirm", f"{key}@2", code=USAGE)
    ctl("versions", "restore", f"{key}@1", code=CONFLICT)
    ctl("versions", "get", f"{key}@9", code=ABSENT)
    ctl("keys", "set-primary", f"{key}@9", code=ABSENT)


def test_data(ctl, place, tmp_path):
    key, aad = f"{place}/email", tmp_path / "aad"
    aad.write_bytes(b"row=7")
    sealed = ctl("encrypt", key, "--aad-file", aad, data=b"jane")
    assert ctl("decrypt", key, "--aad", "row=7", data=sealed) == b"jane"
    ctl("decrypt", key, "--aad", "row=8", data=sealed, code=INVALID)
    ctl("encrypt", key, "--aad", "a", "--aad-file", aad, code=USAGE)
    ctl("encrypt", key, "--aad", "a", "--context", "b=c", code=USAGE)
    ctl("encrypt", key, "--context", "no pair", code=USAGE)
    ctl("encrypt", key, "--aad-file", tmp_path / "absent", code=FAILED)
    assert base64.b64decode(ctl.json("encrypt", key, data=b"x")["ciphertext"])[:3] == b"CLV"
    wrapped = ctl("wrap", key, "--context", "a=b", data=b"0123456789abcdef")
    assert ctl("unwrap", key, "--context", "a=b", data=wrapped) == b"0123456789abcdef"
    ctl("unwrap", key, data=wrapped, code=INVALID)
    again = ctl("rewrap", key, "--aad", "row=7", data=sealed)
    assert ctl("decrypt", key, "--aad", "row=7", data=again) == b"jane"
    assert "--output json" in ctl("datakey", key, code=USAGE)
    both = ctl.json("datakey", key)
    assert ctl("unwrap", key, data=base64.b64decode(both["wrapped_key"])) == base64.b64decode(both["plaintext_key"])
    assert len(ctl("unwrap", key, data=ctl("datakey", key, "--wrapped-only"))) == 32
    assert "plaintext_key" not in ctl.json("datakey", key, "--wrapped-only")


def test_tenants_and_principals(ctl, world):
    tenant = world.word("umbrella")
    assert "--location" in ctl("tenants", "create", tenant, code=USAGE)
    assert ctl.json("tenants", "create", tenant, "--location", "eu", "--display-name", "Umbrella")["display_name"] == "Umbrella"
    ctl("tenants", "create", tenant, "--location", "eu", code=CONFLICT)
    assert ctl.json("tenants", "get", tenant)["location"] == "eu" and tenant in ctl.text("tenants", "list")
    ctl("tenants", "get", "absent", code=ABSENT)
    name = f"{tenant}-app"
    assert "--san" in ctl("principals", "create", name, code=USAGE)
    made = ctl.json("principals", "create", name, "--tenant", tenant, "--san", f"spiffe://{TRUST_DOMAIN}/{name}")
    assert made["state"] == "ACTIVE" and made["tenant"] == f"projects/{tenant}"
    assert ctl.json("principals", "disable", name)["state"] == "DISABLED" and ctl.json("principals", "get", name)["state"] == "DISABLED"
    assert ctl.json("principals", "enable", name)["state"] == "ACTIVE"
    mine = [p["name"] for p in ctl.json("principals", "list", "--tenant", tenant)["principals"]]
    assert mine == [f"principals/{name}"] and name in ctl.text("principals", "list")
    ctl("principals", "create", name, "--san", f"spiffe://{TRUST_DOMAIN}/{name}2", code=CONFLICT)
    assert world.admin.identity.GetPrincipal(idy.GetPrincipalRequest(name=f"principals/{name}")).san == made["san"]


def test_status_policy_and_audit(ctl, place, tmp_path):
    assert "health" in ctl.text("status") and ctl.json("status")["health"]
    assert "roles:" in ctl.text("policy", "get") and ctl.json("policy", "get")["documents"]
    ctl("policy", "get", "--out-dir", tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"roles.yaml", "bindings.yaml"}
    assert ctl.run("policy", "test", "acme-orders", "kms.cryptoKeys.encrypt", place)[0] == FINE
    assert ctl.run("policy", "test", "admin", "kms.cryptoKeys.encrypt", place)[0] == DENIED
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/x.yaml").write_text("version: 2\n")
    assert "x.yaml" in ctl("policy", "apply", tmp_path / "mine", code=INVALID)
    ctl("policy", "apply", tmp_path / "absent", code=FAILED)
    (tmp_path / "mine/x.yaml").unlink()
    for p in tmp_path.glob("*.yaml"):
        (tmp_path / "mine" / p.name).write_bytes(p.read_bytes())
    ctl("policy", "apply", tmp_path / "mine", "--dry-run")
    ctl("policy", "apply", tmp_path / "mine", "--expected-version", "999", code=CONFLICT)
    assert ctl.json("audit", "status")["admits"] is True and "ENTRIES" in ctl.text("audit", "status")
    lines = ctl.text("audit", "tail").splitlines()
    assert len(lines) > 3 and any("system.status" in x and "rule=administrator.platform" in x for x in lines)
    events = [json.loads(x) for x in ctl.text("audit", "tail", "--output", "json").splitlines()]
    assert events and all("event" in e for e in events)


def test_following_the_log(ctl, place):
    env = {**ctl.env, "PATH": os.environ["PATH"]}
    follower = subprocess.Popen([BUILD / "bin/kmsctl", "audit", "tail", "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
    os.set_blocking(follower.stdout.fileno(), False)
    try:
        seen = [""]

        def follows():
            ctl("keyrings", "get", place)
            seen[0] += follower.stdout.read() or ""
            return "kms.keyRings.get" in seen[0]
        until(follows, what="the follower sees what happens")
    finally:
        follower.kill()
        follower.communicate(timeout=PATIENCE)


def test_help_teaches_every_verb(ctl):
    page = ctl.text("--help")
    verbs = re.findall(r"^  ([a-z]+)(?: ([a-z-]+))? ", page.split("\nNames are")[0], re.M)
    assert len(verbs) > 30
    for noun, verb in verbs:
        words = [w for w in (noun, verb) if w]
        text = ctl.text(*words, "--help")
        assert text.startswith(f"usage: kmsctl {' '.join(words)}") and "Example" in text
    assert "Examples:" in ctl.text("keys", "--help")
    assert "a command is missing" in ctl(code=USAGE) and "no command" in ctl("nothing", code=USAGE)
    assert "wants a verb" in ctl("keys", code=USAGE) and "no verb" in ctl("keys", "melt", code=USAGE)
    assert "text or json" in ctl("status", "--output", "xml", code=USAGE)


def test_failures_are_told_in_both_forms(ctl, place):
    err = ctl("keys", "get", f"{place}/absent", code=ABSENT)
    assert err.startswith("kmsctl: NOT_FOUND") and "request id" in err
    told = json.loads(ctl("keys", "get", f"{place}/absent", "--output", "json", code=ABSENT))["error"]
    assert told["code"] == "NOT_FOUND" and told["exit"] == ABSENT and told["request_id"]
    assert ctl("encrypt", f"{place}/email", code=DENIED, KMS_SERVICE_CERT=ctl.env["KMS_OPERATOR_CERT"], KMS_SERVICE_KEY=ctl.env["KMS_OPERATOR_KEY"])
    ctl("status", code=6, KMS_ENDPOINT="127.0.0.1:1")


def test_giving_up_while_it_still_connects_is_an_exit_code(ctl):
    """gRPC goes on connecting in a thread of its own while kmsctl leaves: whatever it is doing then, nothing may crash."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # takes connections, and never answers
        for ms in range(20, 140, 10):
            got, out, err = ctl.run("--timeout", f"{ms}ms", "status", KMS_ENDPOINT=f"127.0.0.1:{nobody.getsockname()[1]}")
            assert got == 6 and out == b"" and ("DEADLINE_EXCEEDED" in err or "UNAVAILABLE" in err), (ms, got, out, err)
