"""Scores by models that have not seen the source: what the figures of the model card are made of.

python -m training.evaluate score FOLD MODEL.pt OUT.jsonl     logits of the encoder on all texts of the fold
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace

from training import sources
from training.build import windows
from training.collected import HELD_OUT, collected
from training.sources import Example

MOST = {"S-Labs": 3000, "CLINC150": 1200, "encoded": 962, "special_token": 350, "BIPIA-table": 450, "spikee": 900}
"""How many texts of the large sources are scored."""


def texts(fold: int) -> Iterator[Example]:
    """What is evaluated in a fold: whole texts, and windows of its haystacks.

    Fold 0: ordinary text that no model is trained on. Fold 4: all of the others. Fold 9: collections that no model is trained on.
    """
    if fold == sources.ALL_FOLDS:
        for other in range(1, sources.ALL_FOLDS):
            yield from texts(other)
        return
    rng = random.Random(99)
    if fold == 9:
        yield from (e for e in collected() if e.source in HELD_OUT)
        return
    if fold == 0:
        yield from (e for e in sources.corpus() if e.source in sources.EVALUATION_ONLY)
        yield from (replace(e, kind="unseen") for e in sources.ordinary(rng, 400, sources.UNSEEN))
        return
    by_source: dict[str, list[Example]] = {}
    for e in sources.corpus():
        mine = sources.FOLD_OF.get(e.source, 0) == fold or (e.source in sources.EVALUATION_ONLY and fold == 1)
        if mine:
            by_source.setdefault(e.source, []).append(e)
    for source, found in sorted(by_source.items()):
        yield from rng.sample(found, min(len(found), MOST.get(source, 10_000)))
    for e in sources.packages():
        if sources.FOLD_OF.get(e.source, 0) == fold and rng.random() < 0.4:
            yield e
    for name, text in sources.haystacks().items():
        if sources.FOLD_OF.get(f"haystack-{name}", 0) == fold:
            for k in range(400):
                at = rng.randrange(len(text) - 600)
                yield Example(
                    text[at : at + 384], 0, 0, f"haystack-{name}", "haystack", role="document", id=f"{name}-{k}"
                )


def views(text: str) -> list[str]:
    """The windows that the detector reads of a text and its decoded parts, in canonical form."""
    from shieldkit.text import canonicalise

    canonical = canonicalise(text)
    parts = [canonical.text, *(child.text for child in canonical.children)]
    return [part[s:e] for part in parts for s, e in windows(part) if part[s:e].strip()] or [" "]


def score(fold: int, model_path: str, out_path: str) -> None:
    """Per text: the logits of each of its windows."""
    from pathlib import Path

    import torch

    from training.encoder import KNOWS_BFLOAT16, encode, padded, pieces, trained

    torch.set_num_threads(1)
    model = trained(model_path)
    tokenizer = pieces()
    examples = list(texts(fold))
    flat = [(i, view) for i, e in enumerate(examples) for view in views(e.text)[:40]]
    ids = encode(tokenizer, [view for _, view in flat])
    order = sorted(range(len(flat)), key=lambda k: len(ids[k]))
    logits: list[list[list[float]]] = [[] for _ in examples]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=KNOWS_BFLOAT16):
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            for k, row in zip(batch, model(padded([ids[k] for k in batch]))[1].float().tolist(), strict=True):
                logits[flat[k][0]].append([round(v, 3) for v in row])
    with Path(out_path).open("w", encoding="utf-8") as out:
        for e, found in zip(examples, logits, strict=True):
            out.write(json.dumps({"source": e.source, "kind": e.kind, "direct": e.direct, "data": e.data, "role": e.role,
                                  "id": e.id, "text": e.text[:160], "logits": found}) + "\n")  # fmt: skip
    print(len(examples), "texts,", len(flat), "windows")


if __name__ == "__main__":
    score(int(sys.argv[2]), sys.argv[3], sys.argv[4])
