"""The door to fsspec: list and download files behind a URL."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from enginehouse.errors import Error, InvalidInput, MissingExtra, NotReady

# What other servers call it, and what fsspec does.
_PROTOCOLS = {"as": "abfs"}
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs"), "abfs": ("adlfs", "azure")}

# A checksum or revision that the store keeps, whichever it has; size and time are what is left.
_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "sha256")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


@dataclass(slots=True, frozen=True)
class RemoteFile:
    """One file.

    Attributes:
        path: as the store calls it.
        state: differs whenever the contents do.
    """

    path: str
    size: int
    state: str


class RemoteFiles:
    """Files below one URL. Credentials come from where the store's own library takes them.

    Raises:
        MissingExtra: the library for that kind of URL is not installed.
        InvalidInput: no library reads that kind of URL.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        protocol, _, rest = url.partition("://")
        protocol = _PROTOCOLS.get(protocol, protocol)
        options: dict[str, Any] = {}
        if protocol == "s3" and rest.startswith(("http://", "https://")):
            # `s3://http://host:port/bucket/…` names a store of one's own.
            scheme, _, address = rest.partition("://")
            host, _, rest = address.partition("/")
            options["client_kwargs"] = {"endpoint_url": f"{scheme}://{host}"}
        self._system, self._root = _open(url, protocol, rest.rstrip("/"), options)

    def list(self, folder: str) -> Mapping[str, RemoteFile]:
        """List all files below a folder, by their path below the URL; an absent folder has none.

        Raises:
            NotReady: the store does not answer, or does not let us in.
        """
        where = f"{self._root}/{folder}" if folder else self._root
        try:
            self._system.invalidate_cache()
            found = self._system.find(where, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as problem:
            raise self._unreadable(problem) from problem
        root = self._system._strip_protocol(self._root).rstrip("/")
        return {
            path.removeprefix(f"{root}/"): RemoteFile(path, int(info.get("size") or 0), _state(info))
            for path, info in found.items()
            if path.startswith(f"{root}/") and info.get("type", "file") == "file" and not path.endswith("/")
        }

    def download(self, file: RemoteFile, target: Path) -> None:
        """Copy a file; raises `NotReady` if that fails."""
        try:
            self._system.get_file(file.path, str(target))
        except Exception as problem:
            raise self._unreadable(problem) from problem

    def _unreadable(self, problem: Exception) -> Error:
        """A store's library may raise anything."""
        text = " ".join(str(problem).split()) or type(problem).__name__
        return NotReady(f"model repository {self._url} cannot be read: {text}.")


def _open(url: str, protocol: str, rest: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    try:
        fsspec = import_module("fsspec")
    except ImportError as problem:
        library, extra = _EXTRAS.get(protocol, ("fsspec", "s3"))
        raise MissingExtra(library, extra, f"a model repository at {url}") from problem
    try:
        # Each look must see what lies there now.
        return fsspec.filesystem(protocol, use_listings_cache=False, **options), rest
    except ImportError as problem:
        library, extra = _EXTRAS.get(protocol, (protocol, "s3"))
        raise MissingExtra(library, extra, f"a model repository at {url}") from problem
    except ValueError as problem:
        raise InvalidInput(
            f"model repository {url}: {problem}; expected a directory, s3://, gs:// or as://."
        ) from problem


def _state(info: Mapping[str, Any]) -> str:
    """What tells one state of a file from another."""
    size = info.get("size")
    for key in _CHECKSUMS:
        if info.get(key):
            return f"{size} bytes, {key} {str(info[key]).strip(chr(34))}"
    for key in _TIMES:
        if info.get(key):
            return f"{size} bytes at {info[key]}"
    return f"{size} bytes"
