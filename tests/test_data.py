"""ganlib.data: the data sets' splits and failures, and the densities against scipy."""

import gzip
import hashlib
import multiprocessing
import os
import pickle
import shutil
import socket
import struct
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from ganlib import data
from ganlib.data import load_images
from ganlib.metrics import load_digit_classifier

# mnist5k


@pytest.mark.parametrize(("split", "of_each"), [("train", 450), ("test", 50)])
def test_mnist5k_has_the_same_number_of_each_digit(digits, split, of_each):
    images, labels = digits[split]
    assert images.shape == (10 * of_each, 1, 28, 28)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert torch.bincount(labels).tolist() == [of_each] * 10
    assert (images.min(), images.max()) == (0, 255)
    assert images.flatten(1).any(1).all()


def test_mnist5k_splits_share_no_image_and_come_out_the_same_each_time(digits):
    train, test = digits["train"][0], digits["test"][0]
    keys = [{hashlib.md5(i.numpy().tobytes()).digest() for i in part} for part in (train, test)]
    assert not keys[0] & keys[1]
    assert (len(keys[0]), len(keys[1])) == (4500, 500)
    assert torch.equal(train, load_images("mnist5k")[0])


def test_mnist5k_labels_belong_to_their_images(digits):
    images, labels = digits["test"]
    with torch.no_grad():
        guesses = load_digit_classifier()(images / 255).argmax(1)
    assert (guesses == labels).float().mean() > 0.98


# torchvision's data sets, by small files in their format


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


TINY = {
    f"{part}-{kind}-idx{array.ndim}-ubyte": array
    for part, n in (("train", 7), ("t10k", 3))
    for kind, array in (
        ("images", (np.arange(n * 784) % 251 + n).astype(np.uint8).reshape(n, 28, 28)),
        ("labels", (np.arange(n) * 3 % 10).astype(np.uint8)),
    )
}


def write_tiny(folder: Path) -> None:
    (folder / "raw").mkdir(parents=True)
    for name, array in TINY.items():
        (folder / "raw" / name).write_bytes(idx(array))


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch) -> Path:
    """A folder with a MNIST of 7 and 3 images, whose checksums ganlib expects."""
    sums = {name: hashlib.md5(idx(array)).hexdigest() for name, array in TINY.items()}
    monkeypatch.setitem(data._MD5, "MNIST", sums)
    write_tiny(tmp_path / "MNIST")
    return tmp_path


@pytest.mark.parametrize(("split", "part"), [("train", "train"), ("test", "t10k")])
def test_mnist_files_are_read_as_they_are(tiny_mnist, split, part):
    images, labels = load_images("mnist", split, tiny_mnist, download=False)
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy()[:, 0], TINY[f"{part}-images-idx3-ubyte"])
    assert labels.dtype == torch.int64
    assert labels.tolist() == TINY[f"{part}-labels-idx1-ubyte"].tolist()


def test_cifar10_images_are_read_channel_by_channel(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    files = {
        "data_batch_1": {"data": pixels[:3].reshape(3, -1), "labels": [7, 2, 9]},
        "test_batch": {"data": pixels[3:].reshape(1, -1), "labels": [4]},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    sums = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": sums["batches.meta"]})
    images, labels = load_images("cifar10", "train", tmp_path, download=False)
    assert torch.equal(images, torch.from_numpy(pixels[:3]))
    assert (labels.tolist(), labels.dtype) == ([7, 2, 9], torch.int64)
    assert load_images("cifar10", "test", tmp_path)[1].tolist() == [4]
    (folder / "test_batch").write_bytes(b"cut")
    with pytest.raises(OSError, match=r"cifar10 in .* is damaged.*delete that folder"):
        load_images("cifar10", "test", tmp_path)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_damaged_file_is_refused_with_the_remedy(tiny_mnist, name, damage):
    file = tiny_mnist / "MNIST/raw" / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(OSError, match="damaged or incomplete") as caught:
        load_images("mnist", "train", tiny_mnist)
    assert name in str(caught.value)
    assert "delete that folder" in str(caught.value)
    assert "mnist5k" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("cifar10", "cifar-10-batches-py")],
)
def test_missing_data_are_named_with_the_remedy_when_download_is_off(tmp_path, name, folder):
    with pytest.raises(FileNotFoundError) as caught:
        load_images(name, root=tmp_path, download=False)
    message = str(caught.value)
    for part in (f"no {name} in {tmp_path}", f"{folder}/", "GANLIB_DATA", "'mnist5k'"):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_root_comes_before_ganlib_data_and_that_before_the_cache_folder(tmp_path, monkeypatch):
    def looked_in(root: Path | str | None) -> str:
        with pytest.raises(FileNotFoundError) as caught:
            load_images("mnist", root=root, download=False)
        return str(caught.value).split(" (looked")[0].removeprefix("no mnist in ")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GANLIB_DATA", str(tmp_path / "variable"))
    assert looked_in("~/argument") == str(tmp_path / "argument")
    assert looked_in(None) == str(tmp_path / "variable")
    monkeypatch.delenv("GANLIB_DATA")
    assert looked_in(None) == str(tmp_path / "cache/ganlib")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert looked_in(None) == str(tmp_path / ".cache/ganlib")


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), OSError("disk full")])
def test_a_failed_download_leaves_nothing_behind_and_tells_the_remedy(tmp_path, monkeypatch, error):
    def download(self):
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / "train-images-idx3-ubyte").write_bytes(b"half")
        raise error

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(ConnectionError) as caught:
        load_images("mnist", root=tmp_path)
    message = str(caught.value)
    for part in ("mnist could not be downloaded", str(error), "GANLIB_DATA", "'mnist5k'"):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_is_given_up_and_then_time_is_free_again(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SILENCE", 0.2)
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes calls and says nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        with pytest.raises(ConnectionError, match=r"mnist could not be downloaded .*timed out"):
            load_images("mnist", root=tmp_path)
    assert socket.getdefaulttimeout() == before
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def download(self):
        Path(self.raw_folder).mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(KeyboardInterrupt):
        load_images("mnist", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_download_left_goes_with_a_later_one_but_not_another_that_still_runs(
    tmp_path, monkeypatch
):
    old, new = tmp_path / ".downloading-old", tmp_path / ".downloading-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "part").write_bytes(b"x")
    os.utime(old, (0, 0))

    def download(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(KeyboardInterrupt):
        load_images("mnist", root=tmp_path)
    assert list(tmp_path.iterdir()) == [new]


def test_a_complete_download_is_moved_into_place_and_read(tiny_mnist, monkeypatch, capfd):
    downloads = []

    def download(self):
        if not downloads:
            write_tiny(Path(self.raw_folder).parent)
        downloads.append(self.raw_folder)

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    root = tiny_mnist / "new"
    assert load_images("mnist", root=root)[1].tolist() == [0, 3, 6, 9, 2, 5, 8]
    assert [p.name for p in root.iterdir()] == ["MNIST"]
    assert str(root) in capfd.readouterr().err
    load_images("mnist", "test", root)
    assert not any(Path(folder).exists() for folder in downloads)
    assert len(downloads) == 2


# Archives that are at hand


@pytest.fixture
def packed_mnist(tiny_mnist, monkeypatch) -> Path:
    """`tiny_mnist`, of which only the archives are left; a download fails the test."""
    resources = []
    for name, array in TINY.items():
        archive = tiny_mnist / "MNIST/raw" / f"{name}.gz"
        archive.write_bytes(gzip.compress(idx(array), mtime=0))
        archive.with_suffix("").unlink()
        resources.append((archive.name, hashlib.md5(archive.read_bytes()).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda _: pytest.fail("downloads"))
    return tiny_mnist


@pytest.mark.parametrize("place", ["raw", "."])
def test_archives_of_mnist_are_unpacked_without_a_download(packed_mnist, place):
    folder = packed_mnist / "MNIST"
    for archive in list((folder / "raw").iterdir()):
        archive.rename(folder / place / archive.name)
    images, labels = load_images("mnist", "test", packed_mnist)
    assert np.array_equal(images.numpy()[:, 0], TINY["t10k-images-idx3-ubyte"])
    assert labels.tolist() == [0, 3, 6]
    left = {path.name for path in (folder / "raw").iterdir()}
    assert left == {*TINY, *(f"{name}.gz" for name in TINY if place == "raw")}
    for archive in folder.rglob("*.gz"):  # what was unpacked is enough
        archive.unlink()
    assert load_images("mnist", "train", packed_mnist)[1].tolist() == [0, 3, 6, 9, 2, 5, 8]


def test_one_missing_file_is_unpacked_and_the_others_stay(packed_mnist):
    load_images("mnist", "train", packed_mnist)
    raw = packed_mnist / "MNIST/raw"
    (raw / "train-labels-idx1-ubyte").unlink()
    kept = (raw / "train-images-idx3-ubyte").stat()
    assert len(load_images("mnist", "train", packed_mnist, download=False)[1]) == 7
    assert (raw / "train-images-idx3-ubyte").stat() == kept


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_is_named_and_not_unpacked(packed_mnist, damage):
    archive = packed_mnist / "MNIST/raw/t10k-images-idx3-ubyte.gz"
    content = bytearray(archive.read_bytes())
    content[-9] ^= damage == "flipped"
    archive.write_bytes(content[: -1 if damage == "cut" else None])
    with pytest.raises(OSError, match=r"mnist in .* cannot be unpacked: MD5 of ") as caught:
        load_images("mnist", "train", packed_mnist)
    assert f"MD5 of {archive} is" in str(caught.value)
    assert ": delete it; set GANLIB_DATA" in str(caught.value)
    assert "'mnist5k'" in str(caught.value)
    assert not archive.with_suffix("").exists()
    assert not list(archive.parent.glob(".*"))


def test_the_archive_of_cifar10_is_unpacked_without_a_download(tmp_path, monkeypatch):
    inside = tmp_path / "packed/cifar-10-batches-py"
    inside.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    contents = {
        "test_batch": {"data": pixels, "labels": [4, 1]},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    for name, content in contents.items():
        (inside / name).write_bytes(pickle.dumps(content))
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in inside.iterdir()}
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(inside, inside.name)
    cifar = torchvision.datasets.CIFAR10
    packed = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setattr(cifar, "tgz_md5", hashlib.md5(packed).hexdigest())
    monkeypatch.setattr(cifar, "train_list", [])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": sums["batches.meta"]})
    images, labels = load_images("cifar10", "test", tmp_path, download=False)
    assert images.flatten(1).tolist() == pixels.tolist()
    assert labels.tolist() == [4, 1]
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(packed[:-1])
    shutil.rmtree(tmp_path / "cifar-10-batches-py")
    with pytest.raises(OSError, match=r"cifar10 in .* cannot be unpacked: MD5 of .*tar\.gz"):
        load_images("cifar10", "test", tmp_path, download=False)


def prepare_beside_another(root: Path, barrier, told) -> None:
    """In a process of its own: a download that is finished when the other one's is, too."""

    def download(self):
        if not Path(self.raw_folder).exists():
            write_tiny(Path(self.raw_folder).parent)
            barrier.wait(120)

    torchvision.datasets.MNIST.download = download
    sums = {name: hashlib.md5(idx(array)).hexdigest() for name, array in TINY.items()}
    data._MD5["MNIST"] = sums
    told.put(load_images("mnist", root=root)[1].tolist())


def test_two_processes_that_prepare_a_data_set_at_once_leave_one_behind(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(2), context.Queue()
    arguments = (tmp_path / "root", barrier, told)
    both = [context.Process(target=prepare_beside_another, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    assert [told.get(timeout=240) for _ in both] == [[0, 3, 6, 9, 2, 5, 8]] * 2
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    left = {str(path.relative_to(tmp_path / "root")) for path in (tmp_path / "root").rglob("*")}
    assert left == {"MNIST", "MNIST/raw", *(f"MNIST/raw/{name}" for name in TINY)}


@pytest.mark.parametrize("name", ["MNIST", "mnist-5k", ""])
def test_an_unknown_name_is_quoted_beside_the_known_ones(name):
    with pytest.raises(ValueError, match=f"mnist5k, mnist, .*cifar10 expected, got '{name}'"):
        load_images(name)


def test_an_unknown_split_is_quoted_beside_the_known_ones():
    with pytest.raises(ValueError, match="'train' or 'test' expected, got 'validation'"):
        load_images("mnist5k", "validation")


# The full data sets, where they are at hand


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize(("split", "n"), [("train", 60_000), ("test", 10_000)])
def test_full_data_sets_have_their_published_size_and_mean(full_data, name, split, n):
    images, labels = load_images(name, split, download=False)
    assert images.shape == (n, 1, 28, 28)
    assert labels.shape == (n,)
    assert labels.unique().tolist() == list(range(10))
    mean = (images.double().mean() / 255).item()
    assert mean == pytest.approx(0.1307 if name == "mnist" else 0.2860, abs=2e-3)


def test_one_flipped_byte_in_the_real_files_is_found(full_data, tmp_path):
    shutil.copytree(full_data / "MNIST", tmp_path / "MNIST")
    file = tmp_path / "MNIST/raw/t10k-images-idx3-ubyte"
    os.chmod(file, 0o644)
    with file.open("r+b") as opened:
        opened.seek(5_000_000)
        byte = opened.read(1)
        opened.seek(5_000_000)
        opened.write(bytes([byte[0] ^ 1]))
    with pytest.raises(OSError, match="MD5 of t10k-images-idx3-ubyte"):
        load_images("mnist", "train", tmp_path)


def test_the_embedded_digits_are_digits_of_full_mnist(full_data, digits):
    full = {i.numpy().tobytes() for i in load_images("mnist", download=False)[0]}
    full |= {i.numpy().tobytes() for i in load_images("mnist", "test", download=False)[0]}
    assert all(i.numpy().tobytes() in full for i in digits["train"][0])
