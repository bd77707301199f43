"""The commands of a campaign: init, add, plan, run, step, status, report."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live

from selector.cli import ipa_spectra, maps, views
from selector.cli.common import DEFAULT_CONFIG, AsJson, ConfigFile, console, errors, print_json, progress
from selector.cli.feed import Feed
from selector.cli.reaching import AT_REST, Reached, at_rest
from selector.config import CampaignConfig, load_config
from selector.files import make_writable

if TYPE_CHECKING:
    from selector.campaign import Campaign


def _open(config_file: Path) -> tuple[CampaignConfig, Campaign]:
    from fw_tasks.launch import open_campaign

    config = load_config(config_file)
    return config, open_campaign(config)


def init(config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="The campaign's YAML file.")]) -> None:
    """Begin a campaign. Checks its configuration and writes it into the database."""
    from fw_tasks.database import launchpad_for
    from fw_tasks.launch import create_campaign

    config = load_config(config_file)
    make_writable(config.folder)
    campaign = create_campaign(config, launchpad_for(config))
    model = campaign.store.model()["model_id"]
    console.print(
        f"Campaign '{config.campaign}': {config.budget_cpu_h:g} CPU-hours, model {model}, files in {config.folder}"
    )
    console.print(f"Next: selector add --config {config_file} PATH...")


def add(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="CIF, POSCAR or JSON files, or folders of them.")
    ],
    config_file: ConfigFile = DEFAULT_CONFIG,
    ipa: Annotated[
        Path | None,
        typer.Option(help="Folder of IPA spectra (files of `selector compute`), of these crystals or earlier ones."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add candidate crystals. What is broken, unsuitable or a duplicate is named and left out; the rest goes on."""
    from fw_tasks.launch import suitable
    from selector.candidates import Candidate, find_structure_files, read_candidates

    config, campaign = _open(config_file)
    given = ipa_spectra.to_give(config, ipa) if ipa is not None else {}
    known = [Candidate.from_dict(c) for c in campaign.store.candidates() if c["status"] != "rejected"]
    with progress("reading crystals") as bar:
        task = bar.add_task("", total=len(find_structure_files(paths)))
        found, rejected = read_candidates(
            paths, known, partial(suitable, campaign.engine), on_file=lambda _: bar.advance(task)
        )
    present = [r for r in rejected if r.reason == "already_added"]
    rejected = [r for r in rejected if r.reason != "already_added"]
    usable = ipa_spectra.of_candidates(given, {c.material_id for c in (*known, *found)}, campaign.engine.settings_hash)
    campaign.add(found, rejected, usable)
    for r in rejected:
        errors.print(f"selector: rejected ({r.reason}): {r.message}")
    if as_json:
        told = {"added": [c.material_id for c in found], "present": len(present), "ipa_given": sorted(usable)}
        print_json({**told, "rejected": [vars(r) for r in rejected]})
    else:
        spectra = f" {len(usable)} IPA spectra were given." if given else ""
        console.print(
            f"{len(found)} candidates added, {len(present)} were there already, {len(rejected)} rejected.{spectra}"
        )
    if rejected or len(usable) < len(given):
        raise typer.Exit(1)


def plan(
    config_file: ConfigFile = DEFAULT_CONFIG,
    bound: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of low SC at IPA to be claimed: how large an audit needs.")
    ] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Show what would get RPA, and at what cost. Also what the audit pays for; the order is the policy's."""
    from selector.audit_plan import audit_plan

    _, campaign = _open(config_file)
    choices, totals = campaign.plan(), campaign.store.ledger.totals()
    audited = audit_plan(choices, totals, bound)
    if as_json:
        print_json(views.plan_json(choices, totals, audited))
    else:
        console.print(views.plan_table(choices, totals, audited, campaign.config.policy.threshold))


def run(
    config_file: ConfigFile = DEFAULT_CONFIG,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Rockets at a time on this machine (default: max_in_flight, at most its cores)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the campaign here until it is finished or stopped. Interrupt it at any time: a second run goes on."""
    from fw_tasks.workers import LocalWorkers
    from selector.documents import now

    config = load_config(config_file)
    n = workers or max(1, min(config.max_in_flight // config.cores_per_job, os.cpu_count() or 1))
    happened, reached = Feed(now()), Reached(config)
    # Before any worker lives: this step puts right what an interrupted run left half done.
    reached.insist(lambda campaign: campaign.step())
    with (
        LocalWorkers(config_file, config, n) as local,
        Live(console=errors, refresh_per_second=2, transient=True) as live,
    ):

        def look(campaign: Campaign) -> bool:
            # Rockets advance the campaign themselves; this asks in case one of them died before it could.
            state = campaign.step().state
            live.update(views.status_table(views.status_json(campaign.store)))
            for event in happened.new(campaign.store):
                live.console.print(views.event_line(event))
            return at_rest(campaign, state)

        while not reached.ask(look):
            local.check()
            time.sleep(1.0)
    if as_json:
        print_json(reached.insist(lambda campaign: views.status_json(campaign.store)))
    else:
        console.print(reached.insist(lambda campaign: views.outcome(campaign.store)))


def step(config_file: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Do one step by hand. It settles what returned, learns, chooses, dispatches; rockets may do so meanwhile."""
    _, campaign = _open(config_file)
    report = campaign.step()
    if as_json:
        print_json(vars(report))
    elif report.busy:
        console.print("Another process is at the step; it was asked for one more round.")
    else:
        learning = ", fine-tuning is out" if report.learning else ""
        console.print(f"{report.settled} settled, {report.dispatched} dispatched{learning}; campaign {report.state}.")


def status(
    config_file: ConfigFile = DEFAULT_CONFIG,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until interrupted or finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say how far the campaign is. Candidates, CPU-hours, the model's errors, the bound, the expected end."""
    _, campaign = _open(config_file)
    if as_json:
        print_json(views.status_json(campaign.store))
        return
    if not watch:
        console.print(views.status_table(views.status_json(campaign.store)))
        return
    with Live(console=console, refresh_per_second=2) as live:
        while True:
            data: dict[str, Any] = views.status_json(campaign.store)
            live.update(views.status_table(data))
            if data["state"] in AT_REST and not data["in_flight"]:
                return
            time.sleep(1.0)


def report(
    config_file: ConfigFile = DEFAULT_CONFIG,
    out: Annotated[Path | None, typer.Option(help="Folder for the files (default: report/ in the campaign's).")] = None,
    with_map: Annotated[
        bool, typer.Option("--map/--no-map", help="Whether the page holds a map of the pool (about half a minute).")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Tell which level each material got, and why. Writes decisions.csv and one self-contained HTML page."""
    from selector.chronicle import compile_record
    from selector.report import decision_table, write_report

    config, campaign = _open(config_file)
    record = compile_record(campaign.store)
    if with_map:
        record = maps.with_map(campaign, record)
    files = write_report(record, out or config.folder / "report")
    if as_json:
        print_json({"summary": record.summary, "decisions": record.decisions, "files": files})
        return
    console.print(decision_table(record))
    console.print(views.outcome(campaign.store))
    for path in files.values():
        console.print(f"Written: {path}", soft_wrap=True)


COMMANDS = (init, add, plan, run, step, status, report)
