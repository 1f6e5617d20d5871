from __future__ import annotations

from deploy.dashboard.scrape import Scraper, is_own
from deploy.local.processes import free_port


def test_a_worker_tells_its_own_metrics_and_not_the_others_zeros(metrics_server: str) -> None:
    scraper = Scraper()
    scrape = scraper.scrape({"trainer": f"{metrics_server}/metrics"})
    scraper.close()
    assert scrape.answered == {"trainer"}
    assert scrape.total("onerec_trainer_stream_lag_records", topic="sessions") == 7.0
    assert scrape.by("onerec_trainer_stream_lag_records", "topic") == {"sessions": 4.0, "groups": 9.0}
    assert scrape.total("onerec_rollout_request_lag_records") is None


def test_who_does_not_answer_is_unknown(metrics_server: str) -> None:
    scraper = Scraper()
    scrape = scraper.scrape(
        {"trainer": f"http://127.0.0.1:{free_port()}", "rollout": f"{metrics_server}/else", "reward": "nonsense"}
    )
    scraper.close()
    assert not scrape.answered
    assert scrape.total("onerec_trainer_step_number") is None


def test_metrics_belong_to_one_worker() -> None:
    owners = {
        "onerec_trainer_step_number": "trainer-1",
        "onerec_reward_items_scored_total": "reward",
        "onerec_reward_learner_version_number": "learner",
        "onerec_recommend_lists_total": "recommend",
    }
    for metric, owner in owners.items():
        assert [
            worker for worker in ("trainer-1", "rollout", "reward", "learner", "recommend") if is_own(worker, metric)
        ] == [owner]
