"""What clients see of one daemon while its token fails: work that needs the token, work that does not, and what was promised of both."""
import itertools
import os
import time

import grpc

from claviger.system.v1 import system_pb2
from claviger.tenants.v1 import tenants_pb2 as ten
from google.cloud.kms.v1 import resources_pb2 as res
from kit.instance import SLOWER, until
from kit.wire import Code, Details

BACK = (2.0 if os.environ.get("LONG") else 20.0) * SLOWER  # seconds from the fault's end to service; `make test` shares its cores with others


def hsm_timeout(ms=500):
    return f"{ms * SLOWER}ms"


class Service:
    def __init__(self, world, shim):
        self.world, self.shim, self.instance = world, shim, world.instance
        self.hot = world.key()
        self.sealed = [world.encrypt(self.hot, b"before")]
        self.token_key = world.key(version_template=dict(protection_level=res.HSM))
        self.token_sealed = [world.encrypt(self.token_key, b"before")]
        self.names = itertools.count(1)
        self.pids = self.instance.children()
        self.logins = len(shim.logins()) if shim else 0  # the daemon's, and that of the fresh process which tries a new key

    def cold(self):
        """Work that needs the token: a tenant's key is derived twice. None when it is done, else the error, which must be UNAVAILABLE
        and say when to come back."""
        name = f"cold-{next(self.names)}"
        try:
            self.world.admin.tenants.CreateTenant(ten.CreateTenantRequest(tenant_id=name, tenant=dict(location="eu")))
            return None
        except grpc.RpcError as e:
            details = Details(e)
            assert e.code() == Code.UNAVAILABLE and details.reason == "HSM_UNAVAILABLE", (e, details.status)
            assert details.retry is not None, details.status
            return e

    def on_token(self, wrong_bits=False):
        """Work that is done on the token: opened is what was sealed, whatever fails; sealed is only what opens. As `cold` else; but a token
        whose every answer has a wrong bit does not open the key's check message either, and that is said."""
        try:
            assert self.world.decrypt(self.token_key, self.token_sealed[0]) == b"before"
            self.token_sealed.append(self.world.encrypt(self.token_key, b"meanwhile"))
            return None
        except grpc.RpcError as e:
            details = Details(e)
            if wrong_bits and e.code() == Code.DATA_LOSS and details.reason == "HSM_KNOWN_ANSWER":
                return e
            assert e.code() == Code.UNAVAILABLE and details.reason == "HSM_UNAVAILABLE", (e, details.status)
            assert details.retry is not None, details.status
            return e

    def cached(self):
        """Work that does not need it: never fails, never wrong; what it sealed is kept for the end."""
        self.sealed.append(self.world.encrypt(self.hot, b"meanwhile"))
        assert self.world.decrypt(self.hot, self.sealed[-1]) == b"meanwhile"

    def health(self):
        s = self.world.admin.system.GetStatus(system_pb2.GetStatusRequest())
        return s.health, "; ".join(s.reasons)

    def back(self, within=BACK):
        """Seconds until it is served again, after the faults were lifted just now."""
        begun = time.monotonic()
        until(lambda: self.cold() is None, within + 5, "service")
        took = time.monotonic() - begun
        assert took < within, f"service after {took:.2f} s: {self.instance.log[-2000:]}"
        return took

    def unharmed(self, but=()):
        """No process of ours has gone, but for those named."""
        now = self.instance.children()
        for role, pid in self.pids.items():
            assert role in but or now.get(role) == pid, (role, self.instance.log[-2000:])
        self.pids = {**now}
        assert "signal=" not in self.instance.log or "hsm" in but, self.instance.log[-2000:]

    def everything_opens(self):
        for sealed in self.sealed:
            assert self.world.decrypt(self.hot, sealed) in (b"before", b"meanwhile")
        for sealed in self.token_sealed:
            assert self.world.decrypt(self.token_key, sealed) in (b"before", b"meanwhile")
