"""Where a model sends held-out text of several domains: what specialisation is judged from."""

from __future__ import annotations

import numpy as np
import torch

from moeviz.model.transformer import LanguageModel
from moeviz.records.imports import of_domains
from moeviz.records.routes import DomainTrace
from moeviz.text.corpus import Batch, Corpus
from moeviz.watch.pretrained import Pretrained, trace
from moeviz.watch.text import moe_layers, rows_by_token, stacked

LENGTH, SEQUENCES = 64, 128  # tokens of a sequence, and sequences of a domain
AT_ONCE = 32  # sequences
OF_A_CHECKPOINT = 8  # sequences of a domain: a real model reads some hundred tokens a second


def route_domains(
    model: LanguageModel, corpus: Corpus, *, sequences: int = SEQUENCES
) -> DomainTrace:
    """Where the model sends so many held-out sequences of each domain, each of LENGTH tokens.
    ValueError for a dense model and for soft routers."""
    windows = corpus.windows("reserve", seq_len=LENGTH, windows_per_domain=sequences)
    return route_windows(model, windows, corpus)


@torch.no_grad()
def route_windows(model: LanguageModel, windows: Batch, corpus: Corpus) -> DomainTrace:
    """The same of these windows of the corpus, all but the last token of each."""
    layers, ids_GS = moe_layers(model), windows.tokens[:, :-1]
    rows: list[list[np.ndarray]] = [[] for _ in layers]
    with model.evaluating():
        for ids_BS in torch.from_numpy(ids_GS).split(AT_ONCE):
            routes = model(ids_BS.to(model.head.weight.device)).routes
            for place, layer in enumerate(layers):
                rows[place].append(rows_by_token(routes[layer].plan, ids_BS.numel())[0])
    columns = [stacked(parts, -1) for parts in zip(*rows, strict=True)]
    width = max(part.shape[2] for part in columns)
    wide = [(0, 0), (0, 0)]
    return DomainTrace(
        domains=corpus.domains,
        expert=np.concatenate(
            [np.pad(p, [*wide, (0, width - p.shape[2])], constant_values=-1) for p in columns]
        ),
        token=ids_GS.ravel().astype(np.int32),
        domain=windows.domain.astype(np.int32),
        length=np.full(len(ids_GS), ids_GS.shape[1], np.int32),
        num_experts=model.routers()[layers[0]].num_experts,
        layers=layers,
        meta={"text": corpus.manifest.fingerprint},
    )


def route_checkpoint(checkpoint: Pretrained, corpus: Corpus) -> DomainTrace:
    """Where a real model sends the same text, cut into its own tokens; ValueError as
    pretrained.trace."""
    windows = corpus.windows("reserve", seq_len=LENGTH, windows_per_domain=OF_A_CHECKPOINT)
    texts = [corpus.tokenizer.decode(ids_S) for ids_S in windows.tokens]
    traces = [trace(checkpoint, text) for text in texts]
    return of_domains(
        {
            name: [one for one, of in zip(traces, windows.domain, strict=True) if of == domain]
            for domain, name in enumerate(corpus.domains)
        }
    )
