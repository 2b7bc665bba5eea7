"""What /proc says of the four processes, and the judgement of a series: does it grow?"""
import pathlib
import re
import subprocess

# gRPC starts and ends threads as its timers and closures ask for them.
GRPC_THREADS = ("default-executo", "resolver-execut", "event_engine", "grpc_global_tim", "timer_manager")


def threads(pid):
    """(ours, gRPC's)"""
    names = [(t / "comm").read_text().strip() for t in pathlib.Path(f"/proc/{pid}/task").iterdir()]
    theirs = sum(n in GRPC_THREADS for n in names)
    return len(names) - theirs, theirs


def of(pid):
    """Resident and anonymous KiB, descriptors, threads of ours; None when it is gone."""
    try:
        fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
        return {"rss": int(fields["VmRSS"].split()[0]), "anon": int(fields["RssAnon"].split()[0]), "threads": threads(pid)[0],
                "fds": len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))}
    except (OSError, KeyError, ValueError):
        return None


def heap_kib(pid, log_file):
    """What a process has from malloc and has not given back, by glibc's own count, which it writes to its log."""
    at = log_file.stat().st_size
    subprocess.run(["gdb", "-p", str(pid), "-batch", "-nx", "-ex", "call (void)malloc_stats()"], capture_output=True, timeout=60)
    said = log_file.read_bytes()[at:].decode(errors="replace").partition("Total (incl")[2]
    return int(re.search(r"in use bytes\s*=\s*(\d+)", said)[1]) // 1024


def slope(points):
    """Least squares over (seconds, value): value a second."""
    n = len(points)
    mean_t, mean_v = sum(t for t, _ in points) / n, sum(v for _, v in points) / n
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    return sum((t - mean_t) * (v - mean_v) for t, v in points) / spread if spread else 0.0


def growth_kib(points):
    """What the regression says was gained from the first point to the last. One step (an arena, a cache that fills) is damped,
    a steady gain is seen in full."""
    return slope(points) * (points[-1][0] - points[0][0])
