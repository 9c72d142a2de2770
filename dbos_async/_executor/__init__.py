"""The runs of one process: claimed, executed, and finished."""
