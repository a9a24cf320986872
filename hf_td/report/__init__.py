"""Draws measured runs as one HTML page that needs nothing else.

`values` says what a page shows, `charts` draws it by matplotlib, `svg` makes the drawings part of a
page, and `page` writes the page.
"""

from hf_td.report.page import render_page
from hf_td.report.values import Entry, Point, Report, Series, Units

__all__ = ["Entry", "Point", "Report", "Series", "Units", "render_page"]
