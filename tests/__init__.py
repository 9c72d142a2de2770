import os

from tests.support import listening

if listening.is_off():
    listening.turn_off()

if "DBOS_TEST_POOLER" in os.environ:
    from tests.support.pooled import install

    install()
