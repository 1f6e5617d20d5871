"""Whom the processes of a run talk to."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class Endpoints(BaseModel):
    """Where the other processes of a run are (``endpoints.json``); Redis is a setting, as it may hold a password."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: str
    kafka: str
    prefix: str
    reward: str
    """URL of the reward service."""

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
