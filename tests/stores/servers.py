"""Real database servers of Debian, started by a test as an unprivileged user, in a folder of their own."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa

PASSWORD = "pw_canary_9c41e7"
PATIENCE = 40.0  # seconds for a server to come up, or to end


def needs(reason: str) -> NoReturn:
    """This machine lacks what a real server needs: skip, or fail where a skip would go unseen."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    """The path of a server's program, installed by apt where it is missing and we may."""
    for again in (True, False):
        places = [os.environ.get("PATH", ""), "/usr/sbin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))]
        if (found := shutil.which(name, path=os.pathsep.join(reversed(places)))) is not None:
            return found
        if not again or os.geteuid() != 0 or shutil.which("apt-get") is None:
            break
        # RUNLEVEL: the package's own service is not started.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
        for command in (install, ["apt-get", "update", "-q"], install):
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if shutil.which(name, path=os.pathsep.join(places)) is not None:
                break
    needs(f"there is no {name} here, and it cannot be installed (package {package})")


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def unprivileged() -> dict[str, Any]:
    """Servers refuse to be root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


class Server:
    """A server at a port of this machine; `address` is what a store is opened by, `admin` looks in by itself."""

    def __init__(self, scheme: str, user: str, folder: Path, command: Callable[[int], list[str]], **popen: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"{scheme}://{user}:{PASSWORD}@127.0.0.1:{self.port}/logins"
        self._command, self._popen = command, popen
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, ready: Callable[[], object]) -> None:
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command(self.port), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                **unprivileged(), **self._popen,
            )  # fmt: skip
        self._ready = ready
        until = time.monotonic() + PATIENCE
        while True:
            try:
                ready()
                return
            except Exception:
                if time.monotonic() > until or self._process.poll() is not None:
                    pytest.fail(f"{self.address.partition(':')[0]} did not start:\n{(self.folder / 'log').read_text()}")
                time.sleep(0.05)

    def stop(self, sign: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast, as an administrator does.  SIGKILL: a crash (the children of PostgreSQL see it end)."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(sign)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def restart(self, sign: signal.Signals = signal.SIGINT) -> None:
        self.stop(sign)
        self.start(self._ready)

    def signal(self, sign: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sign)

    def sql(self, statement: str, **values: Any) -> list[Any]:
        return sql(self.address, statement, **values)

    def empty(self) -> None:
        try:
            for table in ("loginonce_logins", "loginonce_waits"):
                self.sql(f"DELETE FROM {table}")
        except sa.exc.DBAPIError:
            pass  # there is none yet

    def drop(self) -> None:
        for table in ("loginonce_logins", "loginonce_waits", "loginonce_schema", "loginonce_old"):
            self.sql(f"DROP TABLE IF EXISTS {table}")


def sql(address: str, statement: str, **values: Any) -> list[Any]:
    """What an administrator sees or does, on a connection of its own."""
    engine = sa.create_engine(address, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement), values)
        return list(result) if result.returns_rows else []


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix=f"loginonce-{name}-"))
    if os.geteuid() == 0:
        shutil.chown(made, "nobody", "nogroup")
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def postgresql(listen: str = "127.0.0.1") -> Iterator[Server]:
    """PostgreSQL with the user `ada` and the database `logins`."""
    postgres, initdb = (program(name, "postgresql") for name in ("postgres", "initdb"))
    with _folder("postgresql") as folder:
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        made = subprocess.run(
            [initdb, "-D", folder / "data", "-U", "ada", "-A", "scram-sha-256", "--pwfile", folder / "password",
             "--no-sync", "-E", "UTF8", "--locale=C"],
            stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, cwd=folder, **unprivileged(),
        )  # fmt: skip
        if made.returncode != 0:
            needs(f"initdb: {made.stderr}")
        with open(folder / "data" / "pg_hba.conf", "a") as rules:
            rules.write("host all all 10.0.0.0/8 scram-sha-256\n")
        server = Server(
            "postgresql+psycopg", "ada", folder,
            lambda port: [postgres, "-D", str(folder / "data"), "-p", str(port), "-k", str(folder),
                          "-c", f"listen_addresses={listen}", "-c", "max_connections=80", "-c", "shared_buffers=16MB"],
        )  # fmt: skip
        with ExitStack() as after:
            after.callback(server.stop)
            server.start(lambda: sql(server.address.replace("/logins", "/postgres"), "SELECT 1"))
            engine = sa.create_engine(
                server.address.replace("/logins", "/postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
            )
            with engine.connect() as connection:
                connection.exec_driver_sql("CREATE DATABASE logins")
            yield server


@contextmanager
def standby(port: int) -> Iterator[Server]:
    """Another PostgreSQL that follows the one at that port, asynchronously."""
    postgres, backup = program("postgres", "postgresql"), program("pg_basebackup", "postgresql-client")
    with _folder("standby") as folder:
        made = subprocess.run(
            [backup, "-h", "127.0.0.1", "-p", str(port), "-U", "ada", "-D", folder / "data", "--write-recovery-conf",
             "--wal-method=stream", "--checkpoint=fast", "--no-sync"],
            env={**os.environ, "PGPASSWORD": PASSWORD}, stdin=subprocess.DEVNULL, capture_output=True, check=False,
            text=True, cwd=folder, **unprivileged(),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        server = Server(
            "postgresql+psycopg", "ada", folder,
            lambda port: [postgres, "-D", str(folder / "data"), "-p", str(port), "-k", str(folder),
                          "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=80", "-c", "shared_buffers=16MB"],
        )  # fmt: skip
        with ExitStack() as after:
            after.callback(server.stop)
            server.start(lambda: sql(server.address, "SELECT 1"))
            yield server


@contextmanager
def mariadb() -> Iterator[Server]:
    """MariaDB with the user `ada` and the database `logins`."""
    mariadbd, install = (program(name, "mariadb-server-core") for name in ("mariadbd", "mariadb-install-db"))
    program("my_print_defaults", "mariadb-client-core")  # which that calls
    with _folder("mariadb") as folder:
        made = subprocess.run(
            [install, "--no-defaults", f"--datadir={folder / 'data'}", "--auth-root-authentication-method=normal",
             "--skip-test-db", "--force", *(["--user=nobody"] if os.geteuid() == 0 else [])],
            stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, cwd=folder,
        )  # fmt: skip
        if made.returncode != 0:
            needs(f"mariadb-install-db: {made.stderr}{made.stdout}")
        first = folder / "first.sql"
        first.write_text(
            "CREATE DATABASE IF NOT EXISTS logins;\n"
            f"CREATE USER IF NOT EXISTS ada@'%' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON logins.* TO ada@'%';\n"
        )
        server = Server(
            "mysql+pymysql", "ada", folder,
            lambda port: [mariadbd, "--no-defaults", f"--datadir={folder / 'data'}", f"--port={port}",
                          f"--socket={folder / 's'}", f"--pid-file={folder / 'pid'}", "--bind-address=127.0.0.1",
                          "--skip-name-resolve", f"--init-file={first}", "--innodb-buffer-pool-size=16M",
                          "--max-connections=150"],
        )  # fmt: skip
        with ExitStack() as after:
            after.callback(server.stop, signal.SIGTERM)
            server.start(lambda: sql(server.address, "SELECT 1"))
            yield server


@contextmanager
def pgbouncer(behind: Server) -> Iterator[Server]:
    """pgbouncer in transaction mode, with two connections to the server for all who come."""
    bouncer = program("pgbouncer", "pgbouncer")
    with _folder("pgbouncer") as folder:
        (folder / "users").write_text(f'"ada" "{PASSWORD}"\n')
        (folder / "users").chmod(0o644)
        server = Server("postgresql+psycopg", "ada", folder, lambda port: [bouncer, str(folder / "ini")])
        (folder / "ini").write_text(
            f"[databases]\nlogins = host=127.0.0.1 port={behind.port} dbname=logins\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {server.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {folder / 'users'}\npool_mode = transaction\n"
            "default_pool_size = 2\nmax_client_conn = 200\n"
        )
        with ExitStack() as after:
            after.callback(server.stop)
            server.start(lambda: sql(server.address, "SELECT 1"))
            yield server


class Wire:
    """A TCP proxy before a server; `to` is where new connections go.  `cut` ends all connections that go by it, in
    the middle of whatever they do; `cut_at` does so before, or after, what the client says next that holds these bytes
    has reached the server."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", here: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.to = (host, port)
        self._listener = socket.create_server(here)
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._needle, self._deliver = b"", False
        self.cuts = 0
        self.silent = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, needle: bytes, *, deliver: bool) -> None:
        self._deliver, self._needle = deliver, needle

    def cut(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or whoever waits in `accept` would let one more in
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.to)
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            while True:
                for end in select.select([client, server], [], [])[0]:
                    said = end.recv(1 << 16)
                    if not said:
                        return
                    if self.silent:
                        continue
                    if end is client and self._needle and self._needle in said:
                        self._needle = b""
                        self.cuts += 1
                        if self._deliver:
                            server.sendall(said)
                            server.recv(1 << 16)  # it has been done
                        return
                    (server if end is client else client).sendall(said)
