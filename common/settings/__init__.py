"""One typed settings tree, a file for each part of it.

Nothing heavy is imported here, so that a wrong key is reported before torch or Ray are loaded.
"""

from common.settings.policy import LazySettings, MoeSettings, PolicySettings
from common.settings.section import Positive, Rate, Section, Share
from common.settings.services import RecommendArm, SimulatorSettings
from common.settings.tokenizer import AlignmentSettings, OnlineSettings, RqVaeSettings, TokenizerSettings
from common.settings.training import FilterSettings, IndustrialSettings, RewardSettings, RlSettings, TrainerSettings
from common.settings.tree import PROFILES, Settings, SettingsError, load_settings, save_settings

__all__ = [
    "PROFILES",
    "AlignmentSettings",
    "FilterSettings",
    "IndustrialSettings",
    "LazySettings",
    "MoeSettings",
    "OnlineSettings",
    "PolicySettings",
    "Positive",
    "Rate",
    "RecommendArm",
    "RewardSettings",
    "RlSettings",
    "RqVaeSettings",
    "Section",
    "Settings",
    "SettingsError",
    "Share",
    "SimulatorSettings",
    "TokenizerSettings",
    "TrainerSettings",
    "load_settings",
    "save_settings",
]
