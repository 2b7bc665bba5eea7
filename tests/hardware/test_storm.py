"""Every fault at once, at random from a seed, under load that asks the token for keys all the time; then nothing may have been wrong."""
import collections
import os
import random
import signal
import time

import pytest

from faults import CODES, SERVING
from kit.suite import World
from kit.instance import PATIENCE, until
from kit.wire import Code
from load import Load, every_key, open_all
from service import Service, hsm_timeout

LONG = bool(os.environ.get("LONG"))
SECONDS, KINDS = (60, 15) if LONG else (4, 8)
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
# Wrong PINs cost a minute each (test_pin.py); hangs and crashes cost a process, so they are rarer.
OFTEN, SELDOM = 6000, 600  # of a million calls


def storm(seed):
    rng, rules = random.Random(seed), []
    codes = [c for n, c in CODES.items() if not n.startswith("pin")]
    for call in SERVING:
        rules.append(f"{call} 0x{rng.choice(codes):x} chance:{OFTEN}:{rng.randrange(1 << 30)}")
    for call, what, chance in (("C_Sign", f"flip:{seed}", OFTEN), ("C_GetAttributeValue", f"flip:{seed}", SELDOM), ("C_GenerateRandom", f"flip:{seed}", OFTEN),
                               ("C_Sign", "length:31", OFTEN), ("C_FindObjects", "few", OFTEN), ("C_SignInit", "lose", OFTEN),
                               ("C_GetSlotList", "few", OFTEN), ("*", "hang", 20), ("*", "crash", 50), ("*", "slow:20", SELDOM)):
        rules.append(f"{call} {what} chance:{chance}:{rng.randrange(1 << 30)}")
    return rules


def kinds(shim, mark):
    return collections.Counter((x.call, x.what) for x in shim.hits(mark))


@pytest.mark.parametrize("seed", range(1, 6) if LONG else [1])
def test_a_storm(shim, fresh, seed):
    # Keys live for a second, so that the token is asked for them again and again.
    fresh.configure(hsm_timeout=hsm_timeout(300), key_cache_ttl="1s")
    s = Service(World(fresh.start()), shim)
    keys, rng = every_key(s.world), random.Random(seed)
    mark = shim.plan(*storm(seed))
    # A key that comes out wrong is refused by its check value: that is DATA_LOSS until it is derived again.
    with Load(s.world, keys, seed, allowed=[(Code.DATA_LOSS, "KEY_CHECK_FAILED")]) as load:
        begun, kills = time.monotonic(), 0
        # where the machine is slow the storm lasts until enough has gone wrong
        while (past := time.monotonic() - begun) < SECONDS or (past < PATIENCE and (len(kinds(shim, mark)) <= KINDS or kills < 3)):
            load.stop.wait(rng.uniform(0.3, 1.5))
            hsm = fresh.children().get("hsm")
            if hsm is not None:
                os.kill(hsm, signal.SIGKILL)
                kills += 1
        shim.lift()
        took = s.back()
        served = load.done
        until(lambda: load.done > served + 50, 10, "traffic goes on")
    seen = kinds(shim, mark)
    assert load.wrong == [], load.wrong[:5]
    assert len(seen) > KINDS and load.refused > 0 and kills > 2, (seen, load.refused, kills)
    s.unharmed(but=["hsm"])
    assert not {CODES["pin incorrect"], CODES["pin locked"]} & {x.code for x in shim.logins()}
    # A daemon that never met the shim.
    fresh.configure(hsm_module=SOFTHSM, hsm_timeout=hsm_timeout(5000))
    fresh.restart()
    opened = open_all(World(fresh), load.sealed[:: 1 if LONG else 3])
    assert fresh.stop() == 0
    code, said = fresh.run("fsck", timeout=120)
    assert code == 0, said
    print(f"seed {seed}: {sum(seen.values())} faults of {len(seen)} kinds, {kills} kills, {load.done} done, {load.refused} refused, "
          f"service after {took * 1000:.0f} ms, {opened} of {len(load.sealed)} opened by a clean daemon")
