"""Files are input: whatever they hold, an audit ends soon, with a verdict or with none, and never with a traceback."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shieldkit.audit import audit
from shieldkit.audit.located import Problem, documents, jsonc

NAMES = (
    "run.sh",
    "Dockerfile",
    "compose.yaml",
    "k8s.yml",
    "llm.service",
    "Procfile",
    "supervisord.conf",
    "nginx.conf",
    "Modelfile",
    "m.gguf",
    "chat_template.jinja",
    ".aider.conf.yml",
    "mcp.json",
    "opencode.json",
    "values.yaml",
    "litellm.yaml",
)
NESTED = (
    ".vscode/settings.json",
    ".zed/settings.json",
    ".claude/settings.json",
    ".codex/config.toml",
    ".continue/config.yaml",
    ".cursor/cli.json",
    ".gemini/settings.json",
)
PIECES = st.lists(
    st.sampled_from(
        [
            "vllm serve ",
            "--host ",
            "0.0.0.0",
            "\n",
            "\\\n",
            "'",
            '"',
            "$(",
            "${A:-b}",
            "<<EOF\n",
            "EOF\n",
            "- ",
            ": ",
            "{",
            "}",
            "[",
            "]",
            "&a ",
            "*a",
            "!!python/object ",
            "---\n",
            "FROM x\n",
            "CMD ",
            "[Service]\n",
            "ExecStart=",
            "services:",
            "image: vllm/vllm-openai",
            "  ",
            "\t",
            "kind: Pod\n",
            "apiVersion: v1\n",
            "docker run -p ",
            "{{",
            "{%",
            "%}",
            "}}",
            "#",
            "//",
            "/*",
            "=",
            "--api-key",
            "-c",
            "\0",
            "é",
            "model_list:",
            "\x85",
            "\u2028",
            "PARAMETER num_ctx 1",
            "1e999",
            "0x",
            ".inf",
        ]
    ),
    max_size=60,
).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    for name in NESTED:
        (made / name).parent.mkdir(exist_ok=True)
    return made


@settings(max_examples=60)
@given(data=st.one_of(st.binary(max_size=400), PIECES.map(str.encode)), name=st.sampled_from(NAMES + NESTED))
def test_no_bytes_make_it_fail(folder: Path, data: bytes, name: str) -> None:
    file = folder / name
    file.write_bytes(data)
    report = audit([file])
    assert report.read or report.unreadable


@settings(max_examples=60)
@given(data=PIECES)
def test_no_command_line_makes_it_fail(data: str) -> None:
    report = audit(commands=[data])
    assert report.read or report.unreadable


@settings(max_examples=40)
@given(tail=st.binary(max_size=300))
def test_no_bytes_after_a_gguf_head_make_it_fail(folder: Path, tail: bytes) -> None:
    file = folder / "m.gguf"
    file.write_bytes(b"GGUF\x03\0\0\0" + tail)
    audit([file])


@settings(max_examples=80)
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**40), 2**40)
        | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef", min_size=1, max_size=8), inner, max_size=4)
        ),
        max_leaves=20,
    ).filter(lambda v: isinstance(v, list | dict)),
    indent=st.sampled_from([None, 2]),
)
def test_plain_json_is_read_as_json_with_comments_and_commas_added(value: object, indent: int | None) -> None:
    import json

    text = json.dumps(value, indent=indent)
    assert jsonc(text) == value
    if indent:
        assert jsonc("// head\n" + text.replace("\n}", ",\n}").replace("{,", "{") + "\n/* tail */") == value


def test_an_alias_bomb_costs_nothing() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    began = time.monotonic()
    with pytest.raises(Problem, match="aliases"):
        documents(bomb)
    assert time.monotonic() - began < 20


def test_a_file_that_contains_itself_has_no_verdict() -> None:
    with pytest.raises(Problem):
        documents("a: &a\n  b: *a\n")


@pytest.mark.parametrize(
    "text", ["[" * 5000, "a: " * 5000, "!!python/object/apply:os.system ['true']\n", "a: b: c", "\t- x", "- &a *a"]
)
def test_strange_yaml_ends_in_a_problem_or_in_plain_data(text: str) -> None:
    try:
        documents(text)
    except Problem as problem:
        assert "python" not in str(problem)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.sh", "echo '" + "x\n" * 100_000),
        ("run.sh", "a=$a$a\n" * 2000 + "vllm serve $a"),
        ("run.sh", '"\\' * 100_000),
        ("run.sh", "<<A " * 50_000),
        ("mcp.json", '{"a": "' + '\\"' * 200_000),
        ("mcp.json", "/*" * 200_000),
        ("mcp.json", "{,,," + ", " * 200_000),
        ("Dockerfile", "FROM x\nENV " + "A=$A$A " * 20_000),
        ("llm.service", "[Service]\n" + "ExecStart=\\\n" * 30_000),
        ("nginx.conf", "location proxy_pass {" * 30_000),
        ("compose.yaml", "services:\n" + "  a: {image: vllm/vllm-openai, command: '" + "-c " * 50_000 + "'}\n"),
    ],
)
def test_long_files_are_read_in_time(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    began = time.process_time()
    audit([tmp_path / name])
    assert time.process_time() - began < 15


def test_what_is_too_large_or_no_text_has_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "big.sh").write_text("vllm serve /m\n" * 100_000)
    (tmp_path / "compose.yaml").write_bytes(b"services: \xff\xfe")
    (tmp_path / "zero.sh").write_bytes(b"vllm serve\0")
    report = audit([tmp_path])
    assert {Path(u.file).name for u in report.unreadable} == {"big.sh", "compose.yaml", "zero.sh"}


def test_a_file_asked_for_by_name_is_audited_or_said_not_to_be(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    assert [u.problem for u in audit([tmp_path / "letter.txt"]).unreadable] == ["is of no kind that is audited"]
    assert audit([tmp_path]).unreadable == ()
    assert [u.problem for u in audit([tmp_path / "nothing"]).unreadable] == ["is not there"]


def test_symbolic_links_are_not_followed_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "run.sh").write_text("ollama serve")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "run.sh").symlink_to(tmp_path / "outside" / "run.sh")
    (tmp_path / "inside" / "loop").symlink_to(tmp_path)
    assert audit([tmp_path / "inside"]).read == ()


def test_an_unrendered_chart_has_no_verdict_where_it_may_serve_a_model(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "web.yaml").write_text("a: {{ .Values.x }}\n{{- end }}\n")
    assert audit([tmp_path]).unreadable == ()
    (tmp_path / "templates" / "model.yaml").write_text("image: vllm/vllm-openai\na: {{ .Values.x }}\n{{- end }}\n")
    (unreadable,) = audit([tmp_path]).unreadable
    assert "helm template" in unreadable.problem
