"""What the black-box tests share: an instance to start and stop, clients to call it with, and eyes for its audit log. Whoever imports
it finds the stubs of the build tree that is tested."""
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("CLV_BUILD", ROOT / "build/dev")).resolve()
sys.path.insert(0, str(BUILD / "pygen"))
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # refused handshakes and lost connections are what is tested
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # we fork only to exec; gRPC's handler before a fork waits for its own threads, at times for ever
