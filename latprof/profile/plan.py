"""What a profile keeps to: its plan, the runs that follow from it, and their shares of legs."""

from __future__ import annotations

from latprof.profile.design import level_widths
from lookup_tables.architecture import Architecture
from lookup_tables.errors import TableError
from lookup_tables.network import Network, network_names
from lookup_tables.table.rows import Plan
from lookup_tables.table.store import LatencyTable

MOST_OFF_MENU = 42
LEGS = 6


def keep_network(table: LatencyTable, network: Network) -> None:
    """A network that is not shipped goes beside its rows: who has the table can use it."""
    shipped = network.name in network_names()
    if not shipped or Network.load(network.name).fingerprint != network.fingerprint:
        network.save(table.network_path(network.name))


def off_menu_of_a_leg(levels: int) -> int:
    """Designed networks between the menu's widths, in every leg.

    Two thirds of an array of 8 levels; with fewer levels more lies between them, not less.
    """
    return max(1, round(min(2 * levels**2, MOST_OFF_MENU) / LEGS))


def spent_s(table: LatencyTable, network: Network) -> float:
    """Seconds of earlier calls: what the last one wrote, or its runs where it was cut short."""
    validation = table.validation(network.name)
    measuring_s = sum(run.measuring_s for run in table.runs(network))
    return max(measuring_s, validation.measuring_s if validation else 0.0)


def share(listed: list, leg: int) -> range:
    """The numbers of a leg; the first leg has one, however few there are."""
    first, after = (-(-len(listed) * each // LEGS) for each in (leg, leg + 1))
    return range(min(first, len(listed)), min(after, len(listed)))


def keep_plan(table: LatencyTable, network: Network, levels: int, seed: int) -> Plan:
    """The plan the table already follows, or a new one."""
    plan = table.plan(network.name)
    if plan is None:
        plan = Plan(
            network=network.name,
            fingerprint=network.fingerprint,
            levels=levels,
            seed=seed,
            menu={group.name: level_widths(group, levels) for group in network.groups},
        )
        table.append(network.name, [plan])
        return plan
    table.require_network(network)
    if (plan.levels, plan.seed) != (levels, seed):
        raise TableError(
            f"{table.path(network.name)} was begun with {plan.levels} levels and seed "
            f"{plan.seed}, but this call asks for {levels} and {seed}. Continue with the same "
            "options, or profile into another folder with --out"
        )
    return plan


def require_same_runs(
    table: LatencyTable, network: Network, designed: list[Architecture], tests: list[Architecture]
) -> None:
    """Another menu or version chooses other runs; rows of both must not mix."""
    chosen = {"design": designed, "unseen": tests}
    for run in table.runs(network):
        listed: list[Architecture] = chosen[run.purpose]
        if run.run < len(listed) and run.architecture != listed[run.run]:
            raise TableError(
                f"{table.path(network.name)}: {run.purpose} run {run.run} measured another "
                "architecture than this version would. The network's candidate widths, or this "
                "version's choice of networks, have changed. Profile into another folder with "
                "--out"
            )
