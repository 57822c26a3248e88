"""Programs that stand in for the real ones: `python stand_in.py MODE [ARGUMENT]`.

api PORT     answers 200 to everything
stubborn     ignores SIGTERM, and so does its child
broken       says why and ends
"""

import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main() -> None:
    mode, argument = sys.argv[1], sys.argv[-1]
    if mode == "api":
        HTTPServer(("127.0.0.1", int(argument)), Ready).serve_forever()
    elif mode == "broken":
        print("the frobnicator is missing")
        sys.exit(3)
    elif mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if argument == mode:
            subprocess.Popen([sys.executable, "-S", __file__, mode, "child"])
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
