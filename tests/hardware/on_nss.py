"""pytest -p on_nss, with tests/hardware on PYTHONPATH: every daemon of the suites of tests/integration has its keys on NSS softoken's token instead
of SoftHSM2's, and knows nothing of it (make capabilities LONG=1). What does not hold there is skipped by name, with the reason."""
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "integration"))

from kit.instance import Instance  # noqa: E402
from tokens import again_on_nss  # noqa: E402

NOT_HERE = {
    "test_while_the_token_is_away": "NSS keeps its database open: that its folder goes is not noticed, and does no harm",
    "test_one_tenants_batches_hold_up_nobody_else": "NSS decrypts a key for each use, by PBKDF2: a flood of batches does not end within a deadline",
}
_create = Instance.create.__func__
Instance.create = classmethod(lambda cls, folder, *options: again_on_nss(_create(cls, folder, *options)))


def pytest_collection_modifyitems(items):
    for item in items:
        if item.originalname in NOT_HERE:
            item.add_marker(pytest.mark.skip(reason=NOT_HERE[item.originalname]))
