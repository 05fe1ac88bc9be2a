"""`doctor`: what each engine of a version would do on this machine, without opening any."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from enginehouse.engine_choice import InstalledVersion, choose_engine, installed_version, rank_engines
from enginehouse.errors import CorruptVersion, InvalidInput, NotFound
from enginehouse.evidence import EVIDENCE_FILE, EngineRecord, Evidence, read_evidence
from enginehouse.hardware import Hardware, this_hardware
from enginehouse.repository import Repository, check_digests

SERVES, CAN_RUN, CANNOT = "serves", "can run", "cannot"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What to print, and whether the version can serve here."""

    report: RenderableType
    can_serve: bool


def diagnose(
    model: str,
    repository: Path,
    hardware: Callable[[], Hardware] = this_hardware,
    installed: InstalledVersion = installed_version,
) -> Diagnosis:
    """Look at a version, or at the newest one of a model.

    Args:
        model: a version directory, a model directory, or the name of a model in the repository, perhaps `name/version`.
        repository: where names are looked up.
        hardware: tells what this machine is.
        installed: tells what libraries there are.

    Raises:
        NotFound: there is no such model or version.
        InvalidInput: it was not published by this optimizer, so that nothing is known of its engines.
        CorruptVersion: its evidence cannot be read.
    """
    directory = version_directory(model, repository)
    evidence = read_evidence(directory)
    if evidence is None:
        raise InvalidInput(
            f"{directory} holds no {EVIDENCE_FILE}, so nothing is known of its engines. Build the model with "
            "`python -m optimizer build`."
        )
    machine = hardware()
    verdicts = _verdicts(evidence, machine, installed)
    files = _file_problem(directory, evidence)
    facts = Table(box=None, show_header=False, pad_edge=False)
    for title, text in _facts(directory, evidence, machine, files):
        facts.add_row(title, Text(text))
    can_serve = not files and any(verdict == SERVES for verdict, _ in verdicts.values())
    return Diagnosis(Group(facts, "", _engine_table(evidence, verdicts)), can_serve)


def version_directory(model: str, repository: Path) -> Path:
    """Find what is meant by a path or a name; raises `NotFound`."""
    path = Path(model)
    if (path / EVIDENCE_FILE).is_file():
        return path
    if path.is_dir():
        repository, name, version = path.resolve().parent, path.resolve().name, ""
    else:
        name, _, version = model.partition("/")
    served = Repository(repository)
    check_in_service(served, name)
    if version:
        if not version.isdecimal():
            raise NotFound(f"'{model}' is neither a directory nor a model and a version, such as {name}/1.")
        return served.version_directory(name, int(version))
    versions = served.versions(name)
    if not versions:
        raise NotFound(f"model '{name}' has no version in {repository}. Build one with `python -m optimizer build`.")
    return served.version_directory(name, versions[-1])


def check_in_service(repository: Repository, name: str) -> None:
    """Raise `NotFound` for a model that is not there, naming those that are, or whose versions were all withdrawn."""
    names = repository.model_names()
    if name in names:
        return
    withdrawn = withdrawn_versions(repository, name)
    if withdrawn:
        raise NotFound(
            f"all versions of model '{name}' in {repository.root} are withdrawn ({', '.join(map(str, withdrawn))}). "
            f"`withdraw {name} {withdrawn[-1]} --undo` brings {withdrawn[-1]} back."
        )
    raise NotFound(f"model '{name}' is not in {repository.root}; it holds {', '.join(names) or 'no model'}.")


def withdrawn_versions(repository: Repository, name: str) -> list[int]:
    """The numbers of a model's withdrawn versions; none for a model that is not there."""
    try:
        return repository.withdrawn_versions(name)
    except (NotFound, OSError):
        return []


def _verdicts(evidence: Evidence, machine: Hardware, installed: InstalledVersion) -> dict[str, tuple[str, str]]:
    """What becomes of each engine file, and why."""
    ranking = rank_engines(evidence, machine, installed)
    if not ranking.valid:
        return {one.file: (CANNOT, one.reason) for one in ranking.invalid}
    choice = choose_engine(evidence, machine, installed)
    found = {one.file: (CAN_RUN if one.can_run else CANNOT, one.reason) for one in choice.passed_over}
    return {**found, choice.record.file: (SERVES, "the best that is valid here")}


def _file_problem(directory: Path, evidence: Evidence) -> str:
    try:
        check_digests(directory, evidence)
    except CorruptVersion as problem:
        return str(problem)
    return ""


def _facts(directory: Path, evidence: Evidence, machine: Hardware, files: str) -> list[tuple[str, str]]:
    return [
        ("version", f"{evidence.model} {evidence.version} in {directory}"),
        ("this machine", _machine_text(machine)),
        ("built on", _machine_text(evidence.hardware)),
        ("files", files or f"{len(evidence.files)}, as they were published"),
    ]


def _machine_text(machine: Hardware) -> str:
    gpu = f"{machine.gpu} (compute capability {machine.compute_capability})" if machine.gpu else "no GPU"
    return f"{machine}, {gpu}"


def _engine_table(evidence: Evidence, verdicts: dict[str, tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("engine", "platform", "precision", "speed", "here", "why"):
        table.add_column(title, overflow="fold", justify="right" if title == "speed" else "left")
    for record in evidence.engines:
        verdict, reason = verdicts[record.file]
        style = {SERVES: "bold green", CANNOT: "red"}.get(verdict, "")
        table.add_row(
            record.file, record.platform, _precision(record), _speed(record), Text(verdict, style), Text(reason)
        )
    return table


def _precision(record: EngineRecord) -> str:
    return " ".join([record.precision, *record.settings.values()])


def _speed(record: EngineRecord) -> str:
    return "-" if record.speedup is None else f"{record.speedup:.2f}x"
