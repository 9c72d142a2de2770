"""``@DBOS.transaction()``: steps whose writes, messages and record are one commit."""
