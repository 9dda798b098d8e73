from __future__ import annotations

from pathlib import Path

import pytest
from contract import KEY, StoreContract, a_grant

from loginonce.stores.sql import SQLStore


class TestSQLite(StoreContract):
    threads = 24

    @pytest.fixture
    def store(self, tmp_path: Path) -> SQLStore:
        return SQLStore(f"sqlite:///{tmp_path}/logins/db")

    @pytest.fixture
    def twin(self, store: SQLStore, tmp_path: Path) -> SQLStore:
        return SQLStore(f"sqlite:///{tmp_path}/logins/db")
