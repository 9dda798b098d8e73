"""Run another program of this folder, and write down what it syncs, as `strace -y` would: `counted.py PROGRAM …`."""

import os
import runpy
import sys

fsync = os.fsync


def written_down(descriptor: int) -> None:
    with open(os.environ["BENCHMARK_TRACE"], "a") as trace:
        trace.write(f"fsync({descriptor}<{os.readlink(f'/proc/self/fd/{descriptor}')}>)\n")
    fsync(descriptor)


open(os.environ["BENCHMARK_TRACE"], "w").close()
os.fsync = written_down
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
