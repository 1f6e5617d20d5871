"""The whole tree: TOML profile < environment (``ONEREC_RL__RATE=0.05``) < command line; unknown keys are errors."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from common.settings.policy import PolicySettings
from common.settings.services import (
    DashboardSettings,
    EvaluationSettings,
    RecommendSettings,
    RedisSettings,
    RolloutSettings,
    SimulatorSettings,
    SplitSettings,
    StreamSettings,
)
from common.settings.tokenizer import TokenizerSettings
from common.settings.training import (
    FilterSettings,
    PretrainSettings,
    RewardSettings,
    RlSettings,
    SyncSettings,
    TrainerSettings,
)

PROFILES = Path(__file__).resolve().parents[2] / "deploy" / "profiles"
PREFIX = "ONEREC_"
"""Of environment variables."""


class SettingsError(ValueError):
    """The settings cannot be used: names the key, the value and what is accepted."""


class Settings(BaseSettings):
    """The whole tree. Load it with `load_settings`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        nested_model_default_partial_update=True,
        use_attribute_docstrings=True,
    )

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of every random draw: models' first weights, batches' order, simulated users."""
    stream: StreamSettings = StreamSettings()
    redis: RedisSettings = RedisSettings()
    split: SplitSettings = SplitSettings()
    policy: PolicySettings = PolicySettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    pretrain: PretrainSettings = PretrainSettings()
    reward: RewardSettings = RewardSettings()
    filter: FilterSettings = FilterSettings()
    trainer: TrainerSettings = TrainerSettings()
    sync: SyncSettings = SyncSettings()
    rl: RlSettings = RlSettings()
    rollout: RolloutSettings = RolloutSettings()
    recommend: RecommendSettings = RecommendSettings()
    dashboard: DashboardSettings = DashboardSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    simulator: SimulatorSettings = SimulatorSettings()

    @model_validator(mode="after")
    def _a_teacher_has_its_path(self) -> Settings:
        if self.pretrain.item_distillation and not self.policy.item_path:
            share = self.pretrain.item_distillation
            raise ValueError(f"pretrain.item_distillation must be 0 without policy.item_path, got {share}")
        return self

    @model_validator(mode="after")
    def _every_rank_has_a_part(self) -> Settings:
        ranks = self.trainer.ranks
        for name, value in (
            ("stream.partitions", self.stream.partitions),
            ("rl.groups_per_step", self.rl.groups_per_step),
            ("rl.max_outstanding", self.rl.max_outstanding),
        ):
            if ranks > value:
                raise ValueError(f"trainer.ranks must be at most {name} ({value}), got {ranks}")
        return self


def load_settings(profile: str | Path = "", overrides: list[str] | None = None) -> Settings:
    """Read a profile (a shipped name, or a path to a .toml or resolved .json), the environment, ``key.sub=value`` overrides.

    Raises:
        SettingsError: one line that names the key, the value and what is accepted.
    """
    tree = _read_profile(profile) if profile else {}

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings  # neither is read
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=tree)

    try:
        settings = Sourced(**_override_tree(overrides or []))
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    except SourceError as error:
        raise SettingsError(_variable(error)) from None
    return Settings.model_construct(settings.model_fields_set, **dict(settings))  # of a class that can be pickled


def save_settings(settings: Settings, path: Path) -> None:
    """Write the resolved settings without secrets (those come from the environment again)."""
    path.write_text(settings.model_dump_json(indent=2, exclude={"redis": {"url"}}))


def _read_profile(profile: str | Path) -> dict[str, Any]:
    path = Path(profile)
    if path.suffix not in {".toml", ".json"}:
        path = PROFILES / f"{profile}.toml"
    try:
        text = path.read_text()
        tree: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return tree
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.toml")))
        raise SettingsError(
            f"profile {str(profile)!r} does not exist; shipped profiles: {known}, or a path to a .toml file"
        ) from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"profile {path} cannot be parsed: {error}") from None


def _override_tree(overrides: list[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        *parents, leaf = key.strip().split(".")
        if not separator or not leaf:
            raise SettingsError(f"setting {override!r}: expected key=value, for example rl.rate=0.05")
        node = tree
        for place, parent in enumerate(parents, 1):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise SettingsError(f"setting {override!r}: {'.'.join(parents[:place])} has a value of its own already")
        try:
            node[leaf] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            node[leaf] = value
    return tree


def _variable(error: SourceError) -> str:
    """Names the variable that is no JSON, as a list, a table or a whole section must be; its value may be a secret."""
    value = getattr(error.__cause__, "doc", None)
    names = [name for name in os.environ if name.upper().startswith(PREFIX) and os.environ[name] == value]
    return f"{' and '.join(names)} must be JSON: {error.__cause__}" if names else str(error)


def _one_line(error: ValidationError) -> str:
    lines = []
    for issue in error.errors(include_url=False):
        key = ".".join(str(part) for part in issue["loc"]) or "settings"
        shown = "" if "url" in key or isinstance(issue["input"], dict) else f", got {issue['input']!r}"
        lines.append("unknown key " + key if issue["type"] == "extra_forbidden" else f"{key}: {issue['msg']}{shown}")
    return "; ".join(lines)
