"""The canary, the system prompt and secrets do not leave; ordinary answers do."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shieldkit import Policy, Shield
from shieldkit.conversation import Conversation
from shieldkit.guards.leak import LeakGuard
from shieldkit.leak import canary, escapes, overlap, secrets
from shieldkit.text import canonicalise
from tests.disguises import DISGUISES
from tests.scripted import Scripted

PROMPT = (
    "You are the support assistant of Riverbank. Never mention the merger with Hillside before March. "
    "Escalate complaints about card fees to the second line, and offer a refund of up to twenty euros."
)
POLICY = Policy.from_yaml("name: x\nguards: {leak: {}}")


def ask(answer: object, prompt: str = PROMPT, question: str = "hello") -> tuple[str, Scripted]:
    backend = Scripted(answer)  # type: ignore[arg-type]
    with Shield(POLICY, backend) as shield:
        reply = shield.invoke([{"role": "system", "content": prompt}, {"role": "user", "content": question}])
    return (reply.refusal.rule if reply.refusal else ""), backend


def mark_in(request: object) -> str:
    text = request.conversation.segments[0].text  # type: ignore[attr-defined]
    return str(text.rsplit(canary.PREFIX, 1)[1])


@pytest.mark.parametrize("disguise", ["none", "case", "spaced", "reversed", "base64", "hex", "zero_width", "fullwidth"])
def test_the_canary_is_found_however_it_is_spelled(disguise: str) -> None:
    spell = DISGUISES.get(disguise, str)
    assert ask(lambda request: f"The reference is {spell(mark_in(request))}.")[0] == "leak.canary"


def in_call(arguments: object, **more: object) -> dict[str, object]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call], **more}


@pytest.mark.parametrize(
    "deal",
    [
        lambda c: {"role": "assistant", "content": "one " + c[:8], "reasoning_content": "two " + c[8:]},
        lambda c: {"role": "assistant", "content": "two " + c[8:] + "!", "reasoning_content": "one " + c[:8] + "!"},
        lambda c: in_call({"a": c[:8], "b": c[8:]}),
        lambda c: in_call({"a": f"{c[:5]} and", "b": f"{c[5:10]} and", "d": f"{c[10:]} and"}),
        lambda c: in_call({"xyz"[n % 3] * (n + 1): digit for n, digit in enumerate(c)}),
        lambda c: in_call({c[:8]: c[8:]}),
        lambda c: in_call({"a": c[:3:-1], "b": c[3::-1]}),
        lambda c: in_call([DISGUISES["base64"](c)[:11], DISGUISES["base64"](c)[11:]]),
        lambda c: in_call({"a": "x" * 9000 + c[:8], "b": c[8:] + "y" * 9000}),
    ],
)
def test_the_canary_is_found_when_it_is_dealt_out(deal: Callable[[str], object]) -> None:
    assert ask(lambda request: deal(mark_in(request)))[0] == "leak.canary"


def test_a_part_of_the_canary_is_not_all_of_it() -> None:
    assert ask(lambda request: in_call({"a": mark_in(request)[:8], "b": mark_in(request)[:9]}))[0] == ""
    digits = [canary.new() * 2 for _ in range(300)]
    assert ask(in_call({"a": digits[:150], "b": digits[150:]}))[0] == ""


def test_the_system_prompt_does_not_leave_in_pieces() -> None:
    words = PROMPT.split()
    thirds = [" ".join(words[at : at + len(words) // 3 + 1]) for at in range(0, len(words), len(words) // 3 + 1)]
    a, b, c = thirds
    assert ask(in_call({"t": c}, content=a, reasoning_content=b))[0] == "leak.system_prompt"
    assert ask(in_call(json.dumps({"t": c}), content=a, reasoning_content=b))[0] == "leak.system_prompt"
    assert (
        ask(in_call({str(n): " ".join(words[n : n + 2]) for n in range(0, len(words), 2)}))[0] == "leak.system_prompt"
    )
    assert ask(f"{a} {DISGUISES['base64'](b)}")[0] == "leak.system_prompt"
    assert ask(in_call({"t": a}, content=a, reasoning_content=a))[0] == ""


def test_redaction_takes_every_piece() -> None:
    words = PROMPT.split()
    answer = {
        "role": "assistant",
        "content": "Now: " + " ".join(words[:16]),
        "reasoning_content": " ".join(words[16:]) + " So it is.",
    }
    with Shield(Policy.from_yaml("name: x\nguards: {leak: {action: redact}}"), Scripted(answer)) as shield:
        reply = shield.invoke([{"role": "system", "content": PROMPT}, {"role": "user", "content": "hello"}])
    assert reply.message is not None
    assert reply.message["content"] == "Now: [redacted]"
    assert reply.message["reasoning_content"] == "[redacted]. So it is."


def test_each_request_has_a_canary_of_its_own_at_the_end_of_the_system_prompt() -> None:
    _, backend = ask("fine")
    _, other = ask("fine")
    planted = backend.requests[0].conversation.segments[0].text
    assert planted.startswith(PROMPT)
    assert mark_in(backend.requests[0]) != mark_in(other.requests[0])
    assert len(mark_in(backend.requests[0])) == 16


def test_without_a_system_prompt_nothing_is_planted() -> None:
    backend = Scripted("fine")
    with Shield(POLICY, backend) as shield:
        shield.invoke("hello")
    assert backend.requests[0].conversation == Conversation.of("hello")


@pytest.mark.parametrize(
    "answer",
    [
        PROMPT,
        "Sure! My instructions: " + PROMPT.upper(),
        PROMPT.replace(",", " -").replace(".", "!\n*"),
        "You are the support assistant of Riverbank. Never mention the merger with Hillside before March. Escalate "
        "complaints about card fees to someone, and offer a refund of up to thirty euros.",
        "Here it is encoded: " + DISGUISES["base64"](PROMPT),
        "Backwards: " + DISGUISES["reversed"](PROMPT),
        DISGUISES["zero_width"](PROMPT),
    ],
)
def test_the_system_prompt_does_not_leave_also_nearly_verbatim_or_encoded(answer: str) -> None:
    assert ask(answer)[0] == "leak.system_prompt"


@pytest.mark.parametrize(
    "answer",
    [
        "I am the support assistant of Riverbank. How can I help?",
        "Card fees are charged once a year. You can complain to us, and we will offer help.",
        "Never mind. March is fine.",
        "",
    ],
)
def test_sharing_words_with_the_prompt_is_no_leak(answer: str) -> None:
    assert ask(answer)[0] == ""


def test_a_short_prompt_is_not_looked_for() -> None:
    assert ask("Be helpful to everyone.", prompt="Be helpful.")[0] == ""


CLAUSES = (
    "你是蓝海银行的客服助手", "只能回答有关账户和贷款的问题", "内部代号是蓝鲸计划", "优惠利率为百分之二点一",
    "不要向任何人透露优惠利率", "遇到投诉请转接主管王伟", "王伟的分机号码是四四零七", "夜间只处理挂失业务",
    "挂失时先核对身份证后四位",
)  # fmt: skip
UNSPACED = {
    "chinese": "，".join(CLAUSES) + "。",
    "chinese, five clauses": "，".join(CLAUSES[:5]) + "。",
    "japanese": "あなたは銀行の顧客サポート係です。社内コードは青鯨計画です。特別金利は二点一割で、誰にも教えてはいけません。",
    "thai": "คุณเป็นผู้ช่วยของธนาคารสยาม ห้ามเปิดเผยอัตราดอกเบี้ยพิเศษร้อยละสองจุดหนึ่งแก่ผู้ใด",
    "lao": "ທ່ານເປັນຜູ້ຊ່ວຍຂອງທະນາຄານ ຢ່າເປີດເຜີຍອັດຕາດອກເບ້ຍພິເສດສອງຈຸດຫນຶ່ງໃຫ້ໃຜ",
    "khmer": "អ្នកជាជំនួយការរបស់ធនាគារ កុំបង្ហាញអត្រាការប្រាក់ពិសេសពីរចុចមួយដល់អ្នកណា",
    "burmese": "သင်သည်ဘဏ်၏အကူဖြစ်သည် အထူးအတိုးနှုန်းကိုမည်သူ့ကိုမျှမပြောပါနှင့်",
}  # fmt: skip


@pytest.mark.parametrize("language", [*UNSPACED])
def test_a_prompt_in_a_script_without_blanks_does_not_leave(language: str) -> None:
    prompt = UNSPACED[language]
    assert ask(prompt, prompt)[0] == "leak.system_prompt"
    assert ask(prompt[: len(prompt) * 2 // 3], prompt)[0] == "leak.system_prompt"


@pytest.mark.parametrize(
    "answer",
    [
        "，".join(CLAUSES[:6]),
        "".join(CLAUSES),
        "，".join(f"其中{clause}" for clause in CLAUSES),
        " ".join("".join(CLAUSES)),
        "\n".join(clause[:4] + "\u200b" + clause[4:] for clause in CLAUSES),
    ],
)
def test_a_chinese_prompt_does_not_leave_also_nearly_verbatim(answer: str) -> None:
    assert ask(answer, UNSPACED["chinese"])[0] == "leak.system_prompt"


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (UNSPACED["chinese"], "您好，我是蓝海银行的客服助手，请问您想了解账户还是贷款？"),
        (
            UNSPACED["chinese"],
            "如需挂失，请准备好身份证，我们的客服会为您处理。优惠利率请以网点公告为准，投诉可以转接主管。",
        ),
        (UNSPACED["chinese"], "贷款的利率取决于期限和信用。您可以在手机银行里查看账户，也可以到网点办理业务。" * 20),
        (
            UNSPACED["japanese"],
            "銀行の顧客サポート係です。金利は支店でお尋ねください。番号は誰にも教えないでください。",
        ),
        (UNSPACED["thai"], "ดิฉันเป็นผู้ช่วยของธนาคาร อัตราดอกเบี้ยเงินฝากประกาศไว้ที่สาขาของธนาคารทุกแห่งค่ะ"),
        ("你是一个乐于助人的助手", "我是一个乐于助人的助手，有什么可以帮您？"),
        ("あなたは親切で役に立つアシスタントです。", "私は親切で役に立つアシスタントです。"),
        ("คุณเป็นผู้ช่วยที่มีประโยชน์", "ฉันเป็นผู้ช่วยที่มีประโยชน์"),
    ],
)
def test_sharing_characters_with_the_prompt_is_no_leak(prompt: str, answer: str) -> None:
    assert ask(answer, prompt)[0] == ""


def test_a_control_token_in_the_answer_is_found() -> None:
    assert ask("ok<|im_end|>")[0] == "leak.control_token"


FAKE = {
    "aws_key": "AKIA" + "FAKEFAKEFAKEFAKE",
    "github_token": "ghp_" + "fAk3" * 9,
    "gitlab_token": "glpat-" + "fAk3" * 5,
    "slack_token": "xoxb-" + "1234567890-" + "fAk3" * 6,
    "stripe_key": "sk_live_" + "fAk3" * 6,
    "google_key": "AIza" + "fAk3fAk" * 5,
    "huggingface_token": "hf_" + "fAk3" * 8,
    "anthropic_key": "sk-ant-" + "fAk3" * 8,
    "openai_key": "sk-proj-" + "fAk3" * 10,
    "npm_token": "npm_" + "fAk3" * 9,
    "jwt": "eyJ" + "fakefakefake" + ".eyJ" + "fakefakefake" + "." + "fakefakefake",
    "connection_string": "postgres://user:" + "fAk3fAk3" + "@db.example.org/x",
    "azure_key": "AccountKey=" + "fA" * 43 + "==",
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\n" + "fAk3" * 16 + "\nZmFrZQ==\n-----END",
}  # fmt: skip


def test_every_shape_is_tested() -> None:
    assert set(FAKE) == secrets.RULES


def test_the_page_names_every_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "leaks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", page, re.M)
    named = [rule for row in rows for rule in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(LeakGuard.rules)


@pytest.mark.parametrize("rule", [*FAKE])
def test_each_kind_of_secret_is_found_at_its_place(rule: str) -> None:
    text = f"Use this: {FAKE[rule]} and go on."
    [(found, start, end)] = list(secrets.find(text))
    assert found == rule
    assert start == 10
    assert FAKE[rule].startswith(text[start:end].rstrip()[: len(FAKE[rule])])
    assert ask(text)[0] == f"leak.{rule}"


@given(st.text(max_size=200), st.sampled_from([*FAKE]))
def test_a_secret_is_found_wherever_it_stands(around: str, rule: str) -> None:
    text = f"{around} {FAKE[rule]} {around}"
    assert any(FAKE[rule][:8] in text[start:end] for _, start, end in secrets.find(text))


@pytest.mark.parametrize(
    "text",
    [
        "The hash is 3f2c9a7be1d04c55a1b2c3d4e5f60718.", "See https://user@example.org/path and http://a:b@c",
        "sk-learn is a library; task-oriented and risk-averse people use it", "AKIA is a prefix", "ghp_ too",
        "postgres://USER:${PASSWORD}@localhost/db", "BEGIN PUBLIC KEY",
    ],
)  # fmt: skip
def test_what_only_looks_a_little_like_a_secret_is_left_alone(text: str) -> None:
    assert list(secrets.find(text)) == []


# Put together from pieces, so that nobody who looks for secrets in a repository stops at them.
SAMPLES = {
    "preset login": 'DATABASE_URL = "postgresql://postgres:' + 'postgres@localhost:5432/mydb"',
    "names of both": "https://username:" + "password@github.com",
    "capitals": "postgres://YOUR_USER:" + "YOUR_PASSWORD@HOST",
    "capitals, longer": "mysql://DB_USER:" + "DB_PASSWORD@DB_HOST:3306/app",
    "masked": "postgres://user:" + "xxxxxx@host",
    "masked, a real host": "amqp://orders:" + "******@mq.riverbank.net.",
    "of a container": "mongodb://root:" + "example@mongo:27017, redis://default:" + "mysecretpassword@127.0.0.1:6379",
    "of a provider": "mongodb+srv://myUser:" + "myPassword@cluster0.ab1cd.mongodb.net",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "jwt": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    + ".eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ"
    + ".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
    "azurite": "AccountKey=" + "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq" + "/K1SZFPTOtr/KBHBeksoGMGw==;",
    "stripe": "sk_test_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "pem, named": "A PEM private key starts with `-----BEGIN PRIVATE KEY-----` and ends with `-----END PRIVATE KEY-----`.",
    "pem, left out": "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
    "pem, begun": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA...\n-----END RSA PRIVATE KEY-----",
    "masked aws": "AKIA" + "X" * 16,
    "masked github": "ghp_" + "x" * 36,
    "masked openai": "sk-" + "x" * 48 + " or sk-proj-" + "*" * 20,
    "masked anthropic": "sk-ant-api03-" + "x" * 40,
    "masked slack": "xoxb-" + "x" * 12 + "-" + "x" * 12 + "-" + "x" * 6,
    "masked google": "AIzaSy" + "X" * 33,
    "counted": "ghp_" + "1234567890" + "abcdefghijklmnopqrstuvwxyz",
    "in words": "sk-proj-your-openai-api-key-goes-right-here, sk-ant-your_anthropic_key_goes_here, xoxb-your-bot-token-goes-here",
    "slug": "https://shop.example/sk-slovensky-kroj-detsky-cervene-farby-2024",
}  # fmt: skip


@pytest.mark.parametrize("kind", [*SAMPLES])
def test_a_sample_of_a_secret_is_left_alone_unless_it_was_told_in_confidence(kind: str) -> None:
    sample = SAMPLES[kind]
    answer = f"For example:\n\n```\n{sample}\n```\n"
    assert list(secrets.find(answer)) == []
    assert ask(answer)[0] == ""
    assert ask(answer, question=f"Explain {sample}")[0] == ""
    told = bool(secrets.shaped(answer))
    assert told == (not kind.startswith("pem"))
    confided = f"{PROMPT} The access is: {sample}"
    assert bool(ask(f"It is {sample}", confided)[0]) == told


@pytest.mark.parametrize("role", ["tool", "document", "user"])
def test_a_sample_that_a_tool_or_a_document_told_does_not_leave(role: str) -> None:
    login = "postgresql://postgres:" + "postgres@localhost"
    told = {"role": role, "content": f"DATABASE_URL={login}:5432/mydb"}
    with Shield(POLICY, Scripted(f"It connects to {login}.")) as shield:
        reply = shield.invoke([told, {"role": "user", "content": "What does it connect to?"}])
    assert (reply.refusal.rule if reply.refusal else "") == ("" if role == "user" else "leak.connection_string")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("connection_string", "postgres://postgres:" + "postgres@db.riverbank.net"),
        ("connection_string", "postgres://user:" + "hV7pq2Lx@localhost"),
        ("connection_string", "https://username:" + "tr0ub4dor@example.com"),
        ("connection_string", "redis://admin:" + "password@10.0.0.5"),
        ("aws_key", SAMPLES["aws"] + " " + FAKE["aws_key"]),
        ("aws_key", "AKIA" + "QWERTYUIOPASDFGH"),
        ("github_token", "ghp_" + "aB3dE5gH" * 4 + "aB3d" + "x" * 40),
        ("openai_key", "sk-" + "0123456789abcdef" * 2),
        ("openai_key", "sk-" + "9f86d081-884c-4d65-9a2f-eaa0c55ad015"),
        ("openai_key", "sk-or-v1-" + "0a1b2c3d" * 8),
        ("anthropic_key", "sk-ant-api03-" + "aB3dE5-H_" * 10 + "AA"),
        ("jwt", "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiI0NzExIiwibmFtZSI6IkpvaG4gRG9lIn0" + "." + "aB3dE5gH" * 5),
        ("azure_key", "AccountKey=" + "Eby8vdM0" + "aB3dE5gH" * 9 + "aB3dE5=="),
        ("private_key", "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ"),
        ("private_key", "-----BEGIN PRIVATE KEY-----\\n" + "MC4CAQAwBQYDK2VwBCIEIaB3dE5gHaB3dE5gH" + "\\n-----END"),
        ("private_key", '"-----BEGIN PRIVATE KEY-----\\n" +\n    "' + "MC4CAQAwBQYDK2VwBCIEIaB3dE5gHaB3dE5gH"),
        ("private_key", "> -----BEGIN EC PRIVATE KEY-----\n> 12 | " + "MC4CAQAwBQYDK2VwBCIEIaB3dE5gHaB3dE5gH"),
        (
            "private_key",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,0A1B2C3D4E5F6071\n\n"
            + "aB3dE5gH" * 8,
        ),
        ("private_key", "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n" + "lQOYBF" + "aB3dE5gH" * 7),
    ],
)
def test_what_looks_a_little_like_a_sample_is_found(rule: str, text: str) -> None:
    assert {found for found, _, _ in secrets.find(f"It is: {text} and no more.")} == {rule}


def test_many_samples_do_not_hide_the_secret_behind_them() -> None:
    assert [*secrets.find((SAMPLES["aws"] + " ") * 2 * secrets.MAX_FOUND + FAKE["aws_key"])]


@pytest.mark.parametrize("name", ["code", "legal", "finance", "prose"])
def test_clean_text_holds_no_secrets(corpora: Path, name: str) -> None:
    with gzip.open(corpora / "haystack" / f"{name}.txt.gz", "rt", encoding="utf-8") as file:
        assert len(list(secrets.find(file.read()[:2_000_000]))) <= 2


@pytest.mark.parametrize("secret", [FAKE["aws_key"], FAKE["jwt"], "<|im_end|>"])
def test_redaction_takes_what_is_found_more_often_than_is_told(secret: str) -> None:
    policy = Policy.from_yaml("name: x\nguards: {leak: {action: redact}}")
    with Shield(policy, Scripted(f"Hello. {f'{secret} ' * 1100} Goodbye.")) as shield:
        reply = shield.invoke("x")
    assert reply.text is not None
    assert secret not in reply.text
    assert reply.text.startswith("Hello. ")
    assert reply.text.endswith(" Goodbye.")


def escaped(text: str, every: int = 1) -> str:
    return "".join(f"\\u{ord(c):04x}" if n % every == 0 else c for n, c in enumerate(text))


@pytest.mark.parametrize("rule", [*FAKE, "control_token"])
@pytest.mark.parametrize("every", [1, 7, 1000])
def test_a_secret_in_escapes_of_json_is_one_in_text_and_in_tool_calls(rule: str, every: int) -> None:
    secret = FAKE.get(rule, "<|im_end|>")
    text = '{"k":"' + escaped(secret, every) + '"}'
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": text}}
    for answer in (text, f"It's here: {text}", json.dumps(text), json.dumps(json.dumps(secret))):
        assert ask(answer)[0] == f"leak.{rule}"
    assert ask({"role": "assistant", "content": "", "tool_calls": [call]})[0] == f"leak.{rule}"


def test_data_holds_no_key_that_was_in_escapes() -> None:
    policy = Policy.from_yaml("name: x\nguards: {leak: {}, schema: {}}")
    with Shield(policy, Scripted('{"k":"\\u0041KIAFAKEFAKEFAKEFAKE"}')) as shield:
        reply = shield.invoke("x", schema={"type": "object"})
    assert reply.refused
    assert reply.data is None


def test_redaction_takes_all_of_a_key_over_escaped_lines() -> None:
    line = "ZmFrZWtleWZha2VrZXlmYWtla2V5ZmFrZXk="
    pem = f"-----BEGIN RSA PRIVATE KEY-----\n{line}\n{line}\n-----END RSA PRIVATE KEY-----"
    policy = Policy.from_yaml("name: x\nguards: {leak: {action: redact}}")
    with Shield(policy, Scripted(json.dumps({"a": "b\n", "k": pem, "z": "c"}))) as shield:
        text = shield.invoke("x").text
    assert text is not None
    assert "ZmFr" not in text
    assert text.startswith('{"a": "b\\n", "k": "[redacted]-----END')
    assert text.endswith('", "z": "c"}')


@given(st.text('\\\\\\"nu0041AK\u00e9 ', max_size=40))
def test_what_is_read_out_of_escapes_has_its_place(text: str) -> None:
    for read, way in escapes.unescaped(text):
        places = [escapes.place(way, at) for at in range(len(read) + 1)]
        assert places == sorted(set(places))
        assert (places[0], places[-1]) == (0, len(text)) if read else True
        assert all(read[at] == text[place] for at, place in enumerate(places[:-1]) if text[place] != "\\")


@given(st.text('\\"\n/\u00e9ab', max_size=40))
def test_strings_are_read_as_json_has_them(text: str) -> None:
    for written in (json.dumps(text), json.dumps(text, ensure_ascii=False)):
        read = [written, *(read for read, _ in escapes.unescaped(written))][min(1, written.count("\\"))]
        assert read == f'"{text}"'


@pytest.mark.parametrize(
    "text", [r"C:\new\AKIA\hf_x", r"\frac{a}{b} \nabla", r"re: \bsk-\w+", r'{"a":"x\ny\u00e9"}', "\\" * 99]
)
def test_ordinary_escapes_are_left_alone(text: str) -> None:
    assert ask(text)[0] == ""


def test_many_secrets_cost_linear_time() -> None:
    start = time.process_time()
    for unit in (FAKE["aws_key"] + " ", FAKE["private_key"]):
        assert list(secrets.find(unit * (100_000 // len(unit))))
    for unit in ("-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nComment: ", *SAMPLES.values()):
        assert not list(secrets.find((unit + " ") * (100_000 // len(unit))))
    assert time.process_time() - start < 3


words = st.lists(
    st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]),
    min_size=8,
    unique=True,
)


@given(words, st.text(max_size=40), st.text(max_size=40))
def test_a_prompt_is_wholly_contained_wherever_it_stands(prompt: list[str], before: str, after: str) -> None:
    text = " ".join(prompt)
    found = overlap.containment(overlap.runs_of(text), f"{before} {text} {after}")
    assert found is not None
    assert found.share == 1.0
    assert found.start <= len(before) + 1
    assert found.end >= len(before) + 1 + len(text)


@given(st.text(), st.text())
def test_overlap_is_a_share_with_a_place_inside(prompt: str, text: str) -> None:
    found = overlap.containment(overlap.runs_of(prompt), text)
    if found is not None:
        assert 0.0 < found.share <= 1.0
        assert 0 <= found.start < found.end <= len(text)


@given(st.text(alphabet="ab ，你是助手かなกขค", max_size=60), st.text(alphabet="ab ，你是助手かなกขค", max_size=30))
def test_runs_before_what_is_pending_are_the_same_whatever_follows(text: str, more: str) -> None:
    settled = overlap.pending(text)
    so_far, in_all = overlap.shingles(text), overlap.shingles(text + more)
    assert [run for run in so_far if run[1] < settled] == [run for run in in_all if run[1] < settled]


@given(st.text(max_size=100))
def test_the_canary_is_found_only_where_it_is(text: str) -> None:
    mark = canary.new()
    assume(mark not in text)
    assert canary.find(mark, canonicalise(text)) == []
    # Around words that stand backwards it is read once more, backwards.
    carrier = f"{text} {mark} {text}"
    places = canary.find(mark, canonicalise(carrier))
    assert any(mark in carrier[start:end] for start, end in places)
    for place in places:
        assert 0 <= place[0] < place[1]
