"""Sides of the sample cases: images and their labels as raw bytes, written to tars and read back."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from benchmarks.harness import Round, Stopwatch

SAMPLES = 6000
SHARD_SAMPLES = 1000
PICTURES = 600
FIELDS = ("jpg", "cls")
_PAYLOAD_BYTES = 21_000  # of a photograph of 256 x 256, in the mean
_CHUNK_BYTES = 64 << 20  # litdata's own default

Sample = Mapping[str, bytes]


def make_samples() -> list[tuple[str, Sample]]:
    """Keys and fields: bytes that look like compressed data, of sizes as unequal as those of photographs."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.normal(_PAYLOAD_BYTES, _PAYLOAD_BYTES / 4, SAMPLES), 2_000, None).astype(int).tolist()
    labels = rng.integers(0, 1000, SAMPLES).tolist()
    return [
        (f"train-{number:09d}", {"jpg": b"\xff\xd8\xff" + rng.bytes(size - 3), "cls": b"%d" % label})
        for number, (size, label) in enumerate(zip(sizes, labels, strict=True))
    ]


def digest_of(samples: Iterable[tuple[str, Sample]]) -> str:
    """BLAKE3 of all keys and fields in their order."""
    hasher = blake3()
    for key, fields in samples:
        for name in FIELDS:
            payload = bytes(fields[name])
            hasher.update(f"{key} {name} {len(payload)}\n".encode())
            hasher.update(payload)
    return hasher.hexdigest()


def write_ours(folder: Path, samples: Sequence[tuple[str, Sample]]) -> list[Any]:
    """Shards with their indexes, flushed to the disk; returns their lines in the manifest."""
    from data.shards import ShardWriter

    shards = []
    for place, begin in enumerate(range(0, len(samples), SHARD_SAMPLES)):
        writer = ShardWriter(folder / f"train-{place:05d}.tar", FIELDS)
        for key, fields in samples[begin : begin + SHARD_SAMPLES]:
            writer.write(key, fields)
        shards.append(writer.close())
    return shards


def through_webdataset(folder: Path) -> Iterable[tuple[str, Sample]]:
    """What webdataset reads in a folder's tars, raw."""
    from webdataset.compat import WebDataset

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    return ((sample["__key__"], sample) for sample in WebDataset(urls, shardshuffle=False))


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def samples_differ(ours: Any, peer: Any) -> str | None:
    """The same keys, fields and bytes in the same order."""
    return None if ours == peer else f"ours are {ours}, the peer's {peer}"


class Write:
    """Samples in memory to tars, by our writer: with indexes, checksums and digests."""

    def __init__(self, path: Path) -> None:
        self.samples, self.folder = make_samples(), path / "ours"

    def round(self) -> Round:
        """All samples to shards; then, untimed, webdataset reads them."""
        fresh(self.folder)
        watch = Stopwatch()
        watch.start()
        self.write()
        watch.stop()
        outputs = {"samples": len(self.samples), "digest": digest_of(through_webdataset(self.folder))}
        return Round(len(self.samples), watch.seconds, watch.cpu_s, outputs)

    def write(self) -> None:
        write_ours(self.folder, self.samples)


class WriteWebdataset(Write):
    """The same by webdataset's ShardWriter, without its encoder: fields are bytes already."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.folder = path / "peer"

    def write(self) -> None:
        from webdataset.writer import ShardWriter

        pattern = str(self.folder / "train-%05d.tar")
        with ShardWriter(pattern, maxcount=SHARD_SAMPLES, verbose=0, encoder=False) as writer:
            for key, fields in self.samples:
                writer.write({"__key__": key, **fields})


class Read:
    """Every sample of an epoch in order, as raw bytes, by our reader: the checksum of each is compared."""

    def __init__(self, path: Path) -> None:
        folder = path / "shards"
        self.shards, self.folder = write_ours(fresh(folder), make_samples()), folder

    def round(self) -> Round:
        """A fresh reader over all samples; then, untimed, the digest of what a second one gives."""
        watch = Stopwatch()
        watch.start()
        samples = size = 0
        for sample in self.read():
            samples += 1
            size += len(sample["jpg"]) + len(sample["cls"])
        watch.stop()
        digest = digest_of((self.key(sample), sample) for sample in self.read())
        return Round(samples, watch.seconds, watch.cpu_s, {"samples": samples, "bytes": size, "digest": digest})

    def read(self) -> Iterable[Any]:
        from data.shards import ShardReader

        return ShardReader(self.folder, self.shards, FIELDS)

    def key(self, sample: Any) -> str:
        return sample["__key__"].decode()


class ReadWebdataset(Read):
    """The same by webdataset from the same tars, without decoding and without shuffling."""

    def __init__(self, path: Path) -> None:
        self.folder = path / "tars"
        write_ours(fresh(self.folder), make_samples())

    def read(self) -> Iterable[Any]:
        return (sample for _, sample in through_webdataset(self.folder))

    def key(self, sample: Any) -> str:
        return sample["__key__"]


class ReadLitdata(Read):
    """The same by litdata's StreamingDataset, from an optimized data set of the same samples."""

    def __init__(self, path: Path) -> None:
        self.folder = fresh(path / "litdata")
        write_litdata(self.folder, make_samples())

    def read(self) -> Iterable[Any]:
        from litdata import StreamingDataset

        return StreamingDataset(str(self.folder), shuffle=False)

    def key(self, sample: Any) -> str:
        return sample["key"]


def write_litdata(folder: Path, samples: Sequence[tuple[str, Sample]]) -> None:
    """What `litdata.optimize` writes, by the writer that it writes with: no processes are started."""
    from litdata.streaming.cache import Cache

    cache = Cache(str(folder), chunk_bytes=_CHUNK_BYTES)
    for number, (key, fields) in enumerate(samples):
        cache[number] = {"key": key, **fields}
    cache.done()
    cache.merge()


class Decode:
    """JPEG to pixels, by our decoder of stored images."""

    def __init__(self, path: Path) -> None:
        self.pictures, self.file = make_pictures(), path / "ours.npy"
        self.decode = self.decoder()

    def decoder(self) -> Callable[[bytes], Any]:
        from data.images import decode_stored

        return lambda payload: decode_stored(payload, "jpg")

    def round(self) -> Round:
        """All pictures once, and one after the other let go; then, untimed, all of them again to be compared."""
        decode = self.decode
        watch = Stopwatch()
        watch.start()
        for payload in self.pictures:
            decode(payload)
        watch.stop()
        np.save(self.file, np.stack([decode(payload) for payload in self.pictures]))
        return Round(len(self.pictures), watch.seconds, watch.cpu_s, {"pixels": str(self.file)})


class DecodePillow(Decode):
    """The same by Pillow, as an array."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.file = path / "peer.npy"

    def decoder(self) -> Callable[[bytes], Any]:
        import io

        from PIL import Image

        return lambda payload: np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"))


def make_pictures(side: int = 256) -> list[bytes]:
    """Squares of scikit-image's photographs as JPEG of qualities 75 to 90, made by Pillow as most are (4:2:0)."""
    import importlib.util
    import io

    from PIL import Image

    from data.sources.packaged import PHOTOGRAPHS

    package = importlib.util.find_spec("skimage")
    assert package, "scikit-image is in the lock of packages taken for their data"
    assert package.submodule_search_locations
    root = Path(package.submodule_search_locations[0]) / "data"
    photographs = [Image.open(root / name).convert("RGB") for name in PHOTOGRAPHS]
    rng, found = np.random.default_rng(0), []
    for number in range(PICTURES):
        photograph = photographs[number % len(photographs)]
        left, top = (int(rng.integers(0, size - side + 1)) for size in photograph.size)
        buffer = io.BytesIO()
        square = photograph.crop((left, top, left + side, top + side))
        square.save(buffer, "JPEG", quality=int(rng.integers(75, 91)))
        found.append(buffer.getvalue())
    return found


def pixels_differ(ours: Any, peer: Any) -> str | None:
    """The same sizes, and no pixel more than one level apart."""
    mine, others = np.load(ours["pixels"]), np.load(peer["pixels"])
    if mine.shape != others.shape:
        return f"ours are of shape {mine.shape}, the peer's {others.shape}"
    apart = int(np.abs(mine.astype(np.int16) - others).max())
    return f"pixels are up to {apart} levels apart" if apart > 1 else None
