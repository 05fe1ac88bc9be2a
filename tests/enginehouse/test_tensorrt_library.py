"""One table for both TensorRT libraries."""

import sys
from types import ModuleType

import pytest

from enginehouse.errors import EngineFailed, MissingExtra, NotSupported
from enginehouse.tensorrt_library import (
    LIBRARIES,
    errors_in,
    import_library,
    library_named,
    library_version,
    listening_log,
)
from tests.tensorrt_fakes import FakeCuda, Severity, fake_library


def test_the_table_knows_both_by_name() -> None:
    assert [library_named(name).module for name in LIBRARIES] == ["tensorrt", "tensorrt_rtx"]
    with pytest.raises(NotSupported, match="'trt' is no TensorRT library; expected one of tensorrt, tensorrt-rtx"):
        library_named("trt")


def test_a_library_that_is_not_there_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtra, match=r"a test needs .*enginehouse\[tensorrt-rtx\]"):
        import_library(LIBRARIES["tensorrt-rtx"], "a test")


def test_bindings_without_their_libraries_are_told_apart_from_nothing_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: str) -> ModuleType:
        raise ImportError("libnvonnxparser.so.11: cannot open shared object file")

    monkeypatch.setattr("enginehouse.tensorrt_library.import_module", load)
    with pytest.raises(EngineFailed, match="is installed and cannot be loaded: libnvonnxparser"):
        import_library(LIBRARIES["tensorrt"], "a test")


def test_the_version_is_that_of_the_distribution_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name != "tensorrt-cu13":
            raise metadata.PackageNotFoundError(name)
        return "11.4.0"

    monkeypatch.setattr(metadata, "version", version)
    assert library_version(LIBRARIES["tensorrt"]) == ("tensorrt-cu13", "11.4.0")
    with pytest.raises(MissingExtra, match="tensorrt-rtx"):
        library_version(LIBRARIES["tensorrt-rtx"])


def test_the_log_keeps_warnings_errors_and_the_list_of_layers() -> None:
    log = listening_log(fake_library("tensorrt", FakeCuda()))
    log.log(Severity.VERBOSE, "Parsing node 3")
    log.log(Severity.VERBOSE, "Layers:\nName: a")
    log.log(Severity.WARNING, "careful")
    log.log(Severity.ERROR, "no such\n  kernel")
    log.log(Severity.ERROR, "Cuda Runtime (cudaError 35: CUDA driver version is insufficient)")
    assert [text.split()[0] for _, text in log.lines] == ["Layers:", "careful", "no", "Cuda"]
    assert errors_in(log) == "no such kernel"


def test_a_log_without_errors_says_that_there_is_no_reason() -> None:
    assert errors_in(listening_log(fake_library("tensorrt", FakeCuda()))) == "it does not say why"
