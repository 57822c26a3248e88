"""`python -m api`: one API process, for containers and systemd. `modelyard up` starts its own."""

import argparse
import os
import sys

import uvicorn
from pydantic import SecretStr

from api.connections import Connection
from api.security import check_bind, reachable
from shared.errors import ModelyardError
from shared.keys import kept_key
from shared.settings import Settings, load

STOP_SECONDS = 20
"""Open event streams would hold uvicorn for ever."""
LONGEST_MESSAGE = 65_536
MISCONFIGURED = os.EX_CONFIG
"""Exit code: to start it again does not help."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m api", description="Bound as MODELYARD_API__HOST and _PORT say.")
    parser.add_argument(
        "--make-key", action="store_true",
        help="where other machines can reach it and MODELYARD_API_KEY is unset: make one at the first start, print it "
        "once, and keep it in the data folder; instead of refusing to start",
    )  # fmt: skip
    parser.add_argument(
        "--insecure-no-auth-i-understand", action="store_true", help="let in whoever can reach it, without a key"
    )
    options = parser.parse_args()
    try:
        settings = load()
        if options.make_key:
            _make_key(settings)
        if options.insecure_no_auth_i_understand:
            settings.api.insecure_no_auth = True
            os.environ["MODELYARD_API__INSECURE_NO_AUTH"] = "true"  # the application reads its own settings
        check_bind(settings)
    except ModelyardError as error:
        sys.stderr.write(f"{error.message} {error.hint}\n")
        return MISCONFIGURED
    uvicorn.run(
        "api.app:create_app", factory=True, http=Connection, host=settings.api.host, port=settings.api.port,
        access_log=False, timeout_graceful_shutdown=STOP_SECONDS, ws_max_size=LONGEST_MESSAGE, proxy_headers=False,
        server_header=False,
    )  # fmt: skip
    return 0


def _make_key(settings: Settings) -> None:
    """Raises: Invalid: the data folder cannot keep one."""
    if settings.api_key is not None or not reachable(settings):
        return
    key, is_new = kept_key(settings)
    settings.api_key = SecretStr(key)
    os.environ["MODELYARD_API_KEY"] = key  # the application reads its own settings
    if is_new:
        sys.stdout.write(
            f"No MODELYARD_API_KEY was set, so a key was made. It is shown this once:\n\n  {key}\n\n"
            f"  curl -H 'Authorization: Bearer {key}' http://127.0.0.1:{settings.api.port}/api/v1/models\n\n"
            f"It lies in {settings.data_dir}/secrets/api-key. To have another, delete that file.\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
