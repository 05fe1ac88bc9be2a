from importlib import metadata

from optimizer.libraries import library_versions


def test_the_libraries_are_those_that_are_installed() -> None:
    found = library_versions()
    assert found["onnxruntime"] == metadata.version("onnxruntime")
    assert "tensorrt" not in found
