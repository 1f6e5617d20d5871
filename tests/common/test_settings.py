from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from common.settings import PROFILES, Settings, SettingsError, load_settings, save_settings


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "p.toml"
    path.write_text("[rl]\nrate = 0.2\neps = 0.3\n")
    return path


def test_profile_below_environment_below_command_line(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(profile).rl.rate == 0.2
    monkeypatch.setenv("ONEREC_RL__RATE", "0.3")
    settings = load_settings(profile)
    assert (settings.rl.rate, settings.rl.eps) == (0.3, 0.3)
    assert load_settings(profile, ["rl.rate=0.4"]).rl.rate == 0.4


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rl.rat=1", "unknown key rl.rat"),
        ("rl.rate=7", "rl.rate: Input should be less than or equal to 1, got 7"),
        ("policy.heads=5", "policy.heads must divide policy.d_model, got 5 and 64"),
        (
            "policy.architecture=rnn",
            "policy.architecture: Input should be 'encoder_decoder', 'lazy_decoder' or 'session_decoder'",
        ),
        ("policy.lazy.kv_groups=3", "policy.lazy.kv_groups must divide policy.heads (4), got 3"),
        ("policy.lazy.kv_layers=2", "policy.lazy.kv_layers must be at most policy.decoder_layers (1), got 2"),
        ("policy.lazy.kv_split=3", "policy.lazy.kv_split: Input should be less than or equal to 2, got 3"),
        ("policy.lazy.embed_width=65", "policy.lazy.embed_width must be at most policy.d_model (64), got 65"),
        ("policy.session_items=1", "policy.session_items: Input should be greater than or equal to 2, got 1"),
        ("policy.moe.experts=2", "moe.encoder_blocks or moe.decoder_blocks must name a block, got none for moe.experts"),
        ("policy.moe={experts=2,active=3,decoder_blocks=[0]}", "moe.active must be 2..moe.experts (2), got 3"),
        ("policy.moe={experts=2,decoder_blocks=[1]}", "policy.moe.decoder_blocks must lie in 0..0, got 1"),
        ("policy.moe.width=12", "policy.moe.width: Input should be a multiple of 8, got 12"),
        ("policy={d_model=12,moe={experts=2,decoder_blocks=[0]}}", "policy.d_model must be a multiple of 8"),
        ("rl.rate", "expected key=value"),
        ('rl={objective="dpo",ratio_level="token"}', "rl.ratio_level must be 'auto' or 'sequence' with rl.objective 'dpo'"),
        ("reward.max_weight=inf", "reward.max_weight: Input should be a finite number, got inf"),
        ("rl.beta=0", "rl.beta: Input should be greater than 0, got 0"),
        ("trainer.ranks=3", "trainer.ranks must be at most stream.partitions (2), got 3"),
        ("trainer.targets=some", "trainer.targets: Input should be 'all' or 'positive', got 'some'"),
    ],
)
def test_errors_name_key_value_and_range(override: str, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        load_settings("", [override])


@pytest.mark.parametrize(("above", "below", "key"), [("rl=1", "rl.rate=0.1", "rl"), ("rl.rate=1", "rl.rate.x=2", "rl.rate")])
def test_a_key_below_one_that_was_given_a_value_is_named(above: str, below: str, key: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"setting '{below}': {key} has a value of its own already")):
        load_settings("", [above, below])


def test_a_variable_that_must_hold_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_POLICY__STATIC_FIELDS", "age,gender")
    with pytest.raises(SettingsError, match=r"^ONEREC_POLICY__STATIC_FIELDS must be JSON: Expecting value"):
        load_settings("")
    monkeypatch.setenv("ONEREC_POLICY__STATIC_FIELDS", '["age", "gender"]')
    assert load_settings("").policy.static_fields == ["age", "gender"]
    monkeypatch.setenv("ONEREC_REDIS", "redis://:hunter4@host:6379/0")
    with pytest.raises(SettingsError, match=r"^ONEREC_REDIS must be JSON") as told:
        load_settings("")
    assert "hunter4" not in str(told.value)


def test_a_history_item_must_be_known_by_something() -> None:
    with pytest.raises(SettingsError, match=r"policy\.vid_input and policy\.sid_input must not both be false"):
        load_settings("", ["policy.vid_input=false", "policy.sid_input=false"])


@pytest.mark.parametrize("architecture", ["lazy_decoder", "session_decoder"])
@pytest.mark.parametrize("profile", ["amazon", "demo", "kuairand", "test"])
def test_a_shipped_profile_takes_another_architecture(profile: str, architecture: str) -> None:
    changed = load_settings(profile, [f"policy.architecture={architecture}"]).policy
    assert changed == load_settings(profile).policy.model_copy(update={"architecture": architecture})


def test_unknown_profiles_and_broken_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'nope' does not exist; shipped profiles: .*demo"):
        load_settings("nope")
    (tmp_path / "bad.toml").write_text("rl = [")
    with pytest.raises(SettingsError, match="cannot be parsed"):
        load_settings(tmp_path / "bad.toml")


def test_secrets_are_neither_saved_nor_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_REDIS__URL", "redis://:hunter2@127.0.0.1:1/0")
    settings = load_settings("")
    save_settings(settings, tmp_path / "s.json")
    assert "hunter2" not in (tmp_path / "s.json").read_text() + repr(settings)
    assert load_settings(tmp_path / "s.json").redis.url.get_secret_value().endswith("@127.0.0.1:1/0")


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_profiles_load(path: Path) -> None:
    assert load_settings(path).policy.levels >= 2


def test_settings_reach_another_process_as_they_are() -> None:
    settings = load_settings("beauty", ["seed=3"])
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(Settings.model_dump, settings).result(60) == settings.model_dump()
    assert type(settings) is Settings


def test_the_redis_url_may_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "url"
    secret.write_text("redis://:hunter3@host:6379/0\n")
    monkeypatch.setenv("ONEREC_REDIS__URL_FILE", str(secret))
    settings = load_settings("test")
    assert settings.redis.url.get_secret_value() == "redis://:hunter3@host:6379/0"
    save_settings(settings, tmp_path / "settings.json")
    assert "hunter3" not in (tmp_path / "settings.json").read_text()
    assert load_settings(tmp_path / "settings.json") == settings


def test_a_redis_url_that_cannot_be_read_or_is_given_twice_is_told_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEREC_REDIS__URL_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"ONEREC_REDIS__URL_FILE: .*none cannot be read: No such file"):
        load_settings("test")
    monkeypatch.setenv("ONEREC_REDIS__URL", "redis://:hunter3@host:6379/0")
    with pytest.raises(SettingsError, match="both given") as told:
        load_settings("test")
    assert "hunter3" not in str(told.value)
