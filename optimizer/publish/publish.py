"""Publish a version by ONE rename: it is either there, complete and on disk, or it is not there at all."""

from collections.abc import Callable
from pathlib import Path

from enginehouse.errors import AlreadyExists
from enginehouse.evidence import EVIDENCE_FILE, Evidence, write_evidence
from enginehouse.model_config import CONFIG_FILE, differences, read_config, text_from_config
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.repository import WITHDRAWN_PREFIX, digest
from optimizer.publish.durable import flush, flush_folder, rename
from optimizer.publish.staging import repository_lock

# What clients rely on. The rest of a configuration (instances, batching, policy) is the operator's to edit.
_CONTRACT = ("name", "platform", "max_batch_size", "input", "output")


def publish(
    repository: Path, config: ModelConfig, files: Path, workdir: Path, make_evidence: Callable[[int], Evidence]
) -> Evidence:
    """Give a version its number and its place.

    Args:
        repository: where the model's directory lies, or will lie.
        config: written with the model's first version; must match what is there otherwise.
        files: folder with the version's files, inside `workdir`; becomes the version directory.
        workdir: a staging folder of this repository.
        make_evidence: given the number, the evidence; the digests of the files are filled in here. It may write files
            that tell the number, and writes them anew when it is called again because the number was taken.

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
            evidence = make_evidence(version)
            told = {path.name: digest(path) for path in sorted(files.iterdir()) if path.name not in digests}
            evidence = evidence.model_copy(update={"files": {**digests, **told}})
            write_evidence(evidence, files)
            flush_folder(files)
            if _rename_into_place(repository, config, files, workdir, version):
                return evidence
            (files / EVIDENCE_FILE).unlink()
            version += 1


def next_version(model_directory: Path) -> int:
    """One more than the highest number in use, by a version, a withdrawn one or anything else."""
    if not model_directory.is_dir():
        return 1
    numbers = (path.name.removeprefix(WITHDRAWN_PREFIX) for path in model_directory.iterdir())
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)


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
    return rename(files, model_directory / str(version))


def _rename_model(model_directory: Path, config: ModelConfig, files: Path, workdir: Path, version: int) -> bool:
    """A model's first version comes together with its configuration: the whole directory is renamed."""
    staged = workdir / "model"
    staged.mkdir()
    _write_config(staged, config, workdir)
    files.rename(staged / str(version))
    flush_folder(staged)
    if rename(staged, model_directory):
        return True
    (staged / str(version)).rename(files)
    (staged / CONFIG_FILE).unlink()
    staged.rmdir()
    return False


def _write_config(directory: Path, config: ModelConfig, workdir: Path) -> None:
    """Write beside and rename, so that nobody reads half a configuration."""
    path = workdir / CONFIG_FILE
    path.write_text(text_from_config(config))
    flush(path)
    path.rename(directory / CONFIG_FILE)
    flush(directory)
