#!/usr/bin/env python3
"""Unpacks a backup of pgkeep without pgkeep. src/format/SPEC.md says the same in words.

usage: BACKUP_ENCRYPTION_KEY=... restore_without_pgkeep.py BACKUP_DIRECTORY OUTPUT_DIRECTORY

BACKUP_DIRECTORY holds the file `manifest` and the volumes. Needs Python 3.9 and `pip install cryptography zstandard`.
"""
import base64, gzip, hashlib, json, os, struct, sys, zlib
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def need(true, otherwise):
    if not true:
        sys.exit(f"restore_without_pgkeep: {otherwise}")


def unzstd(packed):
    return zstandard.ZstdDecompressor().decompressobj().decompress(packed)  # need not state its plain size


def read_manifest(directory, keys):
    with open(os.path.join(directory, "manifest"), "rb") as file:
        text, _, digest = file.read().rpartition(b"sha256 ")
    need(text.startswith(b"pgkeep manifest 1\n"), "there is no manifest of format 1 in this directory")
    need(digest == hashlib.sha256(text).hexdigest().encode() + b"\n", "the manifest is damaged: its SHA-256 is another")
    head = dict(line.partition(" ")[::2] for line in text.decode().split("\n"))  # lines nobody knows are no harm
    for key in keys:
        labelled = b"pgkeep key fingerprint 1\0" + base64.urlsafe_b64decode(key)
        if hashlib.sha256(labelled).hexdigest()[:16] == head["key"]:
            manifest = json.loads(unzstd(Fernet(key).decrypt(head["sealed"])))
            need(manifest["format"] == 1, f"the backup has format {manifest['format']}, this reads format 1")
            need(manifest["id"] == head["backup"], "head and body of the manifest do not agree")
            return manifest
    need(False, f"the backup was sealed with the key {head['key']}, which is not in BACKUP_ENCRYPTION_KEY")


def read_frames(directory, manifest, number):
    """Gives the plain bytes of each frame of a volume."""
    volume = manifest["volumes"][number]
    path = os.path.join(directory, volume["name"])
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        need(digest.hexdigest() == volume["sha256"], f"{path} is damaged: its SHA-256 is another")
        file.seek(0)
        header = file.read(24)
        magic, version, length, found, method, owner_length = struct.unpack("<8sHHIB3xH2x", header)
        header += file.read(length - 24)
        owner = header[24:24 + owner_length].decode()
        right = (magic, version, found, owner) == (b"PGKEEPVL", 1, number, manifest["id"])
        need(right, f"{path} is not volume {number} of {manifest['id']} in format 1")
        aes = AESGCM(base64.b64decode(manifest["key"]))
        for frame, stored in enumerate(volume["frames"]):
            frame_header = file.read(12)
            size, plain_size, flags = struct.unpack("<III", frame_header)  # flags: 1 the last one, 2 not compressed
            last = frame + 1 == len(volume["frames"])
            need(size == stored and bool(flags & 1) == last, f"{path}: frame {frame} is not where it belongs")
            nonce, bound = struct.pack("<III", number, frame, 0), hashlib.sha256(header).digest() + frame_header
            plain = aes.decrypt(nonce, file.read(size), bound)
            if not flags & 2:
                plain = unzstd(plain) if method == 1 else gzip.decompress(plain)
            need(len(plain) == plain_size, f"{path}: frame {frame} has another length than its header says")
            yield plain


def unpack(directory, output, keys):
    manifest = read_manifest(directory, keys)
    wanted = {}  # (volume, frame): the runs of bytes in it, each with its entry
    for entry in manifest["entries"]:
        parts = entry["name"].split("/")
        need(not {"", ".", ".."} & set(parts) and "\0" not in entry["name"], f"{entry['name']!r} leaves {output}")
        entry.update(path=os.path.join(output, *parts), digest=hashlib.sha256(), written=0)
        for backup, volume, frame, offset, length in entry["extents"]:
            need(backup == 0, f"a part of this backup lies in another one, {manifest['backups'][backup]}")
            wanted.setdefault((volume, frame), []).append((entry, offset, length))
    for entry in manifest["entries"]:
        os.makedirs(os.path.dirname(entry["path"]), exist_ok=True)
        open(entry["path"], "xb").close()
    for number in range(len(manifest["volumes"])):
        for frame, plain in enumerate(read_frames(directory, manifest, number)):
            for entry, offset, length in wanted.get((number, frame), ()):  # extents ascend, so bytes come in order
                piece = plain[offset:offset + length]
                entry["digest"].update(piece)
                entry["written"] += len(piece)
                with open(entry["path"], "ab") as file:
                    file.write(piece)
    for entry in manifest["entries"]:
        whole = (entry["written"], entry["digest"].hexdigest()) == (entry["size"], entry["sha256"])
        need(whole, f"{entry['path']} is not what was backed up: its SHA-256 is another")
    return manifest


if __name__ == "__main__":
    need(len(sys.argv) == 3, __doc__.split("\n")[2])
    keys = [key.strip() for key in os.environ.get("BACKUP_ENCRYPTION_KEY", "").split(",") if key.strip()]
    need(keys, "set BACKUP_ENCRYPTION_KEY to the key that was in use when the backup was made")
    need(not os.path.exists(sys.argv[2]), f"{sys.argv[2]} exists already: name a directory that does not")
    os.umask(0o077)
    try:
        manifest = unpack(sys.argv[1], sys.argv[2], keys)
    except (InvalidTag, InvalidToken):
        need(False, "a seal does not fit: the backup was changed after it was made")
    except (OSError, ValueError, LookupError, EOFError, struct.error, zlib.error, zstandard.ZstdError) as error:
        need(False, f"cannot read the backup: {type(error).__name__}: {error}")
    print(f"unpacked {len(manifest['entries'])} files, each with the SHA-256 that it was backed up with")
    print(f"the database as it was at {manifest['consistent_at']}: {json.dumps(manifest['database'])}")
    print(f"next, into a new database: pg_restore --jobs=4 --dbname=NEW_DATABASE {sys.argv[2]}")
