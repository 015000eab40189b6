"""What the server's process imports."""

from __future__ import annotations

import subprocess
import sys

BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Refuse())
import segops.serve.server
import segops.serve.worker
"""


def test_the_server_needs_no_training_libraries() -> None:
    names = ("torch", "mlflow", "dvc", "prefect", "pandas", "segmentation_models_pytorch")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.replace("{names}", repr(names))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
