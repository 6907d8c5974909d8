"""The digest of `vectors.npz`, and the command that makes the file: `python -m shieldkit.rails.vectors`.

Run it after a change to one of the text files here or to a built-in pack, and put the digest that it prints below.
"""

from __future__ import annotations

MODEL = "all-MiniLM-L6-v2-int8"
SHA256 = "409a9e578419677fc729916865c2a9883930f5f92067e71634d52dbb643fca44"


def main() -> None:
    """Compute the vectors of all texts that come with shieldkit, and write them beside this file."""
    import hashlib
    import io
    import sys
    from pathlib import Path

    import numpy as np

    from shieldkit.embedding import SentenceEmbedder
    from shieldkit.rails import judge
    from shieldkit.rails.pack import Pack, built_in_packs

    embedder = SentenceEmbedder.builtin()
    texts = judge.read_background()[1]
    for kind in ("pleasantries.txt", "followups.txt", "asides.txt"):
        texts += judge.read_lines(kind)
    for name in built_in_packs():
        config = Pack.load(name).rails_config("shieldkit", "builtin")
        texts += [utterance for utterances in config.user_messages.values() for utterance in utterances]
    texts = sorted(set(texts))
    keys = np.stack([np.frombuffer(judge.key_of(text), np.uint8) for text in texts])
    buffer = io.BytesIO()
    np.savez(buffer, keys=keys, vectors=embedder.encode(texts).astype(np.float16))
    Path(__file__).with_name("vectors.npz").write_bytes(buffer.getvalue())
    sys.stdout.write(f'{len(texts)} texts\nSHA256 = "{hashlib.sha256(buffer.getvalue()).hexdigest()}"\n')


if __name__ == "__main__":
    main()
