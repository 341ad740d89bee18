import hashlib
import http.server
import threading

import pytest

from eln_jax.data.builders.downloads import fetch
from eln_jax.errors import UserError

CONTENT = bytes(i * i % 251 for i in range(5000))
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT as the test says: with or without ranges, whole or breaking off."""

    ranges = True
    breaks_after = None
    requests: list

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.requests.append(wanted)
        if self.path != "/file.tar":
            self.send_error(404, "Not Found")
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body[: self.breaks_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    handler = type("One", (Handler,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        handler.url = f"http://127.0.0.1:{running.server_address[1]}/file.tar"
        yield handler
        running.shutdown()
        thread.join()


def test_a_file_is_fetched_checked_and_not_fetched_again(server, tmp_path):
    path = tmp_path / "downloads" / "file.tar"
    for _ in range(2):
        assert fetch(server.url, path, MD5) == path
    assert path.read_bytes() == CONTENT
    assert server.requests == [None]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_fetch_that_broke_off_goes_on(server, tmp_path, ranges):
    path = tmp_path / "file.tar"
    server.breaks_after = 2000
    with pytest.raises(UserError, match=r"broke off after 2\.0 kB of 5\.0 kB\).*same command"):
        fetch(server.url, path, MD5)
    assert not path.exists()
    server.breaks_after, server.ranges = None, ranges
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=2000-"]


def test_a_complete_part_needs_only_to_be_checked(server, tmp_path):
    (tmp_path / "file.tar.part").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "file.tar", MD5)
    assert (tmp_path / "file.tar").read_bytes() == CONTENT
    (tmp_path / "other.tar.part").write_bytes(CONTENT + b"too long")
    fetch(server.url, tmp_path / "other.tar", MD5)
    assert (tmp_path / "other.tar").read_bytes() == CONTENT


def test_another_file_than_the_published_one_is_deleted(server, tmp_path):
    with pytest.raises(UserError, match=r"not the published file \(its MD5 is .*, not 0000"):
        fetch(server.url, tmp_path / "file.tar", "0" * 32)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_fetched_says_where_to_put_it(server, tmp_path):
    with pytest.raises(UserError, match=rf"server says 404 Not Found\).*put it in {tmp_path}"):
        fetch(server.url + "x", tmp_path / "file.tar")
    with pytest.raises(UserError, match=r"cannot be fetched .*same command again"):
        fetch("http://127.0.0.1:9/file.tar", tmp_path / "file.tar")
