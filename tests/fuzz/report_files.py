"""Files of runs and studies that were changed, and what a report makes of them."""

import csv
import io
import json
import random
import shutil
from pathlib import Path
from unittest import mock

import made

from fuzz.changing import STRANGE, changed, changed_bytes, changed_text
from fuzz.kinds import Input
from stimulative.report import assembling, write_report


class ReportFiles:
    """One file of a run, or of a study, is changed; pictures are described, and every twentieth time drawn."""

    def __init__(self, place: Path) -> None:
        self.changed, self.out = place / "changed", place / "page"
        (place / "kept").mkdir()
        studies = (made.run, made.comparison, made.loafing, made.matrix, made.destruction)
        self.kept = [make(place / "kept" / make.__name__) for make in studies]
        self.kept.append(made.sweep(place / "kept/sweep", [1, 2, 3]))

    def input(self, draw: random.Random) -> Input:
        directory = draw.choice(self.kept)
        ends = {".json", ".csv", ".yaml"}
        file = draw.choice(sorted(path for path in directory.rglob("*") if path.suffix in ends))
        content, whole = self._content(file, draw), draw.random() < 0.05

        def do() -> None:
            shutil.rmtree(self.changed, ignore_errors=True)
            shutil.copytree(directory, self.changed)
            (self.changed / file.relative_to(directory)).write_bytes(content)
            with mock.patch.object(assembling, "save_all", assembling.save_all if whole else lambda *_: None):
                write_report([self.changed], self.out)

        return f"{directory.name}: {file.relative_to(directory)}: {content!r:.1500}", do

    def _content(self, file: Path, draw: random.Random) -> bytes:
        text, how = file.read_text(), draw.random()
        if how < 0.15:
            return changed_bytes(text.encode(), draw)
        if how < 0.3 or file.suffix == ".yaml":
            return changed_text(text, draw).encode("utf-8", "surrogatepass")
        if file.suffix == ".json":
            return json.dumps(changed(json.loads(text), draw)).encode()
        rows = list(csv.reader(io.StringIO(text)))
        for _ in range(draw.choice([1, 1, 3])):
            row = draw.choice(rows)
            at = draw.randrange(len(row) or 1)
            if row and draw.random() < 0.8:
                row[at] = str(draw.choice(STRANGE))
            else:
                row.insert(at, str(draw.choice(STRANGE)))
        out = io.StringIO()
        csv.writer(out, escapechar="\\").writerows(rows)
        return out.getvalue().encode("utf-8", "surrogatepass")
