"""The embedded Postgres: its folders, its programs and its server."""
