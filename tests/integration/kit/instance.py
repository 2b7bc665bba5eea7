"""A daemon with its folder: made once by tools/dev-instance, then copied while it is stopped."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

from kit import BUILD, ROOT

BUGS = ("invariant failed", "AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "runtime error:", "signal=ABRT", "signal=SEGV", "signal=SYS",
        "assertion failed")  # in any log, whatever the test was about
TRUST_DOMAIN = "dev.claviger"
# A sanitizer's tree is many times slower: there deadlines are longer, and the daemon is heard for what it finds.
SLOWER = int(os.environ.get("CLV_SLOW", 1))
PATIENCE = 60 * SLOWER  # how long to wait for what must come true at all: a busy machine is no fault. What is promised within a time measures it


def until(condition, timeout=0, what="", patience=PATIENCE):
    """The condition's first true value, however busy the machine is; less patience is for what must not come true. Polls: tests never
    just sleep."""
    patience = max(timeout * SLOWER, patience)
    end = time.monotonic() + patience
    while True:
        late = time.monotonic() > end  # before it is asked: whoever was not let run meanwhile asks once more
        value = condition()
        if value:
            return value
        if late:
            raise AssertionError(f"not within {patience} s: {what or condition}")
        time.sleep(0.01)


def at_best(measure, promised, times=8):
    """The least that measure() gave, in so many tries at most: other work on the machine only ever adds to what a thing takes."""
    least = None
    for _ in range(times):
        took = measure()
        least = took if least is None else min(least, took)
        if least < promised:
            break
    return least


def scratch(prefix, room_bytes=0):
    """A new folder, in memory where there is that much room: what other work on the same disk costs must not look like a fault."""
    shared = pathlib.Path("/dev/shm")
    roomy = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > room_bytes
    return pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=shared if roomy else None))


class Instance:
    programs = BUILD / "bin"

    def __init__(self, folder):
        self.dir = pathlib.Path(folder)
        self.log_file = self.dir / "kmsd.log"
        self.process = None
        self.clients = []

    @classmethod
    def create(cls, folder, *options):
        done = subprocess.run([ROOT / "tools/dev-instance", "--dir", folder, "--build", BUILD, "--listen", "127.0.0.1:0", "--no-demo",
                               *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3 * PATIENCE)
        assert done.returncode == 0, done.stdout
        return cls(folder)

    def copy(self, folder):
        """The stopped instance again, elsewhere: the token's configuration is the one file that names its own place."""
        assert self.process is None
        # holes stay holes: a journal file is 64 MiB of zeros, and there are many copies
        subprocess.run(["cp", "-a", "--sparse=always", self.dir, folder], check=True)
        other = Instance(folder)
        shutil.rmtree(other.run_dir)
        for leftover in ("kmsd.log", "init.log", ".lock", "dev.env"):
            (other.dir / leftover).unlink(missing_ok=True)
        other.run_dir.mkdir(mode=0o700)
        conf = other.dir / "softhsm2.conf"
        conf.write_text(conf.read_text().replace(str(self.dir), str(other.dir)))
        return other

    @property
    def run_dir(self):
        return self.dir / "run"

    @property
    def state(self):
        return self.dir / "state"

    @property
    def config(self):
        return self.dir / "kmsd.conf"

    def configure(self, **settings):
        text = self.config.read_text()
        for key, value in settings.items():
            text = re.sub(rf"(?m)^{key} = .*\n", "", text) + f"{key} = {value}\n"
        self.config.write_text(text)

    # ---- life ----
    def run(self, *arguments, timeout=20, **popen):
        """kmsd to its end: (exit code, everything it said)."""
        done = subprocess.run([self.programs / "kmsd", "--config", self.config, *arguments], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=max(timeout * SLOWER, PATIENCE), **popen)
        return done.returncode, done.stdout

    def start(self, ready=True, **popen):
        assert self.process is None
        endpoint = self.run_dir / "endpoint"
        endpoint.unlink(missing_ok=True)
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen([self.programs / "kmsd", "--config", self.config], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, start_new_session=True, **popen)
        if ready:
            until(lambda: self.process.poll() is not None or (endpoint.exists() and endpoint.read_text().strip()), what="kmsd ready")
            assert self.process.poll() is None, self.log
        return self

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=0):
        code = self.process.wait(max(timeout * SLOWER, PATIENCE))
        self.process = None
        return code

    def close_clients(self):
        for c in self.clients:
            c.close()
        self.clients.clear()

    def stop(self):
        """In order; the exit code."""
        if self.process is None:
            return 0
        self.close_clients()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.wait()
            assert not [w for w in BUGS if w in self.log], self.log[-20000:]
            return code
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.wait()
            raise

    def restart(self):
        assert self.stop() == 0, self.log
        return self.start()

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        self.stop()

    # ---- looking at it ----
    @property
    def endpoint(self):
        return (self.run_dir / "endpoint").read_text().strip()

    @property
    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def children(self):
        """role -> process id, as the kernel tells it."""
        found = {}
        for pid in pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            try:
                name = pathlib.Path(os.readlink(f"/proc/{pid}/exe")).name
            except OSError:
                continue  # died meanwhile
            found[name.removeprefix("kmsd-")] = int(pid)
        return found

    def cert(self, name):
        return self.dir / "certs" / f"{name}.pem", self.dir / "certs" / f"{name}.key"
