"""The daemon, its identities and its folders are those of tests/integration (its kit)."""
import pathlib
import shutil
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]

from kit.suite import World, base, copies, fresh, template  # noqa: E402,F401

from claviger.identity.v1 import identity_pb2 as idy  # noqa: E402
from claviger.policy.v1 import policy_pb2 as pol  # noqa: E402
from kit import certs  # noqa: E402
from google.cloud.kms.v1 import service_pb2 as msg  # noqa: E402
from kit.client import connect  # noqa: E402
from kit.instance import TRUST_DOMAIN  # noqa: E402

import rows  # noqa: E402
import walk  # noqa: E402

# A registered identity -> its tenant; "" is the platform's. Every role that is shipped, in a tenant and on the platform, and one who
# has none.
IDENTITIES = {"admin": "", "operator-auditor": "", "acme-keyadmin": "acme", "acme-orders": "acme", "acme-auditor": "acme",
              "globex-keyadmin": "globex", "globex-billing": "globex", "globex-nothing": "globex"}
ADDED = {"operator-auditor": "auditor", "acme-auditor": "tenant-auditor", "globex-nothing": None, "acme-disabled": "key-administrator"}
STRANGERS = ("nobody", "acme-disabled")  # a certificate of our authority that no principal has, and one whose principal is disabled


@pytest.fixture(scope="session")
def daemon(copies):
    instance = copies()
    instance.configure(log_level="error")  # some thousand refusals, each a line of the log
    instance.start()
    yield instance
    assert instance.stop() == 0, instance.log


@pytest.fixture(scope="session")
def world(daemon):
    return World(daemon)


@pytest.fixture(scope="session")
def table():
    return rows.table()


def _register(world, name, role):
    tenant = IDENTITIES.get(name, "acme")
    world.admin.identity.CreatePrincipal(idy.CreatePrincipalRequest(principal_id=name, principal=idy.Principal(
        tenant=tenant and f"projects/{tenant}", san=f"spiffe://{TRUST_DOMAIN}/{name}")))
    return role and f"  - {{role: {role}, tenant: {tenant or 'platform'}, principals: [{name}]}}\n"


def _disable(world, name):
    world.admin.identity.UpdatePrincipal(idy.UpdatePrincipalRequest(
        principal=idy.Principal(name=f"principals/{name}", state=idy.Principal.DISABLED), update_mask={"paths": ["state"]}))


@pytest.fixture(scope="session")
def clients(daemon, world, base):
    """Every registered identity, and those whom nobody is to know."""
    bindings = "".join(filter(None, (_register(world, name, role) for name, role in ADDED.items())))
    now = world.admin.policy.GetPolicy(pol.GetPolicyRequest())
    extra = pol.Document(name="matrix.yaml", yaml=f"version: 1\nbindings:\n{bindings}".encode())
    world.admin.policy.ApplyPolicy(pol.ApplyPolicyRequest(documents=[*now.documents, extra], expected_version=now.version))
    folder = base / "matrix"
    folder.mkdir()
    ca = certs.load(daemon.dir / "certs", "ca")
    made = {name: connect(daemon, name) for name in IDENTITIES if name not in ADDED}
    for name in (*ADDED, "nobody"):
        pair = certs.issue(folder, name, ca, uris=[f"spiffe://{TRUST_DOMAIN}/{name}"])
        made[name] = connect(daemon, None, cert=pair[0], key=pair[1])
    made["acme-disabled"].kms.ListKeyRings(msg.ListKeyRingsRequest(parent="projects/acme/locations/eu"))  # it was somebody
    _disable(world, "acme-disabled")
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def places(world):
    """Something of every kind in both tenants."""
    made = {}
    for tenant, who, location in (("acme", world.keyadmin, "eu"), ("globex", world.keyadmin2, "us")):
        key = world.key(world.ring(who, f"projects/{tenant}/locations/{location}"), versions=2, who=who)
        made[tenant] = walk.Place(tenant, location, key)
    return made


@pytest.fixture(scope="session")
def walked(table, clients, places, world):
    return walk.Walk(table, clients, IDENTITIES, places, world.admin).all()


@pytest.fixture(scope="session")
def refusal(walked):
    """The one refusal: what acme-orders hears when it asks for a key of globex that is there."""
    key = walked.places["globex"].key
    step, = [s for s in walked.of(identity="acme-orders", name=key, path=("name",), child=None, beside=None) if s.row.method == "Encrypt"]
    answer = walked.answers[step]
    assert answer.code is walk.Code.PERMISSION_DENIED and answer.message and dict(answer.metadata)["grpc-status-details-bin"]
    return answer.shape
