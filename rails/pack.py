"""A rail pack: a folder of NeMo Guardrails configuration, read as data and never as code.

NeMo runs a `config.py` or `actions.py` that it finds beside a configuration, and configurations can import others and
name models on the network. A pack can do none of that here: its files are read by this module and given to NeMo as
text, and what would reach out of the folder is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shieldkit.errors import ConfigurationError

_FIELD = "guards.topics.pack"
_HOME = Path(__file__).parent
_MAX_BYTES = 2_000_000
_ALLOWED_KEYS = frozenset({"colang_version", "rails", "custom_data", "instructions", "prompts", "sample_conversation"})
_FLOWS = {"input": "topic guard", "output": "topic guard output"}


def built_in_packs() -> tuple[str, ...]:
    """The names of the packs that come with shieldkit, without the template."""
    found = sorted(p.parent.name for p in _HOME.glob("*/config.yml"))
    return tuple(name for name in found if name != "template")


@dataclass(frozen=True, slots=True)
class Pack:
    """One product surface. `settings` is `config.yml`, `colang` all its Colang files, joined.

    `pleasantries` (`custom_data.pleasantries`, by default true): greetings, thanks and farewells are on topic.
    """

    name: str
    surface: str
    settings: dict[str, Any]
    colang: str
    pleasantries: bool = True

    @classmethod
    def load(cls, name_or_folder: str) -> Pack:
        """Read a built-in pack by name, or a folder of one's own. `ConfigurationError` says what is wrong with it."""
        folder = _HOME / name_or_folder if name_or_folder in built_in_packs() else Path(name_or_folder)
        if not (folder / "config.yml").is_file():
            choice = ", ".join(built_in_packs())
            mend = f"Use one of {choice}, or the path of a folder with config.yml and topics.co"
            raise ConfigurationError(_FIELD, "is not a rail pack", mend=mend)
        try:
            settings = yaml.safe_load(_text(folder / "config.yml"))
        except yaml.YAMLError as error:
            at = getattr(error, "problem_mark", None)
            where = f" (line {at.line + 1})" if at is not None else ""
            raise ConfigurationError(_FIELD, f"config.yml is not YAML{where}", mend="Mend the file") from None
        settings = _checked(settings)
        colang = "\n".join(_text(path) for path in sorted(folder.glob("*.co")))
        custom = settings.get("custom_data") or {}
        return cls(
            folder.name,
            str(custom.get("surface", folder.name)),
            settings,
            colang,
            pleasantries=custom.get("pleasantries", True) is not False,
        )

    def rails_config(self, embedding_engine: str, embedding_model: str) -> Any:
        """The pack as NeMo's `RailsConfig`, whose own embedding searches use the given provider, never a download."""
        from nemoguardrails import RailsConfig

        models = [{"type": "embeddings", "engine": embedding_engine, "model": embedding_model}]
        try:
            config = RailsConfig.from_content(self.colang, config={**self.settings, "models": models})
        except Exception as error:
            problem = f"NeMo Guardrails cannot read it ({type(error).__name__})"
            raise ConfigurationError(_FIELD, problem, mend="Mend config.yml and the .co files") from error
        if config.imported_paths:
            raise ConfigurationError(_FIELD, "imports other configurations", mend="Copy what it needs into the folder")
        return config


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigurationError(_FIELD, f"{path.name} is larger than {_MAX_BYTES} bytes", mend="Shorten it")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            _FIELD, f"{path.name} cannot be read ({type(error).__name__})", mend="Mend it"
        ) from None


def _checked(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise ConfigurationError(_FIELD, "config.yml is not a mapping", mend="See the pack `template`")
    if unknown := sorted(str(key) for key in settings.keys() - _ALLOWED_KEYS):
        mend = f"A pack is data: only {', '.join(sorted(_ALLOWED_KEYS))} are read from config.yml"
        raise ConfigurationError(_FIELD, f"config.yml has the key {unknown[0]!r}", mend=mend)
    rails = settings.get("rails")
    for stage, flow in _FLOWS.items():
        part = rails.get(stage) if isinstance(rails, dict) else None
        flows = part.get("flows") if isinstance(part, dict) else None
        if not isinstance(flows, list) or flow not in flows:
            problem = f"config.yml does not run the flow {flow!r}"
            raise ConfigurationError(_FIELD, problem, mend=f"Add it under rails.{stage}.flows")
    if str(settings.get("colang_version", "1.0")) != "1.0":
        raise ConfigurationError(_FIELD, "is not Colang 1.0", mend='Set colang_version: "1.0"')
    return settings
