"""The report: runs side by side on one HTML page that needs nothing but itself."""

from lumbre.report.report import write_report

__all__ = ["write_report"]
