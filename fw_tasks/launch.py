"""From a configuration to a campaign with its engine, its rockets and its models."""

from __future__ import annotations

from typing import Any

from fireworks import LaunchPad
from pymatgen.core import Structure

from fw_tasks.database import launchpad_for
from fw_tasks.engines import get_engine
from fw_tasks.engines.base import EngineError, ProgramMissing
from fw_tasks.shelf import Shelf
from fw_tasks.workflows import FireWorksDispatcher
from models.sc_predictor import SCPredictor
from selector.campaign import Campaign
from selector.config import CHANGEABLE, CampaignConfig
from selector.errors import UsageError
from selector.protocols import CostEngine
from selector.store import Store


def create_campaign(config: CampaignConfig, launchpad: LaunchPad) -> Campaign:
    """Write a new campaign, with the weights it starts from as its first model."""
    store = Store(launchpad.db, config.campaign)
    if store.exists():
        raise UsageError(f"campaign '{config.campaign}' exists already in this database; choose another name")
    shelf = Shelf(config.folder / "models")
    engine = get_engine(config.engine.name, config.engine.preset, **config.engine.options)
    first: list[tuple[SCPredictor, str, dict[str, Any]]] = [(*shelf.adopt(config.predictor.checkpoint), {})]
    if config.ipa != "skip":
        first.append((*shelf.adopt(config.predictor.ipa_checkpoint, reads_ipa=True), {"reads_ipa": True}))
    store.create(config.public(), config.budget_cpu_h, engine.label_engine, engine.settings_hash, **config.account())
    for predictor, file, line in first:
        store.add_model(
            predictor.model_id,
            round=0,
            parent=None,
            file=file,
            engine=predictor.engine,
            settings_hash=predictor.settings_hash,
            n_new_labels=0,
            metrics=predictor.card.get("metrics", {}),
            **line,
        )
    models = " and ".join(predictor.model_id for predictor, _, _ in first)
    store.event("created", f"campaign '{config.campaign}' with {config.budget_cpu_h:g} CPU-h, model {models}")
    return campaign_on(launchpad, config.campaign)


def campaign_on(launchpad: LaunchPad, name: str) -> Campaign:
    """An existing campaign, with the configuration that the database holds."""
    store = Store(launchpad.db, name)
    config = CampaignConfig.model_validate(store.campaign()["config"])
    engine = get_engine(config.engine.name, config.engine.preset, **config.engine.options)
    dispatcher = FireWorksDispatcher(launchpad, config.folder, engine, config.lost_after_h * 3600)
    return Campaign(store, config, engine, dispatcher, Shelf(config.folder / "models"))


def open_campaign(config: CampaignConfig) -> Campaign:
    """The campaign of a configuration file, in its database.

    Raises
    ------
    UsageError
        The file was changed after `selector init` in something else than the database's address or what may change
        (`selector.config.CHANGEABLE`), which is taken over.
    """
    campaign = campaign_on(launchpad_for(config), config.campaign)
    campaign.store.create_indexes()
    stored, given = campaign.config.public(), config.public()
    changed = [key for key in given if stored.get(key) != given[key] and key not in CHANGEABLE]
    if changed:
        raise UsageError(
            f"campaign '{config.campaign}': key '{changed[0]}' differs from what `selector init` recorded "
            f"({stored.get(changed[0])!r}); set it back, or begin a campaign of another name"
        )
    campaign.follow(config)
    return campaign


def suitable(engine: CostEngine, structure: Structure) -> None:
    """The engine's own check of a candidate, on whatever machine the pool is filled: its program need not be here."""
    try:
        engine.check(structure)
    except ProgramMissing:
        pass
    except EngineError as e:
        raise type(e)(f"{e}; {e.remedy}") from None
