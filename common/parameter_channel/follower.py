"""A reader of a run's parameter versions. It verifies before it uses anything."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import redis
from pydantic import ValidationError

from common.parameter_channel.connection import ENVELOPE, Connection
from common.parameter_channel.manifest import Manifest, Part, Precision, digest
from common.parameter_channel.shared_copy import SharedCopy, Sink
from common.parameter_channel.wire import patched
from common.tensor_file import Parameters

READER_S = 60.0
"""A reader that showed no sign for this long is no longer waited for."""
REFUSALS = ("run", "fencing", "version", "manifest", "chunk")
"""Why a manifest may be refused, see `Follower`."""
USED_VERSIONS = 100_000
"""Acknowledgements remembered per reader."""
USED_S = 86_400
"""How long they are remembered after the last one."""


class Follower(Connection):
    """One reader, for one thread. ``refused`` counts manifests not used.

    By reason: ``run`` (another run's), ``fencing`` (an older publisher's), ``version`` (goes back), ``manifest`` (does not
    validate), ``chunk`` (a chunk is missing, short or differs, or they do not give the version's parameters).
    """

    def __init__(
        self, redis_url: str, run: str, reader: str, timeout_s: float, folder: Path, precision: Precision = "fp32"
    ) -> None:
        """``folder``: the run's. Its readers on this machine share what one of them has fetched."""
        super().__init__(redis_url, run, timeout_s)
        self.reader, self.precision = reader, precision
        self.refused: Counter[str] = Counter()
        self._shared = SharedCopy(folder, precision, timeout_s)
        self._fencing = 0
        self._version = -1
        self._acknowledged = -1
        self._last_refused: tuple[str, str] | None = None
        self._notices = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            with self._named():
                self._register(self._client)
                self._notices.subscribe(self._key("notice"))
            self._show_life()
        except BaseException:
            self.close()
            raise

    def fetch_newer(self, than: int) -> tuple[int, Parameters] | None:
        """The newest version and its verified bytes if it is newer than ``than``; None if not, or if it is refused."""
        self._show_life()
        with self._named():
            text = self._client.get(self._key("manifest"))
        if text is None:
            return None
        manifest = self._accepted(text, than)
        if manifest is None or manifest.version <= than or self.precision not in manifest.parts:
            return None
        parts = manifest.parts[self.precision]
        blob = self._shared.get(manifest.version, parts[-1].xxh3_128, partial(self._fetch, parts))
        if blob is None:
            self._refuse("chunk", text)
            return None
        self._fencing, self._version = manifest.fencing, manifest.version
        return manifest.version, blob

    def acknowledge(self, version: int) -> None:
        """Tell the publisher that this reader now works with ``version``."""
        self._acknowledged = version
        used = self._key("used", self.reader)
        with self._named():
            pipeline = self._client.pipeline()
            pipeline.rpush(used, version)
            pipeline.ltrim(used, -USED_VERSIONS, -1)
            pipeline.expire(used, USED_S)
            pipeline.set(self._key("alive", self.reader), version, ex=int(READER_S))
            self._register(pipeline)
            pipeline.execute()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a notice (all pending ones count as one); False after ``timeout_s``.

        Notices can be lost: look with `fetch_newer` either way.
        """
        deadline = time.monotonic() + timeout_s
        with self._named():
            while (left := deadline - time.monotonic()) > 0:
                if self._notices.get_message(timeout=left) is not None:
                    while self._notices.get_message(timeout=0.0) is not None:
                        pass
                    return True
        return False

    def close(self) -> None:
        """Stop being waited for, and close."""
        with suppress(redis.RedisError):
            self._client.delete(self._key("alive", self.reader))
        self._notices.close()
        self._shared.close()
        super().close()

    @property
    def copies(self) -> Path:
        """Where the readers of this machine share what they fetch."""
        return self._shared.folder

    def _register(self, client: Any) -> None:
        """Say who reads, and whether in bf16: a reader of this name may have had the other precision before."""
        client.sadd(self._key("readers"), self.reader)
        (client.sadd if self.precision == "bf16" else client.srem)(self._key("readers", "bf16"), self.reader)

    def _show_life(self) -> None:
        """Refresh the sign of life, which carries the acknowledged version (-1: none yet, so keep all)."""
        key = self._key("alive", self.reader)
        with self._named():
            # Said again each time: the acknowledgement itself may have been lost, or this reader begun anew.
            if not self._client.set(key, self._acknowledged, ex=int(READER_S), xx=True):
                self._client.set(key, self._acknowledged, ex=int(READER_S))
                self._register(self._client)  # who gave no sign of life may have been forgotten

    def _accepted(self, text: bytes, than: int) -> Manifest | None:
        """The manifest unless it must be refused, which is counted."""
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError:
            self._refuse("manifest", text)
            return None
        if manifest.run != self.run:
            self._refuse("run", text)
        elif manifest.fencing < self._fencing:
            self._refuse("fencing", text)
        elif manifest.version < max(than, self._version):
            self._refuse("version", text)
        else:
            return manifest
        return None

    def _fetch(self, parts: Sequence[Part], into: Sink) -> bool:
        """Write the parameters of the last part, made from those at hand if they are of an earlier one, else from the first.

        False if a piece is missing, short or differs.
        """
        for start in range(len(parts) - 1, 0, -1):
            held = self._shared.read(parts[start - 1].version, parts[start - 1].xxh3_128)
            if held is not None:
                return self._patch(held, parts[start:], into)
        if len(parts) > 1:
            whole = io.BytesIO()
            return self._pull(parts[0], whole) and self._patch(whole.getvalue(), parts[1:], into)
        return self._pull(parts[0], into)

    def _patch(self, blob: Parameters, parts: Sequence[Part], into: Sink) -> bool:
        for part in parts:
            change = io.BytesIO()
            if not self._pull(part, change):
                return False
            try:
                blob = patched(blob, change.getvalue())
            except ValueError:
                return False
        into.write(blob)
        return True

    def _pull(self, part: Part, into: Sink) -> bool:
        """Write a part's bytes, a chunk at a time."""
        memory = bytearray(max(chunk.nbytes for chunk in part.chunks) + ENVELOPE)
        for chunk in part.chunks:
            with self._named():
                piece = self._value(chunk.key, chunk.nbytes, memory)
            if piece is None or digest(piece) != chunk.xxh3_128:
                return False
            into.write(piece)
        return True

    def _refuse(self, reason: str, text: bytes) -> None:
        """Count a refusal, once for a manifest that is looked at again and again."""
        seen = (reason, digest(text))
        if seen != self._last_refused:
            self.refused[reason] += 1
            self._last_refused = seen
