"""Orders to the shim, and what came of them. tests/hardware/README.md has the grammar."""
import collections
import itertools
import os
import pathlib

BUILD = pathlib.Path(os.environ.get("CLV_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build/dev")).resolve()
SHIM = BUILD / "hardware/shim.so"

# The faults that a token of the real world answers with (PKCS#11 v2.40 section 11.1).
CODES = {
    "general error": 0x05, "host memory": 0x02, "device error": 0x30, "device removed": 0x32, "token not present": 0xE0,
    "session closed": 0xB0, "session handle invalid": 0xB3, "user not logged in": 0x101, "pin incorrect": 0xA0, "pin locked": 0xA4,
}
# Every function that hsm/ calls while it serves; objects are made only by the anchor of a token that
# refuses to change one in place, keys by kmsd init and with each version of level HSM.
SERVING = ("C_Initialize", "C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo", "C_GetMechanismInfo", "C_OpenSession", "C_GetSessionInfo",
           "C_Login", "C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_GetAttributeValue", "C_SignInit", "C_Sign",
           "C_GenerateRandom", "C_CloseAllSessions", "C_Finalize", "C_SetAttributeValue", "C_CreateObject", "C_DestroyObject",
           "C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt")

Line = collections.namedtuple("Line", "time pid call what code")


class Shim:
    """One instance's shim. Its folder lies in state_dir, where the confined hsm process may write."""
    _id = itertools.count(1)

    def __init__(self, instance):
        self.instance = instance
        self.dir = instance.state / "shim"
        self.dir.mkdir(mode=0o700, exist_ok=True)
        with open(instance.dir / "softhsm2.conf", "a") as conf:
            conf.write(f"# shim = {self.dir}\n")
        instance.configure(hsm_module=SHIM)

    def plan(self, *rules):
        """Replaces what was ordered; returns where the log stands, for `hits`."""
        mark = len(self.log())
        text = "\n".join([f"plan {next(self._id)}", *rules]) + "\n"
        following = self.dir / "plan.next"
        following.write_text(text)
        following.rename(self.dir / "plan")
        return mark

    def lift(self):
        (self.dir / "plan").unlink(missing_ok=True)

    def log(self):
        path = self.dir / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Line(float(t), int(pid), call, what, int(code, 16)) for t, pid, call, what, code in (line.split() for line in lines)]

    def hits(self, mark, call=None):
        """The faults since that mark."""
        return [x for x in self.log()[mark:] if x.what != "called" and call in (None, x.call)]

    def logins(self, mark=0):
        """Every C_Login that any process made, injected answers included."""
        return [x for x in self.log()[mark:] if (x.call, x.what) == ("C_Login", "called")]
