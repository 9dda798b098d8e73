"""The benchmark itself: that its provider is strict, its arithmetic right, and that it tells when something fails."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import clients
import figures
import measure
import pytest
import requests
from clients import LOGINONCE, PLAIN, WAYS
from loopback import Loopback
from measure import Cost, pairs_of, ratio, turns
from rows import ROWS, Bench, Figure, Herd, Standing, Storm, storms

HERE = Path(__file__).parent


def refreshed(provider: Loopback, refresh_token: str) -> requests.Response:
    form = {"grant_type": "refresh_token", "client_id": "notebook", "refresh_token": refresh_token}
    return requests.post(provider.token_endpoint, data=form, timeout=10)


def status(provider: Loopback, access_token: str) -> int:
    return requests.get(provider.api, headers={"Authorization": f"Bearer {access_token}"}, timeout=10).status_code


# ── the provider ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_provider_rotates_and_both_access_tokens_go_on(bench: Bench) -> None:
    provider = bench.provider
    first = provider.issue()
    second = refreshed(provider, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert [status(provider, each["access_token"]) for each in (first, second)] == [200, 200]
    assert provider.stats()["refreshes"] == 1


def test_a_refresh_token_that_comes_again_ends_its_login_and_no_other(bench: Bench) -> None:
    provider = bench.provider
    first, other = provider.issue(), provider.issue()
    second = refreshed(provider, first["refresh_token"]).json()
    again = refreshed(provider, first["refresh_token"])
    assert (again.status_code, again.json()) == (400, {"error": "invalid_grant"})
    assert status(provider, second["access_token"]) == 401
    assert refreshed(provider, second["refresh_token"]).status_code == 400
    assert status(provider, other["access_token"]) == 200
    counted = provider.stats()
    assert (counted["replays"], counted["refusals"], counted["families_ended"]) == (1, 2, 1)


def test_what_is_revoked_silently_can_be_renewed_and_what_is_spared_goes_on(bench: Bench) -> None:
    provider = bench.provider
    revoked, spared = provider.issue(), provider.issue()
    provider.revoke_access_tokens(but=spared["access_token"])
    assert [status(provider, each["access_token"]) for each in (revoked, spared)] == [401, 200]
    assert status(provider, refreshed(provider, revoked["refresh_token"]).json()["access_token"]) == 200


def test_the_first_token_of_a_login_may_end_before_the_next_ones(bench: Bench) -> None:
    provider = bench.provider
    first = provider.issue(lifetime=600, first=1)
    assert first["expires_in"] == 1
    time.sleep(1.01)
    assert status(provider, first["access_token"]) == 401
    assert refreshed(provider, first["refresh_token"]).json()["expires_in"] == 600


def test_a_token_request_takes_as_long_as_it_was_told_and_it_says_so(bench: Bench) -> None:
    provider = bench.provider
    provider.answer_in(0.1)
    began = time.monotonic()
    refreshed(provider, provider.issue()["refresh_token"])
    took = time.monotonic() - began
    (own,) = provider.stats()["own"]
    assert 0.1 <= own <= took


# ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────


def test_turns_are_taken_so_that_neither_is_always_first() -> None:
    assert "".join(turns(4)) == "abbaabba"


def test_a_machine_that_grows_slower_all_the_time_favours_neither() -> None:
    clock = count(start=10)  # each measurement costs more than the one before
    drifting = lambda: Cost(float(next(clock)), 1.0)  # noqa: E731
    found = ratio(pairs_of(drifting, drifting, 40))
    assert found.wall == pytest.approx(1.0, abs=0.005)


def test_the_ratio_is_the_median_of_neighbours_whatever_one_of_them_did() -> None:
    found = ratio(
        [(Cost(2.0, 3.0), Cost(1.0, 1.0)), (Cost(200.0, 3.0), Cost(1.0, 1.0)), (Cost(4.0, 3.0), Cost(2.0, 1.0))]
    )
    assert (found.wall, found.cpu, found.pairs) == (2.0, 3.0, 3)


def test_the_cpu_of_a_process_is_its_own_and_one_that_fails_is_no_measurement() -> None:
    busy = measure.process(sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass")
    idle = measure.process(sys.executable, "-c", "import time; time.sleep(0.3)")
    assert busy.cpu >= 0.3 > idle.cpu
    assert idle.wall >= 0.3
    with pytest.raises(subprocess.CalledProcessError):
        measure.process(sys.executable, "-c", "raise SystemExit(1)")


def test_memory_is_that_of_the_child_and_not_of_who_started_it() -> None:
    ballast = bytearray(b"x" * 300_000_000)
    small, large = (measure.memory_of(f"x = b'x' * {size}") for size in (1, 64_000_000))
    assert small < 100
    assert large - small == pytest.approx(61, abs=3)  # 64,000,000 bytes
    del ballast


def test_a_command_that_fails_has_no_count_of_instructions() -> None:
    assert measure.instructions(["false"]) is None


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("r", "w", 1.04, 1.05), True),
        (Figure("r", "w", 1.06, 1.05), False),
        (Figure("r", "w", 0.96, 0.97, at_least=True), False),
        (Figure("r", "w", 0.98, 0.97, at_least=True), True),
        (Figure("r", "w", 1.051, 1.05), False),
        (Figure("r", "w", 0.9699, 0.97, at_least=True), False),
        (Figure("r", "w", 3.0), None),
    ],
)
def test_a_target_is_met_from_its_own_side(figure: Figure, met: bool | None) -> None:
    assert figure.met is met


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert "missed" not in figures.line(Figure("r", "w", math.nan, 1.0, note="no valgrind that runs here"))


# ── herds ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_herd_at_expiry_and_one_after_a_revocation_cost_a_token_request_each(bench: Bench) -> None:
    herd = Herd(bench, 3)
    try:
        costs = [herd.at_expiry(), herd.plain(), herd.after_a_revocation()]
    finally:
        herd.close()
    assert bench.wrong == []
    assert all(0.05 < cost.wall < 30 for cost in costs)  # each of them holds one token request


def test_a_herd_that_is_refused_is_told_of(bench: Bench) -> None:
    herd = Herd(bench, 2)
    try:
        bench.provider.revoke_access_tokens()
        herd.plain()
    finally:
        herd.close()
    assert "2 × requests: 2 failed" in bench.wrong[0]


def test_a_storm_shows_who_loses_the_login(bench: Bench) -> None:
    ways = [LOGINONCE, WAYS["authlib"]]
    bench.standings = {way.name: Standing(way.name) for way in ways}
    storms(bench, ways, (3,))
    (ours,) = bench.standings[LOGINONCE.name].storms
    assert (ours.token_requests, ours.replays, ours.ended, ours.signed_in_after) == (1, 0, 0, 3)
    (theirs,) = bench.standings["authlib"].storms
    assert (theirs.token_requests, theirs.replays, theirs.ended, theirs.rounds) == (3, 2, 2, 2)
    assert theirs.signed_in_after == 0


def test_what_is_synced_can_be_counted_without_strace(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    files, folders = ROWS["durable"](bench)
    assert files.measured >= 2, "the marker, and the answer"
    assert folders.measured >= 1
    assert bench.wrong == []


# ── who is measured, and what is shown of it ─────────────────────────────────────────────────────────────


def test_a_peer_that_is_not_installed_says_so() -> None:
    class Absent(clients.Way):
        name, module = "absent", "no_such_package.at_all"

    assert Absent().missing == "no_such_package is not installed"
    assert PLAIN.missing == ""


@pytest.mark.parametrize("name", ["requests", "loginonce", "authlib"])
def test_a_request_over_the_null_transport_has_its_token_on(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LOGINONCE_HOME", str(tmp_path))
    sent: list[Any] = []
    get = clients.opened(WAYS[name], str(tmp_path), 7, seen=sent.append)
    sent.clear()
    assert get(clients.FAR).json() == {}
    (request,) = sent
    assert request.headers["Authorization"] == "Bearer at_7"


def test_what_a_peer_cannot_do_is_shown_with_the_reason() -> None:
    absent = Standing("absent", why="absent is not installed")
    assert figures.beside([standing(), absent])[-1].endswith("| – | – (absent is not installed) |")


def standing() -> Standing:
    figures_of_it = {"import, CPU": 1.5, "memory, MB": 9.0, "one request, CPU": 1.2, "new process, wall": 1.1}
    return Standing("authlib", "1.9", figures=figures_of_it, storms=[Storm(8, 5, 8, 7, 5, 1, 0)])


def test_the_tables_take_the_place_of_the_old_ones_and_of_nothing_else() -> None:
    readme = f"before\n{figures.BEGIN}\nold\n{figures.END}\nafter\n"
    found = [
        Figure("r", "one request", 0.71, 0.9),
        Figure("r", "import", 1.2, 1.05, alone=1.1),
        Figure("r", "untargeted", 5.0),
    ]
    where = {
        "date": "2026-01-02",
        "python": "3.11",
        "system": "Linux",
        "cores": 2,
        "requests": "2.34",
        "short": False,
        "load": 0.3,
    }
    text = figures.markdown(found, [standing()], where)
    made = figures.into_readme(text, readme)
    assert made.startswith(f"before\n{figures.BEGIN}\n")
    assert made.endswith(f"\n{figures.END}\nafter\n")
    assert "| one request | 0.90 × | 0.71 × |  |" in made
    assert "| import | 1.05 × | **1.20 ×** | 1.10 × |" in made
    assert "| authlib 1.9 | – | 1.50 × | +9 MB | 1.20 × | 1.10 × | 8 requests, 7 replays: ended in 5 of 5 |" in made
    assert "old" not in made
    assert "kept it busy" not in made
    assert "kept it busy (load 7)" in figures.markdown(found, [], {**where, "load": 7.0})
    assert "untargeted" not in made
    with pytest.raises(ValueError, match="does not hold"):
        figures.into_readme(text, "no markers")


def test_the_readme_has_a_place_for_the_tables_and_its_chart_is_there() -> None:
    readme = figures.README.read_text("utf-8")
    figures.into_readme("", readme)
    assert f"({figures.CHART.relative_to(figures.README.parent)})" in readme
    assert figures.CHART.exists()


def test_the_chart_is_drawn_from_the_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    told = {
        "growth": [{"size": size, "ours": 0.2, "plain": 0.1, "trip": 0.06, "refresh": 0.1} for size in (2, 4)],
        "standings": [json.loads(json.dumps(standing(), default=vars))],
    }
    assert figures.draw(told, tmp_path / "chart.svg")
    assert "<svg" in (tmp_path / "chart.svg").read_text()
    for missing in ("growth", "standings"):
        assert not figures.draw({**told, missing: []}, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_the_results_are_json_in_which_a_gap_is_a_gap(bench: Bench, tmp_path: Path) -> None:
    bench.standings = {"authlib": standing()}
    (results,) = figures.save(bench, [Figure("r", "one", 0.5, 1.0), Figure("r", "two", math.nan, 1.0)], into=tmp_path)
    told = json.loads(results.read_text("utf-8"))
    assert [(each["measured"], each["met"]) for each in told["figures"]] == [(0.5, True), (None, None)]
    assert told["standings"][0]["storms"][0]["replays"] == 7


def test_one_command_lists_every_row() -> None:
    listed = subprocess.run([sys.executable, str(HERE), "--list"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == [*ROWS]
