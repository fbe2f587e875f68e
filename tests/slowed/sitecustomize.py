"""On the path of all processes of a job: publishing a part takes a while longer, so that attacks hit it at work."""

import os
import sys
import time

_S = float(os.environ.get("SLOWED_S", "0"))


def _hook(event: str, args: tuple) -> None:
    if event == "os.link" and "/predictions/" in str(args[1]):
        time.sleep(_S)


if _S:
    sys.addaudithook(_hook)
