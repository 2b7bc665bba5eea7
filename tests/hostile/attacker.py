"""The attacker's process: {"attack": name, "net": n, ...} a line in, its result a line out. attack_*.py have the attacks."""
import json
import os
import pathlib
import sys
import traceback

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
import attack_crowd  # noqa: E402
import attack_floods  # noqa: E402
import attack_h2  # noqa: E402
import attack_headers  # noqa: E402
import attack_stalls  # noqa: E402
from target import Target  # noqa: E402

MODULES = (attack_floods, attack_h2, attack_headers, attack_stalls, attack_crowd)


def main():
    spec = json.loads(sys.argv[1])
    sys.path.append(spec["pygen"])
    pathlib.Path("/proc/self/oom_score_adj").write_text("500")
    for line in sys.stdin:
        args = json.loads(line)
        name, net = args.pop("attack"), args.pop("net")
        try:
            attack = next(getattr(m, name) for m in MODULES if hasattr(m, name))
            result = attack(Target(spec | {"net": net}), **args)
        except Exception:  # noqa: BLE001
            result = {"error": traceback.format_exc()}
        print(json.dumps(result), flush=True)


main()
