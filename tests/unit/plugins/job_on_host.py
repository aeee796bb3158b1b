# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A job as its role lays it on a host, and as cron starts it there: for tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
UTILS = ROOT / "plugins/module_utils"
# As a Python on which Ansible was never installed.
WITHOUT_ANSIBLE = "import sys, runpy; sys.modules['ansible'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def imported(name: str, seen: set[str]) -> set[str]:
    """The private files that a file imports at any depth, those for type checking left out."""
    if name in seen:
        return seen
    seen.add(name)
    tree = ast.parse((UTILS / name).read_text(encoding="utf-8"))
    typing = {id(node) for item in ast.walk(tree) if isinstance(item, ast.If) and getattr(item.test, "id", "") == "TYPE_CHECKING"
              for node in ast.walk(item)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and id(node) not in typing:
            for module in [node.module] if node.module else [item.name for item in node.names]:
                imported(f"{module}.py", seen)
    return seen


def lay(role: str, files: list[str], package: Path) -> Path:
    """Put a role's files and these private files into a package; return the folder of the program."""
    package.mkdir(parents=True)
    own = ROOT / "roles" / role / "files"
    (package.parent / "__main__.py").write_text((own / "__main__.py").read_text(encoding="utf-8"), encoding="utf-8")
    (package / "__init__.py").write_text((own / "__init__.py").read_text(encoding="utf-8"), encoding="utf-8")
    for name in files:
        (package / name).write_text((UTILS / name).read_text(encoding="utf-8"), encoding="utf-8")
    return package.parent


def started(folder: Path, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Start a program as cron does: no terminal, no language, a short PATH."""
    argv = [sys.executable, "-I", "-c", WITHOUT_ANSIBLE, str(folder), *args]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/", "SHELL": "/bin/sh"}
    return subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, **more)
