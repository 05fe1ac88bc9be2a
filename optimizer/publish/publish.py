"""Publish a version by ONE rename: it is either there, complete and on disk, or it is not there at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from enginehouse.errors import AlreadyExists
from enginehouse.evidence import EVIDENCE_FILE, Evidence, write_evidence
from enginehouse.model_config import CONFIG_FILE, differences, read_config, text_from_config
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.repository import digest
from optimizer.publish.staging import repository_lock

# What clients rely on. The rest of a configuration (instances, batching, policy) is the operator's to edit.
_CONTRACT = ("name", "platform", "max_batch_size", "input", "output")
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


def publish(
    repository: Path, config: ModelConfig, files: Path, workdir: Path, make_evidence: Callable[[int], Evidence]
) -> Evidence:
    """Give a version its number and its place.

    Args:
        repository: where the model's directory lies, or will lie.
        config: written with the model's first version; must match what is there otherwise.
        files: folder with the version's files, inside `workdir`; becomes the version directory.
        workdir: a staging folder of this repository.
        make_evidence: given the number, the evidence; the digests of the files are filled in here.

    Returns:
        The evidence as it was written, with the version's number.

    Raises:
        AlreadyExists: a configuration is there that differs.
    """
    model_directory = repository / config.name
    digests = {path.name: digest(path) for path in sorted(files.iterdir())}
    with repository_lock(repository):
        check_config(model_directory, config)
        version = next_version(model_directory)
        while True:
            evidence = make_evidence(version).model_copy(update={"files": digests})
            write_evidence(evidence, files)
            _flush_folder(files)
            if _rename_into_place(repository, config, files, workdir, version):
                return evidence
            (files / EVIDENCE_FILE).unlink()
            version += 1


def next_version(model_directory: Path) -> int:
    """One more than the highest number in use, by a version or by anything else."""
    if not model_directory.is_dir():
        return 1
    return 1 + max((int(path.name) for path in model_directory.iterdir() if path.name.isdecimal()), default=0)


def check_config(model_directory: Path, config: ModelConfig) -> None:
    """Compare with the configuration that is published, if there is one, in what clients rely on.

    Raises:
        AlreadyExists: they differ; every difference is named.
    """
    if not (model_directory / CONFIG_FILE).is_file():
        return
    published = _contract(read_config(model_directory))
    built = _contract(config)
    for field in _CONTRACT:
        # A hand-written configuration may leave out what a server completes from the engine.
        if not getattr(published, field):
            built.ClearField(field)
    found = differences(published, built)
    if found:
        raise AlreadyExists(
            f"model '{config.name}' is published with another configuration: {'; '.join(found)}. "
            "Publish under another --name, or build what the configuration says."
        )


def _contract(config: ModelConfig) -> ModelConfig:
    reduced = ModelConfig()
    reduced.CopyFrom(config)
    for field, _ in config.ListFields():
        if field.name not in _CONTRACT:
            reduced.ClearField(field.name)
    return reduced


def _rename_into_place(repository: Path, config: ModelConfig, files: Path, workdir: Path, version: int) -> bool:
    """Move the version in; False if its number was taken by someone who does not hold the lock."""
    model_directory = repository / config.name
    if not model_directory.exists():
        return _rename_model(model_directory, config, files, workdir, version)
    if not (model_directory / CONFIG_FILE).is_file():
        _write_config(model_directory, config, workdir)
    return _rename(files, model_directory / str(version))


def _rename_model(model_directory: Path, config: ModelConfig, files: Path, workdir: Path, version: int) -> bool:
    """A model's first version comes together with its configuration: the whole directory is renamed."""
    staged = workdir / "model"
    staged.mkdir()
    _write_config(staged, config, workdir)
    files.rename(staged / str(version))
    _flush_folder(staged)
    if _rename(staged, model_directory):
        return True
    (staged / str(version)).rename(files)
    (staged / CONFIG_FILE).unlink()
    staged.rmdir()
    return False


def _rename(path: Path, target: Path) -> bool:
    try:
        path.rename(target)
    except OSError as problem:
        if problem.errno in _TAKEN:
            return False
        raise
    _flush(target.parent)
    return True


def _write_config(directory: Path, config: ModelConfig, workdir: Path) -> None:
    """Write beside and rename, so that nobody reads half a configuration."""
    path = workdir / CONFIG_FILE
    path.write_text(text_from_config(config))
    _flush(path)
    path.rename(directory / CONFIG_FILE)
    _flush(directory)


def _flush_folder(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
