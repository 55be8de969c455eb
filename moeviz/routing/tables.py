"""The tables of routers in README.md and kernels/README.md, made from the routers' own facts.

`python -m moeviz.routing.tables` writes them anew between their markers.
"""

from __future__ import annotations

from pathlib import Path

from moeviz.routing import ROUTERS, rule_of

ROOT = Path(__file__).resolve().parents[2]


def families() -> str:
    """One row per router, family by family."""
    rows = ["| family | router | rule | paper | sees later tokens |", "|-|-|-|-|-|"]
    for family in dict.fromkeys(router.family for router in ROUTERS.values()):
        for name, router in ROUTERS.items():
            if router.family == family:
                looks = "no" if router.causal else "in training" if router.substitute else "yes"
                rows.append(f"| {family} | `{name}` | {rule_of(name)} | {router.paper} | {looks} |")
    return "\n".join(rows)


def waiting() -> str:
    """Who makes a GPU wait for the host, and for what; a soft router makes no plan to wait for."""
    rows = ["| router | waits | for |", "|-|-|-|"]
    for name, router in ROUTERS.items():
        if not router.soft:
            rows.append(f"| `{name}` | {router.waits} | {router.waits_for} |")
    return "\n".join(rows)


TABLES = {ROOT / "README.md": families, ROOT / "kernels" / "README.md": waiting}
START, END = "<!-- routers: made by python -m moeviz.routing.tables -->\n", "\n<!-- end -->"


def renewed(text: str, table: str) -> str:
    """The text with this table between its markers."""
    before, _, rest = text.partition(START)
    return before + START + table + END + rest.partition(END)[2]


if __name__ == "__main__":
    for path, make in TABLES.items():
        path.write_text(renewed(path.read_text(encoding="utf-8"), make()), encoding="utf-8")
