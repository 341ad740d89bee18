import json
import os

import numpy as np

from eln_jax.data.doctor import examine, summary_lines
from eln_jax.data.doctor.page import make_page
from eln_jax.data.labels import make_code
from eln_jax.data.partitions import Partition
from eln_jax.data.sources import ExampleFiles, FileSource

PALETTE = np.zeros((4, 3), np.uint8)


def test_names_that_are_markup_or_no_text_are_shown_all_the_same(tmp_path):
    name = os.fsdecode(b"<b>\xff&amp;")
    path = tmp_path / f"{name}.png"
    path.write_bytes(b"")
    source = FileSource(
        [ExampleFiles(name, path, None)], make_code(2), description={"kind": "none"}
    )
    partition = Partition((), (0,))
    report = examine(source, source, partition)
    page = make_page(
        report, source, source, partition, palette=PALETTE, title="<i>", root=str(tmp_path)
    )
    assert "&lt;b&gt;?&amp;amp;.png" in page
    assert "<i>" not in page
    page.encode()
    assert json.loads(report.to_json())["faults"][0]["file"] == str(path)
    "\n".join(summary_lines(report.faults)).encode()  # as a terminal would
