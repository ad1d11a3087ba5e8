"""Workers fork from a process that has imported what they need, and in which nothing runs."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import pytest

IN_WORKER = """
import os, sys, threading
import torch
preloaded = "duotok.corpus.preloaded" in sys.modules
quiet = threading.active_count() == 1 and not torch.cuda.is_initialized() and len(os.listdir("/proc/self/task")) == 1
os._exit(40 + preloaded + 2 * quiet)
"""
IN_PARENT = f"""
import sys
from duotok.corpus import processes
processes.begin()
assert "torch" not in sys.modules
worker = processes.context().Process(target=exec, args=({IN_WORKER!r},))
worker.start()
worker.join()
sys.exit(worker.exitcode)
"""


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs a system that forks")
def test_a_worker_finds_its_imports_and_no_threads():
    done = subprocess.run([sys.executable, "-c", IN_PARENT], capture_output=True, text=True)
    assert done.returncode == 43, done.stderr
