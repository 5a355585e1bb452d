"""A watchdog: notices a run that hangs, names the late rank and why, and ends the job to be restarted.

Each rank notes what it does on a board in shared memory. A small process beside it, the helper, reads the
board and /proc, which works whatever the rank is stuck in. Nothing here imports torch at module level.
"""

from lumbre.watchdog.notes import collective as collective
from lumbre.watchdog.notes import during as during
from lumbre.watchdog.notes import enter as enter
from lumbre.watchdog.notes import step as step
