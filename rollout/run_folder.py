"""What the rollout processes read from and write to a run folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Endpoints(BaseModel):
    """Where the other processes of a run are (``endpoints.json``); Redis is a setting, as it may hold a password."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: str
    kafka: str
    prefix: str
    reward: str

    @staticmethod
    def read(folder: Path) -> Endpoints:
        """The endpoints of a run.

        Raises:
            ValueError: the file is missing or incomplete (named).
        """
        path = folder / "endpoints.json"
        try:
            return Endpoints.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ValueError(f"{folder} is not a started run: endpoints.json is missing") from None
        except ValidationError as error:
            keys = sorted({str(issue["loc"][0]) if issue["loc"] else "file" for issue in error.errors()})
            raise ValueError(f"{path} is not usable: {', '.join(keys)}") from None


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Replace a JSON file: readers see the old or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        json.dump(body, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
