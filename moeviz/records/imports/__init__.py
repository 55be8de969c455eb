"""Others' routing traces as moeviz's own records: a Trace for each sequence, or DomainCounts.

A Trace stays the routing of one text. So a file with many sequences becomes many traces: every
picture of a trace works on each of them, none shows the end of one text beside the start of
another. `joined` puts them end to end for statistics, which need each token's sequence, and
`of_domains` does so with the traces of several domains.

Nothing is made up. Weights and scores that a format does not hold are NaN (Trace.has_weights,
Trace.has_scores), and where it names no tokens meta["tokens"] says what stands for them. Every
reader refuses a file that cannot be what it seems, in one sentence, as ValueError.
"""

from moeviz.records.imports.build import joined, of_domains
from moeviz.records.imports.engines import read_llama_cpp, read_sglang, read_vllm
from moeviz.records.imports.studies import read_esft, read_flame, read_moelens

__all__ = [
    "joined", "of_domains", "read_esft", "read_flame", "read_llama_cpp", "read_moelens",
    "read_sglang", "read_vllm",
]  # fmt: skip
