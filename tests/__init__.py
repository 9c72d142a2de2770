"""The tests. In a run through a pooler, each of their programs goes through it (tests/support/pooled.py)."""

import os

if "DBOS_TEST_POOLER" in os.environ:
    from tests.support.pooled import install

    install()
