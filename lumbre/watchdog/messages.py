"""What a helper and its rank say to each other: one byte, and a text after it unless it is a question."""

import struct

PING = b"p"
"""Are your threads still served? Answered with JSON."""
STALLED = b"s"
MOVES = b"m"
END = b"x"
"""End yourself, with this as the last word."""
LENGTH = struct.Struct("<I")
