"""Text to the ids of the encoder's pieces: a unigram model (Kudo 2018, "Subword regularization") over many languages.

The pieces and their scores are those of XLM-RoBERTa (Conneau et al. 2020; MIT) that occur in the text the encoder was
trained for (`training/base.py`), in lower case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SPECIAL = ("<Nothing>", "<Begin>", "<End>", "<Unknown>")
"""What is no text: ids 0 to 3. Their capitals keep a text, which is in lower case here, from spelling them."""


def unigram(pieces: Sequence[tuple[str, float]]) -> Any:
    """A `tokenizers.Tokenizer`; `pieces` with their log-likelihoods in the order of their ids, `SPECIAL` first."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram([(piece, score) for piece, score in pieces], unk_id=3, byte_fallback=False))
    # Folded text has its letters taken apart: the pieces are of whole ones (kana with their marks, Arabic with its hamza).
    whole = [
        normalizers.NFC(),
        normalizers.Replace("\u0e4d\u0e32", "\u0e33"),
        normalizers.Replace("\u0ecd\u0eb2", "\u0eb3"),
    ]
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([*whole, normalizers.Lowercase(), blanks])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<Begin> $A <End>", special_tokens=[("<Begin>", 1), ("<End>", 2)]
    )
    return tokenizer
