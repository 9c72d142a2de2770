"""One run of one workflow: its context, its numbered steps, and its waits."""
