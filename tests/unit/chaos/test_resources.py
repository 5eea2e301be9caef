"""What nodes use, as it is written down and drawn."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree as ET

from chaos.resources import Sample, highest, pictures, write_samples

SAMPLES = [
    Sample(second, node, (50 + second) << 20, second << 10, 3, 20) for second in range(10) for node in ("n1", "n2")
]


def test_samples_are_a_table_with_a_line_each(tmp_path: Path):
    write_samples(tmp_path / "resources.csv", SAMPLES)
    with (tmp_path / "resources.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SAMPLES)
    assert rows[-1] == {
        "seconds": "9",
        "node": "n2",
        "resident_bytes": str(59 << 20),
        "file_bytes": str(9 << 10),
        "file_count": "3",
        "descriptor_count": "20",
        "journal_bytes": "0",
        "store_bytes": "0",
        "snapshot_bytes": "0",
    }


def test_the_highest_value_of_a_part_of_a_run_is_found():
    assert highest(SAMPLES, lambda sample: sample.resident_bytes, after=0.0, until=0.5) == 54 << 20
    assert highest(SAMPLES, lambda sample: sample.resident_bytes, after=0.5, until=1.0) == 59 << 20
    assert highest([], lambda sample: sample.resident_bytes, after=0.5, until=1.0) == 0


def test_a_picture_has_a_line_for_each_node_and_is_well_formed():
    page = ET.fromstring(f"<page>{pictures(SAMPLES)}</page>")
    lines = page.findall(".//polyline")
    assert len(lines) == 2 * 2
    assert all(len(line.attrib["points"].split()) == 10 for line in lines)
    assert pictures([]) == ""
