from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from common.messages import Label, Session
from common.session_log import DAY_MS, SessionLog
from common.settings import Settings, SimulatorSettings
from deploy.data.simulator import check_r2, simulate
from deploy.data.simulator_world import DURATION_S, World


def settings(items: int = 60, users: int = 12, days: int = 8, requests: int = 20, seed: int = 3) -> Settings:
    size = SimulatorSettings(items=items, users=users, days=days, requests_per_user=requests)
    return Settings(seed=seed, simulator=size)


@pytest.fixture(scope="module")
def moderate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulator") / "log"
    simulate(settings(items=1500, users=200, requests=30), out, lambda _: None)
    return out


def rows(sessions: list[Session]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    pairs = [(s.user_id, i.item_id) for s in sessions for i in s.impressions]
    users, items = np.asarray(pairs, np.int64).T
    return users, items


def test_one_seed_is_one_log_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate(settings(seed=seed), tmp_path / name, lambda _: None)
    files = [(tmp_path / name / "sessions.jsonl.gz").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_an_encoder_may_see_several_views_of_an_item(tmp_path: Path) -> None:
    one = settings()
    several = one.model_copy(update={"simulator": one.simulator.model_copy(update={"content_tokens": 5})})
    for name, given in (("one", one), ("five", several)):
        simulate(given, tmp_path / name, lambda _: None)
    single, views = SessionLog.open(tmp_path / "one").content(), SessionLog.open(tmp_path / "five").content()
    assert single is not None
    assert views is not None
    assert (single.tokens.shape[1:], views.tokens.shape[1:]) == ((1, 64), (5, 64))
    # Items that are alike in truth are alike in their views.
    likeness = [np.atleast_2d(np.corrcoef(content.tokens.reshape(len(content), -1))) for content in (single, views)]
    pairs = np.triu_indices(len(single), 1)
    assert np.corrcoef(likeness[0][pairs], likeness[1][pairs])[0, 1] > 0.9


def test_days_begin_after_the_histories_and_all_exist(moderate: Path) -> None:
    log = SessionLog.open(moderate)
    assert {log.day_of(s.time_ms) for s in log.sessions(last_day=5)} == set(range(6))
    histories = [user.history for user in log.users()]
    assert all(history.time_ms == sorted(history.time_ms) for history in histories)
    days = {log.day_of(time) for history in histories for time in history.time_ms}
    assert {-2, -1} <= days <= {-2, -1, 0}  # the last list before midnight may be watched past it
    assert log.manifest.positive_label == Label.LONG_VIEW
    assert set(log.manifest.static_fields) == set(next(log.users()).profile)


def test_a_list_shows_five_to_ten_born_items_once_each_in_order(moderate: Path) -> None:
    log, world = SessionLog.open(moderate), World.load(moderate)
    ids, busy = set(), dict[int, int]()
    for session in log.sessions():
        shown = [impression.item_id for impression in session.impressions]
        times = [impression.time_ms for impression in session.impressions]
        assert 5 <= len(shown) <= 10
        assert len(set(shown)) == len(shown)
        assert times == sorted(times)
        assert times[0] == session.time_ms >= busy.get(session.user_id, 0)
        assert world.birth_day[shown].max() <= (session.time_ms - log.manifest.day0_ms) / DAY_MS
        busy[session.user_id] = times[-1]
        ids.add(session.session_id)
    assert len(ids) == log.manifest.sessions


def test_labels_follow_from_play_and_duration(moderate: Path) -> None:
    impressions = [i for s in SessionLog.open(moderate).sessions(last_day=1) for i in s.impressions]
    play, duration, labels = np.array([(i.play_ms, i.duration_ms, i.labels) for i in impressions]).T
    assert duration.min() >= DURATION_S[0] * 1000
    assert duration.max() <= DURATION_S[1] * 1000
    assert (play <= 1.2 * duration + 1).all()
    clear = (abs(play - duration) > 2) & (abs(play - 18_000) > 2) & (abs(play - 3000) > 2)
    long_view = (play >= 18_000) | (play >= duration)
    np.testing.assert_array_equal(((labels & Label.LONG_VIEW) != 0)[clear], long_view[clear])
    np.testing.assert_array_equal(((labels & Label.CLICK) != 0)[clear], (play >= 3000)[clear])


def test_the_true_reward_follows_the_match_and_not_duration(moderate: Path) -> None:
    log, world = SessionLog.open(moderate), World.load(moderate)
    user, item = rows(list(log.sessions()))
    reward = world.expected_reward(user, item)
    design = np.log(world.duration_s[item])
    assert np.corrcoef(reward, design)[0, 1] ** 2 < 0.2
    assert np.corrcoef(reward, world.affinity(user, item))[0, 1] ** 2 > 0.3
    with pytest.raises(ValueError, match=r"R\^2\(reward \| duration\) must be < 0.2, got 0.200"):
        check_r2(0.2, 0.9)
    with pytest.raises(ValueError, match=r"R\^2\(reward \| user-topic match\) must be > 0.3, got 0.300"):
        check_r2(0.1, 0.3)


def test_expected_labels_are_the_rates_that_sampling_gives(moderate: Path) -> None:
    world = World.load(moderate)
    user, item = np.arange(40)[:, None], np.arange(0, 1500, 75)[None, :]
    rng = np.random.default_rng(0)
    affinity = world.affinity(user, item)[..., None]
    duration, viral = (column[item][..., None] for column in (world.duration_s, world.viral))
    logit = affinity - 0.3 * np.log(duration / 20) + 0.5 * viral + 0.5 * rng.standard_normal((40, 20, 2000))
    play = 1.2 * duration / (1 + np.exp(-logit))
    median = world.play_median_s[np.floor(np.log2(duration)).astype(int)]
    expected = world.expected_labels(user, item)
    assert abs((play > median).mean(-1) - expected["play"]).max() < 0.05
    like = 1 / (1 + np.exp(3 - affinity + viral))[..., 0]
    np.testing.assert_allclose(expected["like"], like, rtol=1e-4)
    weights = {"play": 0.4, "like": 0.3, "follow": 0.15, "comment": 0.15}
    mean = sum(weight * expected[name] for name, weight in weights.items())
    np.testing.assert_allclose(world.expected_reward(user, item), mean, rtol=1e-5)


def test_fitting_items_are_shown_and_interests_drift(moderate: Path) -> None:
    log, world = SessionLog.open(moderate), World.load(moderate)
    user, item = rows(list(log.sessions()))
    anywhere = world.expected_reward(np.arange(200)[:, None], np.arange(1500)[None, :])
    assert world.expected_reward(user, item).mean() > 1.5 * anywhere.mean()
    assert anywhere.max(1).mean() > 1.2 * world.expected_reward(user, item).mean()  # room above the logging policy
    moved = np.abs(np.diff(world.theta, axis=0)).max(2) > 0
    assert world.theta.shape[0] == 7
    assert 0 < moved.mean() < 0.5
    early, late = (world.expected_reward(np.arange(200)[:, None], np.arange(50)[None, :], day) for day in (0, None))
    assert np.abs(early - late).max() > 0.05


def test_a_folder_without_truth_and_a_world_too_small_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a simulated session log: missing truth/vectors\.npy"):
        World.load(tmp_path)
    with pytest.raises(ValueError, match="nobody came on log day 0"):
        simulate(settings(users=10, requests=1, days=200), tmp_path / "log", lambda _: None)
