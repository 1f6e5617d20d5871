"""Any source of sessions as a session log: simulated, imported, or a log that is there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.session_log import SessionLog
from common.settings import Settings


def make_log(source: dict[str, str], settings: Settings, out: Path, on_progress: Callable[[str], None]) -> None:
    """Simulate, import, or link a session log at ``out``; ``source`` has a kind and a path (see `preflight.detect`).

    Raises:
        ValueError: the source is damaged, or something else lies at ``out``.
    """
    kind, path = source["kind"], Path(source["path"])
    if kind == "log":
        SessionLog.open(path)
        if not out.is_symlink():
            out.symlink_to(path, target_is_directory=True)
    elif kind == "simulate":
        from deploy.data.simulator import simulate

        simulate(settings, out, on_progress)
    elif kind == "kuairand":
        from deploy.data.kuairand import import_kuairand

        import_kuairand(path, out, on_progress)
    else:
        from deploy.data.amazon import import_amazon

        import_amazon(path, out, on_progress)
