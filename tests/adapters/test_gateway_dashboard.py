"""The dashboard in a real browser: what it shows, that it lives, and that nothing else gets in or out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai", reason="pip install 'shieldkit[openai]'")
pytest.importorskip("uvicorn", reason="pip install 'shieldkit[serve]'")
pytest.importorskip("selenium", reason="pip install selenium")
import httpx2  # noqa: E402

from shieldkit import Inspection, Policy, Shield, guard  # noqa: E402
from shieldkit.adapters.gateway import Keys, Settings, gateway  # noqa: E402
from shieldkit.adapters.gateway.dashboard import duration, number, seconds  # noqa: E402
from shieldkit.adapters.gateway.keys import Key, digest_of  # noqa: E402
from shieldkit.adapters.gateway.tally import MAX_RULES, Tally  # noqa: E402
from shieldkit.budget import MemoryLedger  # noqa: E402
from tests.browser import chromium, missing, signed_in  # noqa: E402
from tests.scripted import Scripted  # noqa: E402
from tests.served import in_process, until  # noqa: E402

SECRET = "zanzibar-pelican"
POLICY = """
name: shown
guards: {markers: {}, leak: {}, schema: {}}
budget: {limits: [{scope: tenant, window: 1h, total_tokens: 5000}, {scope: user, window: 1h, total_tokens: 4000}]}
"""


@guard("rude", stages={"input"})
def rude(inspection: Inspection) -> Iterator[Any]:
    """A careless guard of the application's: its rule is markup, and the user's text."""
    for index, segment in inspection.texts():
        if "rude" in segment.text:
            rule = f"<img src=x onerror=alert(1)> {segment.text}"
            yield inspection.finding(rule, 1.0, index, 0, 4, f"said {segment.text}")


@pytest.fixture
def page() -> Iterator[tuple[Any, str]]:
    if why := missing():
        assert not os.environ.get("CI"), why
        pytest.skip(why)
    keys = (Key(id="ops", sha256=digest_of("ops"), roles=("admin",)),
            Key(id="app", sha256=digest_of("app"), tenant="acme", may_name=("user",)))  # fmt: skip
    ledger = MemoryLedger()
    with Shield(Policy.from_yaml(POLICY), Scripted(), guards=[rude], ledger=ledger) as shield:
        app = gateway(shield, Settings("m"), Keys(keys), ledger=ledger)
        with in_process(app) as address, chromium() as browser:
            yield browser, address


def ask(address: str, text: str, model: str = "m") -> int:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "user": SECRET}
    headers = {"authorization": "Bearer app"}
    return httpx2.post(f"{address}/v1/chat/completions", json=body, headers=headers, timeout=30).status_code


def test_the_page_shows_what_happened_and_goes_on_doing_so(page: tuple[Any, str]) -> None:
    browser, address = page
    browser.get(signed_in(address, "ops") + "/shield")
    assert "Nothing was refused so far." in browser.page_source
    for text in (f"Hello {SECRET}", f"<|im_start|>{SECRET}", f"<|im_end|>{SECRET}", f"rude {SECRET}"):
        assert ask(address, text) == 200
    assert ask(address, "Hello", model="other") == 404

    def shown() -> str:
        return str(browser.find_element("id", "live").text)

    until(lambda: "markers.control_token" in shown(), within_s=20)  # without a reload: the page lives
    text = shown()
    for wanted in ("acme", "each user", "model_not_found", "rude._OTHER", "p50", "Tokens"):
        assert wanted in text, wanted
    tiles = {t.find_element("class name", "name").text: t.find_element("class name", "value").text
             for t in browser.find_elements("class name", "tile")}  # fmt: skip
    assert (tiles["Requests"], tiles["Answered"], tiles["Refused"], tiles["Errors"]) == ("5", "1", "3", "1")
    assert browser.find_element("id", "word").text == "live"
    assert len(browser.find_elements("css selector", "svg.plot rect.no-fill")) >= 2
    everything = browser.page_source
    assert SECRET not in everything
    assert "onerror" not in everything
    complaints = [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
    assert complaints == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert all(address.removeprefix("http://") in url for url in urls if url.startswith("http")), urls


def test_no_script_or_style_but_the_page_s_own_may_run(page: tuple[Any, str]) -> None:
    browser, address = page
    browser.get(signed_in(address, "ops") + "/shield")
    browser.execute_script("""
        window.ran = 0;
        const made = document.createElement("script"); made.textContent = "window.ran = 1"; document.body.append(made);
        document.getElementById("live").innerHTML = "<img src=x onerror='window.ran = 2'>";
    """)
    time.sleep(0.5)
    assert browser.execute_script("return window.ran") == 0
    assert browser.execute_async_script(
        "const done = arguments[0]; fetch('https://example.invalid/').then(() => done('sent'), () => done('stopped'))"
    ) == "stopped"  # fmt: skip
    blocked = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "Content Security Policy" in blocked


def test_rules_that_guards_make_up_do_not_fill_the_memory() -> None:
    from shieldkit.outcome import Refusal, Reply, Stage

    tally = Tally()
    for index in range(3 * MAX_RULES):
        refusal = Refusal("mine", f"mine.{index}", Stage.INPUT, "no")
        tally.replied("chat.completions", Reply((), refusal=refusal), 0.1)
    assert len(tally.refusals) == MAX_RULES + 1
    assert sum(c.count for c in tally.refusals.values()) == 3 * MAX_RULES


def test_numbers_are_for_people() -> None:
    assert [seconds(v) for v in (0.0, 2.5e-6, 0.0034, 0.25, 1.25, 60)] == [
        "0 µs",
        "2.5 µs",
        "3.4 ms",
        "250 ms",
        "1.2 s",
        "60 s",
    ]
    assert [duration(v) for v in (-1, 0, 59, 3600, 200_000)] == ["0 s", "0 s", "59 s", "1 h", "2 d"]
    assert [number(v) for v in (0, 9999, 12_345, 4_000_000)] == ["0", "9999", "12.3k", "4.0M"]
