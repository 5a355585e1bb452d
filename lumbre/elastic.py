"""torchrun's agent without its long account of a failure: `python -m lumbre.elastic TORCHRUN_ARGUMENTS`.

It starts the ranks of one node, watches them, and ends all when one has failed. How they ended is written
for the launcher that asks for it; else one line tells of the first that was killed, for it could say nothing.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from lumbre.world import ENDINGS


def main(arguments: list[str]) -> int:
    """Run torchrun's agent to its end; return 0, 1 where a rank failed, or 128 + N after signal N."""
    logging.disable(logging.ERROR)
    try:
        torchrun.main(arguments)
    except ChildFailedError as error:
        _tell(error.failures)
        return 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _tell(failures: Mapping[int, ProcessFailure]) -> None:
    file = os.environ.get(ENDINGS)
    if file is None:
        for rank, failure in failures.items():
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
                print(f"rank {rank} was killed by {failure.signal_name()}", file=sys.stderr, flush=True)
                return
        return
    rows = [
        {"rank": rank, "local_rank": one.local_rank, "status": one.exitcode, "time": one.timestamp}
        for rank, one in failures.items()
    ]
    try:
        Path(file).write_text(json.dumps(rows), encoding="utf-8")
    except OSError as error:
        print(f"{file}: cannot be written: {error.strerror}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
