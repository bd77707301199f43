"""What a person asks of a campaign while it goes on: stop, resume, budget, pin, veto, why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from selector.cli.common import DEFAULT_CONFIG, AsJson, ConfigFile, console, print_json
from selector.config import load_config

if TYPE_CHECKING:
    from selector.campaign import Campaign

Material = Annotated[str, typer.Argument(metavar="MATERIAL", help="Its id, as `selector plan` shows it.")]
budget = typer.Typer(help="The budget of a campaign.", no_args_is_help=True, rich_markup_mode=None)


def stop(
    config_file: ConfigFile = DEFAULT_CONFIG,
    why: Annotated[str, typer.Option("--why", help="Kept with the campaign.")] = "stopped by hand",
) -> None:
    """Dispatch nothing more until resumed. What is in flight comes home and is booked."""
    campaign = _campaign(config_file)
    campaign.stop(why)
    n = len(campaign.store.in_flight())
    _say(f"Campaign '{campaign.store.name}' stopped; {n} in flight will be booked. `selector resume` goes on.")


def resume(config_file: ConfigFile = DEFAULT_CONFIG) -> None:
    """Go on with a stopped campaign. A finished one gets back what it left at IPA."""
    campaign = _campaign(config_file)
    campaign.resume()
    state = campaign.store.campaign()["state"]
    _say(f"Campaign '{campaign.store.name}' is {state} again. `selector run` or `selector step` dispatches.")


@budget.command("add")
def budget_add(
    cpu_h: Annotated[float, typer.Argument(metavar="CPU_H", help="CPU-hours to add.")],
    config_file: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Enlarge the budget, the audit's share of it too. The file's budget_cpu_h stays what it was at first."""
    campaign = _campaign(config_file)
    campaign.add_budget(cpu_h)
    totals = campaign.store.ledger.totals()
    hint = "; it is finished: `selector resume` goes on" if campaign.store.campaign()["state"] == "finished" else ""
    _say(
        f"Campaign '{campaign.store.name}': {cpu_h:g} CPU-h added, {totals.budget_cpu_h:g} in all, "
        f"{totals.available_cpu_h:.4f} free and {totals.audit_available_cpu_h:.4f} for the audit{hint}."
    )


def pin(
    material: Material,
    config_file: ConfigFile = DEFAULT_CONFIG,
    off: Annotated[bool, typer.Option("--off", help="Take the pin away.")] = False,
) -> None:
    """Dispatch a pending material before all others. Lifts a veto."""
    _campaign(config_file).pin(material, not off)
    _say(f"{material} is no longer pinned." if off else f"{material} is pinned: it goes before all others.")


def veto(
    material: Material,
    config_file: ConfigFile = DEFAULT_CONFIG,
    off: Annotated[bool, typer.Option("--off", help="Lift the veto.")] = False,
) -> None:
    """Never dispatch a pending material. Takes a pin away; the closing audit leaves it out too."""
    _campaign(config_file).veto(material, not off)
    _say(f"{material} is no longer vetoed." if off else f"{material} is vetoed: it never gets RPA.")


def why(material: Material, config_file: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Tell why a material got its level. Prediction, cost, every decision about it and what came of each."""
    from selector import telling

    told = telling.why(_campaign(config_file).store, material)
    if as_json:
        print_json(told)
    else:
        for line in telling.in_words(told):
            _say(line)


def _campaign(config_file: Path) -> Campaign:
    from fw_tasks.launch import open_campaign

    return open_campaign(load_config(config_file))


def _say(line: str) -> None:
    console.print(escape(line), soft_wrap=True, highlight=False)


COMMANDS = (stop, resume, pin, veto, why)
