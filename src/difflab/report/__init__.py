"""The report: results -> sentences, tables and figures -> one HTML page, and the same as Markdown. No torch here."""

from difflab.report.page import Chapter, build_book, build_report, load_chapters, load_results

__all__ = ["Chapter", "build_book", "build_report", "load_chapters", "load_results"]
