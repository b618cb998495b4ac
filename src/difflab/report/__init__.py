"""The report: results -> sentences, tables and figures -> one HTML page, and the same as Markdown. No torch here."""

from difflab.report.load import Chapter, load_chapters, load_results
from difflab.report.page import build_book, build_report

__all__ = ["Chapter", "build_book", "build_report", "load_chapters", "load_results"]
