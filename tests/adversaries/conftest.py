"""What the adversaries share: the scripted servers of the services' tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "services"))  # where `scripted` is
