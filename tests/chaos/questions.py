"""What the workflows of the fault suite are asked."""

from __future__ import annotations

from typing import Any

from dbos_async import Question

QUESTION = Question[dict[str, Any], dict[str, Any]]("question", dict[str, Any], dict[str, Any])
