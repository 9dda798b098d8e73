"""The store on a Redis keeps the promise of every store, on a real server: restarted, cut off, full, taken over."""

from __future__ import annotations

import copy
import ipaddress
import multiprocessing
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from contract import CANARY, KEY, StoreContract, a_grant, content
from cryptography import x509
from redis_server import REDIS, VALKEY, Server, Wire, program
from test_memory import in_a_child

from loginonce.errors import ConfigurationError, CorruptStore, StoreError
from loginonce.record import encode
from loginonce.stores import redis as module
from loginonce.stores.base import OrderConflict
from loginonce.stores.file import FileStore
from loginonce.stores.redis import RedisStore

sys.path.insert(0, str(Path(__file__).parents[1] / "services"))
from certificates import Authority  # noqa: E402

pytestmark = pytest.mark.real

PASSWORD = "hush/canary#7?x"
ESCAPED = "hush%2Fcanary%237%3Fx"
OTHER = replace(KEY, account="another")
PATIENCE = 10.0


@pytest.fixture(scope="module", params=[REDIS, VALKEY])
def kind(request: pytest.FixtureRequest) -> str:
    """The program, each in turn."""
    program(request.param)  # or it is not tried
    return request.param


@pytest.fixture(scope="module")
def running(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp(kind), kind=kind)
    yield server
    server.stop()


@pytest.fixture
def server(running: Server) -> Server:
    """The one of this module, emptied."""
    running.client().flushall()
    return running


@pytest.fixture
def own(kind: str, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Make a server of the test's own."""
    servers: list[Server] = []

    def make(**settings: str) -> Server:
        servers.append(Server(tmp_path / f"server{len(servers)}", kind=kind, **settings))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.port) as wire:
        yield wire


@pytest.fixture
def store(server: Server) -> RedisStore:
    made = RedisStore(server.url)
    made.commit(a_grant(), expected=None)
    return made


class TestRedisStore(StoreContract):
    lag = 0.25

    @pytest.fixture
    def store(self, server: Server) -> RedisStore:
        return RedisStore(server.url)

    @pytest.fixture
    def twin(self, store: RedisStore, server: Server) -> RedisStore:
        return RedisStore(server.url)


def record_name(store: RedisStore) -> str:
    return store.location(KEY).partition(" ")[2]


def until(happened: Callable[[], object]) -> None:
    """Wait for it."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < PATIENCE, "it did not happen"
        time.sleep(0.001)


# ── stamps ───────────────────────────────────────────────────────────────────────────────────────────────


def commit_slowly(url: str, times: int) -> None:
    store = RedisStore(url)
    for attempt in range(1, times + 1):
        time.sleep(0.3)
        store.commit(a_grant(order=(1, 0, attempt)), expected=(1, 0, attempt - 1))


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stamp is asked for again when the server tells of a change, and not because it has become too old."""
    monkeypatch.setattr(module, "TRUST", 20 * PATIENCE)


def changes_show(store: RedisStore, url: str) -> None:
    """Five changes by another process do, to who looks all the time."""
    other = multiprocessing.get_context("spawn").Process(target=commit_slowly, args=(url, 5))
    witness = RedisStore(url)
    other.start()
    try:
        for _ in range(5):
            before = store.stamp(KEY)
            while witness.load(KEY).stamp == before:
                store.stamp(KEY)
            until(lambda before=before: store.stamp(KEY) != before)
    finally:
        other.join()


def test_a_change_by_another_process_is_told_of(trusting: None, server: Server, store: RedisStore) -> None:
    changes_show(store, server.url)


def test_where_the_server_does_not_tell_of_changes_it_is_asked(
    trusting: None, server: Server, store: RedisStore
) -> None:
    server.client().execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    poor = RedisStore(server.url.replace("//", "//poor:pw@"))
    assert poor.stamp(KEY) == store.stamp(KEY)
    assert poor._ear._good_for == module.POLL
    changes_show(poor, server.url)


def test_also_where_a_connection_is_dead_without_a_sign(server: Server, store: RedisStore, wire: Wire) -> None:
    far = RedisStore(wire.url + "?timeout=0.5")
    before = far.stamp(KEY)
    wire.silent = True
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    time.sleep(module.TRUST)
    with pytest.raises(StoreError, match=r"did not answer within 0.5 s"):
        far.stamp(KEY)
    wire.silent = False
    time.sleep(module.QUIET)
    assert far.stamp(KEY) == store.stamp(KEY) != before


def test_also_after_the_server_has_closed_the_connections(trusting: None, server: Server, store: RedisStore) -> None:
    before = store.stamp(KEY)
    server.client().client_kill_filter(_type="normal", skipme=True)
    RedisStore(server.url).commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    until(lambda: store.stamp(KEY) != before)
    one_change_shows(server, store)


def one_change_shows(server: Server, store: RedisStore) -> None:
    before, twin = store.stamp(KEY), RedisStore(server.url)
    grant = twin.load(KEY).grant
    assert grant is not None
    twin.commit(replace(grant, attempt=grant.attempt + 1), expected=grant.order)
    until(lambda: store.stamp(KEY) != before)


@pytest.mark.hazard(13)
def test_also_in_a_forked_child_and_in_its_parent_meanwhile(trusting: None, server: Server, store: RedisStore) -> None:
    before = store.stamp(KEY)

    def child() -> bool:
        assert store.stamp(KEY) == before
        one_change_shows(server, store)
        return True

    assert in_a_child(child)
    until(lambda: store.stamp(KEY) != before)
    one_change_shows(server, store)


@pytest.mark.hazard(13)
def test_a_child_that_is_forked_while_a_thread_asks_does_not_hang(store: RedisStore) -> None:
    with store._mutex:  # as another thread of the parent might hold it at that moment
        assert in_a_child(lambda: store.stamp(KEY) is not None and store.load(KEY).grant is not None)


def test_a_change_that_is_told_of_together_with_the_answer_is_not_missed(
    server: Server, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.stamp(KEY)
    ear, twin = store._ear, RedisStore(server.url)
    assert ear is not None
    read = ear._connection.read_response

    def slow(**settings: object) -> object:
        answer = read(**settings)
        if not settings:
            monkeypatch.undo()
            twin.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
            until(ear.news)
        return answer

    monkeypatch.setattr(ear._connection, "read_response", slow)
    time.sleep(module.TRUST)
    old = store.stamp(KEY)
    assert ear.heard == {}
    assert old != twin.stamp(KEY) == store.stamp(KEY)


def test_an_ear_that_another_thread_has_closed_counts_as_one_with_news(store: RedisStore) -> None:
    made, ear = store.stamp(KEY), store._ear
    assert ear is not None
    assert not ear.news()
    ear._selector.close()
    assert ear.news()
    assert store.stamp(KEY) == made


def test_what_a_forked_child_forgets_it_has_anew(server: Server, store: RedisStore) -> None:
    """The hook itself, in this process."""
    made, ear = store.stamp(KEY), store._ear
    module._forget_all()
    assert store.stamp(KEY) == made
    assert store._ear is not ear


def test_all_is_new_for_a_store_whose_records_are_gone(trusting: None, server: Server, store: RedisStore) -> None:
    assert store.stamp(KEY) is not None
    server.client().flushall()
    until(lambda: store.stamp(KEY) is None)
    assert store.load(KEY).grant is None


def test_a_stamp_that_is_remembered_costs_no_command(server: Server, store: RedisStore) -> None:
    admin = server.client()
    store.stamp(KEY)
    store.stamp(OTHER)
    before = admin.info("stats")["total_commands_processed"]
    began, looks = time.monotonic(), 0
    while time.monotonic() - began < 1:
        store.stamp(KEY)
        store.stamp(OTHER)
        looks += 2
    assert looks > 2000
    assert admin.info("stats")["total_commands_processed"] - before < 2 * 2 / module.TRUST


def test_a_stamp_costs_about_what_a_file_s_does(store: RedisStore, tmp_path: Path) -> None:
    files = FileStore(tmp_path / "logins")
    files.commit(a_grant(), expected=None)

    def seconds(one: FileStore | RedisStore) -> float:
        best = 1.0
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(2000):
                one.stamp(KEY)
            best = min(best, time.perf_counter() - began)
        return best

    ratio = seconds(store) / seconds(files)
    print(f"RedisStore.stamp takes {ratio:.2f} times what FileStore.stamp takes")
    assert ratio < 3


def test_threads_that_ask_at_once_agree(server: Server, store: RedisStore) -> None:
    """Also while the connection that all of them use is closed now and then."""
    over, wrong = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            try:
                wrong.extend([] if store.stamp(KEY) is not None else ["gone"])
            except StoreError as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        time.sleep(0.02)
        server.client().client_kill_filter(_type="normal", skipme=True)
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []


# ── commits of which nobody knows what came ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arrives", [True, False])
def test_a_commit_whose_answer_is_lost_is_compared_again_and_done_once(
    server: Server, store: RedisStore, wire: Wire, arrives: bool
) -> None:
    far = RedisStore(wire.url)
    far.load(KEY)
    wire.swallow(b"EVALSHA", before=not arrives)
    made = far.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    assert wire.requests >= 2
    assert made == far.stamp(KEY) == store.load(KEY).stamp
    assert content(store.load(KEY).grant) == a_grant(order=(1, 0, 1))


def test_what_others_have_written_since_the_answer_was_lost_stays(
    server: Server, store: RedisStore, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = RedisStore(wire.url)
    far.load(KEY)
    compare, times = far._compare_and_set, []

    def twice(*arguments: object) -> object:
        times.append(1)
        if len(times) == 2:
            store.commit(a_grant(order=(1, 0, 2)), expected=(1, 0, 1))
        return compare(*arguments)

    monkeypatch.setattr(far, "_compare_and_set", twice)
    wire.swallow(b"EVALSHA")
    with pytest.raises(OrderConflict) as refused:
        far.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    assert content(refused.value.current) == content(store.load(KEY).grant) == a_grant(order=(1, 0, 2))
    assert len(times) == 2


def test_a_commit_in_doubt_is_the_same_one_when_it_is_tried_again(store: RedisStore, wire: Wire) -> None:
    far = RedisStore(wire.url)
    far.load(KEY)
    wire.swallow(b"EVALSHA", times=2)
    with pytest.raises(StoreError, match="cannot be reached"):
        far.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    assert content(store.load(KEY).grant) == a_grant(order=(1, 0, 1))
    assert far.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0)) == store.load(KEY).stamp
    with pytest.raises(OrderConflict):
        far.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))  # a new one


def test_another_commit_than_the_one_in_doubt_is_compared_as_any(store: RedisStore, wire: Wire) -> None:
    far = RedisStore(wire.url)
    far.load(KEY)
    wire.swallow(b"EVALSHA", times=2)
    with pytest.raises(StoreError):
        far.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    with pytest.raises(OrderConflict):
        far.commit(a_grant(order=(1, 0, 1), subject="grace"), expected=(1, 0, 0))


def test_a_server_that_has_forgotten_its_scripts_is_told_them_again(server: Server, store: RedisStore) -> None:
    server.client().script_flush()
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    assert content(store.load(KEY).grant) == a_grant(order=(1, 0, 1))


# ── a server that is away ────────────────────────────────────────────────────────────────────────────────


def everything(store: RedisStore) -> list[Callable[[], object]]:
    return [
        lambda: store.stamp(KEY),
        lambda: store.load(KEY),
        lambda: store.peek(KEY),
        lambda: store.notice(KEY),
        lambda: store.post(KEY, b"x", instead_of=None),
        lambda: store.try_lock(KEY),
        lambda: list(store.grants()),
        lambda: store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0)),
    ]


@pytest.mark.parametrize("how", ["gone", "hung"])
@pytest.mark.hazard(9)
def test_each_call_ends_in_time_and_says_what_to_do(own: Callable[..., Server], how: str) -> None:
    server = own()
    store = RedisStore(server.url + "?timeout=0.3")
    store.commit(a_grant(), expected=None)
    if how == "gone":
        server.stop()
    else:
        server.process.send_signal(19)
    for call in everything(store):
        store._quiet_until = 0.0
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"look whether it runs"):
            call()
        assert time.monotonic() - began < 4 * 0.3 + 1


def test_a_server_that_was_never_there_is_told_of_by_the_first_lock() -> None:
    with pytest.raises(StoreError, match=r"cannot be reached .*; look whether it runs, and at the address"):
        RedisStore("redis://127.0.0.1:1").try_lock(KEY)


def test_who_only_looks_does_not_wait_for_a_hung_server_again_and_again(own: Callable[..., Server]) -> None:
    server = own()
    store = RedisStore(server.url + "?timeout=0.5")
    server.process.send_signal(19)
    with pytest.raises(StoreError):
        store.load(KEY)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreError, match="did not answer"):
            store.load(KEY)
    assert time.monotonic() - began < 0.5
    server.process.send_signal(18)
    until(lambda: not_refused(store))


def not_refused(store: RedisStore) -> bool:
    try:
        store.load(KEY)
    except StoreError:
        return False
    return True


def test_a_server_that_was_restarted_is_used_at_once(own: Callable[..., Server]) -> None:
    server = own()
    store = RedisStore(server.url)
    made = store.commit(a_grant(), expected=None)
    assert store.stamp(KEY) == made
    server.restart()
    assert store.stamp(KEY) == made
    assert content(store.load(KEY).grant) == a_grant()
    store.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    hold = store.try_lock(KEY)
    assert hold is not None
    server.stop()
    hold.release()  # never raises


def test_more_threads_than_connections_wait_their_turn_and_not_for_ever(
    store: RedisStore, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 1)
    small = RedisStore(server.url + "?timeout=0.5")
    with small._client.client() as only:
        only.ping()
        with pytest.raises(StoreError, match="all connections of this process are in use"):
            small.load(KEY)


# ── the lease ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(12)
def test_a_lock_is_a_lease_and_ends_by_itself(server: Server, store: RedisStore) -> None:
    hold = store.try_lock(KEY)
    assert hold is not None
    assert hold.lease
    name = record_name(store).replace("record", "lock")
    assert 0 < server.client().pttl(name) <= 1000 * module.LEASE
    server.client().pexpire(name, 30)
    time.sleep(0.05)
    after = RedisStore(server.url).try_lock(KEY)
    assert after is not None
    hold.release()  # it is no longer its own
    assert store.try_lock(KEY) is None
    after.release()


@pytest.mark.hazard(13)
def test_a_child_does_not_release_what_its_parent_holds(store: RedisStore) -> None:
    hold = store.try_lock(KEY)
    assert hold is not None
    assert in_a_child(lambda: hold.release() is None and store.try_lock(KEY) is None)
    hold.release()


def test_the_keys_of_a_login_are_in_one_slot_of_a_cluster(own: Callable[..., Server]) -> None:
    server = own(cluster_enabled="yes")
    store = RedisStore(server.url)
    names = [store._name(kind, KEY) for kind in ("record", "lock", "notice", "damaged")]
    assert len({server.client().execute_command("CLUSTER", "KEYSLOT", name) for name in names}) == 1
    with pytest.raises(StoreError, match="cluster"):
        store.load(KEY)


# ── a server that is full, or forgets ────────────────────────────────────────────────────────────────────


@pytest.mark.hazard(3)
def test_the_answer_of_a_marked_login_is_saved_on_a_server_that_is_full(own: Callable[..., Server]) -> None:
    server = own(maxmemory_policy="noeviction")
    store = RedisStore(server.url)
    store.commit(a_grant(), expected=None, reserve=True)
    server.client().config_set("maxmemory", "1mb")
    answer = a_grant(order=(1, 1, 0), subject="x" * 6000)
    store.commit(answer, expected=(1, 0, 0))
    assert content(store.load(KEY).grant) == answer
    with pytest.raises(StoreError, match="memory is full"):
        store.commit(a_grant(order=(1, 1, 1)), expected=(1, 1, 0), reserve=True)
    assert content(store.load(KEY).grant) == answer
    with pytest.raises(StoreError, match="memory is full"):
        store.commit(a_grant(OTHER), expected=None)


def warnings(caplog: pytest.LogCaptureFixture, store: RedisStore) -> str:
    caplog.clear()
    for _ in range(2):
        hold = store.try_lock(KEY)
        assert hold is not None
        hold.release()
    return caplog.text


def test_a_server_that_may_lose_logins_is_told_of_once(
    own: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = own(maxmemory_policy="allkeys-lru", appendonly="no")
    text = warnings(caplog, RedisStore(server.url))
    assert text.count("maxmemory-policy allkeys-lru") == 1
    assert text.count("keeps no append-only file") == 1
    assert "in the clear" not in text


def test_a_server_that_keeps_what_it_is_told_is_not_warned_of(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(caplog, RedisStore(server.url)) == ""


def test_a_user_that_may_not_ask_gets_no_warning_and_is_served(
    server: Server, store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    server.client().execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-info")
    assert warnings(caplog, RedisStore(server.url.replace("//", "//blind:pw@"))) == ""


def test_logins_that_travel_in_the_clear_are_told_of(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    assert "logins travel there in the clear" in warnings(caplog, RedisStore(f"redis://127.1:{server.port}/0"))


def test_a_record_counts_as_saved_when_so_many_replicas_have_it(own: Callable[..., Server]) -> None:
    server = own()
    store = RedisStore(server.url + "?wait=1&timeout=1")
    with pytest.raises(StoreError, match="0 of 1 replicas have it"):
        store.commit(a_grant(), expected=None)
    assert content(store.load(KEY).grant) == a_grant()
    replica = own(replicaof=f"127.0.0.1 {server.port}")
    until(lambda: replica.client().info("replication")["master_link_status"] == "up")
    store.commit(a_grant(), expected=None)  # the same one
    assert content(RedisStore(replica.url).load(KEY).grant) == a_grant()
    with pytest.raises(StoreError, match="it is a replica"):
        RedisStore(replica.url).commit(a_grant(OTHER), expected=None)


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_password_of_the_address_is_used_and_shows_nowhere(
    own: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own(requirepass=PASSWORD)
    store = RedisStore(server.url.replace("//", f"//:{ESCAPED}@"))
    store.commit(a_grant(), expected=None)
    store.stamp(KEY)
    shown = [repr(store), store.identity, store.location(KEY), repr(vars(store)), repr(store._client)]
    shown += [repr(pickle.dumps(store)), repr(store.__reduce__())]
    for wrong in ("//", "//:wrong-canary@", f"//ada:{ESCAPED}@"):
        with pytest.raises(StoreError, match="does not accept this user or password") as refused:
            RedisStore(server.url.replace("//", wrong)).load(KEY)
        lines = traceback.TracebackException.from_exception(refused.value, capture_locals=True).format()
        shown += lines if wrong == "//" else [str(refused.value), repr(refused.value)]
    assert not [text for text in shown if "canary" in text]
    # A pickled one takes what is known where it arrives.
    assert copy.copy(store) is copy.deepcopy(store) is store
    arrived = pickle.loads(pickle.dumps(store))
    with pytest.raises(StoreError, match="LOGINONCE_STORE"):
        arrived.load(KEY)
    monkeypatch.setenv("LOGINONCE_STORE", server.url.replace("//", f"//:{ESCAPED}@"))
    assert content(pickle.loads(pickle.dumps(store)).load(KEY).grant) == a_grant()


def test_an_error_of_the_server_that_quotes_what_it_was_sent_is_not_shown(server: Server, store: RedisStore) -> None:
    server.client().execute_command("ACL", "SETUSER", "mute", "on", ">pw", "~*", "&*", "+@all", "-evalsha")
    mute = RedisStore(server.url.replace("//", "//mute:pw@"))
    with pytest.raises(StoreError, match="does not accept this user") as refused:
        mute.commit(a_grant(order=(1, 0, 1)), expected=(1, 0, 0))
    assert CANARY not in str(refused.value)
    with pytest.raises(StoreError, match=r"it refused \(\w+\); .* Redis 6 or later"), store._spoken():
        store._client.execute_command("NONSUCH", CANARY)


def test_the_certificate_of_the_server_is_verified(own: Callable[..., Server], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = {"tls_port": "yes", "tls_auth_clients": "no", "tls_ca_cert_file": authority.ca, "requirepass": PASSWORD}
    for name, address in (("here", "127.0.0.1"), ("elsewhere", "127.0.0.2")):
        certificate, key = authority.issue(name, x509.IPAddress(ipaddress.ip_address(address)))
        server = own(tls_cert_file=certificate, tls_key_file=key, **tls)
        url = f"rediss://:{ESCAPED}@127.0.0.1:{server.port}/0"
        store = RedisStore(f"{url}?ssl_ca_certs={authority.ca}")
        if name == "here":
            store.commit(a_grant(), expected=None)
            assert store.stamp(KEY) == store.load(KEY).stamp
            store = RedisStore(url)  # to which this CA is unknown
        with pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED") as refused:
            store.load(KEY)
        assert "canary" not in str(refused.value)


@pytest.mark.parametrize("setting", ["db=1", "password=x", "ssl_cert_reqs=none", "wait=-1", "wait=x", "timeout=0"])
def test_a_setting_that_means_nothing_is_refused(setting: str) -> None:
    with pytest.raises(ConfigurationError):
        RedisStore(f"redis://localhost/0?{setting}&wait=x" if setting == "password=x" else f"redis://h/0?{setting}")


@pytest.mark.parametrize(
    "address", ["redis://", "redis:host", "http://localhost", "redis://h:port", "redis://h/name", "redis://[::1"]
)
def test_an_address_that_cannot_be_one_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError):
        RedisStore(address)


@pytest.mark.parametrize("prefix", ["", "a{b", "*", "ü"])
def test_a_prefix_that_would_confuse_the_names_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError):
        RedisStore("redis://localhost", prefix=prefix)


def test_the_same_server_has_one_identity_however_it_is_written() -> None:
    assert RedisStore("redis://h").identity == RedisStore("redis://ada:x@H:6379/0?wait=1").identity
    assert RedisStore("redis://[::1]/2").location(KEY).startswith("redis://[::1]:6379/2 loginonce:record:{")
    assert RedisStore("redis://h").identity != RedisStore("redis://h?prefix=lab").identity
    assert RedisStore("redis://h", prefix="lab").identity == RedisStore("redis://h?prefix=lab").identity


# ── records that are not as they should be ───────────────────────────────────────────────────────────────


def test_a_damaged_record_is_set_aside_and_told_of_once(server: Server, store: RedisStore) -> None:
    admin = server.client()
    admin.hset(record_name(store), "data", encode(a_grant())[:-9])
    for _ in range(2):
        with pytest.raises(CorruptStore):
            store.peek(KEY)
    with pytest.raises(CorruptStore, match=r"kept at .* as loginonce:damaged:.*; sign in again"):
        store.load(KEY)
    assert store.load(KEY).grant is None
    assert admin.hget(record_name(store).replace("record", "damaged"), "data") == encode(a_grant())[:-9]
    store.commit(a_grant(), expected=None)


def test_what_is_no_record_at_all_is_set_aside_too(server: Server, store: RedisStore) -> None:
    admin = server.client()
    for expected in (None, (1, 0, 0)):
        admin.set(record_name(store), "x")
        with pytest.raises(CorruptStore):
            store.peek(KEY)
        until(lambda: store.stamp(KEY) == "-")
        if expected is None:
            store.commit(a_grant(), expected=None)
            assert content(store.load(KEY).grant) == a_grant()
        else:
            with pytest.raises(OrderConflict) as refused:
                store.commit(a_grant(order=(1, 0, 1)), expected=expected)
            assert refused.value.current is None


def test_a_record_that_was_mended_meanwhile_is_not_set_aside(
    server: Server, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, good = store._read, store._read(KEY)
    answers = [(b"torn", "x"), good]
    monkeypatch.setattr(store, "_read", lambda key: answers.pop(0))
    assert content(store.load(KEY).grant) == a_grant()
    monkeypatch.setattr(store, "_read", read)
    assert content(store.load(KEY).grant) == a_grant()


def test_a_record_of_another_login_or_of_a_newer_version_is_not_used(server: Server, store: RedisStore) -> None:
    admin = server.client()
    admin.hset(record_name(store), "data", encode(a_grant(OTHER)))
    with pytest.raises(CorruptStore, match="another login"):
        store.peek(KEY)
    admin.hset(record_name(store), "data", encode(a_grant()).replace(b"loginonce 1", b"loginonce 9", 1))
    with pytest.raises(StoreError, match="newer version"):
        store.load(KEY)
    assert admin.exists(record_name(store))


def test_what_cannot_be_read_is_not_listed(server: Server, store: RedisStore) -> None:
    admin = server.client()
    admin.set("loginonce:record:{x}", "x")
    admin.hset("loginonce:record:{y}", "data", "y")
    admin.hset("loginonce:record:{z}", "other", "z")
    RedisStore(server.url, prefix="lab").commit(a_grant(OTHER), expected=None)
    assert [content(grant) for grant in store.grants()] == [a_grant()]


# ── notices ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_notice_is_put_up_replaced_and_taken_down_by_comparison(server: Server, store: RedisStore) -> None:
    twin = RedisStore(server.url)
    assert store.notice(KEY) is None
    assert store.post(KEY, b"one", instead_of=None)
    assert not twin.post(KEY, b"two", instead_of=None)
    assert twin.notice(KEY) == b"one"
    assert twin.post(KEY, b"two", instead_of=b"one")
    assert not store.post(KEY, None, instead_of=b"one")
    assert store.post(KEY, None, instead_of=b"two")
    assert store.notice(KEY) is None
