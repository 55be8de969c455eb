"""The tables of kernels/README.md, from what was recorded on a GPU: the layer beside its peers, and
what each path of a kernel took.

`python -m moeviz bench gpu --adopt DIR` writes them anew between their markers.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

from cuts import QUICK_ROUNDS
from layer_contenders import DENSE, DENSE_COMPILED, EAGER, GROUPED_COMPILED, LIGER, OURS
from layer_shapes import Shape

README = Path(__file__).resolve().parent.parent / "kernels" / "README.md"
MARKER = "<!-- {}: made by python -m moeviz bench gpu --adopt -->\n"
PEERS = {
    DENSE: "dense FFN",
    "torch grouped_mm": "`grouped_mm`",
    "transformers Mixtral grouped_mm": "Mixtral `grouped_mm`",
    EAGER: "Mixtral `eager`",
    LIGER: "Liger, not tuned",
    GROUPED_COMPILED: "`grouped_mm` compiled",
    DENSE_COMPILED: "dense FFN compiled",
}


def overview(run: dict[str, Any]) -> str:
    """A sentence on where it comes from, and one row a case: speed, and the peers' times over ours
    (forward / forward and backward; above 1: ours is faster)."""
    cases = [case for case in run["cases"] if "tflops" in case["contenders"].get(OURS, {})]
    ran = {
        peer: name
        for peer, name in PEERS.items()
        if any("both_ms" in case["contenders"].get(peer, {}) for case in cases)
    }
    # Recorded since the second visit.
    with_host = any(case["contenders"][OURS].get("host_ms") for case in cases)
    with_chip = any(case["contenders"][OURS].get("chip") for case in cases)
    columns = ["T, D, F, E, K", "routing", "TFLOP/s", "as a CUDA graph, ms"]
    columns += ["host, ms"] * with_host + ["MHz, W"] * with_chip
    provenance, device = run["provenance"], run["device"]
    versions = provenance["versions"]
    lines = [
        f"{device['name']}, {provenance['date']}, commit {provenance['commit']}, PyTorch "
        f"{versions['torch']}, Triton {versions['triton']}, {device['dtype']}; a matrix product of "
        f"8192³ reaches {device['matmul_tflops']:.0f} TFLOP/s there, a copy "
        f"{device['copy_gb_per_s']:,.0f} GB/s.",
        "",
        "| " + " | ".join([*columns, *ran.values()]) + " |",
        "|" + "-|" * (len(columns) + len(ran)),
    ]
    for case in cases:
        ours = case["contenders"][OURS]
        shape = [str(case["shape"][name]) for name in Shape._fields]
        graph = " / ".join(
            f"{ours[key]['median']:.3g}" if ours.get(key) else "–"
            for key in ("graph_forward_ms", "graph_both_ms")
        )
        speed = " / ".join(f"{ours['tflops'][part]:.3g}" for part in ("forward", "both"))
        cells = [", ".join(shape), case["routing"], speed, graph]
        cells += [of_host(ours.get("host_ms"))] * with_host + [
            of_chip(ours.get("chip"))
        ] * with_chip
        cells += [ratios(ours, case["contenders"].get(peer, {})) for peer in ran]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def of_host(ms: dict[str, float] | None) -> str:
    """What the host needs to queue a forward pass, and both."""
    return f"{ms['forward']:.3g} / {ms['forward'] + ms['backward']:.3g}" if ms else "–"


def of_chip(chip: dict[str, float] | None) -> str:
    """Medians of the clock and the power while the times were taken."""
    figures = [(chip or {}).get(name) for name in ("sm_mhz", "power_w")]
    return ", ".join("–" if value is None else f"{value:.0f}" for value in figures)


def ratios(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    """A peer's times over ours, or a dash where it was not run."""
    if "both_ms" not in peer:
        return "–"
    return " / ".join(
        f"{peer[key]['median'] / ours[key]['median']:.2f}" for key in ("forward_ms", "both_ms")
    )


def paths(sweep: dict[str, Any]) -> str:
    """One row a product and size: milliseconds of the best cut on each path, in the rounds that all
    cuts had. "two": at most 128 registers a thread, for two programs a multiprocessor."""
    columns = ("pointer", "pointer, two", "ahead", "tma", "flat")
    lines = ["| size | product | " + " | ".join(columns) + " |", "|-|-|" + "-|" * len(columns)]
    for key, cuts in sweep["items"].items():
        best: dict[str, float] = {}
        for entry in cuts:
            path = entry["cut"]["path"]
            two = ", two" if path == "pointer" and entry["cut"]["maxnreg"] else ""
            ms = statistics.median(entry["ms"][:QUICK_ROUNDS])
            best[path + two] = min(ms, best.get(path + two, ms))
        fastest = min(best.values())
        cells = (f"{best[c]:.3f}" if c in best else "" for c in columns)
        cells = (f"**{cell}**" if cell == f"{fastest:.3f}" else cell for cell in cells)
        size, role, height = key.split()
        lines.append(f"| {size} | {role}, {height} rows | {' | '.join(cells)} |")
    return "\n".join([*lines, *steadiness(sweep), *narrow_cuts(sweep)])


def steadiness(sweep: dict[str, Any]) -> list[str]:
    """How far the ratio of two of a product's best cuts differs between the rounds that all cuts
    had and those that the best had besides."""
    changes = []
    for cuts in sweep["items"].values():
        times = [entry["ms"] for entry in cuts if len(entry["ms"]) > QUICK_ROUNDS]
        parts = (slice(QUICK_ROUNDS), slice(QUICK_ROUNDS, None))
        early, late = ([statistics.median(ms[part]) for ms in times] for part in parts)
        ratios = zip(early[1:], late[1:], strict=True)
        changes += [abs(e / early[0] / (n / late[0]) - 1) for e, n in ratios]
    if not changes:
        return []
    middle, most = (
        f"{100 * change:.1f} %" for change in (statistics.median(changes), max(changes))
    )
    return [
        "",
        "Between the first rounds and the others, the ratio of two of a product's best cuts "
        f"changed by {middle} (the median of {len(changes)} pairs), by {most} at most.",
    ]


def narrow_cuts(sweep: dict[str, Any]) -> list[str]:
    """What half the columns of a block cost, of the products whose table has both."""
    of_roles: dict[str, list[float]] = {}
    for key, cuts in sweep["items"].items():
        best: dict[int, float] = {}
        for entry in cuts:
            columns, ms = entry["cut"]["block_n"], statistics.median(entry["ms"][:QUICK_ROUNDS])
            best[columns] = min(ms, best.get(columns, ms))
        if 128 in best and 256 in best and key.split()[1] in ("up", "down", "dx"):
            of_roles.setdefault(key.split()[1], []).append(best[128] / best[256])
    spans = [f"{min(v):.2f} to {max(v):.2f} in `{role}`" for role, v in of_roles.items()]
    if not spans:
        return []
    return ["", f"The best cut of 128 columns over the best of 256, in time: {', '.join(spans)}."]


def renewed(text: str, name: str, table: str) -> str:
    """The README's text with this table between the markers of its name; ValueError without."""
    begin = MARKER.format(name)
    found = re.compile(f"({re.escape(begin)}).*?(<!-- end -->)", re.DOTALL)
    text, count = found.subn(lambda part: f"{part[1]}{table}\n{part[2]}", text)
    if count != 1:
        raise ValueError(f"The README has {count} places for the table '{name}', not one.")
    return text
