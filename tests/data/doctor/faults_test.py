from eln_jax.data.doctor import summary_lines
from eln_jax.data.doctor.faults import make_fault


def test_summary_has_a_line_a_kind():
    faults = [make_fault("truncated image", f"d/{name}.png", "cut") for name in "ba"]
    faults.append(make_fault("alpha channel", "d/c.png", "clear"))
    first, second = summary_lines(faults, "d")
    assert first.startswith("error: truncated image, 2 times, such as a.png (cut): copy")
    assert second.startswith("warning: alpha channel: c.png (clear): ")
