"""Downloading from another address than the hub's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

SPEC = {
    "repository": "someone/metaicl-data",
    "revision": "main",
    "train_tasks": ["free"],
    "test_tasks": ["kind:one"],
    "seeds": [13],
}


class Mirror(BaseHTTPRequestHandler):
    """A hub that has nothing, and remembers what it was asked for."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_a_mirror_is_asked_if_the_environment_names_one(tmp_path):
    server = HTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(SPEC))
    command = ["download-benchmark", "--spec", str(spec), "--output", str(tmp_path / "b")]
    address = f"http://127.0.0.1:{server.server_port}"
    done = subprocess.run(
        [sys.executable, "-m", "mend", *command],
        env={**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    server.shutdown()
    assert done.returncode == 2
    assert "someone/metaicl-data at revision main could not be downloaded" in done.stderr
    assert "/api/datasets/someone/metaicl-data/revision/main" in Mirror.asked
