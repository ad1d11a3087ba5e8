"""What the server of worker processes imports (processes.py): all that a worker needs, and then what is there stays as it is.

Garbage collection would write to every object, and so give each worker its own copy of them, and hold up the end of the server.
"""

import gc

import duotok.corpus.launch
import duotok.kernels.nearest_code_cpu  # noqa: F401

gc.freeze()
