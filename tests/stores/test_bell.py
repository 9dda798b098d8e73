"""Being told by the end of a pipe that whoever holds a login's lock is done."""

import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from contract import KEY, a_grant

from loginonce.stores import bell as module
from loginonce.stores.base import Hold, Lookout
from loginonce.stores.bell import Bell, Ear
from loginonce.stores.file import FileStore, _Listener

LONG = 20.0
"""Seconds that nobody waits who is told."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere who waits looks now and then")


def seconds(wait: Callable[[], object]) -> float:
    began = time.monotonic()
    wait()
    return time.monotonic() - began


@linux
class TestThePipe:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        return str(tmp_path / "login.bell")

    @pytest.fixture
    def bell(self, path: str) -> Iterator[Bell]:
        made = Bell(path)
        yield made
        made.ring()

    @pytest.fixture
    def ear(self, bell: Bell, path: str) -> Iterator[Ear]:
        made = Ear(path)
        yield made
        made.close()

    def test_it_wakes_all_who_wait(self, bell: Bell, path: str) -> None:
        heard: list[bool] = []

        def wait(ear: Ear) -> None:
            heard.append(ear.wait(LONG))
            ear.close()

        waiting = [threading.Thread(target=wait, args=[Ear(path)]) for _ in range(8)]
        for thread in waiting:
            thread.start()
        bell.hide()
        bell.ring()
        for thread in waiting:
            thread.join(LONG / 2)
        assert heard == [True] * 8

    def test_until_then_it_is_silent(self, ear: Ear) -> None:
        assert seconds(lambda: ear.wait(0.05)) >= 0.05
        assert not ear.wait(0.0)

    def test_who_came_before_it_rang_and_waits_after_it_is_told(self, bell: Bell, ear: Ear) -> None:
        bell.ring()
        assert ear.wait(0.0)

    def test_one_that_is_hidden_is_found_by_nobody_else(self, bell: Bell, ear: Ear, path: str) -> None:
        bell.hide()
        with pytest.raises(FileNotFoundError):
            Ear(path)
        following = Bell(path)
        assert not ear.wait(0.0)
        bell.ring()
        bell.hide()  # which is the other's by now
        assert ear.wait(0.0)
        Ear(path).close()
        following.ring()

    def test_only_its_owner_can_open_it(self, bell: Bell, path: str) -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert not os.get_inheritable(bell._descriptor)

    def test_it_rings_when_its_holder_is_killed(self, path: str) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            held = Bell(path)
            os.write(writing, b"held")
            while held:
                time.sleep(1)
        try:
            os.read(reading, 4)
            ear = Ear(path)
            assert not ear.wait(0.05)
            os.kill(child, signal.SIGKILL)
            assert ear.wait(LONG)
            ear.close()
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            os.close(writing)

    def test_what_a_killed_holder_leaves_is_silent_until_the_next_one_rings_it(self, path: str) -> None:
        os.mkfifo(path, 0o600)
        ear = Ear(path)
        assert not ear.wait(0.05)
        following = Bell(path)
        assert not ear.wait(0.05)
        following.ring()
        assert ear.wait(0.0)
        ear.close()

    def test_a_child_that_is_forked_meanwhile_does_not_keep_it_silent(self, bell: Bell, ear: Ear) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent is done
            os._exit(0)
        bell.ring()
        assert ear.wait(0.5)
        os.close(writing)
        os.close(reading)
        assert os.waitpid(child, 0)[1] == 0

    def test_a_child_does_not_take_it_away(self, bell: Bell, path: str) -> None:
        child = os.fork()
        if child == 0:
            bell.hide()
            bell.ring()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert os.path.exists(path)

    def test_nothing_stays_open(self, path: str) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            bell, ear = Bell(path), Ear(path)
            ear.close()
            ear.close()
            bell.ring()
            bell.ring()
            dropped = Bell(path), Ear(path)
            del dropped
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("kind", ["file", "folder", "link"])
    def test_what_is_no_pipe_is_no_bell_and_stays(self, path: str, tmp_path: Path, kind: str) -> None:
        match kind:
            case "file":
                Path(path).write_text("x")
            case "folder":
                os.mkdir(path)
            case _:
                os.mkfifo(tmp_path / "elsewhere", 0o600)
                os.symlink("elsewhere", path)
        before = len(os.listdir("/proc/self/fd"))
        for make in (Bell, Ear):
            with pytest.raises(OSError):  # noqa: PT011 - each says it in its own words
                make(path)
        assert os.path.lexists(path)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_what_is_forgotten_in_a_child_is_closed_once(self, bell: Bell) -> None:
        descriptor = bell._descriptor
        module._let_go()
        with pytest.raises(OSError, match="file descriptor"):
            os.fstat(descriptor)
        module._let_go()  # somebody else may have that number by now
        assert bell._descriptor == -1


class TestAStore:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        made = tmp_path / "logins"
        made.mkdir(mode=0o700)
        return made

    @pytest.fixture
    def holder(self, folder: Path) -> FileStore:
        """The store as another process has it."""
        return FileStore(folder)

    @pytest.fixture
    def hold(self, holder: FileStore) -> Iterator[Hold]:
        taken = holder.try_lock(KEY)
        assert taken is not None
        yield taken
        taken.release()

    @pytest.fixture
    def lookout(self, folder: Path) -> Iterator[Lookout]:
        made = FileStore(folder).lookout(KEY)
        yield made
        made.close()

    def changed(self, holder: FileStore, *, reserve: bool = False) -> None:
        grant = holder.load(KEY).grant
        order = (1, 0, 0) if grant is None else (1, grant.order[1] + 1, 0)
        holder.commit(a_grant(order=order), expected=grant.order if grant else None, reserve=reserve)

    def pipes(self, folder: Path) -> list[str]:
        return [path.name for path in folder.iterdir() if path.is_fifo()]

    @linux
    def test_an_answer_wakes_before_the_lock_is_released(
        self, holder: FileStore, hold: Hold, lookout: Lookout, folder: Path
    ) -> None:
        stamp = holder.stamp(KEY)
        answering = threading.Timer(0.05, self.changed, [holder])
        answering.start()
        began = time.monotonic()
        assert lookout.wait(stamp, LONG)
        assert time.monotonic() - began < LONG / 2
        answering.join()
        assert self.pipes(folder) == []
        assert holder.try_lock(KEY) is None

    @linux
    def test_a_marker_wakes_nobody(self, holder: FileStore, hold: Hold, lookout: Lookout) -> None:
        stamp = holder.stamp(KEY)
        self.changed(holder, reserve=True)
        began = time.monotonic()
        assert lookout.wait(stamp, 0.1)  # though at the end of the wait it is told
        assert time.monotonic() - began >= 0.1

    @linux
    def test_who_gives_up_wakes_those_who_can_try_then(
        self, holder: FileStore, hold: Hold, lookout: Lookout, folder: Path
    ) -> None:
        releasing = threading.Timer(0.05, hold.release)
        releasing.start()
        began = time.monotonic()
        assert not lookout.wait(holder.stamp(KEY), LONG)
        assert time.monotonic() - began < LONG / 2
        assert not holder.locked(KEY)
        assert self.pipes(folder) == []
        releasing.join()

    @linux
    def test_who_was_woken_by_an_answer_to_somebody_else_can_try_once_the_lock_is_free(
        self, holder: FileStore, hold: Hold, lookout: Lookout
    ) -> None:
        assert not lookout.wait(holder.stamp(KEY), 0.01)
        self.changed(holder)
        lookout.wait(holder.stamp(KEY), 0.0)
        stamp = holder.stamp(KEY)
        assert not lookout.wait(stamp, 0.05)
        releasing = threading.Timer(0.05, hold.release)
        releasing.start()
        assert seconds(lambda: lookout.wait(stamp, LONG)) < LONG / 2
        releasing.join()
        assert seconds(lambda: lookout.wait(stamp, 0.05)) >= 0.05  # once: nobody is at it, so nothing will come soon

    @linux
    def test_a_release_that_comes_late_does_not_end_the_next_hold(self, holder: FileStore, lookout: Lookout) -> None:
        first = holder.try_lock(KEY)
        assert first is not None
        first.release()
        second = holder.try_lock(KEY)
        first.release()
        assert not lookout.wait(holder.stamp(KEY), 0.05)
        assert holder.locked(KEY)
        assert second is not None
        second.release()
        assert not holder.locked(KEY)

    @linux
    def test_a_lock_that_is_dropped_is_released_and_heard(self, folder: Path, holder: FileStore) -> None:
        dropped = holder.try_lock(KEY)
        lookout = holder.lookout(KEY)
        del dropped
        assert not holder.locked(KEY)
        assert self.pipes(folder) == []
        lookout.close()

    @linux
    def test_one_lookout_hears_one_holder_after_the_other(self, holder: FileStore, lookout: Lookout) -> None:
        for _ in range(3):
            hold = holder.try_lock(KEY)
            assert hold is not None
            stamp = holder.stamp(KEY)
            assert not lookout.wait(stamp, 0.01)
            self.changed(holder)
            hold.release()
            assert seconds(lambda stamp=stamp: lookout.wait(stamp, LONG)) < LONG / 2

    def test_where_nobody_has_the_lock_a_change_is_seen_as_well(self, holder: FileStore, lookout: Lookout) -> None:
        stamp = holder.stamp(KEY)
        assert not lookout.wait(stamp, 0.02)
        changing = threading.Timer(0.05, self.changed, [holder])
        changing.start()
        assert lookout.wait(stamp, LONG)
        changing.join()

    @linux
    def test_a_folder_in_which_there_can_be_no_pipe_is_locked_all_the_same(
        self, holder: FileStore, lookout: Lookout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def mkfifo(*_: object) -> None:
            raise PermissionError("no special files here")

        monkeypatch.setattr(os, "mkfifo", mkfifo)
        hold = holder.try_lock(KEY)
        assert hold is not None
        assert holder.locked(KEY)
        stamp = holder.stamp(KEY)
        self.changed(holder)
        assert lookout.wait(stamp, LONG)
        hold.release()
        assert not holder.locked(KEY)

    @pytest.mark.parametrize("missing", ["linux", "poll"])
    def test_where_it_takes_more_than_there_is_a_store_looks_now_and_then(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        if missing == "linux":
            monkeypatch.setattr(sys, "platform", "somewhere else")
        else:
            monkeypatch.delattr(select, "poll")
        store = FileStore(folder)
        assert type(store.lookout(KEY)) is Lookout
        hold = store.try_lock(KEY)
        assert hold is not None
        assert self.pipes(folder) == []
        hold.release()

    def test_a_folder_that_is_gone_is_not_within_earshot(self, folder: Path) -> None:
        folder.rmdir()
        assert type(FileStore(folder).lookout(KEY)) is Lookout

    @linux
    def test_a_store_on_a_disk_of_this_machine_is_told(self, lookout: Lookout) -> None:
        assert type(lookout) is _Listener
