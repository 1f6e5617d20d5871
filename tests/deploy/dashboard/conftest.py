"""One recorded run for all tests of this room that only read it, and a worker that answers."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from deploy.local.run_folder import RunFolder
from tests.deploy.dashboard.recorded import record_run

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
def metrics_server() -> Iterator[str]:
    """Address of a worker whose ``/metrics`` answers; other paths fail."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that has ended, with everything on disk. To be left as it is."""
    run = record_run(tmp_path_factory.mktemp("recorded") / "run")
    (run.path / "timing.json").write_text("{}")
    return run
