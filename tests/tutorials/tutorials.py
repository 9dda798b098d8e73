"""The tutorials, run from top to bottom as nobody watches them.

`python tests/tutorials/tutorials.py` runs them and saves what they show; the suite runs them and saves nothing.
"""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook as it is after a run.  Raises `CellExecutionError` for a cell that fails and is not said to."""
    notebook = nbformat.read(path, as_version=4)
    with _surroundings():
        NotebookClient(
            notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it was run, which would differ in each run
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


@contextmanager
def _surroundings():
    """As in the JupyterLab of somebody who has no login yet, and does not click either."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("LOGINONCE_") or name == "CI"]:
        del os.environ[name]
    os.environ["LOGINONCE_ENVIRONMENT"] = "jupyter"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    chosen = [path for path in PATHS if not sys.argv[1:] or path.name[:2] in sys.argv[1:]]
    for path in chosen:
        print(path.name, flush=True)
        nbformat.write(run(path), path)
