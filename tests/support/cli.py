"""The real command line for tests: `velo` in this process, in one forked from its imports, or in one started by Python."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import forked
from tests.support.shared import REPO
from velo.cli import main
from velo.commands import edge

OURS = ("VELO_HOME", "VELO_TIMEZONE", "VELO_KEYS", "REDIS_URL")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What `--json` printed: one document and nothing else, or this raises."""
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)

    def told(self, *words: str) -> None:
        """Hold a refusal to its promise: exit code 2 and one line, which has these words."""
        assert self.code == 2, self
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("velo: ")
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err, self.err


def velo(*argv: object, home: Path, **environ: str) -> Ran:
    """Run `velo` in this process with a store at `home` and nothing of the caller's environment."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        for name in OURS:
            patched.delenv(name, raising=False)
        for name, value in {"VELO_HOME": str(home), **environ}.items():
            patched.setenv(name, value)
        patched.setattr(sys, "argv", ["velo", *map(str, argv)])
        # a command that a busy machine slows down prints no line of progress
        patched.setattr(edge, "LINE_SECONDS", 86_400.0)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, out.getvalue(), err.getvalue())


def velo_forked(*argv: object, home: Path, prepared: Callable[[], None] | None = None, **environ: str) -> Ran:
    """Run `velo` in a process of its own that has its imports already, `prepared` in it before it begins."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    environ = {**kept, "VELO_HOME": str(home), **environ}
    return Ran(*forked.ran("velo", list(map(str, argv)), cwd=REPO, environ=environ, prepared=prepared))


def velo_process(*argv: object, home: Path, out: int = subprocess.PIPE, **environ: str) -> Ran:
    """Run `velo` by a Python of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run(
        [sys.executable, "-m", "velo.cli", *map(str, argv)],
        cwd=REPO,
        env={**kept, "PYTHONPATH": str(REPO), "VELO_HOME": str(home), **environ},
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    return Ran(done.returncode, done.stdout or "", done.stderr)
