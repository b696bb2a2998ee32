"""The jail's own tests once more, by a service that is no root: user namespaces do all the work."""

import os
from pathlib import Path

import pytest
from plain_user import own_folder, run_tests


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as a plain user already")
@pytest.mark.parametrize("module", ["test_jail_isolation.py", "test_jail.py", "test_contract.py", "test_cells.py"])
def test_as_a_plain_user(module):
    with own_folder(f"jail-as-user-{module}") as folder:
        run_tests(folder, str(Path(__file__).parent / module))
