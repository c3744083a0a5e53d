"""What the search benchmark prints."""

from __future__ import annotations

from typing import Any

from search_data import SearchData
from search_measures import Row

_COLUMNS = (
    f"{'engine':17} {'setting':34} {'p50':>8} {'p95':>8} {'p99':>8} {'/s':>7} {'r@10':>6} "
    f"{'r@100':>6} {'nDCG':>6} {'B/token':>8} {'build s':>8} {'MB':>6} {'queries':>7}"
)


def print_data(data: SearchData) -> None:
    """What is searched, and the head of the table."""
    kind = "real" if data.all_real else "generated" if data.is_real else "invented"
    print(
        f"\n{len(data.lengths):,} documents, {int(data.lengths.sum()):,} tokens ({kind}), "
        f"{len(data.truth.ids):,} queries; milliseconds and queries a second on one thread"
    )
    print(_COLUMNS, flush=True)


def print_row(row: Row) -> None:
    """One line of the table."""
    it = row.measured
    print(
        f"{row.build.name:17} {row.setting.name:34} {it['p50_ms']:8.2f} {it['p95_ms']:8.2f} "
        f"{it['p99_ms']:8.2f} {it['queries_per_second']:7.0f} {it['recall_at_10']:6.3f} "
        f"{recall_at_100(it):>6} {it['ndcg_at_10']:6.3f} {it['bytes_per_token']:8.1f} "
        f"{it['build_seconds']:8.1f} {it['resident_mb']:6.0f} {it['queries']:7}",
        flush=True,
    )


def recall_at_100(figures: dict[str, Any]) -> str:
    """With three digits; a dash where fewer hits were asked for."""
    return f"{figures['recall_at_100']:.3f}" if "recall_at_100" in figures else "-"


def print_throughput(row: Row, threads: int) -> None:
    """Queries a second on several threads, under the row."""
    rate = row.measured["queries_per_second_threads"]
    print(f"{'':17} {f'{threads} threads: {rate:,.0f} queries/s':34}", flush=True)


def print_beside(peer: str, beside: dict[str, Any]) -> None:
    """The ratio of a peer's setting and ours, measured in turns."""
    ours = beside["ours"]
    print(
        f"{'':17} ours ({ours['system']}, {ours['setting']}; recall {ours['recall_at_10']:.3f}, "
        f"{recall_at_100(ours)}) is {beside['ratio']:.1f} times as fast as {peer} "
        f"({beside['ratio_min']:.1f} to {beside['ratio_max']:.1f} in {len(beside['ours_ms'])} "
        f"rounds of {beside['queries_per_round']} queries)",
        flush=True,
    )


def print_growth(results: list[dict[str, Any]]) -> None:
    """How the cost of our defaults grows with the number of documents."""
    print(f"\n{'documents':>10} {'engine':17} {'p50':>8} {'build s':>8} {'us/token':>9} {'MB':>6}")
    for result in results:
        for row in result["ours"]:
            if row["setting"] == "default":
                cost = 1e6 * row["build_seconds"] / result["tokens"]
                print(
                    f"{result['documents']:10,} {row['system']:17} {row['p50_ms']:8.2f} "
                    f"{row['build_seconds']:8.1f} {cost:9.1f} {row['resident_mb']:6.0f}"
                )


def print_headlines(result: dict[str, Any]) -> None:
    """The RESULT lines: our default, and each peer's first setting against ours."""
    default = result["ours"][0]
    for name in ("p50_ms", "recall_at_10", "recall_at_100", "bytes_per_token", "build_seconds"):
        if name in default:
            print(f"RESULT {name} {default[name]:.4g}")
    for peer in result["peers"]:
        if not peer["settings"]:
            continue
        beside = peer["settings"][0].get("beside")
        name = peer["peer"].replace("-", "_")
        if beside is None:
            print(f"{peer['peer']}: no setting of ours reaches its recall")
            continue
        print(f"RESULT p50_vs_{name} {beside['ratio']:.3f}")
        if "build_ratio" in beside:
            print(f"RESULT build_vs_{name} {beside['build_ratio']:.3f}")


def print_markdown(report: dict[str, Any]) -> None:
    """The tables of benchmarks/README.md, from the JSON of a run; sizes of ours alone share one."""
    vectors = f" of {report['model']}" if report.get("model") else ""
    hits = f"; {report['k']} hits" if report.get("k", 100) != 100 else ""
    results = report["results"]
    run = (
        f"{results[0]['queries']} queries of 32 tokens; kernels "
        f"`{report['hardware']['kernels']}`; one thread, {report['build_threads']} to build{hits}"
    )
    if len(results) > 1 and not any(result["peers"] for result in results):
        texts = "Real" if all(result.get("all_real") for result in results) else "Generated"
        _print_sizes(results, f"{texts} documents, tokens{vectors}, {run}")
        return
    for result in results:
        print(f"{result['documents']:,} documents, {result['tokens']:,} tokens{vectors}, {run}:\n")
        _print_systems(result)


def _print_systems(result: dict[str, Any]) -> None:
    print(
        "| engine | setting | p50 / p95 ms | recall@10 / @100 | bytes/token | build s | "
        "ours at its recall |"
    )
    print("|---|---|---:|---:|---:|---:|---:|")
    for row in _without_probes(result):
        print(_markdown_row(row, ""))
    for peer in result["peers"]:
        for row in peer["settings"]:
            beside = row.get("beside")
            ratio = (
                f"{beside['ratio']:.1f}x ({beside['ratio_min']:.1f}-{beside['ratio_max']:.1f})"
                if beside
                else "not reached"
            )
            print(_markdown_row({**row, "system": peer["peer"]}, ratio))
    print()


def _print_sizes(results: list[dict[str, Any]], title: str) -> None:
    print(f"{title}:\n")
    print("| documents | setting | p50 / p95 ms | recall@10 / @100 | build s | us/token |")
    print("|---:|---|---:|---:|---:|---:|")
    for result in results:
        first = f"{result['documents']:,}"
        for row in _without_probes(result):
            seconds = row["build_seconds"]
            print(
                f"| {first} | {row['setting']} | {row['p50_ms']:.2f} / {row['p95_ms']:.2f} | "
                f"{row['recall_at_10']:.3f} / {recall_at_100(row)} | {seconds:.0f} | "
                f"{1e6 * seconds / result['tokens']:.1f} |"
            )
            first = ""
    print()


def _without_probes(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Our rows but those with given probes."""
    return [row for row in result["ours"] if not row["setting"].startswith("probes")]


def _markdown_row(row: dict[str, Any], ratio: str) -> str:
    seconds = row["build_seconds"]
    built = "-" if seconds is None else f"{seconds:.0f}"
    return (
        f"| {row['system']} | {row['setting']} | {row['p50_ms']:.2f} / {row['p95_ms']:.2f} | "
        f"{row['recall_at_10']:.3f} / {recall_at_100(row)} | {row['bytes_per_token']:.0f} | "
        f"{built} | {ratio} |"
    )
