"""The daemon and its identities are those of tests/integration (its kit)."""
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("CLV_BUILD", HERE.parents[1] / "build/dev")).resolve()
sys.path[:0] = [str(HERE), str(HERE.parent / "integration"), str(BUILD / "pygen")]
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
