"""strace as a second pair of eyes: the calls of one core, from its first to the last, by the same places as the control page."""
import collections
import re
import shutil
import signal
import subprocess

from kit.instance import until

TRACED = ("open,openat,creat,write,pwrite64,writev,pwritev,fsync,fdatasync,sync_file_range,ftruncate,truncate,fallocate,rename,renameat,renameat2,"
          "link,linkat,mkdir,mkdirat,unlink,unlinkat,sendto,sendmsg,sendmmsg,clone,clone3,fork,vfork,execve")
CLASS = {"open": "open", "openat": "open", "creat": "open", "write": "write", "pwrite64": "write", "writev": "write", "pwritev": "write", "fsync": "sync",
         "fdatasync": "sync", "sync_file_range": "sync", "ftruncate": "resize", "truncate": "resize", "fallocate": "resize", "rename": "name",
         "renameat": "name", "renameat2": "name", "link": "name", "linkat": "name", "mkdir": "name", "mkdirat": "name", "unlink": "unlink",
         "unlinkat": "unlink", "sendto": "send", "sendmsg": "send", "sendmmsg": "send"}
LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")


def available():
    return shutil.which("strace") is not None and subprocess.run(["strace", "-e", "trace=none", "true"], capture_output=True).returncode == 0


class Trace:
    """Of everything the monitor starts from now on."""

    def __init__(self, monitor, file):
        self.file = file
        self.process = subprocess.Popen(["strace", "-f", "-y", "-s", "0", "-e", f"trace={TRACED}", "-o", file, "-p", str(monitor)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: f"TracerPid:\t{self.process.pid}\n" in open(f"/proc/{monitor}/status").read(), 10, "strace is attached")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(10)

    def counts(self, core):
        """Calls of that process and its threads, by (class, file)."""
        lines = [m for m in (LINE.match(x) for x in self.file.read_text(errors="replace").splitlines()) if m]
        text = self.file.read_text(errors="replace")
        threads = {str(core)} | {t for p, t in re.findall(r"(?m)^(\d+) +clone\(.*?CLONE_THREAD.*? = (\d+)", text)}
        threads |= {t for t in re.findall(r"(?m)^\d+ +<\.\.\. clone resumed>.*? = (\d+)", text)}
        begun, found = False, collections.Counter()
        for m in lines:
            thread, call, rest = m.groups()
            if thread == str(core) and call == "execve" and "core/kmsd-core" in rest:
                begun = True
            if begun and thread in threads and call in CLASS and counted(call, rest):
                found[CLASS[call], file_of(call, rest)] += 1
        return found


def counted(call, rest):
    """Not: files only read, folders only listed, what glibc does by itself (names of threads), one thread's eventfd to wake
    another (nothing outside sees it), and the control page."""
    if "anon_inode:[eventfd]" in rest or "/proc/" in rest.split(",")[1 if call == "openat" else 0] or '/page"' in rest:
        return False
    if CLASS[call] != "open":
        return True
    return "O_NONBLOCK" not in rest and ("O_DIRECTORY" in rest or "O_RDWR" in rest or "O_WRONLY" in rest or "O_CREAT" in rest)


def file_of(call, rest):
    """The store's and the journal's files by their names; the rest together."""
    path = re.search(r'<([^>]*)>' if CLASS[call] in ("write", "sync", "resize", "send") else r'"([^"]*)"', rest)
    path = path.group(1) if path else ""
    for tail, kind in (("-wal", "wal"), ("-shm", "shm"), (".db", "db"), (".part", "part")):
        if path.endswith(tail):
            return kind
    return "journal" if path.endswith(".log") and "journal-" in path else "other"
