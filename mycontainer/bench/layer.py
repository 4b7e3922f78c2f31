"""A layer to be unpacked, the same bytes each time: made, not fetched, so that everybody measures the same.

It looks like a distribution's: thousands of small files that compress well, some libraries that compress a
little, symlinks and hard links. It lies there as a blob (.tar.gz), as an OCI layout, and as an archive of
that, for those who want one. OCI image-spec: image-layout.md, manifest.md, config.md.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import random
import tarfile
from pathlib import Path
from typing import NamedTuple

TAG = "bench"
WORDS = b"the a of to and in is it for on with as by at from or an be this that are not".split()
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Layer(NamedTuple):
    """Where it is, and what is known of it."""

    blob: Path         # .tar.gz
    layout: Path       # an OCI layout with one image of this one layer, `TAG`
    archive: Path      # the same as a tar
    digest: str        # of the blob
    diff_id: str       # of the tar in it
    size: int          # of the tar, in bytes
    entries: int


def make(directory: Path, megabytes: int, seed: int = 10) -> Layer:
    """Make it in ``directory``: about so many megabytes of files."""
    tar, entries = _tar(megabytes << 20, random.Random(seed))
    blob = gzip.compress(tar, 6, mtime=0)
    digest, diff_id = _digest(blob), _digest(tar)
    layout = directory / "layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    config = {"architecture": ARCHITECTURES.get(platform.machine(), platform.machine()), "os": "linux",
              "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": _put(blobs, json.dumps(config).encode(), "config.v1+json"),
                "layers": [_put(blobs, blob, "layer.v1.tar+gzip")]}
    entry = {**_put(blobs, json.dumps(manifest).encode(), "manifest.v1+json"),
             "annotations": {"org.opencontainers.image.ref.name": TAG}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    archive = directory / "archive.tar"
    with tarfile.open(archive, "w") as out:
        for name in ("blobs", "index.json", "oci-layout"):
            out.add(layout / name, name)
    return Layer(blobs / digest.removeprefix("sha256:"), layout, archive, digest, diff_id, len(tar), entries)


def _put(blobs: Path, data: bytes, kind: str) -> dict[str, object]:
    digest = _digest(data)
    (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _tar(size: int, lot: random.Random) -> tuple[bytes, int]:
    """The tar, and how many entries it has: half of the bytes in small files, half in libraries."""
    out = io.BytesIO()
    prose = b" ".join(lot.choices(WORDS, k=60_000))
    names: list[str] = []
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        def add(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, link, len(data)
            entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
            tar.addfile(entry, io.BytesIO(data))
            names.append(name)

        for directory in ("usr", "usr/lib", "usr/share"):
            add(directory, tarfile.DIRTYPE)
        made = count = 0
        while made < size // 2:
            if count % 40 == 0:
                place = f"usr/share/package{count // 40}"
                add(place, tarfile.DIRTYPE)
            length = min(int(lot.lognormvariate(8, 1.2)), 200_000)
            start = lot.randrange(len(prose) // 2)
            add(f"{place}/file{count}", data=(prose[start:] * (1 + length // len(prose)))[:length])
            made, count = made + length + 1024, count + 1
        for number in range(max(1, (size - made) // (2 << 20))):
            mixed = b"".join(lot.randbytes(512) + prose[at:at + 512] for at in range(0, 2048 * 512 // 2, 512))
            add(f"usr/lib/lib{number}.so.1", data=mixed[:2 << 20])
            add(f"usr/lib/lib{number}.so", tarfile.SYMTYPE, link=f"lib{number}.so.1")
        for number in range(0, count, 50):
            add(f"usr/share/same{number}", tarfile.LNKTYPE,
                link=f"usr/share/package{number // 40}/file{number}")
    return out.getvalue(), len(names)
