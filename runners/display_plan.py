"""What `headrace plan` prints."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console

from pipelines.costs import LocalCost, ProviderCost
from pipelines.plan import Plan
from pipelines.room import IndexNeeds
from pipelines.sampling import Estimate
from pipelines.volume import SourceVolume
from runners.display import dollars, print_facts, print_rows
from transforms.allowance.proposal import Proposal

MIB = 2**20
BASES = {
    "exact": "all read and cut",
    "sampled": "all read, some cut",
    "beginning": "only the beginning read",
    "open end": "the least: no end in sight",
}


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """A plan for programs."""
    return {
        **dataclasses.asdict(plan),
        "open_ended": list(plan.open_ended),
        "disk_bytes": plan.indexes.disk_bytes,
    }


def print_plan(console: Console, plan: Plan) -> None:
    """Sources, sums, costs, room, and how sure all that is."""
    print_rows(console, [_source(one) for one in plan.sources], "")
    facts: dict[str, Any] = {
        "documents": f"{plan.documents:,} to embed; {plan.unchanged:,} stored already and not embedded again",
        "chunks": f"{interval(plan.chunks)}, {plan.reused.value:,} more with vectors that are stored",
        "tokens": f"{interval(plan.tokens)}; `headrace backfill` stops beyond {plan.max_tokens:,}",
        **_configured(plan),
        **_room(plan.indexes),
    }
    print_facts(console, facts)
    for one in plan.proposals:
        console.print(_proposed(one), style="yellow", highlight=False, soft_wrap=True)
    console.print(
        f"± is a confidence of {plan.confidence:.0%}, of the sampling alone. --exact reads and cuts everything.",
        highlight=False,
    )
    if any(one.basis in ("beginning", "open end") for one in plan.sources):
        console.print(
            "Of a source read in part the rest is taken to be like its beginning, which ± does not cover.",
            style="yellow",
        )
    rows = [
        {
            "provider": one.provider,
            "model": one.model,
            "cost": dollars(one.usd),
            "from": dollars(one.usd_low),
            "to": dollars(one.usd_high),
            "USD/1M tokens": str(one.usd_per_million_tokens),
            "as of": one.as_of,
            "price list": one.source.removeprefix("https://"),
        }
        for one in plan.providers
    ]
    print_rows(console, rows, "")
    console.print(
        f"By list price, for tokens as {plan.model} counts them: theirs differ by some percent.",
        highlight=False,
    )


def _proposed(proposal: Proposal) -> str:
    configured, cheaper = proposal.configured, proposal.cheaper
    short = (
        f"The budget of client {proposal.client} leaves {dollars(configured.remaining_usd or 0)} this month, less"
        f" than the {dollars(proposal.configured_usd)} that {configured.integration} may take."
    )
    if cheaper is None:
        return f"{short} Raise it (`headrace budgets`), or embed less."
    return (
        f"{short} {cheaper.integration} ({cheaper.model}) takes up to {dollars(proposal.cheaper_usd or 0)}:"
        " [model] may name it instead, as nothing is embedded yet; or raise the budget (`headrace budgets`)."
    )


def _source(volume: SourceVolume) -> dict[str, Any]:
    return {
        "source": volume.source,
        "how": BASES[volume.basis],
        "read": volume.read,
        "expected": volume.expected,
        "stored": volume.unchanged,
        "to embed": volume.documents,
        "cut": volume.cut,
        "chunks": interval(volume.chunks),
        "tokens": interval(volume.tokens),
    }


def interval(estimate: Estimate) -> str:
    """A sum with its error in percent, where it is an estimate."""
    if estimate.low == estimate.high or not estimate.value:
        return f"{estimate.value:,}"
    off = max(estimate.high - estimate.value, estimate.value - estimate.low) / estimate.value
    return f"{estimate.value:,} ± {100 * off:.1f} %"


def _configured(plan: Plan) -> dict[str, str]:
    found: dict[str, str] = {}
    if plan.local is not None:
        found[f"{plan.model} here"] = _local(plan.local)
    if plan.remote is not None:
        found[f"{plan.model} by {plan.remote.integration}"] = _remote(plan.remote)
    return found


def _remote(cost: ProviderCost) -> str:
    return (
        f"{dollars(cost.usd)} ({dollars(cost.usd_low)} to {dollars(cost.usd_high)}) at ${cost.usd_per_million_tokens}"
        f" for a million tokens, as of {cost.as_of} ({cost.source.removeprefix('https://')})"
    )


def _local(cost: LocalCost) -> str:
    if cost.machine_hours is None or cost.tokens_per_s is None:
        return "no rate is known: nothing to try it with, and no earlier run"
    rate = f"{cost.tokens_per_s:,.0f} tokens/s on {cost.engine}, {cost.threads} threads"
    whence = (
        f"measured now over {cost.measured_tokens:,} tokens"
        if cost.rate_from == "measured now"
        else f"of the ledger's last 30 days, {cost.measured_tokens:,} tokens"
    )
    money = (
        f"{dollars(cost.usd)} at {dollars(cost.usd_per_machine_hour)} an hour"
        if cost.usd is not None and cost.usd_per_machine_hour is not None
        else "no price: set backfill.usd_per_machine_hour"
    )
    return f"{cost.machine_hours:,.2f} machine hours ({rate}, {whence}); {money}"


def _room(needs: IndexNeeds) -> dict[str, str]:
    if needs.hnsw_is_built:
        graph = "is there: new rows are added to it one by one"
    else:
        graph = (
            f"{_mib(needs.hnsw_build_bytes)} of memory while it is built after the load, of"
            f" {_mib(needs.memory_limit_bytes)}"
        )
        if needs.hnsw_workers is not None:
            graph += f", by {needs.hnsw_workers + 1} processes"
    facts = {"HNSW in Postgres": f"{needs.rows:,} vectors; {graph}; {_mib(needs.hnsw_disk_bytes)} of disk"}
    for one in needs.faiss:
        facts[f"FAISS of {one.client}"] = (
            f"{one.vectors:,} vectors, {one.kind}; {_mib(one.memory_bytes)} of memory while it is built,"
            f" {_mib(one.disk_bytes)} of disk"
        )
    free = "" if needs.disk_free_bytes is None else f"; {_mib(needs.disk_free_bytes)} are free"
    facts["disk"] = f"{_mib(needs.disk_bytes)} in all{free}"
    return facts


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"
