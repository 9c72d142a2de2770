"""Messages, events and streams."""
