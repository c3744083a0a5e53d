"""Print the Markdown tables of benchmarks/README.md from the runs in benchmarks/results.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from search_tables import print_markdown
from train_quality import half_interval
from train_ratio import rate_over

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Encoding, training, then search, with what was measured above each table."""
    _print_encoding()
    _print_training()
    for path in sorted(RESULTS.glob("search-*.json")):
        print_markdown(json.loads(path.read_text()))


def _print_encoding() -> None:
    reports = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("encode-*.json"))]
    for kernels, threads in sorted({(_kernels(each), each["threads"]) for each in reports}):
        print(f"Kernels `{kernels}`, threads {threads}; the peer with its best batch size:\n")
        print("| workload | padding, batch | system | tokens/s | x ST | of product rate | cosine |")
        print("|---|---|---|---:|---:|---:|---:|")
        for report in reports:
            if (_kernels(report), report["threads"]) == (kernels, threads):
                for result in report["results"]:
                    _print_rows(result)
        print()


def _print_training() -> None:
    reports = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("train-*.json"))]
    if not reports:
        return
    print(
        "| model | dtype, threads | shape, pairs | system | s/step | pairs/s | ours is faster "
        "| losses |"
    )
    print("|---|---|---:|---|---:|---:|---:|---:|")
    for report in reports:
        for result in report.get("results", ()):
            first = f"{result['kind']} | {result['dtype']}, {result['threads']}"
            first += f" | {report['settings']['shape']}, {report['settings']['pairs']}"
            for row in result["rows"]:
                seconds, compared = median(row["step_seconds"]), "losses differ"
                found = rate_over(result, row["system"])
                if found is not None:
                    compared = f"{found[0]:.2f} ({min(found[1]):.2f}-{max(found[1]):.2f})"
                print(
                    f"| {first} | {row['system']} | {seconds:.2f} | {row['pairs_per_second']:.1f} "
                    f"| {compared} | {row['loss_difference']:.0e} |"
                )
                first = " | | "
    print()
    rows = [row for report in reports for row in report.get("quality", {}).get("rows", ())]
    if rows:
        _print_quality(rows)


def _print_quality(rows: list[dict[str, Any]]) -> None:
    print("| model | system | seeds | last 20 losses | nDCG@10 | ours less it, same seeds |")
    print("|---|---|---:|---:|---:|---:|")
    for kind, system in dict.fromkeys((row["kind"], row["system"]) for row in rows):
        own = _by_seed(rows, kind, system)
        cells = [f"| {kind} | {system} | {len(own)}"]
        for name in ("final_loss", "ndcg_at_10"):
            values = [row[name] for row in own.values()]
            cells.append(f"{mean(values):.4f} ± {stdev(values):.4f}")
        compared = ""
        if system != "ours":
            ours = _by_seed(rows, kind, "ours")
            gaps = [ours[seed]["ndcg_at_10"] - row["ndcg_at_10"] for seed, row in own.items()]
            half = half_interval(gaps)
            compared = f"{mean(gaps):+.4f} ({mean(gaps) - half:+.4f} to {mean(gaps) + half:+.4f})"
        print(" | ".join([*cells, compared]) + " |")
    print()


def _by_seed(rows: list[dict[str, Any]], kind: str, system: str) -> dict[int, dict[str, Any]]:
    return {row["seed"]: row for row in rows if (row["kind"], row["system"]) == (kind, system)}


def _kernels(report: dict[str, Any]) -> str:
    return str(report["hardware"]["kernels"])


def _print_rows(result: dict[str, Any]) -> None:
    peers = [row for row in result["rows"] if row["system"].startswith("ST")]
    peer = peers[-1]
    first = f"{result['workload']} | {result['st_padding']:.2f}, {peer['batch_size']}"
    for row in result["rows"]:
        ratios = [theirs / own for theirs, own in zip(peer["seconds"], row["seconds"])]
        ratio = median(peer["seconds"]) / median(row["seconds"])
        compared = f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if row["equal"] else "-"
        print(
            f"| {first} | {row['system']} | {row['tokens_per_second']:,.0f} | {compared} | "
            f"{row['matrix_fraction']:.0%} | {row['min_cosine']:.4f} |"
        )
        first = " | "


if __name__ == "__main__":
    main()
