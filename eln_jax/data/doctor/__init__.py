"""The data doctor: what is wrong with a data set, by file, and what to do about it.

`examine` decodes all that a training would read; `quick_check` reads headers alone, and a training
does so by itself. Both give faults: `faults.KINDS` lists every kind there is.
"""

from eln_jax.data.doctor.examination import examine
from eln_jax.data.doctor.faults import Fault, summary_lines
from eln_jax.data.doctor.quick import quick_check, would_stop
from eln_jax.data.doctor.report import Report

__all__ = ["Fault", "Report", "examine", "quick_check", "summary_lines", "would_stop"]
