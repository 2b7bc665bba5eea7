"""Every fault at every call of the module, one after the other, under one daemon that is never restarted."""
import os

import pytest

from faults import CODES, SERVING
from kit.instance import until

LONG = bool(os.environ.get("LONG"))
PIN = ("pin incorrect", "pin locked")
# A wrong PIN has a test of its own: each costs a minute.
EVERY = [(call, f"0x{code:x}") for call in SERVING for name, code in CODES.items() if call != "C_Login" or name not in PIN]
STALLS = [(call, what) for call in SERVING for what in ("hang", "crash", "slow:40")]
ANSWERS = [("C_FindObjects", "few"), ("C_FindObjects", "endless"), ("C_GetSlotList", "few"), ("C_GetSlotList", "length:100000"),
           ("C_GetAttributeValue", "flip:5"), ("C_GetAttributeValue", "length:0"), ("C_GetAttributeValue", "length:100000"),
           ("C_Sign", "length:31"), ("C_Sign", "length:100000"), ("C_Sign", "flip:9"), ("C_Sign", "bit:3"), ("C_Sign", "lose"),
           ("C_Encrypt", "flip:7"), ("C_Decrypt", "length:3"), ("C_Encrypt", "bit:3"), ("C_Decrypt", "bit:5"), ("C_Decrypt", "flip:11"),
           ("C_Encrypt", "length:100000"), ("C_Decrypt", "lose"), ("C_SignInit", "lose"), ("C_GenerateRandom", "flip:1"), ("C_GenerateRandom", "endless"), ("C_GenerateRandom", "few")]
# A diagonal through the table: each call once, each code often; all of it with LONG=1.
SOME = [(call, f"0x{list(CODES.values())[i % 8]:x}") for i, call in enumerate(SERVING)]
SHORT = SOME + [("C_Sign", "hang"), ("C_Initialize", "hang"), ("C_FindObjects", "crash"), ("C_GetAttributeValue", "slow:5")] + ANSWERS[::2]

REASON = {"C_CloseAllSessions": "0xb3"}  # a lost session is the one after which sessions are closed one by one
MADE_ANEW = ("C_CreateObject", "C_DestroyObject")
ANCHOR = ("C_SetAttributeValue", *MADE_ANEW)
CIPHER = ("C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt")  # of keys of level HSM
IDLE = ("C_GetSessionInfo",)  # asked when nothing else is


@pytest.mark.parametrize("call, what", EVERY + STALLS + ANSWERS if LONG else SHORT)
def test_a_call_that_fails_until_the_fault_is_lifted(service, call, what):
    s = service
    # What is called only on the way back to a token needs a reason to take it.
    read_only = ["C_SetAttributeValue 0x10 always"] if call in MADE_ANEW else []
    reason = [] if call in CIPHER else [f"C_SignInit {REASON.get(call, '0x32')} nth:1"]
    work = (lambda: s.on_token(what.startswith(("flip", "bit")))) if call in CIPHER else s.cold
    mark = s.shim.plan(f"{call} {what} always", *reason, *read_only)
    try:
        if call not in IDLE:
            work()
        # The anchor follows what was committed, and changes only what was there before: it may take two.
        until(lambda: s.shim.hits(mark, call) or call in ANCHOR and s.cold() and False, 10, f"{what} at {call}")
        for _ in range(3):
            work()
            s.cached()
    finally:
        s.shim.lift()
    took = s.back()
    s.cached()
    until(lambda: s.on_token() is None, 5, "service on the token")
    s.everything_opens()
    s.unharmed(but=["hsm"])
    print(f"{call} {what}: {len(s.shim.hits(mark, call))} times, service after {took * 1000:.0f} ms")
