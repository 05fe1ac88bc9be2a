"""`python -m service lint REPOSITORY`: what becomes of each model's configuration here, before anything is served.

It reads what the repository says. With `--open` it also loads each version as the server would, and closes it again;
without, what a configuration claims of its engine is found at the load.
"""

import argparse
import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table
from rich.text import Text

from enginehouse.config_completion import complete_defaults, complete_platform, model_file
from enginehouse.config_fields import Standing, set_parameters, standing_of
from enginehouse.config_paths import set_fields
from enginehouse.config_rules import check_config
from enginehouse.engine_options import engine_options_from_config
from enginehouse.errors import Error, InvalidInput, NotFound
from enginehouse.evidence import EVIDENCE_FILE
from enginehouse.model_config import read_config, versions_to_serve
from enginehouse.processes.meeting_place import MeetingPlace
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.repository import Repository
from enginehouse.sequence_config import controls_from_config, states_from_config
from service.codecs.classification import read_labels
from service.ensembles.ensemble_rules import complete_ensemble, dependencies, is_ensemble
from service.loading.engine_doors import isolation_from_config
from service.loading.loader import VersionLoader
from service.loading.opening import close_all
from service.loading.placement import placement_from_config
from service.loading.repositories import Repositories
from service.scheduling.queue_policy import queue_policy_from_config

_COLOURS: dict[Standing, str] = {"honoured": "green", "emulated": "yellow", "refused": "red"}
_WIDTH_OF_A_FILE = 140
_TRITON_MODULE = "triton_python_backend_utils"
# What is looked at, and what looks: it raises `Error`.
_Check = tuple[str, Callable[[], None]]


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing that a model asks for, and what becomes of it."""

    standing: Standing
    what: str
    note: str = ""


def lint(arguments: Sequence[str]) -> int:
    """Print what becomes of every model; 0 if all of it can be served, 1 if something is refused, 2 without models."""
    parser = argparse.ArgumentParser("python -m service lint", description=__doc__)
    parser.add_argument("repository", type=Path, nargs="+", help="directory of models in Triton's layout")
    parser.add_argument("--open", action="store_true", help="also load each version, and close it again")
    parser.add_argument("--model-config-name", default="", help="of a configuration in each model's folder `configs`")
    wanted = parser.parse_args(arguments)
    repositories = [Repository(path) for path in wanted.repository]
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    try:
        names = sorted({name for repository in repositories for name in repository.model_names()})
        found = {name: inspect_model(repositories, name, wanted.open, wanted.model_config_name) for name in names}
        overlooked = [sentence for repository in repositories for sentence in repository.overlooked()]
    except NotFound as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    for name, findings in found.items():
        console.print(_table(name, findings))
    for sentence in overlooked:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    refused = [name for name, findings in found.items() if not is_servable(findings)]
    console.print(f"{len(found) - len(refused)} of {len(found)} models can be served.", highlight=False)
    return 1 if refused else 0 if found else 2


def is_servable(findings: Sequence[Finding]) -> bool:
    """Whether nothing keeps the model from loading; what is emulated does not."""
    return all(finding.standing != "refused" for finding in findings)


def inspect_model(
    repositories: Sequence[Repository], name: str, is_opened: bool = False, config_name: str = ""
) -> list[Finding]:
    """Everything that a model's directory asks for, in the order of its configuration, then what breaks a rule.

    Args:
        repositories: all that are served together.
        name: of the model.
        is_opened: its versions are loaded too, unless something is refused already.
        config_name: of the configuration that counts where the model has several.
    """
    holders = [repository for repository in repositories if name in repository.model_names()]
    if len(holders) > 1:
        places = " and ".join(str(repository.root) for repository in holders)
        return [Finding("refused", "name", f"the model lies in {places}; keep it in one repository.")]
    try:
        config = read_config(holders[0].model_directory(name), config_name)
    except Error as problem:
        return [Finding("refused", "config.pbtxt", str(problem))]
    available = {other for repository in repositories for other in repository.model_names()}
    found = [*_fields(config), *_parameters(config), *_broken_rules(config, holders[0], available)]
    return [*found, *_failed_loads(config, holders[0])] if is_opened and is_servable(found) else found


def _fields(config: ModelConfig) -> Iterator[Finding]:
    for path in set_fields(config):
        field = standing_of(path)
        yield Finding(field.standing, path, field.note)


def _parameters(config: ModelConfig) -> Iterator[Finding]:
    for key, field in set_parameters(config).items():
        yield Finding(field.standing, f"parameters['{key}']", field.note)


def _broken_rules(config: ModelConfig, repository: Repository, available: set[str]) -> list[Finding]:
    """What would keep the model from loading although each of its fields is known."""
    checks: list[_Check] = [("label_filename", partial(_check_labels, config, repository))]
    if is_ensemble(config):
        checks.append(("ensemble_scheduling", partial(_check_ensemble, config, available)))
    else:
        checks.append(("instance_group", partial(_check_placement, config)))
    try:
        versions = versions_to_serve(config, repository.versions(config.name))
    except Error as problem:
        return [*_failures(checks), Finding("refused", "version_policy", str(problem))]
    if not versions:
        return [*_failures(checks), Finding("refused", "versions", "there is none to serve: a folder such as 1 is.")]
    for version in [] if is_ensemble(config) else versions:
        directory = repository.version_directory(config.name, version)
        checks.append((f"version {version}", partial(_check_version, config, directory)))
    return _failures(checks)


def _failed_loads(config: ModelConfig, repository: Repository) -> list[Finding]:
    """Load each version as the server would; an ensemble has nothing of its own to load."""
    versions = [] if is_ensemble(config) else versions_to_serve(config, repository.versions(config.name))
    with TemporaryDirectory() as directory:
        meeting_place = MeetingPlace(Path(directory))
        loader = VersionLoader(Repositories([repository]), lambda *_: None, meeting_place=meeting_place)
        return _failures([(f"version {version}", partial(_load, loader, config, version)) for version in versions])


def _load(loader: VersionLoader, config: ModelConfig, version: int) -> None:
    close_all(loader.load(config, version).engines)


def _failures(checks: Sequence[_Check]) -> list[Finding]:
    failures = []
    for what, check in checks:
        try:
            check()
        except Error as problem:
            failures.append(Finding("refused", what, str(problem)))
    return failures


def _check_version(config: ModelConfig, directory: Path) -> None:
    """Check what the configuration and a version's files say together; raises `Error`."""
    completed = _copy(config)
    is_published = (directory / EVIDENCE_FILE).is_file()
    complete_platform(completed, [path.name for path in directory.iterdir()])
    file = directory / model_file(completed, None)
    if not is_published and not file.exists():
        raise InvalidInput(f"{file} is not there; it is what the configuration asks for.")
    complete_defaults(completed)
    check_config(completed, is_described=bool(config.input))
    queue_policy_from_config(completed)
    isolation_from_config(completed)
    controls_from_config(completed)
    states_from_config(completed)
    engine_options_from_config(completed)
    if completed.backend == "python":
        check_python(file)


def check_python(file: Path) -> None:
    """Look for what only Triton's own Python backend has, without running the file; raises `InvalidInput`."""
    try:
        tree = ast.parse(file.read_text(), file.name)
    except (OSError, SyntaxError, ValueError) as problem:
        raise InvalidInput(f"{file.name} is no Python file: {problem}.") from problem
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    if _TRITON_MODULE in imported:
        raise InvalidInput(
            f"{file.name} imports {_TRITON_MODULE}, which only Triton's own Python backend has; "
            "write it as a Model of enginehouse.python_model."
        )


def _check_ensemble(config: ModelConfig, available: set[str]) -> None:
    complete_ensemble(_copy(config))
    queue_policy_from_config(config)
    missing = [name for name in dependencies(config) if name not in available]
    if missing:
        raise InvalidInput(f"ensemble '{config.name}' asks the model '{missing[0]}', which is in no repository here.")


def _check_labels(config: ModelConfig, repository: Repository) -> None:
    read_labels(config, repository.model_directory(config.name))


def _check_placement(config: ModelConfig) -> None:
    placement_from_config(_copy(config))


def _copy(config: ModelConfig) -> ModelConfig:
    copy = ModelConfig()
    copy.CopyFrom(config)
    return copy


def _table(name: str, findings: Sequence[Finding]) -> Table:
    """One model: what is honoured in one row, all else with its reason."""
    verdict = "can be served" if is_servable(findings) else "is refused"
    table = Table(title=Text(f"{name} {verdict}"), title_justify="left", show_header=False, expand=False)
    honoured = [finding.what for finding in findings if finding.standing == "honoured"]
    if honoured:
        table.add_row(_word("honoured"), Text(", ".join(honoured)), "")
    for standing in ("emulated", "refused"):
        for finding in findings:
            if finding.standing == standing:
                table.add_row(_word(finding.standing), Text(finding.what), Text(finding.note))
    return table


def _word(standing: Standing) -> Text:
    return Text(standing, style=_COLOURS[standing])
