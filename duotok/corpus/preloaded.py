"""What the server of worker processes imports (processes.py): all that a worker needs, and then what is there stays as it is.

Garbage collection would write to every object, and so give each worker its own copy of them, and hold up the end of the server.
"""

import gc
import signal
from importlib import import_module

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's to answer; this process ends with it
for name in ("duotok.corpus.launch", "duotok.kernels.nearest_code_cpu"):
    import_module(name)
gc.freeze()
signal.signal(signal.SIGINT, signal.default_int_handler)
