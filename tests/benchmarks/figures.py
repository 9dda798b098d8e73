"""How the figures are shown: as text, in the README between two markers, as a chart beside it, and as JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from rows import Bench, Figure, Standing, Storm

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
CHART = HERE / "figures.svg"
RESULTS = HERE / "figures.json"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

INK, OURS, OTHERS, PLAIN = "#333333", "#1f6f8b", "#c9a227", "#9a9a9a"


def value(figure: Figure) -> str:
    """ "1.03 ×", "0.8 ms", "2"."""
    if math.isnan(figure.measured):
        return "–"
    return quantity(figure.measured, figure.unit)


def quantity(number: float, unit: str) -> str:
    digits = {"×": f"{number:.2f} ×", "": f"{number:g}"}
    return digits.get(unit, f"{number:.2f} {unit}").replace("-", "−")


def target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    return ("≥ " if figure.at_least else "≤ ") + quantity(figure.target, figure.unit)


def verdict(figure: Figure) -> str:
    return {None: "", True: "met", False: "missed"}[figure.met]


def line(figure: Figure) -> str:
    """One line of text."""
    head = f"{figure.what:<52} {value(figure):>10}  {target(figure):<11} {verdict(figure):<7}"
    return f"{head} {figure.note}".rstrip()


def surroundings(bench: Bench) -> dict[str, Any]:
    """When and where this was measured."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": round(bench.load, 1),
        "requests": metadata.version("requests"),
        "short": bench.short,
    }


def markdown(figures: list[Figure], standings: list[Standing], where: dict[str, Any]) -> str:
    """The README's tables; those without a target are in the JSON."""
    shortly = ", in the short form" if where["short"] else ""
    if where["load"] > where["cores"] / 2:
        shortly += f", while other programs kept it busy (load {where['load']:.0f})"
    machine = f"{where['system']}, {where['cores']} cores, Python {where['python']}, requests {where['requests']}"
    lines = [
        f"Measured on {where['date']} ({machine}){shortly}.",
        "",
        "| what | at most | measured | without it |",
        "|---|---:|---:|---:|",
    ]
    for figure in figures:
        if figure.target is not None and figure.row != "peers":
            found = value(figure) if figure.met else f"**{value(figure)}**"
            alone = "" if figure.alone is None else quantity(figure.alone, figure.unit)
            lines.append(f"| {figure.what} | {target(figure).removeprefix('≤ ')} | {found} | {alone} |")
    return "\n".join([*lines, "", *beside(standings)])


def beside(standings: list[Standing]) -> list[str]:
    """A table of loginonce and its peers; what could not be measured says why."""
    columns = ["import, CPU", "memory, MB", "one request, CPU", "new process, wall"]
    sizes = sorted({storm.size for standing in standings for storm in standing.storms})
    lines = [f"| | shared by | {' | '.join([*columns, *(f'storm of {size}' for size in sizes)])} |"]
    lines.append("|---|---|" + "---:|" * (len(columns) + len(sizes)))
    for standing in standings:
        by_size = {storm.size: storm for storm in standing.storms}
        cells = [
            f"{standing.name} {standing.version}".strip(),
            standing.cache or "–",
            *(plain(standing.figures.get(name), name) for name in columns),
            *(told_of(by_size[size]) if size in by_size else "–" for size in sizes),
        ]
        if standing.why:
            cells[-1] += f" ({standing.why})"
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def told_of(storm: Storm) -> str:
    ended = f"ended in {storm.ended} of {storm.rounds}" if storm.ended else "kept"
    return f"{number(storm.token_requests, 'request')}, {number(storm.replays, 'replay')}: {ended}"


def number(of_them: float, what: str) -> str:
    return f"{of_them:g} {what}{'' if of_them == 1 else 's'}"


def plain(number: float | None, column: str) -> str:
    if number is None:
        return "–"
    return f"{number:+.0f} MB".replace("-", "−") if column.endswith("MB") else f"{number:.2f} ×"


def into_readme(text: str, readme: str, begin: str = BEGIN, end: str = END) -> str:
    """The README with that between its markers.  Raises ValueError where they are not, once each and in order."""
    parts = re.split(f"({re.escape(begin)}|{re.escape(end)})", readme)
    if parts[1::2] != [begin, end]:
        raise ValueError(f"the README does not hold {begin} and {end} once each, in this order")
    return "".join([parts[0], begin, "\n", text, "\n", end, parts[4]])


def save(bench: Bench, figures: list[Figure], *, into: Path | None = None) -> list[Path]:
    """Write results, chart and README table, or only the first two into another folder; what was written."""
    standings, where = list(bench.standings.values()), surroundings(bench)
    results = (into or HERE) / RESULTS.name
    told = {
        "where": where,
        "figures": [
            {**asdict(figure), "measured": None if math.isnan(figure.measured) else figure.measured, "met": figure.met}
            for figure in figures
        ],
        "standings": [asdict(standing) for standing in standings],
        "growth": bench.curve,
    }
    results.write_text(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    written = [results]
    chart = (into or HERE) / CHART.name
    if draw(told, chart):
        written.append(chart)
    if into is None:
        README.write_text(into_readme(markdown(figures, standings, where), README.read_text("utf-8")), "utf-8")
        written.append(README)
    return written


def draw(told: dict[str, Any], chart: Path) -> bool:
    """Three panels: herds, storms, one request.  False where matplotlib is not installed or there is nothing."""
    standings = [standing for standing in told["standings"] if standing["figures"]]
    if not told["growth"] or not standings:
        return False
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    with mpl.rc_context({"svg.hashsalt": "loginonce", "font.size": 9, "text.color": INK, "axes.edgecolor": INK}):
        panels(told["growth"], standings).savefig(chart, metadata={"Date": None})
    return True


def panels(points: list[dict[str, float]], standings: list[dict[str, Any]]) -> Any:
    """The three, as matplotlib's figure."""
    from matplotlib import figure as mpl_figure

    whole = mpl_figure.Figure(figsize=(12, 3.6), layout="constrained")
    herds, storms, one = whole.subplots(1, 3)

    sizes = [point["size"] for point in points]
    floor = [(point["plain"] + point["trip"]) * 1000 for point in points]
    herds.plot(sizes, [point["plain"] * 1000 for point in points], ":", color=PLAIN, label="plain requests")
    herds.plot(sizes, floor, "--", color=PLAIN, label="and one token round trip")
    herds.plot(sizes, [point["ours"] * 1000 for point in points], "o-", color=OURS, ms=3, label="loginonce")
    herds.set(
        xscale="log", yscale="log", xticks=sizes, xticklabels=sizes, xlabel="processes", ylabel="ms",
        title="Released at expiry: until all have their answer",
    )  # fmt: skip
    herds.minorticks_off()
    herds.legend(frameon=False, loc="upper left")  # "best" warns where it is slow

    stormy = [standing for standing in standings if standing["storms"]]
    names = [standing["name"] for standing in stormy]
    last = [standing["storms"][-1] for standing in stormy]
    storms.barh(
        names, [storm["token_requests"] for storm in last], color=[OTHERS if s["ended"] else OURS for s in last]
    )
    for at, storm in enumerate(last):
        said = f"login ended in {storm['ended']} of {storm['rounds']}" if storm["ended"] else "login kept"
        where = 0.15 if storm["token_requests"] > 3 else storm["token_requests"] + 0.15
        storms.text(where, at, said, va="center", fontsize=8)
    storms.set(title=f"{last[0]['size'] if last else 0} processes at expiry: token requests")
    storms.invert_yaxis()

    names = [standing["name"] for standing in standings]
    costs = [standing["figures"].get("one request, CPU", 0.0) for standing in standings]
    one.barh(names, costs, color=[OURS if name == "loginonce" else OTHERS for name in names])
    one.axvline(1.0, color=PLAIN, ls="--")
    one.set(title="One request, CPU (plain requests = 1)")
    one.invert_yaxis()

    for panel in (herds, storms, one):
        panel.spines[["top", "right"]].set_visible(False)
        panel.title.set_fontsize(10)
    return whole
