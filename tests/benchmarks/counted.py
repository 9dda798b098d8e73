"""Run another program of this folder, and write down what it syncs, as `strace -y` would.

python counted.py TRACE PROGRAM …
"""

import os
import runpy
import sys

trace = sys.argv[1]
fsync = os.fsync


def written_down(descriptor: int) -> None:
    with open(trace, "a") as file:
        file.write(f"fsync({descriptor}<{os.readlink(f'/proc/self/fd/{descriptor}')}>)\n")
    fsync(descriptor)


open(trace, "w").close()
os.fsync = written_down
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
