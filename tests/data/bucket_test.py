"""Records in a bucket: gs://bucket stands for a folder that a server of the test's own serves."""

import http.server
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

pytest.importorskip("tensorflow_datasets")

from eln_jax.data.builders import camvid
from eln_jax.data.builders.record_builder import build
from tests.data.layouts import make_camvid

ROOT = Path(__file__).parent.parent.parent
# TFDS lists a bucket by gcsfs, which is not installed here: a folder takes its place. What fetches
# the records themselves is ArrayRecord's own client, by the protocol of the real thing.
READER = """
import hashlib, sys
import fsspec
from fsspec.implementations.local import LocalFileSystem
from eln_jax.data.builders import camvid
from eln_jax.data.records import open_records

class Folder(LocalFileSystem):
    protocol = ("gcs", "gs")

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("gs://bucket", sys.argv[1]))

fsspec.register_implementation("gcs", Folder, clobber=True)
records = open_records("gs://bucket/records/camvid/1.0.0", "train")
files = camvid.open_split(sys.argv[1], "train")
assert records.ids == files.ids and len(files) == 4
for index in (2, 0, 3, 1):
    assert (records.read_image(index) == files.read_image(index)).all()
    assert (records.read_label(index) == files.read_label(index)).all()
print(records.location(0))
"""


class Bucket(http.server.BaseHTTPRequestHandler):
    """Serves the content of objects: GET /storage/v1/b/BUCKET/o/NAME?alt=media, whole or a part."""

    protocol_version = "HTTP/1.1"
    folder: Path
    seen: list[str]

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        name = urllib.parse.unquote(path.removeprefix("/storage/v1/b/bucket/o/"))
        self.seen.append(name)
        content = (self.folder / name).read_bytes()
        first, code = 0, 200
        if "Range" in self.headers:
            start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            first = int(start) if start else len(content) - int(end)
            code = 206
        self.send_response(code)
        self.send_header("Content-Length", str(len(content) - first))
        last = len(content) - 1
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("x-goog-generation", "1")
        self.end_headers()
        try:
            self.wfile.write(content[first:])
        except ConnectionError:  # it has read what it wanted
            self.close_connection = True

    def log_message(self, *_):
        pass


def test_records_are_read_from_a_bucket(tmp_path):
    make_camvid(tmp_path)
    build("camvid", {"train": camvid.open_split(tmp_path, "train")}, tmp_path / "records", "here")
    handler = type("Handler", (Bucket,), {"folder": tmp_path, "seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        done = subprocess.run(
            [sys.executable, "-c", READER, str(tmp_path)],
            cwd=ROOT,
            env=os.environ | {"CLOUD_STORAGE_EMULATOR_ENDPOINT": address, "no_proxy": "*"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "gs://bucket/records/camvid/1.0.0/0001TP_000000"
    assert set(handler.seen) == {"records/camvid/1.0.0/camvid-train.array_record-00000-of-00001"}
