"""Workflows as a whole: registering, starting, finding, cancelling, forking and deleting them."""
