"""A unit test cannot start a process or open a connection."""

import socket
import subprocess
import sys

import pytest


def test_a_process_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"test_a_process_is_refused is a unit test, but it calls subprocess\.Popen"):
        subprocess.run([sys.executable, "-c", ""], check=True)


def test_a_connection_is_refused() -> None:
    with socket.socket() as connection, pytest.raises(RuntimeError, match=r"socket\.connect: move it"):
        connection.connect(("127.0.0.1", 9))
