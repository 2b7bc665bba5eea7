"""make crash: points in several lanes, each with a daemon of its own.

    crash.py --points 10000 [--seed N] [--lanes 4] [--kinds work,start,...]     all of it; exits 1 when anything was found
    crash.py --lane I ...                                                       one lane (started by the first form)
"""
import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time
import traceback

import rig
from judge import Judge
from points import Chooser, NotReached, Runner
from work import Lane

HERE = pathlib.Path(__file__).resolve().parent
KINDS = {"work": 49, "roll": 4, "start": 15, "instant": 9, "ill": 5, "fault": 12, "doomed": 6}
KILLS = {"start": 2, "ill": 2, "fault": 0}  # of one point; else 1
A_LIFE = 4       # kills, and
EXAMINED = 6     # points between two starts of the monitor, which forgets its backoff; each life ends with fsck
COMPARED = 2     # lives between two comparisons of the whole state
LIFETIME = 120   # points of one instance: it grows


class Station:
    """One instance after the other, and what runs on it."""

    def __init__(self, folder, template, rng, number):
        self.rig = rig.Rig(folder, template, anchor_file=number % 2 == 1)
        self.rng = rng
        self.kills = self.points = self.lives = 0

    def begin(self):
        self.rig.start()
        self.lane = Lane(self.rig, self.rng)
        self.lane.begin()
        self.judge = Judge(self.lane)
        self.judge.begin()
        self.runner = Runner(self.rig, self.lane, self.judge)
        self.chooser = Chooser(self.rng, *self.runner.calibrate())
        self.again()

    def again(self):
        """In order down, examined, and up again: no manual step but the examination."""
        self.rig.ended_well()
        self.rig.fsck()
        self.rig.start()
        self.lane.connect()
        self.judge.ready()

    def tired(self, kind):
        """After each point: a new life when this one was long, and now and then a look at everything."""
        self.kills += KILLS.get(kind, 1)
        self.points += 1
        if self.kills < A_LIFE and self.points < EXAMINED:
            return
        self.kills = self.points = 0
        self.lives += 1
        self.again()
        if self.lives % COMPARED == 0:
            self.whole()

    def whole(self):
        self.judge.compare()


def run_lane(args):
    rng = random.Random(f"{args.seed}/{args.lane}")
    folder = pathlib.Path(args.folder) / f"lane{args.lane}"
    folder.mkdir()
    template = rig.Instance(pathlib.Path(args.folder) / "template")
    kinds, weights = zip(*[(k, w) for k, w in KINDS.items() if k in args.kinds.split(",")])
    done, missed, findings = collections.Counter(), 0, []
    places, back_s, station, number, used, point = collections.Counter(), [], None, args.lane, 0, None
    end = time.monotonic() + args.seconds
    while sum(done.values()) + len(findings) < args.points and time.monotonic() < end and len(findings) < 5:
        try:
            if station is None or used >= LIFETIME:
                close(station, places, back_s)
                number, used = number + 1, 0
                station = Station(folder / f"i{number}", template, rng, number)
                station.begin()
            kind = rng.choices(kinds, weights)[0]
            point = station.chooser.choose(kind)
            used += 1
            try:
                station.runner.run(point)
                done[kind] += 1
            except NotReached:
                missed += 1
            station.tired(kind)
        except Exception:  # noqa: BLE001  (a finding; the lane goes on with a new instance)
            findings.append(f"{point}\n{traceback.format_exc()[-3000:]}{examine(station, args, len(findings))}")
            station = None
        point = None
    try:
        close(station, places, back_s)
    except Exception:  # noqa: BLE001
        findings.append(f"at the end\n{traceback.format_exc()[-3000:]}")
    print(json.dumps(dict(done=done, missed=missed, findings=findings, places=places, back_s=sorted(back_s))))


def close(station, places, back_s):
    if station is None:
        return
    station.again()
    station.whole()
    station.judge.read_again()
    places.update(station.runner.places)
    back_s += station.runner.back_s
    station.rig.drop()


def examine(station, args, number):
    """What the instance looks like after a finding; kept when the caller wants it."""
    if station is None:
        return ""
    try:
        station.rig.page.disarm()
        alive = station.rig.children() if station.rig.process else {}
        log = f"alive: {alive}, page {station.rig.page.pid}\n{station.rig.log[-6000:]}"
        code = station.rig.stop()
        ended, said = station.rig.run("fsck", timeout=60)
        text = f"\nstopped with {code}; fsck {ended}: {said[-1500:]}\nlog:\n{log}"
    except Exception:  # noqa: BLE001
        text = f"\nexamination failed: {traceback.format_exc()[-1500:]}\nlog:\n{station.rig.log[-3000:]}"
    if station.rig.process is not None:
        station.rig.process.kill()
        station.rig.wait()
    if args.keep:
        shutil.copytree(station.rig.dir, pathlib.Path(args.keep) / f"lane{args.lane}-{number}", ignore=shutil.ignore_patterns("bin", "*.sock", "core"))
    station.rig.close_clients()
    shutil.rmtree(station.rig.dir, ignore_errors=True)
    return text


class Result:
    def __init__(self, reports, seconds):
        self.done = sum((collections.Counter(r["done"]) for r in reports), collections.Counter())
        self.places = sum((collections.Counter(r["places"]) for r in reports), collections.Counter())
        self.findings = [f for r in reports for f in r["findings"]]
        self.missed = sum(r["missed"] for r in reports)
        self.back_s = sorted(s for r in reports for s in r["back_s"])
        self.seconds = seconds

    @property
    def points(self):
        return sum(self.done.values())

    def __str__(self):
        kinds = ", ".join(f"{k} {n}" for k, n in sorted(self.done.items()))
        middle = self.back_s[len(self.back_s) // 2] if self.back_s else 0
        lines = [f"{self.points} points ({kinds}) in {self.seconds:.0f} s, {1000 * self.seconds / max(1, self.points):.0f} ms a point; "
                 f"{self.missed} not reached; {len(self.findings)} findings",
                 f"from death to service: median {middle:.3f} s, worst {max(self.back_s, default=0):.3f} s",
                 "places: " + ", ".join(f"{p} {n}" for p, n in sorted(self.places.items()))]
        return "\n".join(lines + [f"FINDING {f}" for f in self.findings])


def run(points, seed, lanes=2, kinds=tuple(KINDS), seconds=3600, keep=""):
    """Result of that many points, in lanes."""
    folder = rig.scratch()
    begun = time.monotonic()
    running = []
    try:
        rig.make_template(folder / "template")
        for i in range(lanes):
            share = points // lanes + (i < points % lanes)
            running.append(subprocess.Popen(
                [sys.executable, __file__, "--lane", str(i), "--lanes", str(lanes), "--points", str(share), "--seed", str(seed),
                 "--folder", str(folder), "--kinds", ",".join(kinds), "--seconds", str(seconds), "--keep", keep],
                stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}))
        said = [p.communicate()[0] for p in running]
        reports = [json.loads(s.splitlines()[-1]) if s.strip() else dict(done={}, missed=0, findings=["the lane died"], places={}, back_s=[])
                   for s in said]
        return Result(reports, time.monotonic() - begun)
    finally:
        for p in running:
            if p.poll() is None:
                p.terminate()
                p.wait()
        shutil.rmtree(folder, ignore_errors=True)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--points", type=int, default=10000)
    a.add_argument("--seed", default=str(int(time.time())))
    a.add_argument("--lanes", type=int, default=4)
    a.add_argument("--lane", type=int)
    a.add_argument("--folder")
    a.add_argument("--kinds", default=",".join(KINDS))
    a.add_argument("--seconds", type=float, default=3600)
    a.add_argument("--keep", default="", help="a folder for the instances of findings")
    args = a.parse_args()
    if args.lane is not None:
        run_lane(args)
        return 0
    print(f"seed {args.seed}", flush=True)
    result = run(args.points, args.seed, args.lanes, args.kinds.split(","), args.seconds, args.keep)
    print(result)
    return 1 if result.findings or result.points < args.points else 0


if __name__ == "__main__":
    sys.exit(main())
