# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of the house, checked on the repository itself, and each seen to go red on a doctored copy.

They are about what no other tool notices: tests that are green because they ran nothing, lists that are kept by hand and
drift, a document that promises what is not there.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "dghs.bd_fhir."

# Verbs that only read. Every other verb changes something and therefore needs a way back.
READING = {"assess", "show_journal"}


class Loader(yaml.SafeLoader):
    """Reads YAML with tags that belong to others (!reset of Compose, !vault and !unsafe of Ansible)."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506 - a SafeLoader


def named(root: Path, path: Path) -> str:
    return str(path.relative_to(root))


# --- what there is -------------------------------------------------------------------------------------------------


def roles(root: Path) -> list[Path]:
    return sorted(path for path in (root / "roles").iterdir() if path.is_dir())


def modules(root: Path) -> list[Path]:
    return sorted(path for path in (root / "plugins/modules").glob("*.py") if path.name != "__init__.py")


def filters(root: Path) -> list[Path]:
    return sorted((root / "plugins/filter").glob("*.py"))


def playbooks(root: Path) -> list[Path]:
    return sorted(path for path in (root / "playbooks").glob("*.yml") if not path.name.endswith(".meta.yml"))


def imports(path: Path) -> list[str]:
    """The playbooks that a playbook imports, by bare name."""
    return [str(play["ansible.builtin.import_playbook"]).rpartition(".")[2] for play in load(path) if "ansible.builtin.import_playbook" in play]


def plays(path: Path) -> list[dict[str, Any]]:
    return [play for play in load(path) or [] if "hosts" in play]


def tasks_of(value: Any) -> Iterator[dict[str, Any]]:
    """Every task below a list of tasks or plays, those inside blocks too."""
    for item in value if isinstance(value, list) else []:
        if not isinstance(item, dict):
            continue
        nested = [key for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers") if key in item]
        for key in nested:
            yield from tasks_of(item[key])
        if not nested and "hosts" not in item:
            yield item


def task_files(root: Path) -> list[Path]:
    """Every file that may hold tasks."""
    places = ("roles/*/tasks/**/*.yml", "roles/*/handlers/*.yml", "playbooks/*.yml", "extensions/molecule/**/*.yml", "tests/**/*.yml")
    found = {path for place in places for path in root.glob(place)}
    others = {"fixtures", "pilot", "images"}
    return sorted(path for path in found if not others & set(path.relative_to(root).parts) and not path.name.endswith(".meta.yml"))


def action_of(task: dict[str, Any]) -> Optional[str]:
    """The module of a task: its one key with a dot, or a bare name that Ansible would still take."""
    for key in task:
        if "." in key or key in ("shell", "command", "raw", "script", "assert", "fail"):
            return str(key)
    return None


def short(action: Optional[str]) -> str:
    return (action or "").rpartition(".")[2]


def documentation(path: Path) -> dict[str, Any]:
    """DOCUMENTATION, EXAMPLES and RETURN of a module, parsed; a value that does not parse is an Exception."""
    found: dict[str, Any] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in ("DOCUMENTATION", "EXAMPLES", "RETURN"):
            try:
                found[node.targets[0].id] = yaml.safe_load(ast.literal_eval(node.value))
            except yaml.YAMLError as exc:
                found[node.targets[0].id] = exc
    return found


# --- roles ---------------------------------------------------------------------------------------------------------

TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}


def options_of(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for entry in spec["argument_specs"].values():
        merged.update(entry.get("options") or {})
    return merged


def role_interface(root: Path) -> list[str]:
    """defaults/main.yml and argument_specs.yml say the same: names, types and values, in both directions."""
    faults = []
    for role in roles(root):
        spec_file, defaults_file = role / "meta/argument_specs.yml", role / "defaults/main.yml"
        if not spec_file.exists() or not defaults_file.exists():
            faults.append(f"{named(root, role)}: needs meta/argument_specs.yml and defaults/main.yml")
            continue
        options, defaults = options_of(load(spec_file)), load(defaults_file) or {}
        faults += [f"{role.name}: {name} is in argument_specs but not in defaults" for name in options
                   if name not in defaults and not options[name].get("required")]
        faults += [f"{role.name}: {name} is in defaults but not in argument_specs" for name in defaults if name not in options]
        faults += [f"{role.name}: {name} does not start with {role.name}_" for name in {*options, *defaults} if not name.startswith(f"{role.name}_")]
        for name in sorted(options.keys() & defaults.keys()):
            kind, value, told = options[name].get("type", "str"), defaults[name], options[name].get("default")
            if value != told or type(value) is not type(told):
                faults.append(f"{role.name}: {name} is {value!r} in defaults, {told!r} in argument_specs")
            if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
                faults.append(f"{role.name}: the default of {name}, {value!r}, is no {kind}")
            if options[name].get("choices") and value not in options[name]["choices"]:
                faults.append(f"{role.name}: the default of {name}, {value!r}, is none of its choices")
        for entry in load(spec_file)["argument_specs"]:
            if not (role / "tasks" / f"{entry}.yml").exists():
                faults.append(f"{role.name}: entry point {entry} has no tasks/{entry}.yml")
    return faults


def inventory_hosts(value: Any) -> dict[str, set[str]]:
    """Group -> its hosts, those of its children included."""
    found: dict[str, set[str]] = {}

    def walk(name: str, group: Any) -> set[str]:
        group = group or {}
        hosts = set(group.get("hosts") or {})
        for child, below in (group.get("children") or {}).items():
            hosts |= walk(child, below)
        found[name] = found.get(name, set()) | hosts
        return hosts

    for name, group in (value or {}).items():
        walk(name, group)
    found["all"] = set().union(*found.values()) if found else set()
    return found


def scenario_groups(root: Path, scenario: Path) -> dict[str, set[str]]:
    """The groups of the inventories that a scenario, or the configuration that all share, hands to ansible-playbook."""
    groups: dict[str, set[str]] = {}
    for file in (root / "extensions/molecule/config.yml", scenario / "molecule.yml"):
        if not file.exists():
            continue
        for word in re.findall(r"--inventory[= ]([^\s\"']+)|-i[= ]([^\s\"']+)", file.read_text(encoding="utf-8")):
            place = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", "".join(word))
            for variable, folder in (("PROJECT", root), ("SCENARIO", scenario)):
                place = place.replace("${MOLECULE_%s_DIRECTORY}" % variable, str(folder))
            path = Path(place) if Path(place).is_absolute() else root / place
            for inventory in sorted(path.glob("*.yml")) if path.is_dir() else [path]:
                if inventory.exists():
                    for name, hosts in inventory_hosts(load(inventory)).items():
                        groups[name] = groups.get(name, set()) | hosts
    return groups


def checks_something(root: Path, task: dict[str, Any]) -> bool:
    """A task that goes red when the system is not as it should be."""
    action = action_of(task)
    arguments = task.get(action or "")
    if task.get("failed_when") is False or task.get("when") is False:
        return False
    if short(action) == "assert":
        return bool(isinstance(arguments, dict) and arguments.get("that"))
    if short(action).endswith("_info"):
        return bool(isinstance(arguments, dict) and arguments.get("fail_on")) or "failed_when" in task
    return short(action) in ("command", "uri", "fail", "wait_for")


def scenarios(root: Path) -> list[str]:
    """Every role has a scenario of its name, and every phase move; each verify.yml looks at hosts that exist and can fail."""
    faults = []
    wanted = [role.name for role in roles(root)]
    wanted += [path.stem for path in playbooks(root) if imports(path) and not path.stem.startswith("rollback_")]
    for name in wanted:
        scenario = root / "extensions/molecule" / name
        if not (scenario / "molecule.yml").exists():
            faults.append(f"extensions/molecule/{name} is missing")
    for file in sorted((root / "extensions/molecule").glob("*/molecule.yml")):
        scenario = file.parent
        if scenario.name == "default":
            continue
        for step in ("converge", "verify"):
            if not (scenario / f"{step}.yml").exists():
                faults.append(f"{named(root, scenario)}: no {step}.yml, and Molecule would call that a success")
        verify = scenario / "verify.yml"
        groups = scenario_groups(root, scenario)
        for play in plays(verify) if verify.exists() else []:
            where = f"{named(root, verify)}, play {play.get('name')}"
            group = str(play["hosts"])
            if not groups.get(group) and not any(group in hosts for hosts in groups.values()) and group != "localhost":
                faults.append(f"{where}: no host is in {group}, so that the play would do nothing and be green")
            if not any(checks_something(root, task) for task in tasks_of([play])):
                faults.append(f"{where}: nothing in it can fail: no assert, no *_info with fail_on, no command")
        if verify.exists() and not plays(verify):
            faults.append(f"{named(root, verify)}: no play")
    return faults


# --- modules -------------------------------------------------------------------------------------------------------


def module_tests(root: Path) -> list[str]:
    """Every module is in its action groups and has a unit test and a test against something real."""
    faults = []
    groups = load(root / "meta/runtime.yml")["action_groups"]
    found = modules(root)
    names = [path.stem for path in found]
    real = "\n".join(path.read_text(encoding="utf-8") for path in sorted((root / "tests/integration").rglob("test_*.py")))
    wanted = {"fhir": names, "changing": [path.stem for path in found if "CHANGE_ARGUMENTS" in path.read_text(encoding="utf-8")]}
    for name in names:
        unit = root / f"tests/unit/plugins/modules/test_{name}.py"
        if not unit.exists() or "def test_" not in unit.read_text(encoding="utf-8"):
            faults.append(f"{name} has no unit test in {named(root, unit)}")
        if not re.search(rf"\b{name}\b", real):
            faults.append(f"{name} has no test against something real in tests/integration")
    for group, members in wanted.items():
        faults += [f"{name} is not in the action group {group} of meta/runtime.yml" for name in members if name not in groups[group]]
        faults += [f"the action group {group} names {name}, which does not belong there" for name in groups[group] if name not in members]
        if groups[group] != sorted(groups[group]):
            faults.append(f"the action group {group} is not sorted")
    return faults


def module_documentation(root: Path) -> list[str]:
    """DOCUMENTATION, EXAMPLES and RETURN parse; the examples use names of ours that exist, with options that are documented."""
    faults = []
    known = {NAMESPACE + path.stem: path for path in modules(root)}
    fragments: dict[str, set[str]] = {}
    for path in sorted((root / "plugins/doc_fragments").glob("*.py")):
        for text in re.findall(r'r"""(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL):
            found = yaml.safe_load(text)
            fragments.setdefault(path.stem, set()).update((found or {}).get("options") or {})
    options = {}
    for name, path in known.items():
        docs = documentation(path)
        for part in ("DOCUMENTATION", "EXAMPLES", "RETURN"):
            if isinstance(docs.get(part), Exception):
                faults.append(f"{name}: {part} is not valid YAML: {docs[part]}")
            elif not docs.get(part):
                faults.append(f"{name}: {part} is missing or empty")
        main = docs.get("DOCUMENTATION")
        if isinstance(main, dict):
            options[name] = set(main.get("options") or {})
            for fragment in main.get("extends_documentation_fragment") or []:
                options[name] |= fragments.get(str(fragment).removeprefix(NAMESPACE).partition(".")[0], set())
            faults += [f"{name}: no attribute {part} is documented" for part in ("check_mode", "diff_mode", "idempotent")
                       if part not in (main.get("attributes") or {}) and "info_module" not in str(main.get("extends_documentation_fragment"))]
    for name, path in known.items():
        examples = documentation(path).get("EXAMPLES")
        used = 0
        for task in tasks_of(examples):
            action = action_of(task) or ""
            if action.startswith(NAMESPACE):
                if action not in known:
                    faults.append(f"{name}: an example uses {action}, which does not exist")
                used += action == name
                faults += [f"{name}: an example sets {option}, which {action} does not document"
                           for option in task[action] or {} if option not in options.get(action, {option})]
        if isinstance(examples, list) and not used:
            faults.append(f"{name}: no example uses it")
    return faults


def filter_rules(root: Path) -> list[str]:
    """Every filter has a documentation under its own name, an example that uses it, and a unit test; what roles use is there."""
    faults = []
    names = [path.stem for path in filters(root)]
    for path in filters(root):
        docs = documentation(path)
        faults += [f"{path.stem}: {part} is missing or not valid YAML" for part in ("DOCUMENTATION", "EXAMPLES", "RETURN")
                   if not docs.get(part) or isinstance(docs[part], Exception)]
        if isinstance(docs.get("DOCUMENTATION"), dict) and docs["DOCUMENTATION"].get("name") != path.stem:
            faults.append(f"{path.stem}: is documented as {docs['DOCUMENTATION'].get('name')}")
        if NAMESPACE + path.stem not in str(docs.get("EXAMPLES")):
            faults.append(f"{path.stem}: no example uses it")
        unit = root / f"tests/unit/plugins/filter/test_{path.stem}.py"
        if not unit.exists() or "def test_" not in unit.read_text(encoding="utf-8"):
            faults.append(f"{path.stem} has no unit test in {named(root, unit)}")
    for path in sorted((root / "roles").rglob("*.yml")):
        faults += [f"{named(root, path)}: there is no filter {name}"
                   for name in re.findall(r"\| *dghs\.bd_fhir\.(\w+)", path.read_text(encoding="utf-8")) if name not in names]
    return faults


class Ids(ast.NodeVisitor):
    """The ids of findings in one source file: first arguments of finding() and of functions that hand theirs on to it."""

    def __init__(self, tree: ast.Module, source: str):
        self.ids: set[str] = set()
        self.patterns: set[str] = set()
        self.unknown: list[int] = []
        self.makers: dict[str, str] = {"finding": "id"}
        for _round in range(3):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    self._learn(node)
        self.visit(tree)

    @staticmethod
    def _name(node: ast.Call) -> str:
        return node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""

    def _learn(self, function: ast.FunctionDef) -> None:
        parameters = [argument.arg for argument in function.args.args if argument.arg != "self"]
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and self._name(node) in self.makers and node.args and isinstance(node.args[0], ast.Name) \
                    and parameters and node.args[0].id == parameters[0] and function.name != "finding":
                self.makers[function.name] = parameters[0]

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        # A finding needs at least an id, an object and what was found: fewer arguments belong to a namesake (set.add).
        if self._name(node) in self.makers and len(node.args) >= 3:
            self._take(node.args[0])

    def _take(self, node: ast.expr) -> None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.ids.add(node.value)
        elif isinstance(node, ast.IfExp):
            self._take(node.body)
            self._take(node.orelse)
        elif isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant) and isinstance(node.right.value, str):
            self.patterns.add(rf"[a-z_]+{re.escape(node.right.value)}")
        elif not (isinstance(node, ast.Name) and node.id in self.makers.values()):
            self.unknown.append(node.lineno)


def finding_ids(root: Path) -> tuple[set[str], set[str], list[str]]:
    """The ids, the patterns of composed ids, and the places whose id could not be told."""
    ids: set[str] = set()
    patterns: set[str] = set()
    unknown = []
    for path in sorted((root / "plugins").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        found = Ids(ast.parse(source), source)
        ids |= found.ids
        patterns |= found.patterns
        unknown += [f"{named(root, path)}:{line}" for line in found.unknown]
    return ids, patterns, unknown


def findings_documented(root: Path) -> list[str]:
    """Every finding's id is explained in docs/findings.md, and nothing is explained there that no module reports."""
    ids, patterns, unknown = finding_ids(root)
    faults = [f"{place}: write the id of the finding as a literal, so that it can be found" for place in unknown]
    documented = re.findall(r"^\| `([a-z_]+)` \|", (root / "docs/findings.md").read_text(encoding="utf-8"), re.MULTILINE)
    faults += [f"docs/findings.md does not explain {name}" for name in sorted(ids - set(documented))]
    faults += [f"docs/findings.md explains {name}, which no module reports"
               for name in sorted(set(documented) - ids) if not any(re.fullmatch(pattern, name) for pattern in patterns)]
    faults += [f"docs/findings.md explains nothing of the form {pattern}" for pattern in sorted(patterns)
               if not any(re.fullmatch(pattern, name) for name in set(documented) - ids)]
    faults += [f"docs/findings.md explains {name} twice" for name in sorted({name for name in documented if documented.count(name) > 1})]
    faults += [f"the id {name} is not snake_case" for name in sorted(ids) if not re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", name)]
    return faults


# --- playbooks -----------------------------------------------------------------------------------------------------


def playbook_rules(root: Path) -> list[str]:
    """Every changing verb has a way back; every playbook validates its variables by its own spec and numbers its plays."""
    faults = []
    names = {path.stem for path in playbooks(root)}
    for path in playbooks(root):
        where = named(root, path)
        if path.stem not in READING and not path.stem.startswith("rollback_") and f"rollback_{path.stem}" not in names:
            faults.append(f"{where} changes something and has no rollback_{path.stem}")
        if path.stem.startswith("rollback_") and path.stem.removeprefix("rollback_") not in names:
            faults.append(f"{where} is the way back of nothing")
        meta = path.with_suffix(".meta.yml")
        if not meta.exists() or path.stem not in (load(meta) or {}).get("argument_specs", {}):
            faults.append(f"{named(root, meta)} must hold the spec {path.stem}")
        found = plays(path)
        if not found:
            faults += [f"{where} imports {name}, which does not exist" for name in imports(path) if name not in names]
            if not imports(path):
                faults.append(f"{where} does nothing")
            continue
        if found[0].get("validate_argspec") != path.stem:
            faults.append(f"{where}: the first play must have 'validate_argspec: {path.stem}'")
        title = path.stem.upper().replace("_", " ")
        for number, play in enumerate(found, 1):
            if not str(play.get("name")).startswith(f"({number}/{len(found)}) {title}: "):
                faults.append(f"{where}: the name of play {number} must start with '({number}/{len(found)}) {title}: '")
            if "default('fhir_hosts')" not in str(play["hosts"]):
                faults.append(f"{where}: the hosts of play {number} must be open to bd_fhir_hosts, with fhir_hosts as fallback")
    faults += [f"{named(root, meta)} belongs to no playbook" for meta in sorted((root / "playbooks").glob("*.meta.yml"))
               if meta.name.removesuffix(".meta.yml") not in names]
    return faults


def playbook_defaults(root: Path) -> list[str]:
    """A variable that a playbook and a role both declare has one type and one default."""
    faults = []
    declared: dict[str, dict[str, Any]] = {}
    for role in roles(root):
        declared.update(options_of(load(role / "meta/argument_specs.yml")))
    site: dict[str, tuple[str, Any, Any]] = {}
    for path in sorted((root / "playbooks").glob("*.meta.yml")):
        for spec in load(path)["argument_specs"].values():
            for name, option in (spec.get("options") or {}).items():
                told = (option.get("type", "str"), option.get("default"))
                if name in declared and told != (declared[name].get("type", "str"), declared[name].get("default")):
                    faults.append(f"{named(root, path)}: {name} is {told}, in its role "
                                  f"{(declared[name].get('type', 'str'), declared[name].get('default'))}")
                first = site.setdefault(name, (path.name, *told))
                if name.startswith("bd_fhir_") and first[1:] != told:
                    faults.append(f"{named(root, path)}: {name} is {told}, in {first[0]} {first[1:]}")
                if name not in declared and not name.startswith("bd_fhir_"):
                    faults.append(f"{named(root, path)}: {name} is neither a bd_fhir_ variable nor one of a role")
    return faults


def site_variables(root: Path) -> list[str]:
    """Every bd_fhir_ variable that a playbook reads is declared in its spec and explained in docs/inventory.md."""
    faults = []
    page = (root / "docs/inventory.md").read_text(encoding="utf-8")
    everywhere: set[str] = set()
    fallbacks: dict[str, Any] = {}
    for path in playbooks(root):
        text = path.read_text(encoding="utf-8")
        # set_stats hands results on under names that are no variables of the site.
        used = set(re.findall(r"\bbd_fhir_[a-z_]+\b", text)) - {NAMESPACE[5:-1]} - set(re.findall(r"^ +(bd_fhir_[a-z_]+):", text, re.MULTILINE))
        meta = load(path.with_suffix(".meta.yml"))["argument_specs"][path.stem].get("options") or {}
        faults += [f"{named(root, path)} reads {name}, which its meta file does not declare" for name in sorted(used - set(meta))]
        everywhere |= used | {name for name in meta if name.startswith("bd_fhir_")}
        fallbacks.update({name: option.get("default") for name, option in meta.items()})
    explained = set(re.findall(r"^\| `(bd_fhir_[a-z_]+)` \|", page, re.MULTILINE))
    faults += [f"docs/inventory.md does not explain {name}" for name in sorted(everywhere - explained)]
    faults += [f"docs/inventory.md explains {name}, which no playbook reads" for name in sorted(explained - everywhere)]
    for name, told in re.findall(r"^\| `(bd_fhir_[a-z_]+)` \|.*\| ([^|]+) \|$", page, re.MULTILINE):
        wanted = f"`{fallbacks[name]}`" if fallbacks.get(name) else "empty"
        if not told.startswith(wanted):
            faults.append(f"docs/inventory.md: the fallback of {name} is {wanted}, not {told}")
    return faults


def role_fallbacks(root: Path) -> list[str]:
    """A variable of a spec that is a role's and that the playbook reads itself has the role's default as its fallback."""
    faults = []
    declared: dict[str, Any] = {}
    for role in roles(root):
        declared.update({name: option.get("default") for name, option in options_of(load(role / "meta/argument_specs.yml")).items()})
    for path in playbooks(root):
        meta = load(path.with_suffix(".meta.yml"))["argument_specs"][path.stem].get("options") or {}
        for name, told in re.findall(r"\b([a-z_]+) \| default\(([^()]*)\)", path.read_text(encoding="utf-8")):
            if name in declared and name in meta and yaml.safe_load(told or "''") != declared[name]:
                faults.append(f"{named(root, path)}: the fallback of {name} is {told}, its role's default {declared[name]!r}")
    return faults


def assess_judges_what_is_kept(root: Path) -> list[str]:
    """assess passes every variable of the site by which maintain_audit_partitions keeps the audit tables, and to both modules."""
    faults = []
    site = options_of(load(root / "playbooks/maintain_audit_partitions.meta.yml"))
    kept = next(task for task in tasks_of(load(root / "roles/audit_partitions/tasks/verify.yml")) if short(action_of(task)) == "audit_partition_info")
    assess, spec = (root / "playbooks/assess.yml").read_text(encoding="utf-8"), options_of(load(root / "playbooks/assess.meta.yml"))
    tasks = {short(action_of(task)): task for task in tasks_of(load(root / "playbooks/assess.yml"))}
    asked = tasks["audit_partition_info"]["dghs.bd_fhir.audit_partition_info"]
    for option, value in kept["dghs.bd_fhir.audit_partition_info"].items():
        name = f"audit_partitions_{option}"
        # A rehearsal, and a figure for the summary, are that verb's own.
        if name not in str(value) or name not in site or option in ("now", "rejection_days"):
            continue
        if option not in asked:
            faults.append(f"playbooks/assess.yml does not pass {option} to audit_partition_info")
        if name not in assess or name not in spec:
            faults.append(f"playbooks/assess.yml or its meta file does not read {name}")
    faults += [f"playbooks/assess.yml does not pass {option} to phase_info" for option in ("schema", "table")
               if option not in tasks["phase_info"]["dghs.bd_fhir.phase_info"]["audit"]]
    return faults


def example_inventories(root: Path) -> list[str]:
    """An inventory to copy has hosts in fhir_hosts, and sets only variables that exist, of the right type."""
    faults = []
    known: dict[str, str] = {}
    for file in (*sorted((root / "roles").glob("*/meta/argument_specs.yml")), *sorted((root / "playbooks").glob("*.meta.yml"))):
        for spec in load(file)["argument_specs"].values():
            known.update({name: option.get("type", "str") for name, option in (spec.get("options") or {}).items()})
    for folder in sorted(path for path in (root / "inventories").iterdir() if path.is_dir()):
        hosts = folder / "hosts.yml"
        found = inventory_hosts(load(hosts)) if hosts.exists() else {}
        # One for a standby's host goes beside another one.
        if not (found.get("fhir_hosts") or found.get("fhir_replica_hosts")):
            faults.append(f"{named(root, folder)}: hosts.yml has no host in fhir_hosts")
        for file in sorted(folder.glob("group_vars/*.yml")):
            for name, value in (load(file) or {}).items():
                if name not in known and not name.startswith(("ansible_", "_")):
                    faults.append(f"{named(root, file)}: nobody reads {name}")
                elif name in known and not isinstance(value, TYPES[known[name]]):
                    faults.append(f"{named(root, file)}: {name} is no {known[name]}")
    return faults


# --- tasks ---------------------------------------------------------------------------------------------------------


def task_rules(root: Path) -> list[str]:
    """No ignore_errors, no shell in what ships, and every command says when it changed something."""
    faults = []
    for path in task_files(root):
        for item in tasks_of(load(path)):
            where = f"{named(root, path)}: {item.get('name', item)}"
            if "ignore_errors" in item:
                faults.append(f"{where}: ignore_errors; say with failed_when what may be")
            # What an operator runs; a test's verify may pipe one independent tool into another.
            if short(action_of(item)) in ("shell", "raw") and path.relative_to(root).parts[0] in ("roles", "playbooks"):
                faults.append(f"{where}: {short(action_of(item))}; use a module, or command with argv")
            if short(action_of(item)) == "command" and "changed_when" not in item:
                faults.append(f"{where}: command without changed_when")
        written = re.search(r"^\s*-?\s*ignore_errors:", path.read_text(encoding="utf-8"), re.MULTILINE)
        if written and not any(fault.startswith(named(root, path)) and "ignore_errors" in fault for fault in faults):
            faults.append(f"{named(root, path)}: ignore_errors on a block or play")
    return faults


def globs(root: Path) -> list[str]:
    """A file pattern of a test or tool that starts at the repository matches something: else the test would run over nothing."""
    faults = []
    paths = [path.relative_to(root) for path in root.rglob("*") if ".git" not in path.parts]
    files = [path for place in ("tests", "tools") for path in sorted((root / place).rglob("*.py"))]
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        rooted = {"root"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                names = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
                if "__file__" in names or names & rooted:
                    rooted.add(node.targets[0].id)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("glob", "rglob", "iglob")):
                continue
            receiver = {name.id for name in ast.walk(node.func.value) if isinstance(name, ast.Name)}
            pattern = node.args[0] if node.args else None
            if not receiver & rooted or not isinstance(pattern, ast.Constant):
                continue
            shown = str(pattern.value).replace("**/", "")
            if not any(candidate.match(shown) for candidate in paths):
                faults.append(f"{named(root, path)}:{node.lineno}: nothing in the repository matches {pattern.value}")
    for path in task_files(root):
        for shown in re.findall(r"fileglob['\"]?[,:]\s*['\"]?([^'\"\s{}]+)", path.read_text(encoding="utf-8")):
            if not any(candidate.match(shown) for candidate in paths):
                faults.append(f"{named(root, path)}: nothing matches the fileglob {shown}")
    return faults


# --- the artefact, the changelog, the documents --------------------------------------------------------------------

DEVELOPMENT = re.compile(
    r"^(tests|extensions|tools|build|changelogs/fragments|inventories/lab[^/]*|overlay/target)/|(^|/)\.|^(Makefile|pyproject\.toml|ansible\.cfg)$")


def artefact(root: Path) -> list[str]:
    """build_ignore keeps development out of the artefact and what an operator needs in; dependencies are bounded."""
    ignore = load(root / "galaxy.yml")["build_ignore"]

    def ignored(path: Path) -> bool:
        return any(fnmatch.fnmatch(str(part), pattern) for part in (path, *path.parents[:-1]) for pattern in ignore)

    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file() and ".git" not in path.parts and path.suffix != ".pyc"]
    faults = [f"{path} would be in the artefact: add it to build_ignore in galaxy.yml" for path in files
              if not ignored(path) and DEVELOPMENT.search(str(path))]
    needed = ["README.md", "LICENSE", "meta/runtime.yml", *(named(root, path) for path in (*modules(root), *playbooks(root), *roles(root)))]
    faults += [f"{name} would be missing in the artefact" for name in needed if ignored(Path(name))]
    for name, version in (load(root / "galaxy.yml").get("dependencies") or {}).items():
        if not re.fullmatch(r">=[0-9.]+,<[0-9.]+", str(version)):
            faults.append(f"galaxy.yml: the dependency {name} needs a lower and an upper bound, it has {version}")
    return faults


def changelog(root: Path) -> list[str]:
    """Every changelog fragment is valid: a known section, a list of sentences."""
    faults = []
    config = load(root / "changelogs/config.yaml")
    sections = {name for name, _title in config["sections"]} | {config["trivial_section_name"]}
    found = [path for path in sorted((root / "changelogs/fragments").iterdir()) if path.name != ".keep"]
    for path in found:
        where = named(root, path)
        if path.suffix not in (".yml", ".yaml"):
            faults.append(f"{where}: only .yml files are read")
            continue
        for section, entries in (load(path) or {"empty": None}).items():
            if section == config["prelude_section_name"]:
                if not isinstance(entries, str):
                    faults.append(f"{where}: {section} must be a text")
            elif section not in sections:
                faults.append(f"{where}: no such section: {section}")
            elif not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                faults.append(f"{where}: {section} must be a list of sentences")
    return faults


def documents(root: Path) -> list[str]:
    """Every link in the documents leads to a file, and the README names every verb with its way back."""
    faults = []
    pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md")), *sorted((root / "roles").glob("*/README.md"))]
    names = {item.stem for item in (*playbooks(root), *modules(root), *filters(root))} | {role.name for role in roles(root)}
    names |= set(load(root / "meta/runtime.yml")["action_groups"])
    for path in pages:
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in link and not (path.parent / link).exists():
                faults.append(f"{named(root, path)}: {link} does not exist")
        for verb in re.findall(r"dghs\.bd_fhir\.([a-z_]+)", text):
            if verb not in names:
                faults.append(f"{named(root, path)}: dghs.bd_fhir.{verb} does not exist")
    readme = (root / "README.md").read_text(encoding="utf-8")
    faults += [f"README.md does not name the verb {path.stem}" for path in playbooks(root) if f"`{path.stem}`" not in readme]
    index = (root / "docs/index.md").read_text(encoding="utf-8")
    faults += [f"docs/index.md does not lead to {path.name}" for path in sorted((root / "docs").glob("*.md"))
               if path.name != "index.md" and f"]({path.name})" not in index]
    return faults


PLACES = {"real": "tests/integration/real", "lab": "tests/integration/lab", "unit": "tests/unit/plugins", "monitoring": "tests/unit/monitoring"}


def cases(root: Path) -> list[str]:
    """Every test that the table of public failures names is there, and every case that a test names is in the table."""
    faults = []
    text = (root / "docs/testing.md").read_text(encoding="utf-8")
    table = text.partition("<!-- begin: cases -->")[2].partition("<!-- end: cases -->")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| [0-9]", line)]
    if not rows:
        faults.append("docs/testing.md: the table of public failures is empty")
    known = {number for row in rows for number in re.findall(r"[0-9]+", row.split("|")[1])}
    for row in rows:
        tests = re.findall(r"`((?:real|lab|unit|monitoring)/\S+?)::(\w+)`", row)
        if not tests:
            faults.append(f"docs/testing.md: case {row.split('|')[1].strip()} names no test")
        for name, test in tests:
            place, _slash, rest = name.partition("/")
            path = root / PLACES[place] / rest
            if not path.exists() or not re.search(rf"^(async )?def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
                faults.append(f"docs/testing.md: there is no test {name}::{test}")
    for place in PLACES.values():
        for path in sorted((root / place).rglob("test_*.py")):
            for test, number in re.findall(r"^def (test_cases?_([0-9]+)\w*)\(", path.read_text(encoding="utf-8"), re.MULTILINE):
                if number not in known | ALSO_TESTED:
                    faults.append(f"docs/testing.md: case {number} is tested by {test} and not in the table")
    return faults


# Cases of verbs to come that a module of today already keeps.
ALSO_TESTED = {"111"}

Rule = Callable[[Path], list[str]]
RULES: list[Rule] = [role_interface, scenarios, module_tests, module_documentation, filter_rules, findings_documented, playbook_rules,
                     playbook_defaults, site_variables, role_fallbacks, assess_judges_what_is_kept, example_inventories, task_rules, globs,
                     artefact, changelog, documents, cases]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule: Rule, clean: Path) -> None:
    faults = rule(clean)
    assert not faults, "\n".join(faults)


def test_the_labs_second_inventory_is_the_first() -> None:
    """A link would do, but ansible-test allows none between folders."""
    first, second = (load(ROOT / "inventories" / name / "group_vars/fhir_hosts.yml") for name in ("lab", "lab-second"))
    assert first == second


# --- each rule goes red --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows, without what lies about in a checkout."""
    target = tmp_path_factory.mktemp("guard") / "repository"
    known = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=False)
    names = known.stdout.decode().split("\0")[:-1] if known.returncode == 0 else []
    assert len(names) > 50, f"git does not list this checkout: {known.stderr.decode()}"
    for name in names:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture
def doctored(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "repository"))


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Change a text; one that is not there would make the test prove nothing."""

    def change(root: Path) -> None:
        path = root / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} no longer has {old!r}: adapt this test"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def append(name: str, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + text, encoding="utf-8")

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def everything(name: str, pattern: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / name
        text, count = re.subn(pattern, new, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count, f"{name} no longer has {pattern!r}: adapt this test"
        path.write_text(text, encoding="utf-8")

    return change


IDLE = "\n- name: Idle\n  hosts: fhir_hosts\n  tasks:\n    - name: Look\n      ansible.builtin.debug:\n"
BLOCK = "\n- name: B\n  ignore_errors: true\n  block:\n    - name: C\n      ansible.builtin.debug:\n"
PATTERN = 'from pathlib import Path\n\nHERE = Path(__file__).parent\nCASES = list(HERE.glob("cases-*.json"))\n'
ENV_FILE = "plugins/modules/env_file.py"
MEMORY = "plugins/filter/pool_memory.py"
FINDINGS = "plugins/module_utils/_findings.py"
COMMAND = "\n- name: Doctored\n  ansible.builtin.command:\n    argv: [\"true\"]\n"
DOCTORED: list[tuple[Rule, Callable[[Path], None], str]] = [
    (role_interface, append("roles/hapi/defaults/main.yml", "hapi_new: 1\n"), "hapi_new is in defaults but not"),
    (role_interface, everything("roles/hapi/defaults/main.yml", r"^hapi_pull: .*\n", ""), "hapi_pull is in argument_specs but not"),
    (role_interface, everything("roles/hapi/defaults/main.yml", r"^hapi_replicas: 3", "hapi_replicas: 4"), "hapi_replicas is 4 in defaults, 3"),
    (role_interface, everything("roles/hapi/defaults/main.yml", r"^hapi_replicas: 3", 'hapi_replicas: "3"'), "is no int"),
    (role_interface, everything("roles/hapi/defaults/main.yml", r"^hapi_pull: .*", "hapi_pull: never"), "none of its choices"),
    (role_interface, everything("roles/hapi/defaults/main.yml", r"^hapi_reset_ports: false", "hapi_reset_ports: 0"), "is 0 in defaults, False"),
    (role_interface, append("roles/hapi/defaults/main.yml", "replicas: 1\n"), "replicas does not start with hapi_"),
    (role_interface, remove("roles/preflight/meta/argument_specs.yml"), "roles/preflight: needs"),
    (role_interface, remove("roles/hapi/tasks/rollback.yml"), "entry point rollback has no tasks"),
    (scenarios, lambda root: shutil.rmtree(root / "extensions/molecule/hapi"), "extensions/molecule/hapi is missing"),
    (scenarios, lambda root: shutil.rmtree(root / "extensions/molecule/scale_regional"), "extensions/molecule/scale_regional is missing"),
    (scenarios, remove("extensions/molecule/hapi/verify.yml"), "no verify.yml, and Molecule"),
    (scenarios, everything("extensions/molecule/hapi/verify.yml", r"^(  hosts:|- hosts:).*", r"\1 fhir_nobody"), "no host is in fhir_nobody"),
    (scenarios, append("extensions/molecule/hapi/verify.yml", IDLE), "nothing in it can fail"),
    (module_tests, replace("meta/runtime.yml", "    - env_file\n", ""), "env_file is not in the action group changing"),
    (module_tests, replace("meta/runtime.yml", "    - change_info\n", ""), "change_info is not in the action group fhir"),
    (module_tests, replace("meta/runtime.yml", "    - env_file\n", "    - env_file\n    - gone\n"), "names gone, which does not belong there"),
    (module_tests, remove("tests/unit/plugins/modules/test_env_file.py"), "env_file has no unit test"),
    (module_tests, lambda root: shutil.rmtree(root / "tests/integration"), "has no test against something real"),
    (module_documentation, replace(ENV_FILE, 'EXAMPLES = r"""', 'EXAMPLES = r"""\n- broken: [\n'), "env_file: EXAMPLES is not valid YAML"),
    (module_documentation, everything(ENV_FILE, r"^  dghs\.bd_fhir\.env_file:", "  dghs.bd_fhir.env_fil:"), "env_fil, which does not exist"),
    (module_documentation, replace(ENV_FILE, "  dghs.bd_fhir.env_file:\n", "  dghs.bd_fhir.env_file:\n    colour: red\n"), "sets colour, which"),
    (module_documentation, everything(ENV_FILE, r"^  idempotent:", "  once:"), "no attribute idempotent"),
    (filter_rules, remove("tests/unit/plugins/filter/test_pool_memory.py"), "pool_memory has no unit test"),
    (filter_rules, replace(MEMORY, "name: pool_memory\n", "name: memory\n"), "pool_memory: is documented as memory"),
    (filter_rules, replace(MEMORY, 'RETURN = r"""', 'RETURN = r"""\n- broken: [\n'), "pool_memory: RETURN is missing or not valid YAML"),
    (filter_rules, everything(MEMORY, r"dghs\.bd_fhir\.pool_memory\(", "pool_memory("), "pool_memory: no example uses it"),
    (filter_rules, remove(MEMORY), "roles/pgbouncer/tasks/tune.yml: there is no filter pool_memory"),
    (findings_documented, everything("docs/findings.md", r"^\| `env_file_mode` .*\n", ""), "does not explain env_file_mode"),
    (findings_documented, append("docs/findings.md", "| `sky_fell` | error | x | y |\n"), "explains sky_fell, which no module reports"),
    (findings_documented, everything("docs/findings.md", r"^(\| `env_file_mode` .*\n)", r"\1\1"), "explains env_file_mode twice"),
    (findings_documented, append(FINDINGS, '\n\nX = finding("new_one", "error", "a", "b", "c", "d")\n'), "does not explain new_one"),
    (findings_documented, append(FINDINGS, '\n\nX = finding(str(1), "error", "a", "b", "c", "d")\n'), "write the id of the finding as a literal"),
    (playbook_rules, remove("playbooks/rollback_scale_hapi.yml"), "has no rollback_scale_hapi"),
    (playbook_rules, remove("playbooks/scale_hapi.yml"), "is the way back of nothing"),
    (playbook_rules, remove("playbooks/assess.meta.yml"), "assess.meta.yml must hold the spec assess"),
    (playbook_rules, replace("playbooks/assess.yml", "  validate_argspec: assess\n", ""), "must have 'validate_argspec: assess'"),
    (playbook_rules, replace("playbooks/assess.yml", "(1/2) ASSESS", "(1/3) ASSESS"), "must start with '(1/2) ASSESS: '"),
    (playbook_rules, everything("playbooks/assess.yml", r"^  hosts:.*", "  hosts: fhir_hosts"), "must be open to bd_fhir_hosts"),
    (playbook_defaults, replace("playbooks/scale_hapi.meta.yml", "default: 3\n", "default: 5\n"), "hapi_replicas is ('int', 5)"),
    (playbook_defaults, replace("playbooks/assess.meta.yml", "default: hapi\n", "default: fhir\n"), "bd_fhir_hapi_service is"),
    (playbook_defaults, append("playbooks/assess.meta.yml", "      colour:\n        description: x\n"), "colour is neither"),
    (site_variables, everything("docs/inventory.md", r"^\| `bd_fhir_project_dir` .*\n", ""), "does not explain bd_fhir_project_dir"),
    (site_variables, append("docs/inventory.md", "| `bd_fhir_colour` | x | y |\n"), "explains bd_fhir_colour, which"),
    (site_variables, replace("docs/inventory.md", "| `/opt/bd-fhir-national` |", "| `/srv/fhir` |"), "the fallback of bd_fhir_project_dir is"),
    (role_fallbacks, replace("playbooks/assess.yml", "audit_partitions_time_zone | default('UTC')", "audit_partitions_time_zone | default('')"),
     "the fallback of audit_partitions_time_zone is '', its role's default 'UTC'"),
    (assess_judges_what_is_kept, everything("playbooks/assess.meta.yml", r"^      audit_partitions_schema:", "      audit_partitions_schem:"),
     "or its meta file does not read audit_partitions_schema"),
    (assess_judges_what_is_kept, everything("playbooks/assess.yml", r"^        time_zone: .*\n", ""),
     "does not pass time_zone to audit_partition_info"),
    (assess_judges_what_is_kept, everything("playbooks/assess.yml", r"audit_partitions_time_zone", "bd_fhir_zone"),
     "or its meta file does not read audit_partitions_time_zone"),
    (assess_judges_what_is_kept, everything("playbooks/assess.yml", r"^          schema: .*\n", ""), "does not pass schema to phase_info"),
    (example_inventories, append("inventories/pilot/group_vars/fhir_hosts.yml", "hapi_replica: 3\n"), "nobody reads hapi_replica"),
    (example_inventories, append("inventories/pilot/group_vars/fhir_hosts.yml", 'hapi_replicas: "3"\n'), "hapi_replicas is no int"),
    (example_inventories, replace("inventories/pilot/hosts.yml", "fhir_hosts:", "fhir_host:"), "has no host in fhir_hosts"),
    (site_variables, replace("playbooks/assess.yml", "bd_fhir_project_name", "bd_fhir_project_title"), "reads bd_fhir_project_title, which its meta"),
    (task_rules, append("roles/hapi/tasks/verify.yml", COMMAND), "command without changed_when"),
    (task_rules, append("roles/balancer/handlers/main.yml", COMMAND), "command without changed_when"),
    (task_rules, append("roles/hapi/tasks/verify.yml", COMMAND.replace("command", "shell") + "  changed_when: false\n"), "shell; use a module"),
    (task_rules, append("roles/hapi/tasks/verify.yml", COMMAND + "  changed_when: false\n  ignore_errors: true\n"), "ignore_errors; say"),
    (task_rules, append("roles/hapi/tasks/verify.yml", BLOCK), "ignore_errors on a block"),
    (globs, append("tests/unit/test_new.py", PATTERN), "nothing in the repository matches"),
    (globs, append("roles/hapi/tasks/verify.yml", "\n- name: G\n  ansible.builtin.debug:\n  with_fileglob: f/*.pem\n"), "matches the fileglob"),
    (artefact, replace("galaxy.yml", "  - tests\n", ""), "tests/unit/test_guard.py would be in the artefact"),
    (artefact, replace("galaxy.yml", "  - tests\n", "  - tests\n  - plugins\n"), "plugins/modules/env_file.py would be missing"),
    (artefact, everything("galaxy.yml", r'^  community\.docker: .*', '  community.docker: "*"'), "needs a lower and an upper bound"),
    (changelog, append("changelogs/fragments/x.yml", "---\nnews:\n  - hapi - x.\n"), "no such section: news"),
    (changelog, append("changelogs/fragments/x.yml", "---\nbugfixes: hapi - x.\n"), "must be a list"),
    (changelog, append("changelogs/fragments/x.yml", "---\nrelease_summary: [x]\n"), "must be a text"),
    (changelog, append("changelogs/fragments/x.txt", "x"), "only .yml files are read"),
    (documents, replace("README.md", "`assess`", "assess"), "does not name the verb assess"),
    (documents, append("docs/index.md", "[x](nowhere.md)\n"), "nowhere.md does not exist"),
    (documents, append("docs/index.md", "`dghs.bd_fhir.fly`\n"), "dghs.bd_fhir.fly does not exist"),
    (documents, append("docs/orphan.md", "# x\n"), "does not lead to orphan.md"),
    (cases, everything("tests/integration/real/test_compose_rollout.py", r"^def test_kill\(", "def test_k("), "test_compose_rollout.py::test_kill"),
    (cases, remove("tests/integration/lab/test_1_scale.py"), "there is no test lab/test_1_scale.py::"),
    (cases, everything("docs/testing.md", r"^(\| 32 \|.*\|) `.*` \|$", r"\1 none |"), "case 32 names no test"),
    (cases, everything("docs/testing.md", r"^\| 101 \|.*\n", ""), "case 101 is tested by test_case_101_xml"),
    (cases, everything("docs/testing.md", r"^\| [0-9].*\n", ""), "the table of public failures is empty"),
]


@pytest.mark.parametrize(("rule", "change", "fault"), DOCTORED, ids=[f"{rule.__name__}-{fault}" for rule, _change, fault in DOCTORED])
def test_the_rule_goes_red(rule: Rule, change: Callable[[Path], None], fault: str, doctored: Path) -> None:
    before = rule(doctored)
    change(doctored)
    after = [found for found in rule(doctored) if found not in before]
    assert any(fault in found for found in after), after


def test_every_rule_is_seen_to_go_red() -> None:
    assert {rule for rule, _change, _fault in DOCTORED} == set(RULES)
