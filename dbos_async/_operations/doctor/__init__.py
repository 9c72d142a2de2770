"""The doctor: what keeps an application from working well on a database, and what to do about it.

Each module looks at one subject, by short functions with their SQL beside them; `examine.py` has the list of all checks.
"""

from __future__ import annotations

from dbos_async._operations.doctor.examine import examine
from dbos_async._operations.doctor.finding import Finding

__all__ = ["Finding", "examine"]
