"""What a campaign did and why: a terminal table, ``decisions.csv`` and one self-contained HTML page."""

from selector.report.record import DECISION_COLUMNS, CampaignRecord, MaterialMap
from selector.report.tables import decision_table, write_decisions_csv
from selector.report.write import write_map, write_report

__all__ = [
    "DECISION_COLUMNS",
    "CampaignRecord",
    "MaterialMap",
    "decision_table",
    "write_decisions_csv",
    "write_map",
    "write_report",
]
