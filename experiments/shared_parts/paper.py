"""The paper's numbers: Tables 1 and 2, from paper_tables.json in this folder."""

import json
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, float]


class Table(NamedTuple):
    """One table of the paper.

    Attributes:
      dataset: in the paper's words.
      columns: what distinguishes its columns, 'p_uncond' or 'T'.
      rows: column value -> rows {'w', 'fid', 'is'} in the order of w.
      baselines: model -> its 'fid' and, where given, 'is'.
    """

    dataset: str
    columns: str
    rows: dict[float, list[Row]]
    baselines: dict[str, Row]


def load(name: str) -> Table:
    """'table1' (ImageNet 64x64, by p_uncond) or 'table2' (128x128, by T)."""
    held: dict[str, Any] = json.loads(Path(__file__).with_name('paper_tables.json').read_text())
    table = held[name]
    rows = {
        float(column): [
            dict(zip(('w', 'fid', 'is'), row, strict=True))
            for row in zip(values['w'], values['fid'], values['is'], strict=True)
        ]
        for column, values in table['rows'].items()
    }
    return Table(table['dataset'], table['columns'], rows, table['baselines'])
