# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the tables of the documentation from what the code declares, so that they cannot drift.

``docs.py`` rewrites what stands between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``; ``docs.py --check`` changes
nothing and ends with 1 when a table is stale. A document without the markers of a table that belongs there is an error.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


class DocsError(Exception):
    """A source that cannot be read, or a document that lacks a marker; the text says which."""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def plain(text: str) -> str:
    """Ansible's markup as Markdown: option names, values and code become code, links to plugins their bare name."""
    text = re.sub(r"[POLR]\(([^)#,]+)(#[a-z]+)?(, *[^)]+)?\)", r"`\1`", text)
    text = re.sub(r"(?:C|V|E|RV|M)\(((?:[^()\\]|\\.)*)\)", lambda found: f"`{found[1]}`", text)
    text = re.sub(r"[BI]\(([^)]+)\)", r"*\1*", text)
    return text.replace("\\", "")


def sentences(description: str | list[str]) -> str:
    return " ".join(plain(part.strip()) for part in ([description] if isinstance(description, str) else description))


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def shown(value: object) -> str:
    """A default as it is written in YAML."""
    if value is None:
        return ""
    if value == "":
        return '`""`'
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def kind(option: Mapping[str, Any]) -> str:
    name = str(option.get("type", "str"))
    if option.get("elements"):
        name += f" of {option['elements']}"
    if option.get("choices"):
        name += ": " + ", ".join(f"`{choice}`" for choice in option["choices"])
    return name


def options_table(options: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [(f"`{name}`", sentences(option["description"]), kind(option), "**required**" if option.get("required") else shown(option.get("default")))
            for name, option in options.items()]
    return table(("Variable", "What it is", "Type", "Default"), rows)


# --- sources -------------------------------------------------------------------------------------------------------

def plugin_documentation(path: Path) -> dict[str, Any]:
    """The DOCUMENTATION of a module or filter, without its documentation fragments."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "DOCUMENTATION" for target in node.targets):
            try:
                found = yaml.safe_load(ast.literal_eval(node.value))
            except yaml.YAMLError as exc:
                raise DocsError(f"{path}: DOCUMENTATION is not valid YAML: {exc}") from exc
            if isinstance(found, dict):
                return found
    raise DocsError(f"{path}: no DOCUMENTATION")


def plugins(root: Path, kind: str) -> list[Path]:
    return sorted(path for path in (root / "plugins" / kind).glob("*.py") if path.name != "__init__.py")


def roles(root: Path) -> list[Path]:
    return sorted(path.parents[1] for path in (root / "roles").glob("*/meta/argument_specs.yml"))


def playbooks(root: Path) -> list[Path]:
    return sorted(path for path in (root / "playbooks").glob("*.yml") if not path.name.endswith(".meta.yml"))


def specs(path: Path) -> dict[str, Any]:
    found = load(path)
    if not isinstance(found, dict) or not isinstance(found.get("argument_specs"), dict):
        raise DocsError(f"{path}: no argument_specs")
    return dict(found["argument_specs"])


# --- tables --------------------------------------------------------------------------------------------------------

def plugins_table(root: Path, kind: str, title: str) -> str:
    rows = []
    for path in plugins(root, kind):
        rows.append((f"`dghs.bd_fhir.{path.stem}`", plain(str(plugin_documentation(path)["short_description"]))))
    return table((title, "What it does"), rows)


def roles_table(root: Path) -> str:
    rows = []
    for path in roles(root):
        main = specs(path / "meta/argument_specs.yml")["main"]
        rows.append((f"[`dghs.bd_fhir.{path.name}`](roles/{path.name}/README.md)", plain(str(main["short_description"]))))
    return table(("Role", "What it does"), rows)


def role_tables(path: Path) -> str:
    """The entry points of a role; variables that all of them share are listed once."""
    found = specs(path / "meta/argument_specs.yml")
    parts = []
    for name, spec in found.items():
        parts.append(f"### Entry point `{name}`\n\n{plain(str(spec['short_description']))}.\n")
        parts += [f"- {sentences(part)}" for part in ([spec["description"]] if isinstance(spec["description"], str) else spec["description"])]
        parts.append("")
        if name != "main" and spec.get("options") == found["main"].get("options"):
            parts.append("Takes the same variables as `main`.\n")
        else:
            parts.append(options_table(spec.get("options") or {}) + "\n")
    return "\n".join(parts).rstrip()


def playbook_tables(root: Path) -> str:
    parts = []
    for path in playbooks(root):
        spec = specs(path.with_suffix(".meta.yml"))[path.stem]
        parts.append(f"## `dghs.bd_fhir.{path.stem}`\n\n{plain(str(spec['short_description']))}.\n")
        if spec.get("options"):
            parts.append(options_table(spec["options"]) + "\n")
        else:
            inside = [str(play["ansible.builtin.import_playbook"]) for play in load(path) if "ansible.builtin.import_playbook" in play]
            parts.append(f"Runs {', '.join(f'`{name}`' for name in inside)} and takes the same variables.\n")
    return "\n".join(parts).rstrip()


def documents(root: Path) -> dict[Path, dict[str, str]]:
    """Document -> marker -> text."""
    wanted = {
        root / "README.md": {
            "modules": plugins_table(root, "modules", "Module"),
            "filters": plugins_table(root, "filter", "Filter"),
            "roles": roles_table(root),
        },
        root / "docs/playbooks.md": {"playbooks": playbook_tables(root)},
    }
    for path in roles(root):
        wanted[path / "README.md"] = {"variables": role_tables(path)}
    return wanted


def fill(path: Path, text: str, marker: str, content: str) -> str:
    begin, end = f"<!-- begin: {marker} -->\n", f"<!-- end: {marker} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise DocsError(f"{path}: the markers {begin.strip()} and {end} must each stand there once, in this order")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{content}\n\n{end}{rest.split(end)[1]}"


def stale(root: Path) -> dict[Path, str]:
    """The documents whose tables are not up to date, with the text that they should have."""
    found = {}
    for path, tables in documents(root).items():
        if not path.exists():
            raise DocsError(f"{path} does not exist")
        before = text = path.read_text(encoding="utf-8")
        for marker, content in tables.items():
            text = fill(path, text, marker, content)
        if text != before:
            found[path] = text
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; end with 1 when a table is stale")
    check = parser.parse_args().check
    try:
        found = stale(ROOT)
    except DocsError as exc:
        print(f"docs: {exc}", file=sys.stderr)
        return 1
    for path, text in found.items():
        if check:
            print(f"docs: {path.relative_to(ROOT)} is stale: run tools/run python tools/docs.py", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"docs: wrote {path.relative_to(ROOT)}")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
