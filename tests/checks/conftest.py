"""What docs/ and the checkers promise. No stubs are needed here: the daemon is met as a reader of the pages would meet it."""
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CLV_BUILD", ROOT / "build/dev")).resolve()


@pytest.fixture(scope="session")
def instance(tmp_path_factory):
    """A development instance with its keys, as `make run` makes it; its folder stands for the pages' var/."""
    folder = tmp_path_factory.mktemp("dev")
    done = subprocess.run([ROOT / "tools/dev-instance", "--dir", folder, "--build", BUILD, "--listen", "127.0.0.1:0", "--background"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    yield folder
    subprocess.run(f"kill $(cat {folder}/state/kmsd.lock); flock {folder}/state/kmsd.lock true", shell=True, stderr=subprocess.DEVNULL, timeout=30)
    shutil.rmtree(folder)
