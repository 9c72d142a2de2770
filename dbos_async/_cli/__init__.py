"""The commands of ``dbos-async``, one module each."""
