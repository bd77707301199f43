"""The command of a campaign on a cluster: launch."""

from __future__ import annotations

import signal
import threading
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from selector.cli import views
from selector.cli.common import AsJson, console, errors, print_json
from selector.cli.feed import Feed
from selector.cli.reaching import Reached, at_rest
from selector.config import CampaignConfig, load_config
from selector.errors import SelectorError

if TYPE_CHECKING:
    from fireworks import LaunchPad

    from fw_tasks.queue.launcher import QueueLauncher, Round
    from selector.campaign import Campaign


class Submitted(StrEnum):
    """Categories of jobs that a queue takes."""

    ipa = "ipa"
    rpa = "rpa"
    learn = "learn"
    predict = "predict"


def launch(
    config_file: Annotated[Path, typer.Argument(metavar="CAMPAIGN", help="The campaign's YAML file.")],
    cluster_file: Annotated[
        Path, typer.Option("--cluster", help="What jobs ask of SLURM (configs/clusters/ has examples).")
    ],
    max_jobs: Annotated[int, typer.Option(min=1, help="Jobs of this campaign in the queue at a time.")] = 20,
    category: Annotated[
        list[Submitted] | None,
        typer.Option(help="Only jobs of this category; repeatable (default: all that the cluster file names)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the scripts; submit nothing.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Nodes do not reach the database: results come back as files.")
    ] = False,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Seconds from one round to the next.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Run the campaign through SLURM until it is finished or stopped. Interrupt it at any time: jobs stay queued."""
    from fw_tasks.database import connect
    from fw_tasks.launch import open_campaign
    from fw_tasks.queue.cluster import load_cluster
    from fw_tasks.queue.launcher import QueueLauncher

    config, cluster = load_config(config_file), load_cluster(cluster_file)
    categories = tuple(c.value for c in category or ())
    launcher = QueueLauncher(config_file, config, cluster, max_jobs, categories, offline)  # type: ignore[arg-type]
    if dry_run:
        _print_scripts(launcher, open_campaign(config), connect(config))
        return
    if config.max_in_flight < max_jobs:
        errors.print(f"selector: max_in_flight is {config.max_in_flight}: no more jobs than that will be in the queue")
    reached = Reached(config)
    stopped = _go_on(launcher, reached, config, interval_s)
    if as_json:
        print_json(reached.insist(lambda campaign: views.status_json(campaign.store)))
    elif stopped:
        console.print("Stopped; jobs stay in the queue. `selector launch` goes on from there.")
    else:
        console.print(reached.insist(lambda campaign: views.outcome(campaign.store)))


def _go_on(launcher: QueueLauncher, reached: Reached, config: CampaignConfig, interval_s: float) -> bool:
    """Round after round until the campaign is at rest and no shard waits; True if it was stopped before."""
    from fw_tasks.database import connect
    from fw_tasks.heartbeat import beat
    from fw_tasks.signs_of_life import hold_lock, worker_name
    from selector.documents import now

    stop, happened, told = _stop_on_signals(), Feed(now()), ""
    beat(config.lost_after_h * 3600)
    name = worker_name()
    with hold_lock(config.folder, name) as lock, Live(console=errors, refresh_per_second=1, transient=True) as live:

        def advance(campaign: Campaign) -> tuple[bool, Round]:
            state = campaign.step().state
            done = launcher.round(connect(config), name)
            live.update(views.status_table(views.status_json(campaign.store)))
            for event in happened.new(campaign.store):
                live.console.print(views.event_line(event))
            return at_rest(campaign, state) and not done.n_shards, done

        try:
            while not stop.is_set():
                if (advanced := reached.ask(advance)) is None:
                    continue
                over, done = advanced
                if (said := _words(done)) not in ("", told):
                    errors.print(f"selector: {said}")
                told = said
                if over:
                    return False
                stop.wait(0.2 if done.n_light else interval_s)
        finally:
            launcher.close()
            # Nothing runs under this name any more.
            Path(lock.lock_file).unlink(missing_ok=True)
    return True


def _words(done: Round) -> str:
    if done.trouble is not None:
        return f"nothing more was queued for now: {done.trouble}"
    queued = ", ".join(f"{n} {state.lower()}" for state, n in sorted(done.states.items()))
    more = f"{len(done.submitted)} more submitted" if done.submitted else ""
    return "; ".join(part for part in (f"jobs: {queued}" if queued else "", more) if part)


def _stop_on_signals() -> threading.Event:
    """Set by Ctrl-C and SIGTERM, so that neither cuts a submission short."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _print_scripts(launcher: QueueLauncher, campaign: Campaign, launchpad: LaunchPad) -> None:
    """The scripts of the next jobs, one a category; where nothing waits yet, that of the policy's first choice."""
    from fw_tasks.queue.sizing import queue_size

    scripts = launcher.scripts(launchpad)
    if not scripts:
        choice = next((c for c in campaign.plan() if c.dispatch), None)
        if choice is None:
            raise SelectorError("nothing is to be submitted: no candidate is left that the budget pays for")
        cores, c = campaign.config.cores_per_job, choice.candidate
        size = queue_size(c["formula"], c["material_id"], choice.level, cores, choice.now.reserve * 3600 / cores)
        scripts[choice.level] = launcher.script(choice.level, size, "N")  # type: ignore[arg-type]
    for script in scripts.values():
        typer.echo(script)


COMMANDS = (launch,)
