"""Being told by the end of a pipe that whoever holds a login's lock is done."""

import gc
import os
import pickle
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from contract import KEY, a_grant

from loginonce.stores import bell as module
from loginonce.stores import file as file_module
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


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def child(do: Callable[[], object]) -> Iterator[int]:
    """A forked child that does this and then sleeps; it has done it when this begins, and is killed when it ends."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kept = do()  # noqa: F841 - it is held until the end
            os.write(writing, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"x"
        yield pid
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


@linux
class TestThePipe:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        return str(tmp_path / "login.bell")

    @pytest.fixture
    def bell(self, path: str) -> Iterator[Bell]:
        made = Bell(path)
        yield made
        made.close()

    @pytest.fixture
    def ear(self, bell: Bell, path: str) -> Iterator[Ear]:
        with Ear(path) as made:
            yield made

    @pytest.mark.parametrize("how", ["ring", "close"])
    def test_it_wakes_all_who_wait(self, bell: Bell, path: str, how: str) -> None:
        heard: list[bool] = []

        def wait(ear: Ear) -> None:
            with ear:
                heard.append(ear.wait(LONG))

        waiting = [threading.Thread(target=wait, args=[Ear(path)]) for _ in range(8)]
        for thread in waiting:
            thread.start()
        getattr(bell, how)()
        for thread in waiting:
            thread.join(LONG / 2)
        assert heard == [True] * 8

    def test_until_then_it_is_silent(self, ear: Ear) -> None:
        assert seconds(lambda: ear.wait(0.05)) >= 0.05
        assert not ear.wait(0.0)

    def test_who_came_before_it_rang_and_waits_after_it_is_told(self, bell: Bell, ear: Ear) -> None:
        bell.ring()
        assert ear.wait(0.0)
        assert ear.wait(0.0)

    def test_who_comes_after_it_rang_is_told_the_next_time(self, bell: Bell, path: str) -> None:
        bell.ring()
        with Ear(path) as later:
            assert not later.wait(0.05)
            bell.ring()
            assert later.wait(0.0)

    def test_one_that_is_hidden_is_found_by_nobody_else_and_rings_no_more(
        self, bell: Bell, ear: Ear, path: str
    ) -> None:
        bell.hide()
        with pytest.raises(FileNotFoundError):
            Ear(path)
        following = Bell(path)
        bell.ring()
        bell.hide()  # which is the other's by now
        assert not ear.wait(0.0)
        bell.close()
        bell.ring()
        assert ear.wait(0.0)
        with Ear(path) as another:
            assert not another.wait(0.0)
        following.close()

    def test_only_its_owner_can_open_it(self, bell: Bell, path: str) -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert not os.get_inheritable(bell._descriptor)

    def test_it_rings_when_its_holder_is_killed(self, path: str) -> None:
        with child(lambda: Bell(path)) as holder:
            with Ear(path) as ear:
                assert not ear.wait(0.05)
                os.kill(holder, signal.SIGKILL)
                assert ear.wait(LONG)
            with pytest.raises(OSError, match="nobody holds"):  # and nobody waits at what is left
                Ear(path)
            with Bell(path), Ear(path) as ear:
                assert not ear.wait(0.0)

    def test_a_child_that_is_forked_meanwhile_does_not_keep_it_silent(self, bell: Bell, ear: Ear) -> None:
        with child(lambda: None):
            bell.close()
            assert ear.wait(LONG)

    def test_a_child_does_not_take_it_away(self, bell: Bell, ear: Ear, path: str) -> None:
        def all_of_it() -> None:
            bell.ring()
            bell.hide()
            bell.close()
            bell.ring()

        ringing, forked = threading.Event(), threading.Event()

        def take_a_turn() -> None:  # which no thread of the child will ever end
            with bell._turn:
                ringing.set()
                forked.wait(LONG)

        turn = threading.Thread(target=take_a_turn)
        turn.start()
        ringing.wait(LONG)
        with child(all_of_it):
            forked.set()
            turn.join()
            assert not ear.wait(0.0)
            Ear(path).close()

    def test_a_child_keeps_no_end(self, bell: Bell, ear: Ear, path: str) -> None:
        held = [bell._descriptor, ear._descriptor]
        with child(lambda: [pytest.raises(OSError, os.fstat, descriptor) for descriptor in held]):
            assert all(os.fstat(descriptor) for descriptor in held)
        for _ in range(2):  # the second time somebody else may have those numbers
            module._let_go()
            assert bell._descriptor == ear._descriptor == -1
        bell.ring()
        bell.hide()
        assert os.path.exists(path)

    def test_nothing_stays_open(self, path: str) -> None:
        gc.collect()
        before = descriptors()
        for _ in range(3):
            bell, ear = Bell(path), Ear(path)
            bell.ring()
            ear.close()
            ear.close()
            bell.close()
            bell.close()
            dropped = Bell(path), Ear(path)
            del dropped
            with pytest.raises(OSError, match="nobody holds"):
                Ear(path)
        assert descriptors() <= before  # what others have dropped may be closed meanwhile

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
        gc.collect()
        before = descriptors()
        for make in (Bell, Ear):
            with pytest.raises(OSError):  # noqa: PT011 - each says it in its own words
                make(path)
        assert os.path.lexists(path)
        assert descriptors() <= before

    def test_where_it_cannot_be_hung_again_it_has_rung_all_the_same(
        self, bell: Bell, ear: Ear, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "mkfifo", forbidden)
        bell.ring()
        assert ear.wait(0.0)
        bell.ring()
        bell.hide()
        assert not os.path.exists(path)


def forbidden(*_: object) -> None:
    raise PermissionError("no special files here")


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
    def lookout(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Lookout:
        """Who hears, or is late."""
        monkeypatch.setattr(file_module, "GLANCE", LONG)
        return FileStore(folder).lookout(KEY)

    def changed(self, store: FileStore, *, reserve: bool = False) -> None:
        grant = store.load(KEY).grant
        order = (1, 0, 0) if grant is None else (1, grant.order[1] + 1, 0)
        store.commit(a_grant(order=order), expected=grant.order if grant else None, reserve=reserve)

    def while_waiting(self, lookout: Lookout, stamp: object, do: Callable[[], object]) -> tuple[bool, float]:
        """Do this while it waits: what that gave, and the seconds that it took."""
        doing = threading.Timer(0.05, do)
        doing.start()
        began = time.monotonic()
        changed = lookout.wait(stamp, LONG)  # type: ignore[arg-type]
        took = time.monotonic() - began
        doing.join()
        return changed, took

    def pipes(self, folder: Path) -> list[str]:
        return [path.name for path in folder.iterdir() if path.is_fifo()]

    @linux
    def test_an_answer_wakes_before_the_lock_is_released(
        self, holder: FileStore, hold: Hold, lookout: Lookout, folder: Path
    ) -> None:
        changed, took = self.while_waiting(lookout, holder.stamp(KEY), lambda: self.changed(holder))
        assert changed
        assert took < LONG / 2
        assert holder.try_lock(KEY) is None
        hold.release()
        assert self.pipes(folder) == []

    @linux
    def test_a_marker_wakes_nobody(self, holder: FileStore, hold: Hold, lookout: Lookout) -> None:
        stamp = holder.stamp(KEY)
        marking = threading.Timer(0.05, lambda: self.changed(holder, reserve=True))
        marking.start()
        began = time.monotonic()
        lookout.wait(stamp, 0.3)
        assert time.monotonic() - began >= 0.3
        marking.join()
        assert lookout.wait(stamp, 0.0)  # at the end of a wait it is told

    @linux
    def test_a_change_by_somebody_else_is_seen_at_a_glance(
        self, holder: FileStore, hold: Hold, lookout: Lookout, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(file_module, "GLANCE", 0.1)
        somebody = FileStore(folder)
        changed, took = self.while_waiting(lookout, holder.stamp(KEY), lambda: self.changed(somebody))
        assert changed
        assert took < LONG / 2

    @linux
    def test_who_gives_up_wakes_those_who_can_try_then(
        self, holder: FileStore, hold: Hold, lookout: Lookout, folder: Path
    ) -> None:
        changed, took = self.while_waiting(lookout, holder.stamp(KEY), hold.release)
        assert not changed
        assert took < LONG / 2
        assert not holder.locked(KEY)
        assert self.pipes(folder) == []

    @linux
    def test_who_is_killed_wakes_those_who_can_try_then(self, holder: FileStore, lookout: Lookout) -> None:
        with child(lambda: holder.try_lock(KEY)) as killed:
            assert holder.locked(KEY)
            killing = threading.Timer(0.05, lambda: os.kill(killed, signal.SIGKILL))
            killing.start()
            began, hold = time.monotonic(), None
            while hold is None:  # the kernel frees the lock in a moment after it has ended the pipe
                assert not lookout.wait(holder.stamp(KEY), LONG)
                hold = holder.try_lock(KEY)
            assert time.monotonic() - began < LONG / 2
            hold.release()
            killing.join()

    @linux
    def test_who_was_woken_by_an_answer_to_somebody_else_is_told_when_the_lock_is_free(
        self, holder: FileStore, hold: Hold, lookout: Lookout
    ) -> None:
        self.while_waiting(lookout, holder.stamp(KEY), lambda: self.changed(holder))
        changed, took = self.while_waiting(lookout, holder.stamp(KEY), hold.release)
        assert not changed
        assert took < LONG / 2

    @linux
    def test_a_release_that_comes_late_does_not_end_the_next_hold(self, holder: FileStore, lookout: Lookout) -> None:
        first = holder.try_lock(KEY)
        assert first is not None
        first.release()
        second = holder.try_lock(KEY)
        assert second is not None
        first.release()
        assert seconds(lambda: lookout.wait(holder.stamp(KEY), 0.05)) >= 0.05
        assert holder.locked(KEY)
        changed, took = self.while_waiting(lookout, holder.stamp(KEY), second.release)
        assert not changed
        assert took < LONG / 2

    @linux
    def test_a_lock_that_is_dropped_is_released_and_heard(
        self, folder: Path, holder: FileStore, lookout: Lookout
    ) -> None:
        dropped = [holder.try_lock(KEY)]
        changed, took = self.while_waiting(lookout, holder.stamp(KEY), dropped.clear)
        assert not changed
        assert took < LONG / 2
        assert not holder.locked(KEY)
        assert self.pipes(folder) == []

    @linux
    def test_a_child_that_drops_its_copy_takes_nothing_from_its_parent(
        self, holder: FileStore, lookout: Lookout, folder: Path
    ) -> None:
        kept = [holder.try_lock(KEY)]
        with child(kept.clear):
            assert holder.locked(KEY)
            assert len(self.pipes(folder)) == 1
            assert seconds(lambda: lookout.wait(holder.stamp(KEY), 0.05)) >= 0.05
            assert kept[0] is not None
            changed, took = self.while_waiting(lookout, holder.stamp(KEY), kept[0].release)
        assert took < LONG / 2

    @linux
    def test_one_lookout_hears_one_holder_after_the_other(self, holder: FileStore, lookout: Lookout) -> None:
        for _ in range(3):
            hold = holder.try_lock(KEY)
            assert hold is not None
            changed, took = self.while_waiting(lookout, holder.stamp(KEY), lambda: self.changed(holder))
            assert changed
            assert took < LONG / 2
            hold.release()

    @linux
    def test_a_store_that_is_pickled_while_it_holds_a_lock_has_none_elsewhere(
        self, holder: FileStore, hold: Hold, lookout: Lookout
    ) -> None:
        elsewhere = pickle.loads(pickle.dumps(holder))
        self.changed(elsewhere)  # which rings nothing
        assert seconds(lambda: lookout.wait(holder.stamp(KEY), 0.05)) >= 0.05
        changed, _ = self.while_waiting(lookout, holder.stamp(KEY), lambda: self.changed(holder))
        assert changed

    def test_where_nobody_has_the_lock_nobody_is_waited_for(self, holder: FileStore, lookout: Lookout) -> None:
        stamp = holder.stamp(KEY)
        assert seconds(lambda: lookout.wait(stamp, LONG)) < LONG / 2
        self.changed(holder)
        assert lookout.wait(stamp, LONG)

    @linux
    def test_a_strict_lock_is_waited_for_without_looking_at_it(self, folder: Path) -> None:
        store = FileStore(folder, lock="strict")
        lookout = store.lookout(KEY)
        assert seconds(lambda: lookout.wait(store.stamp(KEY), 0.05)) >= 0.05
        hold = store.try_lock(KEY)
        assert hold is not None
        for act in (lambda: self.changed(store), hold.release):
            _, took = self.while_waiting(lookout, store.stamp(KEY), act)
            assert took < LONG / 2

    @linux
    def test_a_folder_in_which_there_can_be_no_pipe_is_locked_all_the_same(
        self, holder: FileStore, lookout: Lookout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "mkfifo", forbidden)
        hold = holder.try_lock(KEY)
        assert hold is not None
        assert holder.locked(KEY)
        changed, took = self.while_waiting(lookout, holder.stamp(KEY), lambda: self.changed(holder))
        assert changed
        assert took < LONG / 2
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

    def test_a_folder_that_is_gone_tells_nobody(self, folder: Path) -> None:
        folder.rmdir()
        assert type(FileStore(folder).lookout(KEY)) is Lookout

    @linux
    def test_a_store_on_a_disk_of_this_machine_tells(self, lookout: Lookout) -> None:
        assert type(lookout) is _Listener
