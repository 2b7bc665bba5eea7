"""The daemon and its identities are those of tests/integration (its kit)."""
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]

import kit  # noqa: E402,F401  (the stubs)
