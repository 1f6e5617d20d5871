from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
from common import metrics as m
m.TRAINER_STEP.set(3)
m.TRAINER_DISK_FREE.set_function(lambda: 7)
m.TRAINER_STREAM_LAG.labels("sessions", "0").set(0)
print(m.render().decode())
"""


def test_a_gauge_shows_nothing_before_it_is_set() -> None:
    shown = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, timeout=60).stdout
    gauges = set(re.findall(r"^# TYPE (onerec_\S+(?<!_created)) gauge$", shown, flags=re.MULTILINE))
    samples = [line for line in shown.splitlines() if re.split("[ {]", line)[0] in gauges]
    lags = [line for line in samples if line.startswith("onerec_trainer_stream_lag_records")]
    assert lags == ['onerec_trainer_stream_lag_records{partition="0",topic="sessions"} 0.0']
    assert sorted(set(samples) - set(lags)) == ["onerec_trainer_disk_free_bytes 7.0", "onerec_trainer_step_number 3.0"]
