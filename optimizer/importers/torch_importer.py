"""A PyTorch program (`.pt2`, written by `torch.export.save`) becomes ONNX.

Loading a program may execute code and needs PyTorch, so both happen in a process of its own (`torch_export.py`);
this file imports neither PyTorch nor anything from the program.
"""

import importlib.util
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from enginehouse.errors import Error, InvalidInput, MissingExtra, Unsupported
from optimizer.importers import torch_export

REFUSALS: dict[int, type[Error]] = {
    torch_export.EXIT_INVALID_INPUT: InvalidInput,
    torch_export.EXIT_UNSUPPORTED: Unsupported,
}

# One of them lies in every archive that torch.export.save writes; the second until PyTorch 2.7.
PROGRAM_MEMBERS = frozenset({"archive_format", "serialized_exported_program.json"})


def onnx_from_pt2(source: Path, target: Path, timeout_seconds: float = 600) -> None:
    """Convert the program at `source` into an ONNX file at `target`, with its names and its open dimensions.

    Weights beyond 1.5 GB are written beside it as `<target name>.data`. Nothing is left at `target` on an error.
    """
    refuse_foreign_file(source)
    for library in ("torch", "onnxscript"):
        if importlib.util.find_spec(library) is None:
            raise MissingExtra(library, "torch", "importing a .pt2 program")
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", torch_export.__name__, str(source), str(target)]
        try:
            # The log is a file: a pipe would keep us waiting for whatever the program left running.
            process = subprocess.run(  # noqa: S603  # our own module, as a list, without a shell
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=timeout_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            remove(target)
            raise Unsupported(
                f"converting '{source}' to ONNX was stopped after {timeout_seconds:g} seconds; "
                "give it more time, or convert it with torch.onnx.export and build from the ONNX file."
            ) from None
        if process.returncode != 0:
            remove(target)
            log.seek(0)
            raise error_from_exit(source, process.returncode, log.read().decode(errors="replace"))


def refuse_foreign_file(source: Path) -> None:
    """Tell a program by the members of its archive, without PyTorch and without unpacking anything."""
    if not source.is_file():
        raise InvalidInput(f"there is no file '{source}'.")
    try:
        with zipfile.ZipFile(source) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        members = set()
    if not members & PROGRAM_MEMBERS:
        raise InvalidInput(
            f"'{source}' is damaged or not a PyTorch program (a state_dict and a TorchScript file are none); write one "
            "with torch.export.save(torch.export.export(model.eval(), example_inputs), 'model.pt2')."
        )


def error_from_exit(source: Path, code: int, log: str) -> Error:
    """What the converting process said when it refused the program, or how it ended when it said nothing."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    reasons = [line.removeprefix(torch_export.REASON) for line in lines if line.startswith(torch_export.REASON)]
    if code in REFUSALS and reasons:
        return REFUSALS[code](reasons[-1])
    ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    last = f"; its last words: {lines[-1]}" if lines else ""
    return Unsupported(f"the process that converts '{source}' to ONNX ended with {ending}{last}")


def remove(target: Path) -> None:
    for path in (target, torch_export.data_file(target)):
        path.unlink(missing_ok=True)
