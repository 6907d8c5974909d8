"""Shell scripts, Procfiles, systemd units and supervisor files: commands, with the line of each word.

Not a shell: words are split by `shlex`, variables that the file itself sets are put in, and what a program would
compute (`$(…)`, loops, functions with arguments) stays as it is written.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace

from shieldkit.audit import commands
from shieldkit.audit.deployment import Deployment, Reach, Unit
from shieldkit.audit.findings import Given

MAX_LINE_CHARS, MAX_EXPANDED_CHARS = 100_000, 20_000
_OPERATORS = frozenset(";&|()<>")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.S)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::?[-=]([^{}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))")
_HEREDOC = re.compile(r"<<-?\s*[\"']?([A-Za-z_][A-Za-z0-9_]*)[\"']?")


def statements(text: str, file: str, first_line: int = 1) -> Iterator[list[Given]]:
    """The simple commands of a script, each as its words."""
    words: list[Given] = []
    for line, chunk, goes_on in _chunks(text):
        for word in _split(chunk):
            if word and set(word) <= _OPERATORS:
                if words and not set(word) & set("<>"):
                    yield words
                    words = []
                continue
            words.append(Given(word, file, first_line + line))
        if words and not goes_on:
            yield words
            words = []
    if words:
        yield words


def _chunks(text: str) -> Iterator[tuple[int, str, bool]]:
    """Lines, joined where a quote is open; and whether the next one goes on with the command. No here-documents."""
    lines = text.splitlines()
    at, until = 0, ""
    while at < len(lines):
        line, first = lines[at], at
        at += 1
        if until:
            until = "" if line.strip() == until else until
            continue
        quote = _quote_after(line, "")
        while quote and at < len(lines) and len(line) < MAX_LINE_CHARS:
            quote = _quote_after(lines[at], quote)
            line += "\n" + lines[at]
            at += 1
        here = _HEREDOC.search(line)
        until = here[1] if here else ""
        bare = line.rstrip()
        goes_on = bare.endswith("\\")
        if len(line) <= MAX_LINE_CHARS:
            yield first, bare[:-1] if goes_on else bare, goes_on


def _quote_after(line: str, quote: str) -> str:
    """The quote that is still open at the end of a line that begins inside of `quote`."""
    if not quote and "'" not in line and '"' not in line:
        return ""
    escaped, before = False, " "
    for char in line:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and before.isspace():
            return ""
        before = char
    return quote


def _split(chunk: str) -> Iterator[str]:
    lexer = shlex.shlex(chunk, posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        for word in lexer:
            if word.startswith("#"):
                return
            yield word
    except ValueError:
        return


def script(text: str, file: str) -> Iterator[Deployment]:
    """The servers that a shell script starts."""
    known: dict[str, Given] = {}
    exported: set[str] = set()
    for raw in statements(text, file):
        words = [replace(word, value=expanded(word.value, known)) for word in raw]
        given = words[1:] if words[0].value in ("export", "readonly", "local", "declare") else words
        if all(_ASSIGNMENT.fullmatch(w.value) for w in given):
            for word in given:
                name, _, value = word.value.partition("=")
                known[name] = replace(word, value=value)
            exported |= {w.value.partition("=")[0] for w in given} if words[0].value == "export" else set()
            continue
        found = commands.started(words, {n: known[n] for n in exported if n in known})
        if found is not None:
            yield commands.deployment(found, f"{found.server.title} command")


def expanded(text: str, known: Mapping[str, Given]) -> str:
    """`text` with the variables that are known put in, and `${NAME:-default}` by its default."""

    def put(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        if name in known:
            return known[name].value
        return match[2] if match[2] is not None else match.group()

    if "$" not in text:
        return text
    return _VARIABLE.sub(put, text)[:MAX_EXPANDED_CHARS]


def command_line(text: str, file: str = "--command") -> Iterator[Deployment]:
    """The servers that one command line starts."""
    yield from script(text, file)


def procfile(text: str, file: str) -> Iterator[Deployment]:
    """`name: command` lines (Heroku, Foreman, Honcho)."""
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, command = line.partition(":")
        if colon and not name.lstrip().startswith("#"):
            for words in statements(command, file, number):
                found = commands.started(words)
                if found is not None:
                    yield commands.deployment(found, name.strip())


# -- units ------------------------------------------------------------------------------------------------------------


def _sections(text: str) -> Iterator[tuple[str, int, list[tuple[str, str, int]]]]:
    """The sections of an INI-like file, with `\\` and indented continuation lines joined, and the line of each entry."""
    name, first = "", 1
    entries: list[tuple[str, str, int]] = []
    pending = ""
    begun = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not pending and (not line or line[0] in "#;"):
            continue
        if pending:
            line, pending = f"{pending}\n{line}", ""
        else:
            begun = number
        if line.endswith("\\"):
            pending = line[:-1]
            continue
        if line.startswith("[") and line.endswith("]"):
            if entries:
                yield name, first, entries
            name, first, entries = line[1:-1], number, []
        elif entries and raw[:1].isspace() and "=" not in line.split(" ")[0]:
            key, value, where = entries[-1]
            entries[-1] = (key, f"{value}\n{line}", where)
        else:
            key, _, value = line.partition("=")
            entries.append((key.strip(), value.strip(), begun))
    if entries:
        yield name, first, entries


def systemd(text: str, file: str) -> Iterator[Deployment]:
    """A systemd unit, or a Podman quadlet's service part."""
    for name, first, entries in _sections(text):
        if name != "Service":
            continue
        environment: dict[str, Given] = {}
        values = {key: Given(value, file, line) for key, value, line in entries}
        for key, value, line in entries:
            if key == "Environment":
                for word in _split(value.replace("\n", " ")):
                    variable, _, content = word.partition("=")
                    environment[variable] = Given(content, file, line)
        dynamic = values.get("DynamicUser")
        user = values.get("User")
        if dynamic is not None and dynamic.value.lower() in ("yes", "true", "1", "on"):
            user = dynamic
        unit = Unit(Given("", file, first), None if user is None or user.value in ("root", "0") else user, "systemd")
        for key, value, line in entries:
            if key == "ExecStart":
                yield from _unit(value.lstrip("@-:+!"), Given(file, file, line), environment, unit)


def supervisor(text: str, file: str) -> Iterator[Deployment]:
    """A supervisor configuration: `[program:NAME]` with `command`, `environment` and `user`."""
    for name, first, entries in _sections(text):
        if not name.startswith("program:"):
            continue
        environment: dict[str, Given] = {}
        values = {key: Given(value, file, line) for key, value, line in entries}
        if (given := values.get("environment")) is not None:
            for part in _split(given.value.replace(",", " ")):
                variable, _, content = part.partition("=")
                environment[variable] = replace(given, value=content)
        user = values.get("user")
        unit = Unit(Given("", file, first), None if user is None or user.value in ("root", "0") else user, "supervisor")
        command = values.get("command")
        if command is not None:
            yield from _unit(command.value, replace(command, value=name.partition(":")[2]), environment, unit)


def _unit(command: str, named: Given, environment: Mapping[str, Given], unit: Unit) -> Iterator[Deployment]:
    # Each line of a joined command keeps its own number.
    words = [
        Given(word, named.file, named.line + offset)
        for offset, line in enumerate(command.split("\n")) for word in _split(line)
    ]  # fmt: skip
    found = commands.started([replace(w, value=expanded(w.value, environment)) for w in words], environment)
    if found is not None:
        name = named.value.rpartition("/")[2]
        yield replace(commands.deployment(found, name), unit=unit, reach=found.reach or Reach.NETWORK)
