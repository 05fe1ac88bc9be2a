import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginehouse.errors import InvalidInput
from enginehouse.evidence import CandidateRecord
from optimizer.search.trial_cache import LEAST_AGE_SECONDS, RECORD_FILE, TrialCache, default_root
from optimizer.search.tried import Tried
from optimizer.trial import Trial

RECORD = CandidateRecord(name="int8", precision="int8", verdict="accepted", reason="")
TRIED = Tried(trial=Trial(precision="int8"), record=RECORD, file="model.onnx")


def _put(cache: TrialCache, key: str, content: bytes = b"model") -> None:
    folder = cache.new_folder()
    (folder / "model.onnx").write_bytes(content)
    cache.put(key, folder, TRIED)


def test_what_was_put_is_found_again_with_its_file(tmp_path: Path) -> None:
    _put(TrialCache(tmp_path), "k")
    cache = TrialCache(tmp_path)
    assert cache.get("k") == TRIED
    assert (cache.folder("k") / "model.onnx").read_bytes() == b"model"


def test_an_unknown_key_is_not_found(tmp_path: Path) -> None:
    assert TrialCache(tmp_path).get("k") is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"trial": 1}'])
def test_a_damaged_entry_counts_as_none_and_can_be_made_again(tmp_path: Path, content: bytes) -> None:
    cache = TrialCache(tmp_path)
    _put(cache, "k")
    (cache.folder("k") / RECORD_FILE).write_bytes(content)
    assert cache.get("k") is None
    _put(cache, "k")
    assert cache.get("k") == TRIED


def test_an_entry_without_its_engine_counts_as_none(tmp_path: Path) -> None:
    cache = TrialCache(tmp_path)
    _put(cache, "k")
    (cache.folder("k") / "model.onnx").unlink()
    assert cache.get("k") is None


def test_an_entry_that_another_build_made_first_stays(tmp_path: Path) -> None:
    cache = TrialCache(tmp_path)
    _put(cache, "k", b"first")
    _put(cache, "k", b"second")
    assert (cache.folder("k") / "model.onnx").read_bytes() == b"first"
    assert [path.name for path in tmp_path.glob(".making-*")] == []


def test_what_was_not_used_for_longest_goes_when_the_cache_is_full(tmp_path: Path) -> None:
    cache = TrialCache(tmp_path, limit_bytes=25_000, least_age_seconds=0)
    for age, key in ((300, "old"), (200, "used"), (100, "new")):
        _put(cache, key, b"x" * 10_000)
        moment = tmp_path.stat().st_mtime - age
        os.utime(cache.folder(key), (moment, moment))
    _put(cache, "newest", b"x" * 10_000)
    assert cache.get("old") is None
    assert cache.get("newest") == TRIED


def test_a_file_in_place_of_the_folder_is_refused_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(InvalidInput, match="--no-cache"):
        TrialCache(tmp_path / "cache")


def test_the_default_folder_follows_the_desktop_s_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_root() == Path("/somewhere/enginehouse")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "enginehouse"


def test_an_engine_that_changed_counts_as_none(tmp_path: Path) -> None:
    cache = TrialCache(tmp_path)
    _put(cache, "k")
    (cache.folder("k") / "model.onnx").write_bytes(b"mOdel")
    assert cache.get("k") is None
    assert not cache.folder("k").exists()


def test_a_folder_without_its_record_makes_way_for_a_new_entry(tmp_path: Path) -> None:
    cache = TrialCache(tmp_path)
    _put(cache, "k", b"damaged")
    (cache.folder("k") / RECORD_FILE).unlink()
    assert cache.get("k") is None
    _put(cache, "k")
    assert (cache.folder("k") / "model.onnx").read_bytes() == b"model"


def test_what_was_used_today_stays_however_full_the_cache_is(tmp_path: Path) -> None:
    cache = TrialCache(tmp_path, limit_bytes=1)
    for key in "abc":
        _put(cache, key)
    assert [key for key in "abc" if cache.get(key)] == ["a", "b", "c"]


def test_what_killed_builds_were_making_goes_after_a_day(tmp_path: Path) -> None:
    cache = TrialCache(tmp_path)
    old, new = cache.new_folder(), cache.new_folder()
    long_ago = old.stat().st_mtime - 2 * LEAST_AGE_SECONDS
    os.utime(old, (long_ago, long_ago))
    TrialCache(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_builds_that_put_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    def put_many(number: int) -> None:
        cache = TrialCache(tmp_path)
        for position in range(60):
            _put(cache, f"{number}-{position}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put_many, range(4)))
    assert len(list(tmp_path.glob(f"*/{RECORD_FILE}"))) == 240
