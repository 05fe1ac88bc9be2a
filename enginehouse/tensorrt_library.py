"""The two TensorRT libraries behind one table: `tensorrt` for data-center and Jetson GPUs, `tensorrt-rtx` for RTX GPUs.

Their Python modules have the same names but for a few; each difference is a column here, so that nothing else asks
which of the two it is talking to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Literal

from enginehouse.errors import EngineFailed, MissingExtra, NotSupported

LibraryName = Literal["tensorrt", "tensorrt-rtx"]

# How the verbose message begins that lists the layers of a built engine.
LAYER_LIST = "Layers:"
_NO_DRIVER = "cudaError 35"


@dataclass(frozen=True, slots=True)
class TensorRTLibrary:
    """One of the two.

    Attributes:
        name: the extra, and how users call it.
        distributions: what may have brought the module; the version is that of the first one found.
        module: what is imported.
        title: its name in prose.
        takes_target: its builder is told the compute capability and needs no GPU; the other one builds for the GPU
            that is there.
        has_timing_cache: measured kernels can be kept for the next build. With TensorRT-RTX a cache does nothing but
            force a GPU on the build.
        is_version_compatible: a plan can be made that later releases open too.
        tells_validity: its runtime tells from a plan's header why the plan cannot run here.
    """

    name: LibraryName
    distributions: tuple[str, ...]
    module: str
    title: str
    takes_target: bool
    has_timing_cache: bool
    is_version_compatible: bool
    tells_validity: bool


LIBRARIES: Mapping[LibraryName, TensorRTLibrary] = {
    "tensorrt": TensorRTLibrary(
        name="tensorrt",
        distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        module="tensorrt",
        title="TensorRT",
        takes_target=False,
        has_timing_cache=True,
        is_version_compatible=True,
        tells_validity=False,
    ),
    "tensorrt-rtx": TensorRTLibrary(
        name="tensorrt-rtx",
        distributions=("tensorrt-rtx",),
        module="tensorrt_rtx",
        title="TensorRT-RTX",
        takes_target=True,
        has_timing_cache=False,
        is_version_compatible=False,
        tells_validity=True,
    ),
}


def library_named(name: str) -> TensorRTLibrary:
    """Look one up; raises `NotSupported` for any other name."""
    found = next((library for library in LIBRARIES.values() if library.name == name), None)
    if found is None:
        raise NotSupported(f"'{name}' is no TensorRT library; expected one of {', '.join(LIBRARIES)}.")
    return found


def import_library(library: TensorRTLibrary, purpose: str) -> Any:
    """Import the library's module.

    Raises:
        MissingExtra: it is not installed.
        EngineFailed: it is installed, and its own libraries cannot be loaded.
    """
    try:
        return import_module(library.module)
    except ModuleNotFoundError as problem:
        if problem.name != library.module:
            raise _broken(library, problem) from problem
        raise MissingExtra(library.name, library.name, purpose) from problem
    except (ImportError, OSError) as problem:
        raise _broken(library, problem) from problem


def library_version(library: TensorRTLibrary) -> tuple[str, str]:
    """Name and version of the installed distribution, to which its plans are bound; raises `MissingExtra`."""
    for name in library.distributions:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise MissingExtra(library.name, library.name, "telling the version of the library")


def listening_log(module: Any) -> Any:
    """A log for a TensorRT library, which tells its reasons nowhere else; what it heard stands in `lines`.

    Each line is the severity's name and the text. Everything is kept that is at least a warning, and the one
    verbose message that lists the layers of a built engine.
    """

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            if severity.name not in ("INFO", "VERBOSE") or text.startswith(LAYER_LIST):
                self.lines.append((severity.name, text))

    return Log()


def errors_in(log: Any) -> str:
    """What a library complained of, without its complaint that there is no GPU, which follows every other one."""
    texts = [text for severity, text in log.lines if severity in ("ERROR", "INTERNAL_ERROR") and _NO_DRIVER not in text]
    return "; ".join(dict.fromkeys(" ".join(text.split()) for text in texts)) or "it does not say why"


def _broken(library: TensorRTLibrary, problem: BaseException) -> EngineFailed:
    return EngineFailed(
        f"{library.title} is installed and cannot be loaded: {problem}. Its libraries come in a package of their own "
        f'beside the bindings: install "enginehouse[{library.name}]" again where the index that has them is reachable.'
    )
