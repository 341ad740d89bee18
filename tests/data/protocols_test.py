import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eln_jax.data import protocols
from eln_jax.data.partitions import partition_files
from eln_jax.data.protocols import fetch_protocol, is_protocol, protocol_names
from eln_jax.errors import UserError

NAME = "ssl_eln/voc/8_labeled_0"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the folder that it gives in place of GitHub."""
    root = tmp_path / "served"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setattr(protocols, "_URL", f"http://127.0.0.1:{http.server_port}/{{path}}")
        yield root
        http.shutdown()


def serve(root, monkeypatch, labeled=b"a\n", unlabeled=b"b\n"):
    lists = {}
    for part, content in (("labeled", labeled), ("unlabeled", unlabeled)):
        (root / f"{part}.txt").write_bytes(content)
        lists[part] = [f"{part}.txt", hashlib.sha256(content).hexdigest()]
    known = {"ssl_eln": {"repository": "a/b", "commit": "c", "lists": {"voc/8_labeled_0": lists}}}
    monkeypatch.setattr(protocols, "_collections", lambda: known)


def test_lists_are_fetched_once(server, tmp_path, monkeypatch):
    serve(server, monkeypatch)
    found = fetch_protocol(NAME, tmp_path / "cache")
    assert [path.read_text() for path in found] == ["a\n", "b\n"]
    for path in server.iterdir():
        path.unlink()
    assert fetch_protocol(NAME, tmp_path / "cache") == found
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_other_content_is_refused_and_not_kept(server, tmp_path, monkeypatch):
    serve(server, monkeypatch)
    (server / "labeled.txt").write_text("c\n")
    with pytest.raises(UserError, match="is not the published one"):
        fetch_protocol(NAME, tmp_path)
    assert not list(tmp_path.rglob("*8_labeled_0*"))
    (server / "labeled.txt").write_text("a\n")
    labeled, _ = fetch_protocol(NAME, tmp_path)
    labeled.write_text("d\n")
    with pytest.raises(UserError, match=f"{labeled.name} is not the published one"):
        fetch_protocol(NAME, tmp_path)


def test_without_a_network_one_sentence_says_where_to_put_the_list(server, tmp_path, monkeypatch):
    serve(server, monkeypatch)
    (server / "labeled.txt").unlink()
    with pytest.raises(UserError, match=r"cannot be fetched .*save it as .*labeled\.txt"):
        fetch_protocol(NAME, tmp_path)


def test_a_partition_may_be_named_by_its_protocol(server, tmp_path, monkeypatch):
    serve(server, monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    labeled, unlabeled = partition_files(NAME)
    assert (labeled.read_text(), unlabeled.read_text()) == ("a\n", "b\n")


def test_a_mistyped_protocol_names_the_nearest():
    assert is_protocol("unimatch/voc/92")
    assert not is_protocol("lists/8_labeled_0")
    with pytest.raises(UserError, match=r"Did you mean unimatch/voc/92\?"):
        fetch_protocol("unimatch/voc/93")


def test_every_published_partition_of_the_issue_is_known():
    names = set(protocol_names())
    for seed in range(3):
        assert {f"ssl_eln/voc/{share}_labeled_{seed}" for share in (20, 8, 4)} <= names
        assert {f"ssl_eln/cityscapes/{share}_labeled_{seed}" for share in (8, 4, 2)} <= names
    assert {f"unimatch/voc/{count}" for count in (92, 183, 366, 732, 1464, "1_16")} <= names
    assert "unimatch/cityscapes/1_16" in names
