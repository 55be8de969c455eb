"""The table of kernels/README.md: the layer on a GPU beside its peers, made from a recorded run.

`python -m moeviz bench gpu --adopt DIR` writes it anew between its markers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from layer_contenders import DENSE, OURS
from layer_shapes import Shape

README = Path(__file__).resolve().parent.parent / "kernels" / "README.md"
MARKERS = re.compile(
    r"(<!-- layer: made by python -m moeviz bench gpu --adopt -->\n).*?(\n<!-- end -->)", re.DOTALL
)
PEERS = {
    DENSE: "dense FFN",
    "torch grouped_mm": "`grouped_mm`",
    "transformers Mixtral grouped_mm": "Mixtral `grouped_mm`",
    "transformers Mixtral eager": "Mixtral `eager`",
    "liger": "Liger",
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
    provenance, device = run["provenance"], run["device"]
    versions = provenance["versions"]
    lines = [
        f"{device['name']}, {provenance['date']}, commit {provenance['commit']}, PyTorch "
        f"{versions['torch']}, Triton {versions['triton']}, {device['dtype']}; a matrix product of "
        f"8192³ reaches {device['matmul_tflops']:.0f} TFLOP/s there, a copy "
        f"{device['copy_gb_per_s']:,.0f} GB/s.",
        "",
        "| T, D, F, E, K | routing | TFLOP/s | as a CUDA graph, ms | "
        + " | ".join(ran.values())
        + " |",
        "|-|-|-|-|" + "-|" * len(ran),
    ]
    for case in cases:
        ours = case["contenders"][OURS]
        shape = [str(case["shape"][name]) for name in Shape._fields]
        graph = " / ".join(
            f"{ours[key]['median']:.3g}" if ours.get(key) else "–"
            for key in ("graph_forward_ms", "graph_both_ms")
        )
        speed = " / ".join(f"{ours['tflops'][part]:.3g}" for part in ("forward", "both"))
        times = " | ".join(ratios(ours, case["contenders"].get(peer, {})) for peer in ran)
        lines.append(f"| {', '.join(shape)} | {case['routing']} | {speed} | {graph} | {times} |")
    return "\n".join(lines)


def ratios(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    """A peer's times over ours, or a dash where it was not run."""
    if "both_ms" not in peer:
        return "–"
    return " / ".join(
        f"{peer[key]['median'] / ours[key]['median']:.2f}" for key in ("forward_ms", "both_ms")
    )


def renewed(text: str, run: dict[str, Any]) -> str:
    """The README's text with this run's table between the markers."""
    return MARKERS.sub(lambda found: found[1] + overview(run) + found[2], text)
