"""What `compare`, `bench` and `verify` are about: a model file, a version, or one engine file of a version."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from enginehouse.engine import Engine
from enginehouse.engine_choice import choose_engine
from enginehouse.errors import InvalidInput, NotFound
from enginehouse.evidence import EngineRecord, Evidence, read_evidence
from enginehouse.hardware import this_hardware, threads_per_instance
from enginehouse.onnxruntime_engine import CPU_PROVIDER
from enginehouse.open_engine import open_engine
from enginehouse.repository import check_digests, check_file_digests, files_of_engine
from optimizer.commands.doctor import version_directory
from optimizer.graph.graph import Graph, load_graph
from optimizer.graph.precision import lowest_precision_of
from optimizer.importers.import_model import CONVERTERS, import_model

_ONNX = ".onnx"
_LABEL_WIDTH = 28
_WHAT = f"a model file ({', '.join(CONVERTERS)}), an engine file of a version, a version directory, or NAME[/VERSION]"


@dataclass(frozen=True, slots=True)
class Subject:
    """One side of a comparison.

    Attributes:
        name: as the user wrote it.
        path: the engine file.
        precision: what it computes in, as the evidence says, or as its graph shows.
        graph: None for a file that is not ONNX.
    """

    name: str
    path: Path
    platform: str
    precision: str
    graph: Graph | None
    provider: str = CPU_PROVIDER
    settings: Mapping[str, str] = field(default_factory=dict)

    def open(self) -> Engine:
        """Load it with the threads of one instance; raises what `open_engine` does."""
        return open_engine(self.path, self.platform, threads_per_instance(1), self.provider, self.settings)

    @property
    def size_bytes(self) -> int:
        """Of the file, with the weights that lie beside it."""
        return self.graph.size_bytes if self.graph is not None else self.path.stat().st_size

    @property
    def label(self) -> str:
        """The name, or the end of a long path: enough to tell two apart in a table."""
        return self.name if len(self.name) <= _LABEL_WIDTH else "/".join(["…", *Path(self.name).parts[-2:]])

    def __str__(self) -> str:
        return " ".join([self.path.name, self.platform, self.precision, *self.settings.values()])


def find_subject(text: str, repository: Path, workdir: Path) -> Subject:
    """Find what the user means.

    Args:
        text: a model file, an engine file of a version, a version directory, or `NAME[/VERSION]`.
        repository: where names are looked up.
        workdir: an existing folder for a model that has to be converted.

    Raises:
        InvalidInput: a file of no known kind.
        NotFound: nothing there, nor in the repository.
        NotSupported: a version without an engine that can run here.
        CorruptVersion: files of a version that are not what was published.
    """
    path = Path(text)
    if path.is_file():
        return _from_file(text, path, workdir)
    if path.suffix in CONVERTERS:
        raise NotFound(f"{text} does not exist; expected {_WHAT}.")
    directory = version_directory(text, repository)
    evidence = read_evidence(directory)
    if evidence is None:
        return _plain(text, _only_engine(directory))
    check_digests(directory, evidence)
    return _published(text, directory, choose_engine(evidence, this_hardware()).record)


@contextmanager
def opened(subjects: Sequence[Subject]) -> Iterator[list[Engine]]:
    """All engines, closed at the end."""
    with ExitStack() as stack:
        engines = []
        for subject in subjects:
            engines.append(subject.open())
            stack.callback(engines[-1].close)
        yield engines


def check_same_interface(subjects: Sequence[Subject], engines: Sequence[Engine]) -> None:
    """Raise `InvalidInput` where two engines cannot be fed the same rows, or answer under other names."""
    first = engines[0]
    for subject, engine in zip(subjects[1:], engines[1:], strict=True):
        for kind, wanted, found in (("takes", first.inputs, engine.inputs), ("gives", first.outputs, engine.outputs)):
            if {(spec.name, spec.dtype.name) for spec in wanted} != {(spec.name, spec.dtype.name) for spec in found}:
                raise InvalidInput(
                    f"{subjects[0].name} {kind} {', '.join(map(str, wanted))}, and {subject.name} {kind} "
                    f"{', '.join(map(str, found))}; the same names and datatypes are expected."
                )


def _from_file(text: str, path: Path, workdir: Path) -> Subject:
    evidence = read_evidence(path.parent)
    record = _record_of(evidence, path.name) if evidence is not None else None
    if evidence is not None and record is not None:
        check_file_digests(path.parent, evidence, files_of_engine(evidence, record))
        return _published(text, path.parent, record)
    if path.suffix.lower() == _ONNX:
        return _plain(text, path)
    if path.suffix.lower() not in CONVERTERS:
        raise InvalidInput(f"{text} is of no known kind; expected {_WHAT}.")
    folder = workdir / f"{len(list(workdir.iterdir()))}"
    folder.mkdir()
    converted = folder / f"{path.stem}{_ONNX}"
    import_model(path, folder).save(converted)
    return _plain(text, converted)


def _record_of(evidence: Evidence, file: str) -> EngineRecord | None:
    return next((record for record in evidence.engines if record.file == file), None)


def _plain(text: str, path: Path) -> Subject:
    graph = load_graph(path)
    return Subject(text, path, "onnxruntime_onnx", lowest_precision_of(graph), graph)


def _published(text: str, directory: Path, record: EngineRecord) -> Subject:
    path = directory / record.file
    graph = load_graph(path) if path.suffix == _ONNX else None
    provider = record.provider or CPU_PROVIDER
    return Subject(text, path, record.platform, record.precision, graph, provider, record.settings)


def _only_engine(directory: Path) -> Path:
    """The engine of a version that another tool published."""
    path = directory / "model.onnx"
    if not path.is_file():
        raise NotFound(f"{directory} holds neither evidence nor a model.onnx. Name the engine file itself.")
    return path
