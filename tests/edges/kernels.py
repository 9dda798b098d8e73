"""IPython in this process or a real kernel, and what a notebook would keep of their cells.

Displays are replaced as front ends replace them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel
from traitlets.config import Config

from loginonce.testing import FakeProvider


@dataclass
class Cell:
    """What is below one cell: `outputs` as in nbformat, in their order."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    def html(self) -> str:
        return "\n".join(output["data"].get("text/html", "") for output in self.outputs if "data" in output)

    def plain(self) -> str:
        pieces = [output["data"].get("text/plain", "") for output in self.outputs if "data" in output]
        return "\n".join(pieces + [output["text"] for output in self.outputs if "text" in output])

    @property
    def result(self) -> dict[str, Any] | None:
        return next((output for output in self.outputs if output["output_type"] == "execute_result"), None)

    @property
    def error(self) -> list[str] | None:
        return next((output["traceback"] for output in self.outputs if output["output_type"] == "error"), None)


class _Hook(DisplayHook):
    """What has a result goes below the cell."""

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        self.shell.cell.outputs.append({"output_type": "execute_result", "data": format_dict})


class _Publisher(DisplayPublisher):
    def publish(
        self, data: Any, metadata: Any = None, *, transient: Any = None, update: bool = False, **_: Any
    ) -> None:
        self.shell.put(data, (transient or {}).get("display_id"), update=update)


class Shell(InteractiveShell):
    """IPython as a kernel has it, in this process: cheap, and one cell at a time."""

    def __init__(self, **settings: Any) -> None:
        self.cell = Cell()
        self.updates: list[dict[str, Any]] = []
        self._displays: dict[str, list[dict[str, Any]]] = {}
        config = Config()
        config.HistoryManager.enabled = False
        super().__init__(config=config, displayhook_class=_Hook, display_pub_class=_Publisher, **settings)
        self.allow_stdin = True
        self.kernel = SimpleNamespace(get_parent=lambda: {"content": {"allow_stdin": self.allow_stdin}})

    def put(self, data: dict[str, Any], display_id: str | None, *, update: bool) -> None:
        self.updates.append(data)
        if update:
            for output in self._displays.get(display_id or "", []):
                output["data"] = data
            return
        output = {"output_type": "display_data", "data": data}
        self.cell.outputs.append(output)
        if display_id:
            self._displays.setdefault(display_id, []).append(output)

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        self.cell.outputs.append({"output_type": "error", "traceback": stb})

    def run(self, code: str) -> Cell:
        """Run a cell to its end."""
        self.cell = cell = Cell()
        self.run_cell(code, store_history=True)
        cell.done = True
        return cell


class Kernel:
    """A kernel of its own process.  Outputs are collected on a thread, also those that come late."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="python3")
        self.cells: dict[str, Cell] = {}
        self.messages: list[dict[str, Any]] = []
        self.comms: dict[str, dict[str, Any]] = {}
        self._displays: dict[str, list[dict[str, Any]]] = {}
        self._mutex = threading.Lock()  # an answer may come before its question's number is known
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def begin(self, code: str, *, allow_stdin: bool = True) -> Cell:
        cell = Cell()
        with self._mutex:
            self.cells[self.client.execute(code, allow_stdin=allow_stdin)] = cell
        return cell

    def run(self, code: str, *, allow_stdin: bool = True) -> Cell:
        cell = self.begin(code, allow_stdin=allow_stdin)
        until(lambda: cell.done)
        return cell

    def _listen(self) -> None:
        while not self._ending.is_set():
            try:
                # The client's own method would leave an event loop of this thread behind.
                message = self.client.iopub_channel.get_msg(timeout=0.1)
            except queue.Empty:
                continue
            self.messages.append(message)
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        with self._mutex:
            cell = self.cells.get(message["parent_header"].get("msg_id", ""))
        if kind == "update_display_data":
            for output in self._displays.get(content["transient"]["display_id"], []):
                output["data"] = content["data"]
        elif kind == "comm_open":
            self.comms[content["comm_id"]] = dict(content["data"].get("state", {}))
        elif kind == "comm_msg" and content["data"].get("method") == "update":
            self.comms.setdefault(content["comm_id"], {}).update(content["data"]["state"])
        elif cell is None:
            return
        elif kind in ("display_data", "execute_result"):
            output = {"output_type": kind, "data": content["data"]}
            cell.outputs.append(output)
            if display_id := content.get("transient", {}).get("display_id"):
                self._displays.setdefault(display_id, []).append(output)
        elif kind == "stream":
            cell.outputs.append({"output_type": kind, "text": content["text"]})
        elif kind == "error":
            cell.outputs.append({"output_type": kind, "traceback": content["traceback"]})
        elif kind == "status" and content["execution_state"] == "idle":
            cell.done = True


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def codes(provider: FakeProvider) -> list[str]:
    """From now on, the user codes that the provider hands out."""
    found: list[str] = []
    add = provider.state.add_device_code

    def added(code: Any) -> None:
        add(code)
        found.append(code.user_code)

    provider.state.add_device_code = added  # type: ignore[method-assign]
    return found
