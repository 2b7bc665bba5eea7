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
           ("C_SignInit", "lose"), ("C_GenerateRandom", "flip:1"), ("C_GenerateRandom", "endless"), ("C_GenerateRandom", "few")]
# A diagonal through the table: each call once, each code often; all of it with LONG=1.
SOME = [(call, f"0x{list(CODES.values())[i % 8]:x}") for i, call in enumerate(SERVING)]
SHORT = SOME + [("C_Sign", "hang"), ("C_Initialize", "hang"), ("C_FindObjects", "crash"), ("C_GetAttributeValue", "slow:5")] + ANSWERS[::2]

REASON = {"C_CloseAllSessions": "0xb3"}  # a lost session is the one after which sessions are closed one by one
MADE_ANEW = ("C_CreateObject", "C_DestroyObject")
ANCHOR = ("C_SetAttributeValue", *MADE_ANEW)
IDLE = ("C_GetSessionInfo",)  # asked when nothing else is


@pytest.mark.parametrize("call, what", EVERY + STALLS + ANSWERS if LONG else SHORT)
def test_a_call_that_fails_until_the_fault_is_lifted(service, call, what):
    s = service
    # What is called only on the way back to a token needs a reason to take it.
    read_only = ["C_SetAttributeValue 0x10 always"] if call in MADE_ANEW else []
    mark = s.shim.plan(f"{call} {what} always", f"C_SignInit {REASON.get(call, '0x32')} nth:1", *read_only)
    try:
        if call not in IDLE:
            s.cold()
        # The anchor follows what was committed, and changes only what was there before: it may take two.
        until(lambda: s.shim.hits(mark, call) or call in ANCHOR and s.cold() and False, 10, f"{what} at {call}")
        for _ in range(3):
            s.cold()
            s.cached()
    finally:
        s.shim.lift()
    took = s.back()
    s.cached()
    s.unharmed(but=["hsm"])
    print(f"{call} {what}: {len(s.shim.hits(mark, call))} times, service after {took * 1000:.0f} ms")
