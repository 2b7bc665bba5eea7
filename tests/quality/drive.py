"""One short life of the whole daemon for whoever watches its memory (tools/run-valgrind): start, every kind of call of the soak's
load, a reload, SIGTERM. What counts is what the watcher says; here only that the life was lived.

    drive.py PROGRAMS    a folder with kmsd as it is to be started; the instance is made by the plain programs of CLV_BUILD"""
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ["CLV_BUILD"])
sys.path[:0] = [str(HERE.parent / "soak"), str(HERE.parent / "integration"), str(BUILD / "pygen")]
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import claviger_pb  # noqa: E402,F401
import grpc  # noqa: E402
import load as soak_load  # noqa: E402
from kit import client as kit_client  # noqa: E402
from kit.instance import Instance, until  # noqa: E402

TIMES = 3            # each kind of call at least
SLOW = 120           # everything takes fifty times as long
ENDS = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def begin(instance):
    """The front's own deadlines do not wait for a slow core: until core has answered it may be told to come again."""
    for attempt in itertools.count():
        try:
            return soak_load.Load(instance, f"drive{attempt}")
        except grpc.RpcError as e:
            assert attempt < 20 and e.code().name in ENDS, e
            instance.close_clients()


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="clv-drive-"))
    instance = Instance.create(folder / "i")
    instance.programs = pathlib.Path(sys.argv[1])
    # a first start needs its time; so does a handshake
    instance.configure(handshake_timeout="30s", hsm_timeout="30s", drain_timeout="20s")
    try:
        soak_load.DEADLINE = kit_client.DEADLINE = SLOW
        instance.start(ready=False)
        until(lambda: instance.process.poll() is not None or (instance.run_dir / "endpoint").exists() and instance.endpoint, SLOW, "kmsd ready")
        assert instance.process.poll() is None, instance.log
        load = begin(instance)
        load.start()
        # only what was answered counts
        answered = lambda kind: load.done.get(kind, 0) - sum(f[2] == kind for f in load.failed)  # noqa: E731
        until(lambda: all(answered(k[0]) >= TIMES for k in load.kinds), 3 * SLOW, "every kind of call")
        instance.signal(signal.SIGHUP)
        until(lambda: "client CAs reloaded" in instance.log, SLOW, "a reload")
        load.pause()
        assert not load.wrong and {f[3] for f in load.failed} <= set(ENDS), (load.failed[:5], load.wrong[:5])
        instance.signal(signal.SIGTERM)
        code = instance.wait(2 * SLOW)
        assert code == 0, instance.log[-4000:]
        print(f"lived: {sum(load.done.values())} calls of {len(load.done)} kinds, a reload, an orderly end")
    finally:
        if instance.process:
            print(instance.log[-3000:])
            instance.process.terminate()  # in order, if it can: who is killed reports nothing
            try:
                instance.process.wait(SLOW)
            except subprocess.TimeoutExpired:
                instance.process.kill()
                instance.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


main()
