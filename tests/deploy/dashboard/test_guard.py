from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from deploy.dashboard.guard import COOKIE, BrowserGuard

TOKEN = "a-secret-of-ours"


def client(token: str, name: str = "dashboard.example") -> TestClient:
    app = FastAPI()

    @app.get("/")
    def page() -> str:
        return "figures"

    @app.get("/livez")
    def livez() -> str:
        return "alive"

    app.add_middleware(BrowserGuard, token=token)
    return TestClient(app, base_url=f"http://{name}", follow_redirects=False)


def test_without_its_token_nobody_sees_the_page() -> None:
    asked = client(TOKEN)
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"cookie": f"{COOKIE}={TOKEN}"},
        {"authorization": f"Basic {TOKEN}"},
    ):
        assert asked.get("/", headers=headers).status_code == 401
    assert asked.get("/?token=wrong").status_code == 401
    assert asked.get("/livez").status_code == 200


def test_a_caller_shows_the_token_as_bearer() -> None:
    assert client(TOKEN).get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_person_shows_the_token_once_and_then_a_cookie_that_does_not_hold_it() -> None:
    asked = client(TOKEN)
    first = asked.get(f"/?token={TOKEN}&user=7")
    assert (first.status_code, first.headers["location"]) == (303, "/?user=7")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert asked.get("/").status_code == 200


@pytest.mark.parametrize(
    ("name", "status"), [("localhost", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("stranger.example", 400)]
)
def test_without_a_token_only_this_machines_names_lead_to_the_page(name: str, status: int) -> None:
    assert client("", name).get("/").status_code == status
