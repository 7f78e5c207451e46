"""Every route of both of RTP's doors × every kind of credential. The routes come from the applications themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from access import Door, KeyRing, Rule, Scope, make_key
from mimn.bundle import load_bundle
from rtp.app import create_service
from rtp.doors.guard import ADMIN_RULES, PUBLIC_RULES, Guard, GuardedApp, check_routes
from rtp.doors.listeners import Service
from rtp.metrics import Metrics
from rtp.reload import Reloader
from rtp.rollout_follower import RolloutFollower
from rtp.runtime import OnnxModel
from rtp.settings import AccessSettings, RtpSettings
from support.fake_state_reader import FakeStateReader

TINY = Path(__file__).resolve().parent.parent / "fixtures/bundle_tiny/tiny/1"
MODEL = OnnxModel(load_bundle(TINY))
BODY = json.dumps({"user_id": "u", "candidates": [{"item_id": 3, "category_id": 2}]}).encode()


def service(keys_file: Path | None = None) -> Service:
    settings = RtpSettings(access=AccessSettings(keys_file=keys_file))
    return create_service(settings, store=FakeStateReader(), runtime=MODEL)


def routes() -> Iterator[tuple[str, str, Rule]]:
    """Door, path and rule of everything that the two applications answer."""
    bare = service()
    for door, app, rules in (("public", bare.app, PUBLIC_RULES), ("admin", bare.admin, ADMIN_RULES)):
        for route in app.routes:
            path = getattr(route, "path", "")
            yield door, path, rules[path]


ROUTES = list(routes())


class Credentials:
    """What callers bring: for a rule, a key that it lets in, one with all other scopes, one that was revoked."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys"
        self._lines: list[str] = []

    def make(self, scopes: set[Scope]) -> str:
        secret, key = make_key(scopes, "k")
        self._lines.append(key.line())
        self.file.write_text("\n".join(self._lines))
        return f"Bearer {secret}"

    def revoke_last(self) -> None:
        self._lines.pop()
        self.file.write_text("\n".join(self._lines))


def ask(app: GuardedApp, path: str, authorization: str | None, method: str = "POST") -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://rtp") as client:
            told = {"content-type": "application/json"} | ({"authorization": authorization} if authorization else {})
            return await client.request(method, path, content=BODY, headers=told)

    return asyncio.run(asked())


def let_in(response: httpx.Response) -> bool:
    return response.status_code not in (401, 403)


@pytest.mark.parametrize(("door", "path", "rule"), ROUTES, ids=str)
def test_a_route_admits_only_the_callers_its_rule_names(door: str, path: str, rule: Rule, tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    needed = {rule} if isinstance(rule, Scope) else {Scope.READ}
    good, other = credentials.make(needed), credentials.make(set(Scope) - needed)
    revoked = credentials.make(set(Scope))
    made = service(credentials.file)
    app = made.app if door == "public" else made.admin
    metrics = Metrics()
    ring = KeyRing(credentials.file)
    app.guard = Guard(PUBLIC_RULES if door == "public" else ADMIN_RULES, ring, metrics)
    methods = ["GET", "POST", "HEAD", "OPTIONS", "DELETE"]
    assert all(let_in(ask(app, path, revoked, method)) for method in methods)
    credentials.revoke_last()
    assert ring.look()
    bad = f"Bearer {make_key(set(Scope), 'elsewhere')[0]}"
    opened = rule is Door.OPEN
    for method in methods:
        assert let_in(ask(app, path, good, method))
        for refused in (None, bad, revoked, good[:-1], good.replace("Bearer", "Basic")):
            response = ask(app, path, refused, method)
            assert let_in(response) is opened
            if not opened:
                assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        response = ask(app, path, other, method)
        assert let_in(response) is not isinstance(rule, Scope)
        if isinstance(rule, Scope):
            assert response.status_code == 403
            assert response.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
            assert method == "HEAD" or rule.value in response.json()["detail"]
    denied = {reason: metrics.registry.get_sample_value("rtp_denied_total", {"reason": reason}) for reason in
              ("no_key", "bad_key", "wrong_scope")}  # fmt: skip
    times = len(methods)
    expected = {"no_key": times, "bad_key": 4 * times, "wrong_scope": times * isinstance(rule, Scope)}
    assert denied == ({"no_key": 0, "bad_key": 0, "wrong_scope": 0} if opened else expected)


def test_health_alone_is_open() -> None:
    assert {path for _, path, rule in ROUTES if rule is Door.OPEN} == {"/livez", "/readyz"}


@pytest.mark.parametrize("path", ["/nowhere", "/predict/", "//predict", "/PREDICT"])
def test_a_path_that_does_not_exist_says_so_only_to_who_has_a_key(path: str, tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    good = credentials.make({Scope.PREDICT})
    made = service(credentials.file)
    for app in (made.app, made.admin):
        assert ask(app, path, None).status_code == 401
        assert ask(app, path, good).status_code == 404


def test_two_credentials_are_none(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    good = credentials.make({Scope.PREDICT})
    app = service(credentials.file).app

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://rtp") as client:
            told = [("content-type", "application/json"), ("authorization", good), ("authorization", good)]
            return await client.post("/predict", content=BODY, headers=told)

    assert asyncio.run(asked()).status_code == 401


def test_without_a_file_of_keys_no_authentication_is_required() -> None:
    made = service()
    assert ask(made.app, "/predict", None).status_code == 200
    assert ask(made.admin, "/metrics", None, "GET").status_code == 200


def test_a_new_route_without_a_rule_stops_the_start() -> None:
    app = service().admin
    app.add_api_route("/new", lambda: None)
    with pytest.raises(LookupError, match=r"/new: say in rtp\.doors\.guard"):
        check_routes(app.routes, ADMIN_RULES)


PAGES = [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
         {"sec-fetch-site": "same-origin"}]  # fmt: skip


@pytest.mark.parametrize("keyed", [False, True], ids=["without keys", "with a key"])
@pytest.mark.parametrize("headers", PAGES, ids=str)
def test_a_web_page_decides_nothing(
    headers: dict[str, str], keyed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(Reloader, "reload", lambda *_, **__: done.append("reload"))
    monkeypatch.setattr(RolloutFollower, "retry", lambda *_: done.append("look"))
    credentials = Credentials(tmp_path)
    told = {"authorization": credentials.make(set(Scope))} if keyed else {}
    app = service(credentials.file if keyed else None).admin

    async def asked() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://rtp", headers={**told, **headers}) as client:
            paths = ["/bundle/reload", "/bundle/reload?force=true", "/releases/look"]
            return [await client.post(path) for path in paths] + [await client.get("/metrics")]

    for response in asyncio.run(asked()):
        assert (response.status_code, response.json()["code"]) == (403, "browser")
        assert "www-authenticate" not in response.headers, "a key would not help"
    assert done == []


def test_a_person_may_look_at_the_admin_door_with_a_browser_and_read_how_it_is_called() -> None:
    app = service().admin

    async def asked() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://rtp") as client:
            typed = [await client.get(path, headers={"sec-fetch-site": "none"}) for path in ("/metrics", "/docs")]
            loaded = await client.get("/openapi.json", headers={"sec-fetch-site": "same-origin"})
            return [response.status_code for response in (*typed, loaded)]

    assert asyncio.run(asked()) == [200, 200, 200]


def test_no_key_and_no_hash_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    credentials = Credentials(tmp_path)
    secret = credentials.make({Scope.METRICS})
    app = service(credentials.file).app
    for authorization in (secret, secret[:-1], "Bearer hunter2"):
        assert ask(app, "/predict", authorization).status_code in (401, 403)
    assert "hunter2" not in caplog.text
    assert secret[-60:-2] not in caplog.text
