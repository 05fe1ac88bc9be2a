import subprocess
import sys

import pytest

from optimizer.cli.app import COMMANDS


@pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
def test_every_command_has_help_that_can_be_printed(command: str) -> None:
    asked = [sys.executable, "-m", "optimizer", command, "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
