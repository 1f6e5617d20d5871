"""Build the project's virtual environment with the standard library alone: `python3 deploy/setup_environment.py .venv`.

A torch that the calling Python already sees and that fits pyproject's range is kept; otherwise the exact pin of
constraints.txt is installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_FROM, TORCH_BELOW = (2, 11), (2, 14)


def visible_torch() -> str | None:
    """Version of a torch within pyproject's range that this Python sees, or None."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
    major, minor = (int(part) for part in version.split(".")[:2])
    return version if TORCH_FROM <= (major, minor) < TORCH_BELOW else None


def show_packages(folder: Path) -> None:
    """Let the new environment see this Python's packages when this Python is itself a virtual environment.

    (An environment made with ``system_site_packages`` sees those of the base installation only.)
    """
    if sys.prefix != sys.base_prefix:
        site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (site / "kept_packages.pth").write_text(f"{metadata.distribution('torch').locate_file('')}\n")


def main() -> int:
    """Create the environment and install the project, its pins and its development tools into it."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this script is what an older Python runs first
        sys.stderr.write(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make setup PYTHON=python3.11\n")
        return 2
    folder = Path(sys.argv[1])
    kept = visible_torch()
    venv.create(folder, with_pip=True, system_site_packages=kept is not None, symlinks=True)
    pins = (ROOT / "constraints.txt").read_text()
    if kept:
        show_packages(folder)
        sys.stdout.write(f"keeping the installed torch {kept}\n")
        pins = "".join(line + "\n" for line in pins.splitlines() if not line.startswith("torch=="))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(pins)
        constraints.flush()
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        # torch by itself first: asked for through the project's range, pip would look at the newest build.
        torch = [] if kept else [next(line for line in pins.splitlines() if line.startswith("torch=="))]
        for wanted in ([*torch, "setuptools>=75"], ["--no-build-isolation", "-e", f"{ROOT}[brokers,dev]"]):
            sys.stdout.write(f"installing {' '.join(w for w in wanted if not w.startswith('--'))} …\n")
            sys.stdout.flush()
            subprocess.run([*pip, "-c", constraints.name, *wanted], check=True)
    sys.stdout.write(f"ready: {folder / 'bin' / 'onerec'} --help\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
