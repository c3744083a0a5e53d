"""Look for evaluation data in training files, and write the files without it.

    python train/leaks.py train.jsonl more.parquet --against data/scifact data/nfcorpus
    python train/leaks.py train.jsonl --against data/scifact --clean-to clean --report leaks.json

Prints a table of rows by file, evaluation folder and kind: query (a test query), pair (a relevant
document with a query like its own), document (a relevant document alone: no leak, unless
--documents-leak). Exit code 1 where rows leak and no clean files were asked for. Hardware: one
processor core, some 1,000 rows a second. The machinery is in retrieval/training/leaks.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from retrieval.errors import ConfigError
from retrieval.files import BadLines, write_json
from retrieval.training.leak_matching import LeakSettings
from retrieval.training.leaks import LeakReport, find_leaks, write_without
from retrieval.training.script import report_errors


@report_errors
def main() -> None:
    """Find, print, and write what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("training", nargs="+", help="JSONL, Parquet, a saved data set, or hf:NAME")
    parser.add_argument("--against", nargs="+", required=True, help="BEIR folders")
    parser.add_argument("--clean-to", type=Path, help="folder for the files without their leaks")
    parser.add_argument("--report", type=Path, help="write everything found as JSON")
    parser.add_argument("--documents-leak", action="store_true", help="a document alone leaks too")
    parser.add_argument("--skip-bad", action="store_true", help="skip lines that are no objects")
    arguments = parser.parse_args()
    outputs = _outputs(arguments.training, arguments.clean_to)
    settings = LeakSettings(documents_leak=arguments.documents_leak)
    bad_lines = BadLines(skip=arguments.skip_bad)
    report = find_leaks(arguments.training, arguments.against, settings, bad_lines=bad_lines)
    print_table(report)
    if arguments.report:
        write_json(arguments.report, report.to_json())
    for source, output in outputs.items():
        # A report names sources as paths have them.
        numbers = report.leaking_rows.get(str(Path(source)), set())
        written, left_out = write_without(source, numbers, output)
        print(f"{output}: {written:,} rows, {left_out:,} left out")
    if report.leaks and not outputs:
        sys.exit(1)


def print_table(report: LeakReport) -> None:
    """One line a file, folder and kind, examples below, and the sum."""
    for (source, evaluation, kind, is_exact), count in sorted(report.counts.items()):
        likeness = "same" if is_exact else "near"
        print(f"{source}\t{evaluation}\t{kind}\t{likeness}\t{count:,}")
        print(f"    {report.examples[source, evaluation, kind, is_exact][0]}")
    print(f"{report.leaks:,} of {report.rows.total():,} rows leak")


def _outputs(training: list[str], folder: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    outputs = {}
    for source in training:
        name = Path(source).name.replace(":", "-")
        suffix = "" if name.endswith((".jsonl", ".jsonl.gz")) else ".jsonl.gz"
        outputs[source] = folder / f"{name}{suffix}"
    for source, output in outputs.items():
        if output.exists():
            raise ConfigError(f"{output}: is there already: give --clean-to another folder")
        if list(outputs.values()).count(output) > 1:
            raise ConfigError(f"{source}: two files of this name would be written to {output}")
    return outputs


if __name__ == "__main__":
    main()
