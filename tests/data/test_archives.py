"""Archives: unpacked once and whole, or refused; nothing is ever written outside of the cache folder."""

import io
import os
import stat
import tarfile
import threading
import zipfile

import numpy as np
import pytest

from jaxvision.data import archives
from jaxvision.data.archives import unpack
from jaxvision.data.faults import DataError

FILES = {"set/a.txt": b"a", "set/deep/b.txt": b"b" * 3000}


def make_zip(path, files=FILES, **info):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = info.get("mode", stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content)
    return path


def make_tar(path, files=FILES, kind=tarfile.REGTYPE, target=""):
    modes = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
    with tarfile.open(path, modes.get(path.suffix, "w")) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            entry.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return path


def make(path, files=FILES):
    return make_zip(path, files) if path.suffix == ".zip" else make_tar(path, files)


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


SUFFIXES = pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])


@SUFFIXES
def test_the_one_folder_in_an_archive_is_the_data_set(tmp_path, suffix):
    folder = unpack(make(tmp_path / f"flowers{suffix}"), tmp_path / "cache")
    assert folder.name == "set" and everything(folder) == {"a.txt": b"a", "deep/b.txt": b"b" * 3000}
    assert folder.parent.name.startswith("flowers-")


def test_it_is_unpacked_once_and_anew_when_it_has_changed(tmp_path):
    archive, cache = make(tmp_path / "x.zip"), tmp_path / "cache"
    folder = unpack(archive, cache)
    (folder / "a.txt").write_text("mark")
    assert unpack(archive, cache) == folder and (folder / "a.txt").read_text() == "mark"
    make(archive, {"new/c.txt": b"c"})
    assert everything(unpack(archive, cache)) == {"c.txt": b"c"}


def test_several_folders_stay_together(tmp_path):
    folder = unpack(make(tmp_path / "x.zip", {"train/a": b"", "val/b": b"", "__MACOSX/c": b""}), tmp_path / "cache")
    assert {p.name for p in folder.iterdir()} == {"train", "val", "__MACOSX"}


def test_the_cache_folder_is_in_the_home_or_where_a_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXVISION_CACHE", str(tmp_path / "c"))
    assert unpack(make(tmp_path / "x.zip")).is_relative_to(tmp_path / "c" / "archives")


OUTSIDE = ["../evil", "set/../../evil", "/tmp/evil-of-a-test", "..\\evil", "C:/evil", "C:\\evil", "set/./../../x"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_names_that_lead_out_are_refused_and_nothing_remains(tmp_path, name, suffix):
    archive = make(tmp_path / f"x{suffix}", {"fine": b"1", name: b"2"})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="leads out of the folder; nothing was unpacked"):
        unpack(archive, tmp_path / "cache")
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "cache"} and not os.path.exists("/tmp/evil-of-a-test")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    archive = make_tar(tmp_path / "x.tar", {"link": b""}, kind, "/etc/passwd")
    with pytest.raises(DataError, match="'link' is a link or a device"):
        unpack(archive, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_links_in_a_zip_are_refused(tmp_path):
    with pytest.raises(DataError, match="is a link or a device"):
        unpack(make_zip(tmp_path / "x.zip", {"link": b"/etc"}, mode=stat.S_IFLNK | 0o777), tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_what_unpacks_to_too_much_is_refused(tmp_path, suffix):
    archive = make(tmp_path / f"x{suffix}", {"bomb": bytes(3_000_000)})
    assert archive.stat().st_size < 10_000
    with pytest.raises(DataError, match="unpacks to more than 0.001"):
        unpack(archive, tmp_path / "cache", max_gib=0.001)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path):
    archive = make(tmp_path / "x.zip", {"bomb": bytes(3_000_000)})
    content = archive.read_bytes().replace((3_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(content)
    with pytest.raises(DataError, match="x.zip"):
        unpack(archive, tmp_path / "cache", max_gib=0.001)
    assert list((tmp_path / "cache").iterdir()) == []


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    with pytest.raises(DataError, match="or 3 files"):
        unpack(make(tmp_path / "x.tar", {str(i): b"" for i in range(4)}), tmp_path / "cache")


@SUFFIXES
def test_damaged_archives_are_errors_that_name_them(tmp_path, suffix):
    archive = make(tmp_path / f"x{suffix}", {f"f{i}": np.random.default_rng(i).bytes(2000) for i in range(5)})
    content = archive.read_bytes()
    for bad in (b"", b"hello", content[: len(content) // 2], content[:60]):
        archive.write_bytes(bad)
        with pytest.raises(DataError, match=f"x{suffix}"):
            unpack(archive, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_files_of_one_name_no_file_and_no_archive(tmp_path):
    with pytest.raises(DataError, match="two files of the name 'A'"):
        unpack(make_tar(tmp_path / "x.tar", {"a": b"1", "A": b"2"}), tmp_path / "cache")
    with pytest.raises(DataError, match="holds no file"):
        unpack(make(tmp_path / "y.zip", {}), tmp_path / "cache")
    with pytest.raises(DataError, match="no archive by its name"):
        unpack(tmp_path / "x.rar")
    with pytest.raises(DataError, match="there is no file"):
        unpack(tmp_path / "none.zip")
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(DataError, match="is a directory"):
        unpack(tmp_path / "folder.zip")


def test_many_at_once_get_the_same_whole_folder(tmp_path):
    archive = make(tmp_path / "x.zip", {f"set/{i}": bytes(1000) for i in range(50)})
    found = []
    threads = [threading.Thread(target=lambda: found.append(unpack(archive, tmp_path / "cache"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 6 and len(everything(found[0])) == 50
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_random_damage_never_escapes(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in (".zip", ".tar", ".tar.gz"):
        archive = make(tmp_path / f"x{suffix}")
        content = bytearray(archive.read_bytes())
        for i in range(150):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 1 + i % 5):
                damaged[place] = rng.integers(256)
            archive.write_bytes(damaged)
            try:
                folder = unpack(archive, tmp_path / "cache" / f"{suffix}{i}", max_gib=0.01)
            except DataError as error:
                assert f"x{suffix}" in str(error)
            else:
                assert folder.is_relative_to(tmp_path / "cache")
