"""Stacks as faulthandler writes them."""

import faulthandler
import tempfile
import threading

from lumbre.watchdog.stacks import parse


def test_a_dump_of_this_process_is_read() -> None:
    """Every thread's frames are found under its number, the innermost first, with their source."""
    entered, leave = threading.Event(), threading.Event()

    def _produce() -> None:
        entered.set()
        leave.wait()

    thread = threading.Thread(target=_produce)
    thread.start()
    entered.wait()
    with tempfile.TemporaryFile("w+") as stream:
        faulthandler.dump_traceback(stream)
        stream.seek(0)
        text = stream.read()
    leave.set()
    thread.join()
    found = parse(text)
    here = found.main(threading.main_thread().ident or 0)[0]
    assert here.function == "test_a_dump_of_this_process_is_read"
    assert here.source == "faulthandler.dump_traceback(stream)"
    assert found.with_function("_produce")[0].function in ("wait", "_produce")
    assert found.fatal == ""


def test_what_a_crash_was_is_read() -> None:
    """The line that faulthandler begins with tells what the process died of."""
    assert parse("Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n").fatal == (
        "Aborted"
    )
