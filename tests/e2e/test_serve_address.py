"""`velo serve` prints the address at which it answers, once it does."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen


def test_the_address_that_is_printed_answers_and_a_port_in_use_is_refused(tmp_path: Path) -> None:
    """With port 0 the system chooses the port, so the printed address is the only way to know it."""
    environ = {**os.environ, "VELO_HOME": str(tmp_path / "home"), "REDIS_URL": "unix:///nowhere/redis.sock"}
    command = (sys.executable, "-m", "velo.cli", "serve", "--port")
    with subprocess.Popen([*command, "0"], env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("velo: serving at http://127.0.0.1:"), line
            address = line.removeprefix("velo: serving at ").strip()
            with urlopen(f"{address}healthz", timeout=30) as answer:
                assert answer.read() == b'{"status":"ok"}'
            port = address.rstrip("/").rpartition(":")[2]
            second = subprocess.run([*command, port], env=environ, capture_output=True, text=True, timeout=120)
            assert second.returncode == 2
            assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
            assert "serving at" not in second.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
