"""How the threads of vLLM's engine share the interpreter.

One thread takes requests in: it decodes them and hashes their prompts, a millisecond for 5,000 tokens. Another one
schedules, and with one GPU launches the model, which lets go of the interpreter in each of a thousand operations and
must get it back. By default Python's threads give it up after 5 ms. So while a burst comes faster than the first thread
takes it in, an operation may take 5 ms or more, and the device has little to do until all of the burst is there.

Where the model is launched by another process, the interpreter is left as it is: there was nothing to gain.
"""

import sys

SWITCH_INTERVAL_S = 50e-6
"""Shorter ones gain little: it takes as long to wake a thread."""


def share_fairly() -> None:
    """Let this process's threads give the interpreter up after `SWITCH_INTERVAL_S`, if they do not already."""
    sys.setswitchinterval(min(SWITCH_INTERVAL_S, sys.getswitchinterval()))
