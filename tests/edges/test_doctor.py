"""`loginonce doctor` names what is broken and the step that mends it, on one screen, and changes nothing."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest

import loginonce
from loginonce.cli import commands
from loginonce.cli.report import ROWS, report
from loginonce.doctor import Diagnosis, Finding, examine, place
from loginonce.doctor.contest import NOBODY, Contest, contest
from loginonce.doctor.login import check_sign_in
from loginonce.environment import Environment
from loginonce.home import process_identity
from loginonce.model import Failure, Marker
from loginonce.stores.locks import Ground
from loginonce.stores.opening import open_store
from loginonce.testing import FakeProvider, Fault

PACKAGE = Path(loginonce.__file__).parents[1]
COMMAND = [sys.executable, "-W", "error", "-m", "loginonce.cli", "doctor"]


@pytest.fixture
def home(loginonce_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("LOGINONCE_") and name != "LOGINONCE_HOME"]:
        monkeypatch.delenv(name)
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.endswith("_CA_BUNDLE")]:
        monkeypatch.delenv(name)
    return loginonce_home


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not about the lock does not wait for two processes to start."""
    if "contending" not in request.fixturenames:
        monkeypatch.setattr(place, "contest", lambda address, seconds: Contest(True, 0.001, True))


@pytest.fixture
def contending() -> None:
    """Lets two real processes contend for the lock."""


@pytest.fixture
def provider(fake_provider: FakeProvider) -> FakeProvider:
    return fake_provider


@pytest.fixture
def lab(home: Path, provider: FakeProvider) -> loginonce.Session:
    """A profile, with somebody signed in."""
    save_profile(home, issuer=provider.issuer, client_id=provider.public_client_id)
    session = loginonce.Session("lab")
    session.login(tokens=provider.issue())
    return session


@pytest.fixture
def doctor(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Finding], str]]:
    """Runs the command; gives its exit code, its findings by name, and all that it printed."""

    def doctor(*arguments: str) -> tuple[int, dict[str, Finding], str]:
        code = commands.run(["doctor", *arguments, "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        told = json.loads(out)
        assert told["exit_code"] == code
        findings = {check["name"]: Finding(**check) for check in told["checks"]}
        assert len(findings) == len(told["checks"])
        assert commands.run(["doctor", *arguments]) == code
        text, err = capsys.readouterr()
        assert err == ""
        assert len(text.splitlines()) <= ROWS
        return code, findings, out + text

    return doctor


def save_profile(home: Path, name: str = "lab", **members: str) -> None:
    with (home / "config.toml").open("a") as file:
        file.write(f"[profiles.{name}]\n" + "".join(f"{key} = '{value}'\n" for key, value in members.items()))


def record_of(session: loginonce.Session) -> Path:
    return Path(session.source.store.location(session.source.key))


def rewrite(session: loginonce.Session, **members: object) -> None:
    """Put another record in the place of a login's."""
    session.source.change(lambda grant: replace(grant, attempt=grant.attempt + 1, **members))


def needs(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


# ── what is well ─────────────────────────────────────────────────────────────────────────────────────────


def test_where_all_is_well_it_says_so_and_exits_with_0(lab, doctor) -> None:
    code, findings, out = doctor("lab")
    assert code == 0
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert not [finding for finding in findings.values() if finding.advice]
    assert out.rstrip().endswith("All is well.")
    assert "Ada Lovelace" in findings["login"].text
    assert "PKCE, device codes, revocation, end of session" in findings["provider"].text
    assert "may cost one sign-in" in findings["renewal"].text


def test_the_only_profile_is_the_one_that_is_meant(lab, doctor) -> None:
    assert "Ada Lovelace" in doctor()[1]["login"].text


def test_without_any_login_it_still_checks_the_machine(home, doctor) -> None:
    code, findings, _ = doctor()
    assert code == 0
    assert "loginonce login NAME" in findings["settings"].advice
    assert {name: findings[name].level for name in ("disk", "lock", "access", "clock")} == {
        "disk": "ok", "lock": "ok", "access": "ok", "clock": "unknown",
    }  # fmt: skip
    assert list(home.iterdir()) == []


def test_where_several_logins_could_be_meant_it_lists_them(home, doctor) -> None:
    for name in ("a", "b"):
        save_profile(home, name, issuer="https://id.example.org", client_id="x")
    code, findings, _ = doctor()
    assert (code, findings["settings"].advice) == (0, "Name one: loginonce doctor a")


def test_it_changes_nothing_and_asks_for_no_token(lab, home, provider, doctor) -> None:
    lab.source.store.commit(replace(lab.source.grant(), attempt=1, tokens=()), expected=lab.source.grant().order)
    record_of(lab).with_name("torn.login").write_bytes(b"torn")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    asked = provider.stats.token_requests
    doctor("lab")
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    assert not [path for path in home.rglob("*") if "doctor" in path.name]
    assert provider.stats.token_requests == asked


def test_a_damaged_record_is_left_where_it_is(lab, home, doctor) -> None:
    record_of(lab).write_bytes(b"torn")
    doctor("lab")
    assert record_of(lab).read_bytes() == b"torn"


def test_offline_nobody_is_asked(lab, provider, doctor) -> None:
    provider.reset_stats()
    code, findings, out = doctor("lab", "--offline")
    assert (code, findings["network"].level) == (0, "unknown")
    assert "as far as it could be checked" in out
    assert "device codes" in findings["provider"].text  # as it is kept here
    assert provider.log == []


# ── one thing broken each ────────────────────────────────────────────────────────────────────────────────


def open_folder(lab, home, provider) -> None:
    (home / "logins").chmod(0o755)


def open_record(lab, home, provider) -> None:
    record_of(lab).chmod(0o644)


def link_record(lab, home, provider) -> None:
    target = home / "elsewhere"
    record_of(lab).rename(target)
    record_of(lab).symlink_to(target)


def folder_is_a_file(lab, home, provider) -> None:
    shutil.rmtree(home / "logins")
    (home / "logins").write_text("")


def tear_record(lab, home, provider) -> None:
    record_of(lab).write_bytes(record_of(lab).read_bytes()[:-9])


def newer_record(lab, home, provider) -> None:
    record_of(lab).write_bytes(record_of(lab).read_bytes().replace(b"loginonce 1 ", b"loginonce 7 ", 1))


def copied_record(lab, home, provider) -> None:
    (home / "logins" / "store-id").write_text("0" * 32)


def garbled_settings(lab, home, provider) -> None:
    (home / "config.toml").write_text("[profiles")


def unknown_profile(lab, home, provider) -> None:
    (home / "config.toml").write_text((home / "config.toml").read_text().replace("profiles.lab", "profiles.other"))


def binary_settings(lab, home, provider) -> None:
    (home / "config.toml").write_bytes(b"\xff\xfe")


def odd_issuer(lab, home, provider) -> None:
    (home / "config.toml").write_text("[profiles.lab]\nissuer = 'http://id.example.org'\nclient_id = 'x'\n")


def provider_is_away(lab, home, provider) -> None:
    provider.stop()


def provider_is_out_of_order(lab, home, provider) -> None:
    provider.faults.add(Fault.status(503), where="discovery", times=4)


def provider_speaks_html(lab, home, provider) -> None:
    provider.faults.add(Fault.status(200, "<html>"), where="discovery", times=4)


def provider_is_another(lab, home, provider) -> None:
    other = json.dumps({"issuer": "https://other.example.org", "token_endpoint": "https://other.example.org/t"})
    provider.faults.add(Fault.status(200, other, content_type="application/json"), where="discovery", times=4)


def clock_is_ahead(lab, home, provider) -> None:
    provider.clock_skew = -300


def clock_is_behind(lab, home, provider) -> None:
    provider.clock_skew = 300


def logged_out(lab, home, provider) -> None:
    lab.logout()


def ended_elsewhere(lab, home, provider) -> None:
    failure = Failure(lab.source.grant().spendable, "refused", "invalid_grant")
    rewrite(lab, state="DEAD", failure=failure, tokens=())


def asked_to_wait(lab, home, provider) -> None:
    provider.faults.add(Fault.status(429, headers={"Retry-After": "600"}), where="refresh")
    with pytest.raises(loginonce.TransportError):
        lab.source.renew()
    rewrite(lab, tokens=())


def client_is_refused(lab, home, provider) -> None:
    refusal = json.dumps({"error": "invalid_client"})
    provider.faults.add(Fault.status(401, refusal, content_type="application/json"), where="refresh")
    with pytest.raises(loginonce.ConfigurationError):
        lab.source.renew()
    rewrite(lab, tokens=())


BROKEN = [
    (open_folder, 1, "access", "wrong", r"open to other users \(mode 0755\)", r"Run: chmod 700 .*logins$"),
    (open_record, 1, "access", "wrong", r"open to other users \(mode 0644\)", r"Run: chmod 600 .*\.login$"),
    (link_record, 1, "access", "wrong", r"symbolic link", r"Remove it"),
    (folder_is_a_file, 1, "access", "wrong", r"is not a folder", r"Move it away"),
    (tear_record, 1, "record", "wrong", r"checksum does not match", r"Run: loginonce login lab"),
    (newer_record, 1, "record", "wrong", r"newer version \(schema 7", r"Upgrade loginonce here"),
    (copied_record, 1, "record", "wrong", r"copied here from another store", r"Run: loginonce login lab"),
    (garbled_settings, 1, "settings", "wrong", r"not valid TOML", r"Mend it with an editor"),
    (binary_settings, 1, "settings", "wrong", r"cannot be read", r"See to it in .*config.toml"),
    (unknown_profile, 1, "settings", "wrong", r"no profile 'lab'.*other", r"loginonce login lab --issuer"),
    (odd_issuer, 1, "settings", "wrong", r"has to be an https address", r"See to it in .*config.toml"),
    (provider_is_away, 5, "network", "wrong", r"cannot be reached: Connection refused", r"logins are kept"),
    (provider_is_out_of_order, 5, "network", "wrong", r"answers HTTP 503", r"Try again later"),
    (provider_speaks_html, 1, "provider", "wrong", r"something else than a JSON object", r"Check the issuer address"),
    (provider_is_another, 1, "provider", "wrong", r"says that it is of 'https://other", r"Check the issuer address"),
    (clock_is_ahead, 1, "clock", "wrong", r"(4|5) min ahead of the provider's", r"Set this machine's clock"),
    (clock_is_behind, 1, "clock", "wrong", r"(4|5) min behind the provider's", r"Set this machine's clock"),
    (logged_out, 4, "login", "wrong", r"somebody signed out", r"Run: loginonce login lab$"),
    (ended_elsewhere, 4, "login", "wrong", r"ended at the provider", r"Run: loginonce login lab$"),
    (asked_to_wait, 5, "login", "attention", r"could not be renewed", r"tried again from .* \(in (9|10) min\)"),
    (client_is_refused, 1, "client", "wrong", r"does not accept this client: invalid_client", r"check client_id"),
]


@pytest.mark.parametrize(
    ("damage", "exit_code", "name", "level", "text", "advice"), BROKEN, ids=[row[0].__name__ for row in BROKEN]
)
def test_what_is_broken_is_named_with_what_to_do(
    damage, exit_code, name, level, text, advice, lab, home, provider, doctor
) -> None:
    damage(lab, home, provider)
    code, findings, _ = doctor("lab")
    assert (code, findings[name].level) == (exit_code, level)
    assert re.search(text, findings[name].text)
    assert findings[name].advice
    assert re.search(advice, findings[name].advice)
    others = {other.name for other in findings.values() if other.level == "wrong"} - {name}
    assert others == set()  # it is told once


def test_the_example_of_the_readme_is_what_it_prints(lab, home, provider) -> None:
    (home / "logins").chmod(0o755)
    block = (Path(__file__).parents[2] / "README.md").read_text("utf-8").partition("$ loginonce doctor lab\n")[2]
    shown = block.partition("```")[0].strip().splitlines()
    diagnosis = examine("lab")
    head = re.compile(r"\S (\w+) +([a-z-]+)")
    told = [found.groups() for line in shown if (found := head.match(line))]
    assert told == [(finding.level, finding.name) for finding in diagnosis.findings]
    steps = [line.split("→ ")[1].split("/")[0] for line in shown if "→" in line]
    assert steps == [finding.advice.split("/")[0] for finding in diagnosis.findings if finding.advice]
    assert shown[-1] == diagnosis.verdict


def test_the_chmod_that_is_advised_mends_it(lab, home, doctor) -> None:
    (home / "logins").chmod(0o755)
    record_of(lab).chmod(0o644)
    for _ in range(2):
        command = doctor("lab")[1]["access"].advice.removeprefix("Run: ")
        subprocess.run(shlex.split(command), check=True)
    assert doctor("lab")[0] == 0


def test_a_folder_of_somebody_else_is_told_of(lab, home, doctor) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        needs("only root can give a folder away")
    os.chown(home / "logins", 65534, 65534)
    code, findings, _ = doctor("lab")
    assert code == 1
    assert "belongs to another user (uid 65534, we are 0)" in findings["access"].text


@pytest.mark.parametrize("closed", [".", "logins"])
def test_a_folder_that_cannot_be_entered_is_told_of_with_its_chmod(closed, lab, home) -> None:
    prefix = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            needs("root enters every folder, and setpriv is not there to take that from it")
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    (home / closed).chmod(0)
    try:
        done = subprocess.run(
            [*prefix, *COMMAND, "lab", "--offline"], check=False, capture_output=True, text=True, timeout=60
        )
    finally:
        (home / closed).chmod(0o700)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"-> Run: chmod 700 {home / closed}\n" in done.stdout


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB."""
    there = tmp_path / "disk"
    there.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k,mode=0700", "tmpfs", str(there)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        needs("a small disk cannot be mounted here: that takes root, and a container that may")
    try:
        yield there
    finally:
        subprocess.run(["umount", "--lazy", str(there)], check=True)


def test_a_read_only_disk_is_told_of(lab, home, disk, doctor, monkeypatch) -> None:
    shutil.copytree(home, disk / "home")
    monkeypatch.setenv("LOGINONCE_HOME", str(disk / "home"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, findings, _ = doctor("lab")
    assert code == 1
    assert findings["disk"].text == f"{disk}/home/logins cannot be used: it is on a read-only file system"
    assert "set LOGINONCE_HOME" in findings["disk"].advice.replace("Set", "set")
    assert "Ada Lovelace" in findings["login"].text  # it can still be read


def test_a_full_disk_is_told_of(lab, home, disk, doctor, monkeypatch) -> None:
    shutil.copytree(home, disk / "home")
    monkeypatch.setenv("LOGINONCE_HOME", str(disk / "home"))
    assert "tmpfs" in doctor("lab")[1]["disk"].text
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    code, findings, _ = doctor("lab")
    assert (code, findings["disk"].advice) == (1, "Free some space")


def test_without_a_provider_and_a_login_both_are_told_of(lab, provider, doctor) -> None:
    lab.logout()
    provider.stop()
    code, _, out = doctor("lab")
    assert code == 5
    assert "cannot be reached; when it can be, a person has to sign in." in out


def test_several_broken_things_are_all_told_of(lab, home, provider, doctor, monkeypatch) -> None:
    (home / "logins").chmod(0o755)
    provider.stop()
    monkeypatch.setenv("LOGINONCE_FLOW", "odd")
    monkeypatch.setenv("LOGINONCE_CLIENTID", "x")
    code, findings, _ = doctor("lab")
    assert code == 1
    assert {name for name, finding in findings.items() if finding.level == "wrong"} == {"access", "network", "sign-in"}
    assert findings["settings"].level == "attention"
    assert "LOGINONCE_CLIENTID means nothing" in findings["settings"].text


def test_a_check_that_fails_itself_keeps_no_other_from_its_line(lab, doctor, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("nobody has judged what is in here")

    monkeypatch.setattr("loginonce.doctor.check_record", fail)
    code, findings, out = doctor("lab")
    assert code == 0
    assert findings["record"].text == "could not be checked: an unforeseen RuntimeError"
    assert "nobody has judged" not in out


def test_a_store_in_memory_is_told_to_share_nothing(lab, doctor, monkeypatch) -> None:
    monkeypatch.setenv("LOGINONCE_STORE", "memory:")
    code, findings, _ = doctor("lab")
    assert (code, findings["store"].level) == (4, "attention")
    assert "every program signs in for itself" in findings["store"].text
    assert "lock" not in findings


def test_a_store_in_a_database_is_told_with_its_logins_and_its_lease(contending, lab, tmp_path) -> None:
    (tmp_path / "db").mkdir(0o700)
    address = f"sqlite:///{tmp_path}/db/logins"
    store = open_store(address)
    assert [finding.level for finding in place.check_place(store, address, None, 30.0)] == ["ok", "ok"]
    store.commit(lab.source.grant(), expected=None)
    kept, lock = place.check_place(store, address, lab.source.key, 30.0)
    assert kept.text.startswith(store.location(lab.source.key)) and "; one login, read in " in kept.text
    assert "keeps two processes apart" in lock.text and "ends by itself" in lock.text


def test_a_store_on_a_server_that_is_away_is_told_of_and_its_lock_not_tried(home, doctor, monkeypatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("LOGINONCE_STORE", f"redis://:hush@127.0.0.1:{nobody.getsockname()[1]}/0")
        _, findings, shown = doctor("--offline")
    assert findings["store"].level == "wrong"
    assert findings["store"].advice.startswith("See whether its server is there")
    assert findings["lock"].level == "unknown"
    assert "hush" not in shown


@pytest.mark.parametrize(("address", "level"), [("", "attention"), ("file:/x?lock=strict", "ok")])
def test_a_file_system_that_machines_share_is_told_of(address, level, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(place, "ground", lambda _: Ground("nfs4", "doubtful", "its locks may not keep others out"))
    monkeypatch.setattr(place, "open_store", lambda address: loginonce.FileStore(address[5:].partition("?")[0]))
    findings = place.check_place(loginonce.FileStore(tmp_path / "logins"), address, None, 10)
    (disk,) = [finding for finding in findings if finding.name == "disk"]
    assert (disk.level, disk.text.partition(";")[0]) == (level, "nfs4, shared")
    assert ("its locks may not keep others out" in disk.text) == (level == "attention")


@pytest.mark.parametrize(
    ("here", "without", "said"),
    [
        ((True, True, True, False), "", "in a browser: this is your own desktop"),
        ((True, False, True, False), "", "by a code to enter elsewhere: no browser of yours shows here"),
        ((True, False, True, True), "", "by a code to enter elsewhere: a notebook"),
        (
            (True, False, True, False),
            "device",
            "by pasting an address: no browser of yours shows here, and the provider",
        ),
        ((True, False, False, False), "device", "not from here: http"),
        ((False, False, False, False), "", "not from here: nobody could be asked"),
    ],
)
def test_the_way_to_sign_in_is_told_with_its_reason(here, without, said, lab, provider, monkeypatch) -> None:
    for name in ("SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("loginonce.doctor.login.detect", lambda: Environment(*here))
    server = lab.source.provider.server
    if without:
        server = replace(server, device_authorization_endpoint="")
    finding = check_sign_in(lab.settings, server, needed=False)
    assert finding.text.startswith(said)
    assert check_sign_in(lab.settings, server, needed=True).level == ("attention" if "not from" in said else "ok")


# ── the record ───────────────────────────────────────────────────────────────────────────────────────────


def spending(session, owner: str, *, ago: float = 5.0, deadline: float = 20.0) -> None:
    grant = session.source.grant()
    now = time.time()
    marker = Marker(grant.spendable, "nonce", owner, now - ago, now + deadline)
    rewrite(session, state="SPENDING", marker=marker)


def test_a_renewal_that_is_under_way_is_no_trouble(lab, doctor) -> None:
    spending(lab, process_identity())
    assert (doctor("lab")[1]["record"]).text.endswith(f"process {os.getpid()} is renewing it now")


def test_a_renewal_whose_process_was_killed_is_told_of(lab, doctor) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host, boot, _, _ = process_identity().split("/")
    start = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    spending(lab, f"{host}/{boot}/{process.pid}/{start}", deadline=-1)
    assert doctor("lab")[1]["record"].advice == f"Is process {process.pid} stopped?  End it, or continue it"
    with process:
        process.kill()
    finding = doctor("lab")[1]["record"]
    assert f"process {process.pid} ended while it renewed it" in finding.text
    assert finding.level == "attention"


def test_a_killed_renewal_whose_process_nobody_has_buried_is_not_taken_for_a_stopped_one(lab, doctor) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        host, boot, _, _ = process_identity().split("/")
        start = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        spending(lab, f"{host}/{boot}/{process.pid}/{start}", deadline=-1)
        assert f"process {process.pid} ended while it renewed it" in doctor("lab")[1]["record"].text


def test_another_process_of_the_same_number_is_not_taken_for_the_one_that_ended(lab, doctor) -> None:
    spending(lab, f"{process_identity().rpartition('/')[0]}/1", deadline=-1)
    assert "ended while it renewed it" in doctor("lab")[1]["record"].text


def test_a_process_of_another_machine_is_not_taken_for_a_dead_one(lab, doctor) -> None:
    spending(lab, "another-host/0/1/1")
    assert "process 1 on another-host is renewing it now" in doctor("lab")[1]["record"].text


def test_a_killed_renewal_under_a_careful_policy_asks_for_a_sign_in(lab, home, doctor) -> None:
    with (home / "config.toml").open("a") as file:
        file.write("[profiles.lab.policy]\nlost = 'login'\n")
    rewrite(lab, tokens=())
    host, _, pid, start = process_identity().split("/")
    spending(lab, f"{host}/earlier/{pid}/{start}", deadline=-1)
    code, findings, _ = doctor("lab")
    assert code == 4
    assert findings["renewal"].text == "an answer lost costs one sign-in (reuse_interval 0 s, lost = login)"


def test_the_last_failure_is_told_with_the_time_from_which_it_is_tried_again(lab, doctor) -> None:
    grant = lab.source.grant()
    rewrite(lab, failure=Failure(grant.spendable, "busy", "HTTP 503", time.time() + 600))
    finding = doctor("lab")[1]["record"]
    assert re.search(r"last failure busy: HTTP 503, not before .* \(in (9|10) min\)", finding.text)
    assert finding.level == "attention"


def test_a_login_that_was_ended_says_how_long_its_last_token_is_good(lab, doctor) -> None:
    rewrite(lab, state="DEAD", failure=Failure(lab.source.grant().spendable, "refused", "invalid_grant"))
    code, findings, _ = doctor("lab")
    assert (code, findings["login"].level) == (0, "attention")
    assert "ended at the provider: invalid_grant; token until" in findings["login"].text
    assert findings["login"].advice == "Before that run: loginonce login lab"


def test_a_clock_that_was_set_back_is_noticed_by_the_record(lab, doctor) -> None:
    (token,) = lab.source.grant().tokens
    rewrite(lab, tokens=(replace(token, received_at=time.time() + 7200, expires_at=time.time() + 9000),))
    finding = doctor("lab", "--offline")[1]["clock"]
    assert finding.level == "attention"
    assert "it was set back: the login was written at" in finding.text


def test_a_grace_of_the_provider_is_explained(lab, home, doctor) -> None:
    with (home / "config.toml").open("a") as file:
        file.write("[profiles.lab.policy]\nreuse_interval = 30\n")
    assert doctor("lab")[1]["renewal"].text.startswith("an answer lost costs nothing within 30 s")


def test_a_login_that_cannot_renew_itself_is_told_of(lab, doctor) -> None:
    rewrite(lab, refresh_token=None, renewal="none")
    findings = doctor("lab")[1]
    assert findings["login"].level == "attention"
    assert "a person signs in each time" in findings["renewal"].text


def test_a_service_without_its_secret_is_told_of(home, provider, doctor) -> None:
    save_profile(home, issuer=provider.issuer, client_id="service", grant="client_credentials")
    code, findings, _ = doctor("lab")
    assert (code, findings["sign-in"].advice) == (1, "Set LOGINONCE_CLIENT_SECRET where it runs")


# ── the environment ──────────────────────────────────────────────────────────────────────────────────────


def test_variables_that_count_are_told_apart_from_those_that_do_not(lab, doctor, monkeypatch) -> None:
    monkeypatch.setenv("LOGINONCE_SCOPE", "openid")  # the profile says nothing of it
    monkeypatch.setenv("LOGINONCE_CLIENT_ID", "another")
    text = doctor("lab")[1]["settings"].text
    assert "LOGINONCE_HOME in force; LOGINONCE_CLIENT_ID, LOGINONCE_SCOPE set and without effect" in text
    monkeypatch.delenv("LOGINONCE_CLIENT_ID")
    assert "LOGINONCE_HOME, LOGINONCE_SCOPE in force" in doctor("lab")[1]["settings"].text


def test_no_variable_of_the_readme_means_nothing(lab, doctor, monkeypatch) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    table = readme.partition("| variable | |")[2].partition("\n\n")[0]
    named = set(re.findall(r"(?:LOGINONCE|…)_([A-Z_]+)", table))
    assert "ENVIRONMENT" in named
    for name in named - {"HOME", "PROFILE"}:  # which login is looked at stays as it is
        value = {"ENVIRONMENT": "terminal", "FLOW": "device", "STORE": "memory:"}.get(name, "x")
        monkeypatch.setenv(f"LOGINONCE_{name}", value)
    text = doctor("lab")[1]["settings"].text
    assert "LOGINONCE_ENVIRONMENT" in text
    assert "means nothing" not in text


def test_a_proxy_is_told_without_its_password(home, doctor, monkeypatch) -> None:
    save_profile(home, issuer="https://id.example.invalid", client_id="x")
    monkeypatch.setenv("https_proxy", "http://someone:pw_canary_77@127.0.0.1:9")
    code, findings, out = doctor("lab")
    assert code == 5
    assert "proxy 127.0.0.1:9 by https_proxy" in findings["network"].text
    assert "pw_canary_77" not in out
    assert "someone" not in out


def test_a_ca_file_that_is_not_there_is_told_of(home, doctor, monkeypatch) -> None:
    save_profile(home, issuer="https://id.example.invalid", client_id="x")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    finding = doctor("lab", "--offline")[1]["network"]
    assert finding.text == "REQUESTS_CA_BUNDLE names /nowhere/ca.pem, which is not there"


@pytest.fixture
def over_tls(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A provider with a certificate of its own making: its address, and the file with that certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(here, critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "provider.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"issuer": issuer, "token_endpoint": f"{issuer}/t", "authorization_endpoint": issuer})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = f"https://127.0.0.1:{server.server_port}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are the point
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield issuer, str(file)
        server.shutdown()
        thread.join()


def test_a_certificate_that_nobody_vouches_for_is_told_of_and_a_ca_file_mends_it(
    over_tls, home, doctor, monkeypatch
) -> None:
    issuer, file = over_tls
    save_profile(home, issuer=issuer, client_id="x")
    code, findings, _ = doctor("lab")
    assert (code, findings["network"].advice) == (5, "For a private CA set REQUESTS_CA_BUNDLE to its file")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", file)
    code, findings, _ = doctor("lab")
    assert code == 4  # nobody is signed in
    assert f"its certificate is good; no proxy, CA file {file} by REQUESTS_CA_BUNDLE" in findings["network"].text
    assert "it names no PKCE, device codes, revocation, end of session" in findings["provider"].text


def test_the_flow_that_the_environment_names_is_told_with_its_reason(lab, doctor, monkeypatch) -> None:
    monkeypatch.setenv("LOGINONCE_FLOW", "device")
    assert doctor("lab")[1]["sign-in"].text == "by a code to enter elsewhere: LOGINONCE_FLOW says so"


def test_a_profile_with_a_secret_that_others_can_read_is_told_of(lab, home, doctor) -> None:
    with (home / "config.toml").open("a") as file:
        file.write("client_secret = 'cs_canary_31'\n")
    (home / "config.toml").chmod(0o644)
    code, findings, out = doctor("lab")
    assert (code, findings["settings"].advice) == (1, f"Run: chmod 600 '{home / 'config.toml'}'")
    assert "cs_canary_31" not in out


def test_no_secret_shows_whatever_is_broken(lab, home, provider, doctor, monkeypatch) -> None:
    monkeypatch.setenv("LOGINONCE_CLIENT_SECRET", "cs_canary_31")
    shown = ""
    for damage in (lambda *_: None, client_is_refused, newer_record, tear_record, open_record):
        damage(lab, home, provider)
        shown += doctor("lab")[2]
        if damage is client_is_refused:
            kept = record_of(lab).read_bytes()
        if damage is newer_record:
            record_of(lab).write_bytes(kept)
    assert "invalid_client" in shown
    secrets = {*provider.state._access_tokens, *provider.state._refresh_tokens, "cs_canary_31"}
    assert len(secrets) >= 3
    assert not [secret for secret in secrets if secret in shown]


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_provider_that_does_not_answer_is_not_waited_for(lab, provider) -> None:
    provider.faults.add(Fault.delay(60, after=False), where="discovery", times=4)
    began = time.monotonic()
    diagnosis = examine("lab", seconds=0.2)
    assert time.monotonic() - began < 8
    assert diagnosis.outcome == "unreachable"
    (network,) = [finding for finding in diagnosis.findings if finding.name == "network"]
    assert "no answer in time" in network.text


def test_a_name_server_that_does_not_answer_is_not_waited_for(home, monkeypatch) -> None:
    save_profile(home, issuer="https://id.example.org", client_id="x")
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait(60) or [])
    began = time.monotonic()
    diagnosis = examine("lab", seconds=0.2)
    assert time.monotonic() - began < 8
    never.set()
    (network,) = [finding for finding in diagnosis.findings if finding.name == "network"]
    assert (diagnosis.outcome, network.level) == ("unreachable", "wrong")
    assert "in time" in network.text


def test_a_disk_that_does_not_answer_is_not_waited_for(lab, monkeypatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(loginonce.FileStore, "peek", lambda *_: never.wait(60))
    monkeypatch.setattr(place, "check_place", lambda *_: never.wait(60))
    monkeypatch.setattr("loginonce.doctor.check_place", lambda *_: never.wait(60))
    began = time.monotonic()
    diagnosis = examine("lab", seconds=0.2)
    assert time.monotonic() - began < 8
    never.set()
    assert {finding.name: finding.text for finding in diagnosis.findings}["store"] == "the disk does not answer"
    assert diagnosis.outcome == "wrong"


# ── the lock ─────────────────────────────────────────────────────────────────────────────────────────────


def patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Have `fcntl.flock` be this in each new process."""
    code = f"import errno, fcntl\ndef flock(descriptor, operation):\n    {body}\nfcntl.flock = flock\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


def test_two_processes_find_that_the_lock_works(contending, lab) -> None:
    (finding,) = [finding for finding in examine("lab").findings if finding.name == "lock"]
    assert re.fullmatch(r"keeps two processes apart; handed over in \d+\.\d ms; a killed holder lets go", finding.text)


def test_a_flock_that_does_not_exclude_is_told_of(contending, lab, tmp_path, monkeypatch) -> None:
    patched(tmp_path, monkeypatch, "return None")
    diagnosis = examine("lab")
    (finding,) = [finding for finding in diagnosis.findings if finding.name == "lock"]
    assert (diagnosis.outcome, finding.level) == ("wrong", "wrong")
    assert re.search("two processes held it at the same time|lets everybody in", finding.text)
    assert finding.advice == "Set LOGINONCE_HOME to a folder on a local disk"


def test_a_file_system_without_locks_is_told_of(contending, lab, tmp_path, monkeypatch) -> None:
    patched(tmp_path, monkeypatch, "raise OSError(errno.ENOSYS, 'Function not implemented')")
    told = {finding.name: finding for finding in examine("lab").findings}
    finding = told["lock"]
    assert finding.level == "wrong"
    assert "this file system has no locks" in finding.text


def test_an_interrupt_leaves_nothing_behind(contending, lab, home, tmp_path, monkeypatch) -> None:
    patched(tmp_path, monkeypatch, "import time; time.sleep(20)")
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program += "; from loginonce.cli import main; main()"
    command = [sys.executable, "-c", program, "doctor", "lab", "--offline"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 30
        while not list((home / "logins").glob(".doctor-*")) and time.monotonic() < until:
            time.sleep(0.02)
        assert list((home / "logins").glob(".doctor-*"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert list((home / "logins").glob(".doctor-*")) == []


def test_the_address_of_the_store_is_not_among_the_arguments_that_everybody_sees(
    contending, home, tmp_path, monkeypatch
) -> None:
    commands: list[list[str]] = []
    started = subprocess.Popen

    def start(command, **options):
        commands.append(command)
        return started(command, **options)

    monkeypatch.setattr("loginonce.doctor.contest.subprocess.Popen", start)
    assert contest(f"file:{tmp_path / 'canary'}", 30.0).excludes
    assert len(commands) == 2
    assert "canary" not in str(commands)


def test_processes_that_do_not_come_up_in_time_are_not_waited_for(contending, home, tmp_path) -> None:
    began = time.monotonic()
    with pytest.raises(loginonce.StoreError, match="did not do so in time"):
        contest(f"file:{tmp_path / 'logins'}", 0.0)
    assert time.monotonic() - began < 8


def test_a_lock_that_somebody_holds_is_not_taken_for_a_broken_one(contending, home, tmp_path) -> None:
    hold = loginonce.FileStore(tmp_path / "logins").try_lock(NOBODY)
    assert hold is not None
    with pytest.raises(loginonce.StoreError, match="look for another"):
        contest(f"file:{tmp_path / 'logins'}", 30.0)
    hold.release()


# ── how it looks ─────────────────────────────────────────────────────────────────────────────────────────


def many(level: str, count: int) -> list[Finding]:
    return [
        Finding(f"{level}{number}", level, "word " * 30, "" if level == "ok" else "Do it") for number in range(count)
    ]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_screen_holds_it_and_what_is_wrong_is_never_left_out(width: int) -> None:
    findings = (*many("ok", 12), *many("wrong", 4))
    lines = report(Diagnosis("lab", findings, "wrong", "Four things are wrong."), width=width, icons=True, colour=False)
    assert len(lines) <= ROWS
    assert max(map(len, lines)) <= min(width, 100)
    text = "\n".join(lines)
    assert all(f"wrong{number} " in text for number in range(4))
    assert all(re.search(rf"ok{number}\b", text) for number in range(12))  # by its name at least


def test_a_command_to_copy_is_never_broken_into_lines() -> None:
    command = "Run: chmod 600 " + "/very/long" * 20
    finding = Finding("access", "wrong", "open", command)
    lines = report(Diagnosis("lab", (finding,), "wrong", "No."), width=80, icons=False, colour=False)
    assert [line for line in lines if line.endswith(command)]


def test_what_a_server_says_cannot_move_the_cursor() -> None:
    finding = Finding("provider", "wrong", "red \x1b[31m", "\x1b[2J")
    lines = report(Diagnosis("lab", (finding,), "wrong", "\x1b[0m"), width=80, icons=True, colour=False)
    assert "\x1b" not in "".join(lines)


def test_where_there_is_no_terminal_the_marks_are_words(lab, doctor) -> None:
    out = doctor("lab")[2]
    assert "✓" not in out
    assert "\x1b" not in out
    assert re.search(r"^ok         login", out, re.MULTILINE)


def test_token_loads_none_of_it(lab) -> None:
    code = (
        "import sys; from loginonce.cli import commands; commands.run(['token', 'lab']);"
        "print([name for name in sys.modules if 'doctor' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
