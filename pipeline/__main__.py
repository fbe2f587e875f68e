"""``python -m pipeline`` is ``shardlabel``: Ctrl-C has its line and exit code from the first import to the end."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line."""
    code = _INTERRUPTED
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # runs last: what follows is Python's own end
    try:
        from pipeline.cli import main as run_command_line  # half a second of imports: Ctrl-C may come meanwhile

        run_command_line()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0
    except KeyboardInterrupt:  # before the first command, or after the last
        print("shardlabel: interrupted; run the same command again to go on from here", file=sys.stderr)
    # All is done and said: a later Ctrl-C hastens the end, and does not change what came of it
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    # Python ends by the signal if Ctrl-C has ever left a string that is executed, as dataclasses do while torch is
    # imported, whoever caught it; another such string forgets that
    exec("")  # noqa: S102 - nothing is executed
    sys.exit(code)


if __name__ == "__main__":
    main()
