"""Whoever imports this leaves a mark: a module that no received data may get imported."""

from __future__ import annotations

import os
from pathlib import Path

Path(os.environ["DBOS_TEST_TRAP"]).touch()


class TrapError(Exception):
    """What a hostile record calls its type."""
