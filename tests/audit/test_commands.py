"""Command lines: whatever starts the server, its options are found, and what they come to."""

from __future__ import annotations

import pytest

from shieldkit import Policy
from shieldkit.audit import audit

QUIET = "VLLM_NO_USAGE_STATS=1 vllm serve /m --served-model-name m --host 127.0.0.1 --max-model-len 8192"
POLICY = "name: p\ncontext: {max_tokens: 16384, max_output_tokens: 512}\nguards: {markers: {}}"


def rules(command: str, **held: object) -> set[str]:
    report = audit(commands=[command], **held)  # type: ignore[arg-type]
    assert report.unreadable == ()
    return {f.rule.id for f in report.findings}


def test_a_careful_command_is_clean() -> None:
    assert rules(QUIET) == set()


@pytest.mark.parametrize(
    "wrapped",
    [
        "{}", "exec {}", "nohup {} > log 2>&1 &", "sudo -u llm {}", "env A=b {}", "A=b {}", "timeout 10 {}", "cd /srv && {}",
        "bash -c '{}'", "nice -n 5 {}", "tini -- {}", "true; {} | tee log", "if true; then {}; fi", "sudo bash -lc '{}'",
    ],
)  # fmt: skip
def test_wrappers_do_not_hide_a_server(wrapped: str) -> None:
    assert "trust-remote-code" in rules(
        wrapped.format(QUIET.replace("VLLM_NO_USAGE_STATS=1 ", "") + " --trust-remote-code")
    )


@pytest.mark.parametrize(
    "command",
    ["echo vllm serve /m", "pip install vllm", "# vllm serve /m", "grep -r llama-server .", "pkill ollama", ""],
)
def test_what_starts_no_server_is_not_audited_and_says_so(command: str) -> None:
    report = audit(commands=[command])
    assert report.findings == ()
    assert len(report.unreadable) == 1


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ("--max-model-len -1", "context-of-model"), ("--max-model-len auto", "context-of-model"),
        ("--max_model_len=131073", "context-over-128k"), ("--tool-server demo", "server-tools"),
        ("--middleware auth.check", "server-plugin"), ("--load-format=pt", "weights-pickled"),
        ("--enable-tokenizer-info-endpoint --host 10.0.0.1 --api-key $K", "tokenizer-exposed"),
        ("--api-key 0123456789abcdef0123456789abcdef", "key-in-clear"), ("--api-key EMPTY", "key-weak"),
        ("--api-key $KEY", "key-in-process-list"), ("--allowed-origins '[\"*\"]'", "cors-wildcard"),
        ("--override-generation-config '{}'", "defaults-overridden"), ("--rope-scaling yarn", "context-stretched"),
        ("--enable-auto-tool-choice", "tool-calls"), ("--served-model-name claude-x", "served-name-misleads"),
    ],
)  # fmt: skip
def test_an_option_is_found_however_it_is_written(options: str, rule: str) -> None:
    assert rule in rules(f"{QUIET} {options}")


def test_a_switch_that_is_off_is_no_finding() -> None:
    off = "--no-trust-remote-code --enable-log-requests=false --no-enable-log-requests"
    assert rules(f"VLLM_SERVER_DEV_MODE=0 VLLM_ALLOW_RUNTIME_LORA_UPDATING=false {QUIET} {off}") == set()
    assert rules(f"{QUIET} --trust-remote-code --no-trust-remote-code") == set()
    assert rules(f"{QUIET} --no-trust-remote-code --trust-remote-code") == {"trust-remote-code"}


def test_a_model_from_an_address_is_found() -> None:
    command = "llama-server --model-url https://example.com/m.gguf -c 8192 --alias m --no-slots"
    assert rules(command) == {"model-from-url"}


def test_parallel_slots_divide_the_context() -> None:
    command = "llama-server -m /m.gguf -c 32768 --parallel 4 --alias m --no-slots"
    assert rules(command) == {"context-divided"}
    assert "context-below-policy" in rules(command, policy=Policy.from_yaml(POLICY))
    assert rules(command + " --kv-unified") == set()


def test_the_servers_context_is_held_against_the_policys() -> None:
    policy = Policy.from_yaml(POLICY)
    assert rules(QUIET, policy=policy) == {"context-below-policy"}
    assert rules(QUIET.replace("8192", "16384"), policy=policy) == set()
    assert rules(QUIET.replace("8192", "32768"), policy=policy) == {"context-above-policy"}
    long = Policy.from_yaml(POLICY.replace("max_tokens: 16384", "max_tokens: 200000, allow_over_128k: true"))
    assert rules(QUIET.replace("8192", "200000"), policy=long) == set()


@pytest.mark.parametrize(
    ("ports", "open_"),
    [
        ("-p 8000:8000", True), ("-p8000:8000", True), ("--publish=0.0.0.0:8000:8000", True), ("-p 127.0.0.1:8000:8000", False),
        ("-p [::1]:8000:8000", False), ("-p 8000", True), ("--network host", True), ("", False),
    ],
)  # fmt: skip
def test_a_container_is_open_where_its_port_is_published(ports: str, open_: bool) -> None:
    found = rules(f"docker run --rm {ports} vllm/vllm-openai:v0.32.0 --model /m --max-model-len 8k")
    assert ("no-api-key" in found) is open_


@pytest.mark.parametrize(
    ("host", "open_"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("::", True), ("10.0.0.7", True),
     ("$HOST", True), ("example.org", True), ("127.0.0.1.example.org", True)],
)  # fmt: skip
def test_only_loopback_is_closed(host: str, open_: bool) -> None:
    assert ("no-api-key" in rules(f"vllm serve /m --host {host}")) is open_


def test_variables_that_the_script_sets_are_put_in(tmp_path) -> None:  # type: ignore[no-untyped-def]
    script = tmp_path / "run.sh"
    script.write_text(
        'HOST=${HOST:-0.0.0.0}\nARGS=8192\nvllm serve /m --host $HOST --max-model-len ${ARGS} --api-key "$K"\n'
    )
    report = audit([script])
    assert not {"context-unset", "context-of-model"} & {f.rule.id for f in report.findings}
    assert "no-tls" in {f.rule.id for f in report.findings}


def test_a_configuration_file_beside_the_script_counts(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "options.yaml").write_text("trust-remote-code: true\nmax_model_len: 8192\n")
    (tmp_path / "run.sh").write_text("vllm serve /m --config /etc/vllm/options.yaml --host 127.0.0.1\n")
    report = audit([tmp_path / "run.sh"])
    places = {f.rule.id: (f.file.rpartition("/")[2], f.line) for f in report.findings}
    assert places["trust-remote-code"] == ("options.yaml", 1)
    assert "context-unset" not in places
