"""Clients that take their time, and crowds of them."""
import os
import resource

from arena import LONG, OTHERS

ADDRESS_STREAMS, CALLS = 1024, 4096  # PEERS_STREAMS, max_calls_in_flight
MAX_CONNECTIONS = 4096
UNFINISHED = 32 << 20                # PEERS_UNFINISHED_BYTES
KERNEL = 7 << 20                     # of socket buffers, each connection
SLOTS = 256                          # TURNS_SLOTS


def test_slowloris(arena):
    """Half handshakes, half prefaces, a byte at a time: gone when handshake_timeout (2 s here) and one second are over."""
    o = arena.run("slowloris", n=500 if LONG else 100, seconds=20 if LONG else 2.8)
    assert sum(o.result["opened"].values()) >= 90 and o.result["standing"] == 0, o
    arena.counted(o.before, "connections_refused", 50)


def test_half_handshakes_from_many_nets(arena):
    """More than may shake hands at once, of more nets than anyone could bar: memory stays small, and a newcomer gets through."""
    waits = []
    o = arena.run("half_hands", n=4000 if LONG else 1200, per_address=20, seconds=10 if LONG else 2.5,
                  meanwhile=lambda: waits.append(arena.reconnects()))
    assert o.result["sent"] > SLOTS * 2, o
    assert o.growth_mb < 40, o
    assert sorted(waits)[len(waits) // 2] < 1 and max(waits) < 5, (waits, o)
    arena.counted(o.before, "connections_refused", SLOTS)


def test_windows_that_never_open(arena):
    """Pinned answers of four addresses take half of all places and no more; core ends them after ten seconds."""
    seen = []
    o = arena.run("zero_windows", conns=88 if LONG else 44, each=100, seconds=60 if LONG else 2.2, addresses=4,
                  meanwhile=lambda: seen.append(arena.status().traffic.calls_in_flight))
    assert CALLS // 4 < max(seen) <= CALLS // 2 + 10, (max(seen), o)
    assert o.result["ended"] > 0, o
    assert arena.status().traffic.calls_in_flight < 50


def test_stalls_by_another_implementation(arena):
    """python3-h2 with a window of 0: its connections stand, its calls are core's to end, and nobody waits for them."""
    o = arena.run("h2_stalls", conns=12, each=100, seconds=30 if LONG else 1.5)
    assert o.result["connections"] == 12, o
    assert not LONG or o.result["reset"] + o.result["ended"] > 0 or o.result["over"] == 12, o


def test_streams_that_send_nothing(arena):
    """Streams without a message: an address has 1,024, whatever the number of its connections."""
    o = arena.run("half_messages", conns=60 if LONG else 30, each=100, size=0, seconds=60 if LONG else 1.5)
    assert o.result["begun"] > ADDRESS_STREAMS, o
    assert o.growth_mb < 30, o


def test_messages_that_are_never_finished(arena):
    """All but the last byte of 250 KB on every stream: core holds it, so an address may have only so much of it."""
    o = arena.run("half_messages", conns=10 if LONG else 3, each=100, size=250_000, seconds=60 if LONG else 3)
    buffers = o.result["connections"] * KERNEL  # what waits there is not core's
    assert UNFINISHED / 2 < o.result["filled"] < UNFINISHED + buffers, o


def test_messages_in_crumbs(arena):
    """The same in DATA frames of 17 bytes, which core keeps one by one: what a frame costs is counted with what it brings."""
    o = arena.run("half_messages", conns=8 if LONG else 3, each=100, size=250_000, seconds=60 if LONG else 3, piece=17)
    assert o.result["offered"] > UNFINISHED / 17, o


def test_descriptors_run_out(arena):
    """CVE-2023-4785: with none left the front neither spins nor loses its listener, and serves again at once."""
    pid = arena.pids["front"]
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 30, limit[1]))
    try:
        o = arena.once("idle", None, {"n": 250, "addresses": 2, "seconds": 10 if LONG else 1, "tls": False})
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    print(o)
    assert "out of descriptors" in arena.instance.log
    assert o.result["refused"] >= 200, o
    assert o.cpu_s["front"] < 0.5 * o.seconds, o
    arena.counted(o.before, "connections_refused", 200)


if LONG:  # thousands of handshakes prove with real numbers what tests/integration/front proves with a handful
    def test_idle_connections_of_one_address(arena):
        """max_connections_per_peer, 512: the next one is refused, and everybody else is not."""
        o = arena.run("idle", n=600, addresses=1, seconds=5)
        assert o.result["standing"] == 512 and o.result["refused"] == 88, o

    def test_idle_connections_of_one_certificate(arena):
        """A quarter of max_connections, from however many addresses: the oldest make room, and nobody else has less."""
        share = MAX_CONNECTIONS // 4
        o = arena.run("idle", n=share + 300, addresses=12, seconds=5)
        assert share - 100 < o.result["standing"] <= share, o
        assert "makes room for a newer connection" in arena.instance.log


def test_a_crowd(arena):
    """Hundreds of clients, 10,000 with LONG=1, 500 at any time: those in service hardly notice, and everybody is served in time."""
    clients = 10_000 if LONG else 600
    o = arena.run("crowd", clients=clients, seconds=90 if LONG else 60)
    assert o.result["served"] == clients, o
    assert o.result["first_s"] < 2 or o.others > OTHERS, o
    assert o.result["all_s"] < (30 if LONG else 10) or o.others > OTHERS, o
    arena.counted(o.before, "connections_accepted", clients)
