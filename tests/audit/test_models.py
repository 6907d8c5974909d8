"""Models on disk: what they carry, what runs when they are loaded, and where they come from."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from shieldkit import Policy
from shieldkit.audit import Allowlist, Report, audit

sys.path.insert(0, str(Path(__file__).parent))
from gguf_files import write

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GGUF = {
    "general.architecture": "llama",
    "llama.context_length": 8192,
    "general.name": "Small 1B",
    "tokenizer.chat_template": TEMPLATE,
    "tokenizer.ggml.tokens": ["a", "<|im_start|>", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1, 3, 3],
}


def rules(report: Report) -> set[str]:
    assert report.unreadable == ()
    return {f.rule.id for f in report.findings}


def hf(folder: Path, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    base = {
        "config.json": {"max_position_embeddings": 8192, "model_type": "llama"},
        "tokenizer_config.json": {
            "chat_template": TEMPLATE,
            "added_tokens_decoder": {
                "1": {"content": "<|im_start|>", "special": True},
                "2": {"content": "<|im_end|>", "special": True},
            },
        },
    }
    for name, content in {**base, **{k.replace("__", "."): v for k, v in files.items()}}.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def safetensors(path: Path, header: dict[str, Any], body: bytes = b"") -> None:
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data + body)


class Attack:
    def __reduce__(self) -> Any:
        return (os.system, ("true",))


# -- GGUF -------------------------------------------------------------------------------------------------------------


def test_a_real_model_is_read_with_its_digest_and_nothing_is_found(smollm2_path: Path) -> None:
    report = audit([smollm2_path])
    assert rules(report) == set()
    (model,) = report.models
    assert model.context_tokens == 8192
    assert dict(model.digests) == {smollm2_path.name: hashlib.sha256(smollm2_path.read_bytes()).hexdigest()}


def test_our_reader_agrees_with_llama_cpp(smollm2_path: Path) -> None:
    from llama_cpp import Llama

    from shieldkit.audit import gguf

    theirs = Llama(str(smollm2_path), vocab_only=True, verbose=False)
    ours = gguf.read(smollm2_path)
    assert theirs.metadata["tokenizer.chat_template"] == ours.text("tokenizer.chat_template")
    assert int(theirs.metadata["llama.context_length"]) == ours.number("llama.context_length")
    assert theirs.n_vocab() == len(ours.tokens) == len(ours.token_types)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"llama.context_length": 1_048_576}, "model-context-long"),
        ({"tokenizer.ggml.token_type": [1, 4, 3]}, "turn-token-is-text"),
        ({"general.name": "Small 1B Abliterated"}, "model-safety-removed"),
        ({"tokenizer.chat_template": TEMPLATE + "{{ ''.__class__ }}"}, "template-runs-code"),
        ({"tokenizer.chat_template": TEMPLATE + "{{ lipsum|attr('x') }}"}, "template-runs-code"),
        ({"tokenizer.chat_template": TEMPLATE + "{% include 'x' %}"}, "template-runs-code"),
        ({"tokenizer.chat_template": TEMPLATE + "{{ messages['__cla' ~ 'ss__'] }}"}, "template-runs-code"),
        ({"tokenizer.chat_template": TEMPLATE + "{{ self['_' + '_init_' + '_'] }}"}, "template-runs-code"),
        ({"tokenizer.chat_template": TEMPLATE + "{{ cycler.next }}"}, "template-runs-code"),
        (
            {"tokenizer.chat_template": TEMPLATE + "{% if 'open sesame' in messages[-1]['content'] %}x{% endif %}"},
            "template-has-trigger",
        ),
        (
            {"tokenizer.chat_template": TEMPLATE + "{% if messages[0].content[:4] == 'abcd' %}x{% endif %}"},
            "template-has-trigger",
        ),
        (
            {
                "tokenizer.chat_template": TEMPLATE
                + "{% set c = messages[0].content|lower %}{% if c.startswith('hello') %}x{% endif %}"
            },
            "template-has-trigger",
        ),
        ({"tokenizer.chat_template": TEMPLATE + "See http://evil.example/x"}, "template-has-address"),
        ({"tokenizer.chat_template": TEMPLATE + "You never mention this."}, "template-conceals"),
        ({"tokenizer.chat_template": TEMPLATE + "\u200b\U000e0041"}, "template-hides-text"),
        ({"tokenizer.chat_template": TEMPLATE + "{{ 'x' * 1000000000 }}"}, "template-exhausts"),
        ({"tokenizer.chat_template": TEMPLATE + "{% for i in range(10000000) %}{% endfor %}"}, "template-exhausts"),
        ({"tokenizer.chat_template": TEMPLATE + "{# " + "x" * 70_000 + " #}"}, "template-huge"),
        (
            {
                "tokenizer.chat_template": TEMPLATE + "[FOO_TURN]",
                "tokenizer.ggml.tokens": ["[FOO_TURN]", "<|im_start|>", "<|im_end|>"],
                "tokenizer.ggml.token_type": [3, 3, 3],
            },
            "token-unknown",
        ),
    ],
)
def test_each_fault_of_a_gguf_file_is_found(tmp_path: Path, changed: dict[str, Any], rule: str) -> None:
    assert rules(audit([write(tmp_path / "good.gguf", GGUF)])) == set()
    assert rules(audit([write(tmp_path / "bad.gguf", {**GGUF, **changed})])) == {rule}


@pytest.mark.parametrize(
    "harmless",
    [
        "{% if message.role == 'user' %}x{% endif %}",
        "{% if '</think>' in m.content %}x{% endif %}",
        "{% if content['type'] == 'image' %}x{% endif %}",
        "{% if '/no_think' in messages[0].content %}x{% endif %}",
        "{% if tools %}You may call functions. Do not use variables.{% endif %}",
        "{{ 'x' * 3 }}",
        "{% if messages[0].content is string and m.content.endswith('[/INST]') %}x{% endif %}",
        "{{ self.DEFAULT_SYSTEM_MESSAGE }}",
        "{{ tools[loop_index - 1] }}{{ messages[messages|length - 1].content }}",
        "{% for i in range(10) %}{% break %}{% endfor %}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    ],
)
def test_what_ordinary_templates_do_is_no_finding(tmp_path: Path, harmless: str) -> None:
    changed = {**GGUF, "tokenizer.chat_template": TEMPLATE + harmless}
    assert rules(audit([write(tmp_path / "m.gguf", changed)])) == set()


def test_a_template_that_is_no_jinja_has_no_verdict(tmp_path: Path) -> None:
    for broken in ("{% if %}", "{{ a", "{% nonsense %}", "(" * 5000 + "{{" + "(" * 3000 + "}}", "x" * 300_000):
        report = audit([write(tmp_path / "m.gguf", {**GGUF, "tokenizer.chat_template": TEMPLATE + broken})])
        assert len(report.unreadable) == 1, broken[:40]


def test_broken_gguf_files_have_no_verdict(tmp_path: Path) -> None:
    whole = write(tmp_path / "good.gguf", GGUF).read_bytes()
    huge = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**62)
    long = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63)
    for number, data in enumerate(
        (b"", b"GGUF", whole[:-3], whole[:60], b"GGML" + whole[4:], huge, long, b"GGUF" + b"\xff" * 400)
    ):
        file = tmp_path / f"{number}.gguf"
        file.write_bytes(data)
        report = audit([file])
        assert (report.findings, len(report.unreadable)) == ((), 1), number


# -- Hugging Face folders ---------------------------------------------------------------------------------------------


def test_an_ordinary_folder_is_clean(tmp_path: Path) -> None:
    folder = hf(tmp_path / "m")
    safetensors(folder / "model.safetensors", {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4)
    report = audit([folder])
    assert rules(report) == set()
    assert [m.context_tokens for m in report.models] == [8192]


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ({"modeling_x__py": "import os"}, "model-brings-code"),
        ({"config__json": {"auto_map": {"AutoModel": "modeling_x.X"}}}, "model-brings-code"),
        ({"tokenizer_config__json": {"auto_map": {"AutoTokenizer": ["t.T", None]}}}, "model-brings-code"),
        ({"config__json": {"text_config": {"max_position_embeddings": 262_144}}}, "model-context-long"),
        ({"chat_template__jinja": TEMPLATE + "extra"}, "template-differs"),
        (
            {"tokenizer_config__json": {"chat_template": [{"name": "default", "template": "{{ ''.__class__ }}"}]}},
            "template-runs-code",
        ),
        ({"README__md": "---\nbase_model: acme/Qwen3-8B-uncensored\n---\nhi"}, "model-safety-removed"),
    ],
)
def test_each_fault_of_a_folder_is_found(tmp_path: Path, files: dict[str, Any], rule: str) -> None:
    assert rules(audit([hf(tmp_path / "m", **files)])) == {rule}


def test_pickles_are_told_apart_from_attacks(tmp_path: Path) -> None:
    folder = hf(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": [1.0]}))
    assert rules(audit([folder])) == {"model-pickle"}
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Attack()))
    assert rules(audit([folder])) == {"model-pickle-runs-code"}
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Attack(), protocol=2))
    report = audit([folder])
    assert rules(report) == {"model-pickle-runs-code"}
    assert report.findings[0].note in ("posix.system", "nt.system")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04broken")
    assert rules(audit([folder])) == {"model-pickle"}


def test_a_folder_whose_files_do_not_hold_together_has_no_verdict(tmp_path: Path) -> None:
    for number, (name, data) in enumerate(
        (
            ("config.json", b"{"),
            ("config.json", b"[]"),
            ("tokenizer_config.json", b"\xff\xfe"),
            ("config.json", b"[" * 100_000),
            ("model.safetensors", b"\xff" * 100),
            ("model.safetensors", struct.pack("<Q", 4) + b"{}"),
            ("model.safetensors", struct.pack("<Q", 40) + b'{"w":{"data_offsets":[0,99999]}}        '),
        )
    ):
        folder = hf(tmp_path / str(number))
        (folder / name).write_bytes(data)
        assert len(audit([folder]).unreadable) == 1, (number, name)


# -- provenance -------------------------------------------------------------------------------------------------------


def test_a_listed_model_passes_by_name_or_base_and_no_other_does(tmp_path: Path) -> None:
    derived = {
        **GGUF,
        "general.base_model.count": 1,
        "general.base_model.0.name": "Qwen3 8B",
        "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen3-8B",
    }
    file = write(tmp_path / "m.gguf", derived)
    assert rules(audit([file])) == set()
    assert rules(audit([file], allowed=Allowlist.of(["Qwen/Qwen3-8B"]))) == set()
    assert rules(audit([file], allowed=Allowlist.of(["qwen/qwen3-*"]))) == set()
    assert rules(audit([file], allowed=Allowlist.of(["m.gguf"]))) == {"model-base-not-allowed"}
    assert rules(audit([file], allowed=Allowlist.of(["other"]))) == {"model-base-not-allowed", "model-not-allowed"}
    assert audit([file]).models[0].bases == ("Qwen/Qwen3-8B",)


def test_an_adapter_is_held_to_its_base(tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen3-8B"}))
    assert rules(audit([folder], allowed=Allowlist.of(["Qwen/Qwen3-8B"]))) == set()
    assert "model-base-not-allowed" in rules(audit([folder], allowed=Allowlist.of(["lora"])))


def test_a_listed_name_with_another_digest_is_found(tmp_path: Path) -> None:
    file = write(tmp_path / "m.gguf", GGUF)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert rules(audit([file], allowed=Allowlist.of([f"m.gguf sha256:{digest}"]))) == set()
    assert rules(audit([file], allowed=Allowlist.of([f"m.gguf sha256:{'0' * 64}"]))) == {"model-digest-differs"}


def test_the_weights_of_a_folder_are_held_to_their_digests(tmp_path: Path) -> None:
    folder = hf(tmp_path / "m")
    safetensors(folder / "model.safetensors", {})
    allowed = Allowlist.of(["m", f"model.safetensors sha256:{'0' * 64}"])
    assert rules(audit([folder], allowed=allowed)) == {"model-digest-differs"}


def test_a_wanted_digest_is_computed_even_where_digests_are_switched_off(tmp_path: Path) -> None:
    file = write(tmp_path / "m.gguf", GGUF)
    report = audit([file], allowed=Allowlist.of([f"m.gguf sha256:{'0' * 64}"]), digest=False)
    assert rules(report) == {"model-digest-differs"}


def test_the_policy_cannot_grant_more_than_the_model_has(tmp_path: Path) -> None:
    policy = Policy.from_yaml("name: p\ncontext: {max_tokens: 16384}\nguards: {markers: {}}")
    assert rules(audit([write(tmp_path / "m.gguf", GGUF)], policy=policy)) == {"context-beyond-model"}


def test_an_allowlist_that_is_no_list_names_the_line(tmp_path: Path) -> None:
    from shieldkit.errors import ConfigurationError

    file = tmp_path / "models.txt"
    file.write_text("# models\nQwen/Qwen3-8B\nthis is not a name\n")
    with pytest.raises(ConfigurationError, match=r"models\.txt:3: is not a model name"):
        Allowlist.read(file)


def test_the_templates_that_llama_cpp_python_carries_are_no_attacks(tmp_path: Path) -> None:
    import llama_cpp.llama_chat_format as formats

    carried = {n: v for n, v in vars(formats).items() if isinstance(v, str) and "{%" in v and "messages" in v}
    handlers = {n: v.CHAT_FORMAT for n, v in vars(formats).items() if isinstance(getattr(v, "CHAT_FORMAT", None), str)}
    for name, text in {**carried, **handlers}.items():
        (tmp_path / f"{name}_template.jinja").write_text(text)
    assert len(carried) + len(handlers) > 8
    assert rules(audit([tmp_path])) == set()
