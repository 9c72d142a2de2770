"""Commands of ``dbos-async`` that have a file of their own."""
