"""The command line's way to the service: HTTP and nothing else."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from shared.errors import ModelyardError
from shared.states import ENDED

DEFAULT_URL = f"http://127.0.0.1:{os.environ.get('MODELYARD_API__PORT', '8000')}"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FOLLOW_AGAIN_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
"""How long a follower waits for a service that restarts."""


class Refused(ModelyardError):
    """The service said no, or was not there; carries its problem's code and hint."""


class Client:
    """A client of one service, named by MODELYARD_URL."""

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        self.url = (url or os.environ.get("MODELYARD_URL") or DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise Refused("invalid_url", f"MODELYARD_URL={self.url} is no address.", f"Use http://{self.url}.")
        key = key or os.environ.get("MODELYARD_API_KEY") or self._kept_key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(30, read=60), trust_env=False
        )

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def _kept_key(self) -> str | None:
        """The one that the service of this machine made for itself, for nobody but that service."""
        if urlsplit(self.url).hostname not in LOOPBACK:
            return None
        data = os.environ.get("MODELYARD_DATA_DIR") or Path.home() / ".local/share/modelyard"
        try:
            return (Path(data) / "secrets" / "api-key").read_text(encoding="ascii").strip() or None
        except (OSError, ValueError):
            return None

    def get(self, path: str, **query: Any) -> Any:
        return self._call("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._call("POST", path, json=body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("PATCH", path, json=body)

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def ready(self) -> dict[str, Any]:
        """The readiness report, whatever its status."""
        try:
            answer: dict[str, Any] = self._http.get("/health/ready").json()
        except (httpx.HTTPError, ValueError) as error:
            raise self._away(error) from error
        return answer

    def follow(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job's state again and again until it ends; survives restarts of the service for two minutes."""
        silent_since = time.monotonic()
        while True:
            try:
                for _ in self._events(job_id):
                    silent_since = time.monotonic()
                    yield (job := self.get(f"/api/v1/jobs/{job_id}"))
                    if job["status"] in ENDED:
                        return
            except (httpx.HTTPError, Refused) as error:
                if isinstance(error, Refused) and error.code != "unreachable":
                    raise
                if time.monotonic() - silent_since > PATIENCE_SECONDS:
                    raise self._away(error) from error
            time.sleep(FOLLOW_AGAIN_SECONDS)

    def _events(self, job_id: str) -> Iterator[dict[str, Any]]:
        with self._http.stream("GET", f"/api/v1/jobs/{job_id}/events") as answer:
            if answer.is_error:
                answer.read()
                raise _refused(answer)
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._away(error) from error
        if answer.is_error:
            raise _refused(answer)
        return answer.json()

    def _away(self, error: Exception) -> Refused:
        return Refused(
            "unreachable",
            f"Nothing answers at {self.url} ({type(error).__name__}).",
            "Start it with `modelyard up`, or set MODELYARD_URL.",
        )


def _refused(answer: httpx.Response) -> Refused:
    try:
        body = answer.json()
        return Refused(str(body["code"]), str(body["detail"]), str(body["hint"]), body.get("details"))
    except (ValueError, KeyError, TypeError):
        return Refused("unexpected_answer", f"The service answered with status {answer.status_code}.", "See its log.")
