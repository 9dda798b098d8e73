"""Where the stores are that are walked over."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "stores"))
from places import a_mariadb, a_postgresql, a_redis, a_valkey, place  # noqa: E402, F401 - fixtures
