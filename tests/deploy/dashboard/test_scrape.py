from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from deploy.dashboard.scrape import Scraper, is_own
from deploy.local.processes import free_port

TEXT = b"""# HELP onerec_trainer_stream_lag_records Records.
# TYPE onerec_trainer_stream_lag_records gauge
onerec_trainer_stream_lag_records{partition="0",topic="sessions"} 3.0
onerec_trainer_stream_lag_records{partition="1",topic="sessions"} 4.0
onerec_trainer_stream_lag_records{partition="0",topic="groups"} 9.0
# TYPE onerec_rollout_request_lag_records gauge
onerec_rollout_request_lag_records 0.0
"""


class Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 500)
        self.end_headers()
        self.wfile.write(TEXT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_worker_tells_its_own_metrics_and_not_the_others_zeros(url: str) -> None:
    scraper = Scraper()
    scrape = scraper.scrape({"trainer": f"{url}/metrics"})
    scraper.close()
    assert scrape.answered == {"trainer"}
    assert scrape.total("onerec_trainer_stream_lag_records", topic="sessions") == 7.0
    assert scrape.by("onerec_trainer_stream_lag_records", "topic") == {"sessions": 4.0, "groups": 9.0}
    assert scrape.total("onerec_rollout_request_lag_records") is None


def test_who_does_not_answer_is_unknown(url: str) -> None:
    scraper = Scraper()
    scrape = scraper.scrape({"trainer": f"http://127.0.0.1:{free_port()}", "rollout": f"{url}/else", "reward": "nonsense"})
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
