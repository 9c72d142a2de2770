from tests.support import listening

if listening.is_off():
    listening.turn_off()
