"""What a campaign did and why: a terminal table, ``decisions.csv`` and one self-contained HTML page."""

from selector.report.record import DECISION_COLUMNS, CampaignRecord
from selector.report.tables import decision_table, write_decisions_csv
from selector.report.write import write_report

__all__ = ["DECISION_COLUMNS", "CampaignRecord", "decision_table", "write_decisions_csv", "write_report"]
