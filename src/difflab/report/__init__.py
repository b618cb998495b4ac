"""The report: results -> sentences, tables and figures -> one HTML page, and the same as Markdown. No torch here."""

from difflab.report.page import build_report, load_results

__all__ = ["build_report", "load_results"]
