"""What a step has brought, as it is recorded."""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from uuid import UUID

from dbos_async._runs.end_request import ASKED, CANCELLED
from dbos_async._serialization.exceptions import decode_error


class StepResult(NamedTuple):
    """The output or the error of a step; of a receive also the message that it took."""

    output: str | None
    error: str | None
    message_id: UUID | None = None
    of: str = ""
    """What this is the result of, for the case that its error cannot be read."""

    def value(self) -> str | None:
        """The output; a recorded error is raised."""
        if self.error is not None:
            raise asyncio.CancelledError(ASKED) if self.error == CANCELLED else decode_error(self.error, self.of)
        return self.output
